package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway/config"
	"github.com/weir-iot/weir/gateway/health"
)

// reports are the health events that have arrived, each once.
func reports(t *testing.T, of *bridgetest.Collector) (all []health.Report) {
	t.Helper()
	seen := map[string]bool{}
	for _, p := range of.Published() {
		if id := p.Properties.ID(); id == "" || seen[id] {
			continue
		} else {
			seen[id] = true
		}
		var r health.Report
		if err := json.Unmarshal(p.Payload, &r); err != nil {
			t.Fatalf("%v: %s", err, p.Payload)
		}
		all = append(all, r)
	}
	return all
}

// The health event goes up a real broker and says what is true, before and after a kill; not more
// often than it should.
func TestHealth(t *testing.T) {
	far := bridgetest.StartMosquitto(t)
	cert, key := bridgetest.NewAuthority(t).ClientFiles("gw")
	weir := startRig(t, fmt.Sprintf(`health: {interval: 1s}
uplinks:
  far: {sink: mqtt, url: "mqtt://%s"}
  gone: {sink: mqtt, url: "mqtts://127.0.0.1:1", cert_file: %q, key_file: %q}
routes:
  said: {topics: ["weir/+/health"], uplink: far}
  kept: {topics: ["bench/#"], uplink: gone}
`, far.Addr, cert, key))
	arrived := bridgetest.Collect(t, far.Addr, "#")
	const n = 7
	publishSome(t, weir.mqtt, 1, n)
	find := func(what string, ok func(health.Report) bool) (found health.Report) {
		t.Helper()
		bridgetest.Until(t, what, func() bool {
			all := reports(t, arrived)
			i := slices.IndexFunc(all, ok)
			if i >= 0 {
				found = all[i]
			}
			return i >= 0
		})
		return found
	}
	r := find("a report with the queue in it", func(r health.Report) bool {
		return len(r.Uplinks) == 2 && len(r.Uplinks[1].Routes) == 1 && r.Uplinks[1].Routes[0].Queued == n && r.Uplinks[0].Up && r.Uplinks[0].Routes[0].Delivered > 0
	})
	text, err := os.ReadFile(weir.conf)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	if r.Gateway != "test-gw" || r.Version != version || r.Config != hex.EncodeToString(sum[:])[:12] || r.LastEnd != "none" {
		t.Errorf("it is %s %s with config %s, and the last run ended %s", r.Gateway, r.Version, r.Config, r.LastEnd)
	}
	if age := time.Since(r.Time); age < 0 || age > startTimeout || r.Uptime < 1 || time.Duration(r.Uptime)*time.Second > startTimeout {
		t.Errorf("made %v ago, %d s after the start", age, r.Uptime)
	}
	if r.Accepted < n || r.Unaccounted == nil || *r.Unaccounted != 0 || r.Unrouted != 0 {
		t.Errorf("%d accepted, %d unrouted, unaccounted %v", r.Accepted, r.Unrouted, r.Unaccounted)
	}
	if r.Journal.Bytes == 0 || r.Journal.MaxBytes != 2<<30 || r.Journal.Full || r.Disk.Free == 0 || r.Disk.Free > r.Disk.Total ||
		r.Disk.Written == 0 || r.Disk.Day != r.Disk.Written || r.Memory.Heap == 0 || r.Memory.Resident < int64(r.Memory.Heap) {
		t.Errorf("%+v %+v %+v", r.Journal, r.Disk, r.Memory)
	}
	gone := r.Uplinks[1]
	if left := time.Until(gone.CertificateExpires); gone.Name != "gone" || gone.Up || gone.Reason == "" || left < 30*time.Minute || left > time.Hour || !r.Uplinks[0].CertificateExpires.IsZero() {
		t.Errorf("%+v", r.Uplinks)
	}
	weir.kill()
	weir.start()
	killed := find("a report after the kill", func(r health.Report) bool { return r.LastEnd == "killed" })
	if killed.Epoch != r.Epoch || killed.Accepted < r.Accepted {
		t.Errorf("epoch %s with %d events became %s with %d", r.Epoch, r.Accepted, killed.Epoch, killed.Accepted)
	}
	weir.end()
	weir.start()
	find("a report after the stop", func(r health.Report) bool { return r.LastEnd == "clean" })

	for _, p := range arrived.Published() {
		if p.Topic != "weir/test-gw/health" {
			t.Errorf("arrived at %s", p.Topic)
		}
	}
	all := reports(t, arrived)
	for i := range all[1:] { // over both restarts; the clocks that pace and stamp may differ by a little
		if d := all[i+1].Time.Sub(all[i].Time); d < 950*time.Millisecond {
			t.Errorf("%v between two", d)
		}
	}
	retained := bridgetest.Collect(t, far.Addr, "weir/+/health")
	bridgetest.Until(t, "who comes later gets the newest", func() bool { return len(reports(t, retained)) > 0 })
}

// A route that refuses at its bound refuses the health event too: it is told of once, and
// nothing else changes.
func TestHealthWithoutRoom(t *testing.T) {
	weir := startRig(t, `health: {interval: 1s}
journal: {max_size: 8MiB}
uplinks: {far: {sink: mqtt, url: "mqtt://127.0.0.1:1"}}
routes: {all: {topics: ["#"], uplink: far, on_full: reject, max_size: 4MiB}}
`)
	const told = "the health event is not stored"
	logged := func() int {
		weir.mu.Lock()
		defer weir.mu.Unlock()
		return strings.Count(strings.Join(weir.log, "\n"), told)
	}
	big := `{"topic": "bench/big", "payload_text": "` + strings.Repeat("x", 200<<10) + `"}`
	bridgetest.Until(t, "the route is full, and health says so", func() bool {
		resp, err := http.Post("http://"+weir.http+"/api/publish", "application/json", strings.NewReader(big))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusInsufficientStorage && logged() > 0
	})
	refused := func() int { return metric(t, weir.http, `weir_events_refused_total{reason="full"}`) }
	before := refused()
	bridgetest.Until(t, "two more are refused", func() bool { return refused() >= before+2 })
	if n := logged(); n != 1 {
		t.Errorf("told of %d times", n)
	}
	weir.end()
}

// metric reads a whole number at /metrics.
func metric(t *testing.T, address, name string) int {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func TestNoHealth(t *testing.T) {
	for text, want := range map[string]bool{"": true, "health: {interval: 0}": false, "health: {interval: 1h}": true} {
		file := t.TempDir() + "/weir.yaml"
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := newHealth(cfg, &app{}, nil, nil, slog.New(slog.DiscardHandler)) != nil; got != want {
			t.Errorf("%q: reports %t", text, got)
		}
	}
}
