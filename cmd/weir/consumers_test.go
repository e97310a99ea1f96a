package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// publishSome publishes payloads first to last at QoS 1, in turn to bench/0 and bench/1.
func publishSome(t *testing.T, address string, first, last int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	c := mqttclient.New(mqttclient.Options{Address: address, ClientID: "some", Clean: true, Window: 50})
	done := make(chan struct{})
	go func() { defer close(done); c.Run(running) }()
	defer func() { stop(); <-done }()
	for i := first; i <= last; i++ {
		if err := c.Publish(ctx, &mqttclient.Message{Topic: "bench/" + strconv.Itoa(i%2), Payload: []byte(strconv.Itoa(i)), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

var sqlBlock = regexp.MustCompile("(?s)```sql\n(.*?)```")

// The tables of docs/consumers.md are right after everything that a lost link and a killed
// gateway make come twice, and also when it comes in any order.
func TestConsumersRecipe(t *testing.T) {
	sqlite, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("sqlite3 is not installed (apt-get install sqlite3): the recipe's SQL is not tried")
	}
	page, err := os.ReadFile("../../docs/consumers.md")
	if err != nil {
		t.Fatal(err)
	}
	sql := sqlBlock.FindAllStringSubmatch(string(page), -1)
	if len(sql) != 2 {
		t.Fatalf("the page has %d blocks of SQL, not the tables and the statements", len(sql))
	}

	far := bridgetest.StartMosquitto(t)
	link := bridgetest.NewProxy(t, far.Addr)
	weir := startRig(t, fmt.Sprintf("uplinks:\n  far: {sink: mqtt, url: \"mqtt://%s\", ack_timeout: 2s}\nroutes:\n  all: {topics: [\"bench/#\"], uplink: far}\n", link.Addr()))
	arrived := bridgetest.Collect(t, far.Addr, "bench/#")
	const n = 60
	publishSome(t, weir.mqtt, 1, n/3)
	bridgetest.Until(t, "the first have arrived", func() bool { return len(arrived.Arrivals()) >= n/3 })
	link.LoseAnswers()
	publishSome(t, weir.mqtt, n/3+1, 2*n/3)
	bridgetest.Until(t, "they arrive, and nobody hears of it", func() bool { return len(arrived.Arrivals()) >= 2*n/3 })
	weir.kill()
	link.Cut()
	link.Heal()
	weir.start()
	publishSome(t, weir.mqtt, 2*n/3+1, n)
	ids := func() int {
		seen := map[string]bool{}
		for _, a := range arrived.Arrivals() {
			seen[a.ID] = true
		}
		return len(seen)
	}
	bridgetest.Until(t, "all have arrived", func() bool { return ids() == n && len(arrived.Arrivals()) >= n+n/3 })

	arrivals := arrived.Arrivals()
	backwards := make([]bridgetest.Arrival, len(arrivals))
	for i, a := range arrivals {
		backwards[len(arrivals)-1-i] = a
	}
	var want strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&want, "bench/%d %d\n", i%2, i)
	}
	fmt.Fprintf(&want, "latest bench/0 %d\nlatest bench/1 %d\n", n, n-1)
	for name, order := range map[string][]bridgetest.Arrival{"as they came": arrivals, "backwards": backwards} {
		script := sql[0][1]
		for _, a := range order {
			statements, err := fillIn(sql[1][1], a)
			if err != nil {
				t.Fatal(err)
			}
			script += "BEGIN;\n" + statements + "COMMIT;\n"
		}
		script += "SELECT topic || ' ' || payload FROM readings ORDER BY number;\n" +
			"SELECT 'latest ' || topic || ' ' || payload FROM latest ORDER BY topic;\n"
		cmd := exec.Command(sqlite, "-bail", filepath.Join(t.TempDir(), "db"))
		cmd.Stdin = strings.NewReader(script)
		if got, err := cmd.CombinedOutput(); err != nil || string(got) != want.String() {
			t.Errorf("%s: %v: the tables have\n%s\nnot\n%s", name, err, got, want.String())
		}
	}
	t.Logf("%d arrivals of %d events", len(arrivals), n)
}

// fillIn puts an arrival into the page's statements.
func fillIn(statements string, a bridgetest.Arrival) (string, error) {
	gateway, rest, _ := strings.Cut(a.ID, "/")
	_, offset, ok := strings.Cut(rest, "-")
	if !ok {
		return "", fmt.Errorf("id %q is not gateway/epoch-offset", a.ID)
	}
	text := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	return strings.NewReplacer(":id", text(a.ID), ":gateway", text(gateway), ":offset", offset,
		":topic", text(a.Topic), ":payload", text(a.Payload)).Replace(statements), nil
}

// Every sink's page is on both pages that speak of all of them.
func TestEverySinkIsListed(t *testing.T) {
	pages, err := filepath.Glob("../../docs/uplinks/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	for _, of := range []string{"../../docs/uplinks.md", "../../docs/consumers.md"} {
		text, err := os.ReadFile(of)
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			if link := "](uplinks/" + filepath.Base(page); !strings.Contains(string(text), link) {
				t.Errorf("%s does not link to %s", of, filepath.Base(page))
			}
		}
	}
}
