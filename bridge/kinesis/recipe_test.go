package kinesis_test

import (
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/kinesis"
	"github.com/weir-iot/weir/gateway"
)

// The recipe of the page: a consumer that goes by the id stores each event once, in order.
func TestRecipe(t *testing.T) {
	binary, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("sqlite3 is not installed (apt-get install sqlite3): the recipe's SQL is not tried")
	}
	page, err := os.ReadFile("../../docs/uplinks/kinesis.md")
	if err != nil {
		t.Fatal(err)
	}
	sql := regexp.MustCompile("(?s)```sql\n(.*?)\n\n(.*?)```").FindStringSubmatch(string(page))
	if sql == nil {
		t.Fatal("the page has no table and insert")
	}

	f := start(t)
	proxy := bridgetest.NewProxy(t, f.Listener.Addr().String())
	p := bridgetest.RunPump(t, newSink(t, proxy.Addr(), func(c *kinesis.Config) { c.AckTimeout = 500 * time.Millisecond }))
	const n = 40
	add := func(from, to int) {
		for i := from; i < to; i++ {
			p.Log.Append(&gateway.Event{Topic: "plant1/o'brien", Payload: []byte(strconv.Itoa(i)), Accepted: time.Now()})
		}
	}
	add(0, n/2)
	bridgetest.Until(t, "some have arrived", func() bool { return len(f.taken()) > 5 })
	proxy.LoseAnswers()
	before := len(f.taken())
	bridgetest.Until(t, "more have arrived, unanswered", func() bool { return len(f.taken()) > before })
	proxy.Cut()
	proxy.Heal()
	add(n/2, n)
	bridgetest.Until(t, "all are delivered", func() bool { return p.Status().Delivered == n })

	script := sql[1]
	for _, a := range f.arrivals() {
		insert := sql[2]
		for _, v := range []string{a.ID, a.Topic, a.Payload} {
			insert = strings.Replace(insert, "?", "'"+strings.ReplaceAll(v, "'", "''")+"'", 1)
		}
		script += insert
	}
	script += "SELECT count(*) || ' ' || group_concat(payload) FROM (SELECT payload FROM readings ORDER BY rowid);"
	cmd := exec.Command(binary, "-bail", filepath.Join(t.TempDir(), "db"))
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	want := strconv.Itoa(n) + " "
	for i := range n {
		want += strconv.Itoa(i) + ","
	}
	if got := strings.TrimSpace(string(out)); err != nil || got != strings.TrimSuffix(want, ",") {
		t.Errorf("%v: stored %s", err, got)
	}
	if len(f.taken()) == n {
		t.Error("nothing came twice; the test proves nothing")
	}
}

// Under TLS, with an authority of our own, over HTTP/2 as the service has it too.
func TestTLS(t *testing.T) {
	f := newFake()
	f.Server = httptest.NewUnstartedServer(f)
	f.EnableHTTP2 = true
	f.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	f.StartTLS()
	t.Cleanup(f.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	secure := func(c *kinesis.Config) { c.Endpoint, c.CAFile = f.URL, ca }
	if done, err := bridgetest.Send(t, newSink(t, "", secure), events("a", "b")...).Finish(); err != nil || len(done) != 2 || len(f.taken()) != 2 {
		t.Errorf("%v, %d outcomes", err, len(done))
	}
	stranger := func(c *kinesis.Config) { c.Endpoint = f.URL }
	if _, err := bridgetest.Send(t, newSink(t, "", stranger), events("a")...).Finish(); err == nil || !strings.Contains(err.Error(), x509.UnknownAuthorityError{}.Error()) {
		t.Errorf("without the authority: %v", err)
	}
}
