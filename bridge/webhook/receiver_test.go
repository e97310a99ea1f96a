package webhook_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/webhook"
)

// receive verifies a request, and stores each event once, whatever comes twice. It answers 2xx only
// when all is stored. Whoever cannot be verified gets 401: Weir takes 400 for "this event is wrong".
func receive(key []byte, store func(id, topic, time, body string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 32<<20))
		if err != nil {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		id, at := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
		mac := hmac.New(sha256.New, key)
		io.WriteString(mac, id+"."+at+".")
		mac.Write(body)
		want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
		known := false
		for _, got := range strings.Fields(r.Header.Get("webhook-signature")) {
			known = known || hmac.Equal([]byte(got), []byte(want))
		}
		seconds, _ := strconv.ParseInt(at, 10, 64)
		if age := time.Since(time.Unix(seconds, 0)); !known || age.Abs() > 5*time.Minute {
			http.Error(w, "unknown signature, or too old", http.StatusUnauthorized)
			return
		}
		if !bytes.HasPrefix(body, []byte("[")) { // max_events: 1
			body = []byte("[" + string(body) + "]")
		}
		var events []json.RawMessage
		if err := json.Unmarshal(body, &events); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, event := range events {
			var e struct{ ID, Topic, Time string }
			if err := json.Unmarshal(event, &e); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			if err := store(e.ID, e.Topic, e.Time, string(event)); err != nil {
				http.Error(w, "cannot store", http.StatusInternalServerError)
				return
			}
		}
	}
}

const page = "../../docs/uplinks/webhook.md"

// block is the n-th code block of that language in the page.
func block(t *testing.T, language string, n int) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(all) <= n {
		t.Fatalf("%s has %d blocks of %s", page, len(all), language)
	}
	return all[n][1]
}

// The page shows the function above.
func TestPageShowsTheReceiver(t *testing.T) {
	source, err := os.ReadFile("receiver_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if code := block(t, "go", 0); !strings.Contains(string(source), code) {
		t.Errorf("the receiver of the page is not the one that is tested:\n%s", code)
	}
}

// database runs SQL in a file, with Debian's sqlite3. What is in single quotes is a value.
func database(t *testing.T) func(sql string, values ...string) (string, error) {
	binary, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("sqlite3 is not installed (apt-get install sqlite3): the recipe's SQL is not tried")
	}
	file := filepath.Join(t.TempDir(), "db")
	return func(sql string, values ...string) (string, error) {
		for _, v := range values {
			sql = strings.Replace(sql, "?", "'"+strings.ReplaceAll(v, "'", "''")+"'", 1)
		}
		out, err := exec.Command(binary, "-bail", file, sql).CombinedOutput()
		return string(out), err
	}
}

// The recipe of the page: whatever happens on the way, each event is stored once, in order.
func TestRecipe(t *testing.T) {
	for _, maxEvents := range []int{1, 8} {
		db := database(t)
		table, insert, found := strings.Cut(block(t, "sql", 0), "\n\n")
		if !found {
			t.Fatal("the page's SQL is a table and an insert")
		}
		if out, err := db(table); err != nil {
			t.Fatal(out)
		}
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(exampleSecret, "whsec_"))
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		stored, seen, repeats := 0, map[string]bool{}, 0
		handler := receive(key, func(id, topic, time, body string) error {
			_, err := db(insert, id, topic, time, body)
			mu.Lock()
			defer mu.Unlock()
			stored++
			if seen[id] {
				repeats++
			}
			seen[id] = true
			return err
		})
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		proxy := bridgetest.NewProxy(t, server.Listener.Addr().String())
		s := newSink(t, webhook.Config{
			URL: "http://" + proxy.Addr(), MaxEvents: maxEvents, AckTimeout: 500 * time.Millisecond,
			Secrets: []string{"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", exampleSecret}, // in the middle of a change
		})
		p := bridgetest.RunPump(t, s)
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return stored
		}
		const n = 60
		p.Log.Append(events(1, n/2)...)
		bridgetest.Until(t, "some are stored", func() bool { return count() >= 10 })
		proxy.LoseAnswers()
		before := count()
		bridgetest.Until(t, "more are stored, unanswered", func() bool { return count() > before })
		proxy.Cut()
		proxy.Heal()
		p.Log.Append(events(1+n/2, n/2)...)
		bridgetest.Until(t, "all are delivered", func() bool { return p.Status().Delivered == n })
		out, err := db("SELECT count(*) || ' ' || group_concat(payload) FROM (SELECT json_extract(body, '$.payload') AS payload FROM readings ORDER BY rowid)")
		var want []string
		for _, e := range events(1, n) {
			want = append(want, string(e.Payload))
		}
		if err != nil || out != strconv.Itoa(n)+" "+strings.Join(want, ",")+"\n" {
			t.Errorf("stored %s, %v", out, err)
		}
		if repeats == 0 {
			t.Error("nothing came twice; the test proves nothing")
		}

		other := newSink(t, webhook.Config{URL: server.URL, Secrets: []string{"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}})
		if err := bridgetest.Send(t, other, events(99, 1)...).End(); err == nil || !strings.Contains(err.Error(), "401 Unauthorized: unknown signature") {
			t.Errorf("with another secret: %v", err)
		}
	}
}
