package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/firmware-sim/sim"
)

// TestDamageIsAccountedFor flips, cuts and removes files of a journal that an uplink has not read yet.
// Weir starts, sends what is left, and the ledger says how much was not, and why.
func TestDamageIsAccountedFor(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	dir := t.TempDir()
	mqtt, httpAddress, farAddress := freePort(t), freePort(t), freePort(t)
	conf := filepath.Join(dir, "weir.yaml")
	text := fmt.Sprintf(`gateway: {id: damaged, data_dir: data}
health: {interval: 0}
listeners: {mqtt: {address: "%s"}, http: {address: "%s"}}
journal: {max_size: 16MiB}
uplinks: {far: {sink: mqtt, url: "mqtt://%s"}}
routes: {even: {topics: ["load/+/0", "load/+/2"], uplink: far}}
`, mqtt, httpAddress, farAddress)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var weir *process
	start := func() {
		weir = startProcess(t, "weir", "-c", conf, "run")
		if err := waitListening("tcp", mqtt); err != nil {
			t.Fatal(err)
		}
	}
	start()
	ledger := sim.NewLedger()
	load := &sim.Load{Address: mqtt, Clients: 8, Rate: 500, Seed: 1, Ledger: ledger, Pad: 2000}
	sending, stop := context.WithCancel(t.Context())
	defer stop()
	loaded := make(chan error, 1)
	go func() { loaded <- load.Run(sending, time.Minute) }()
	segments := func() []string {
		all, _ := filepath.Glob(filepath.Join(dir, "data", "journal", "*.seg"))
		return all
	}
	for end := time.Now().Add(2 * startTimeout); len(segments()) < 5; pause(t.Context(), 20*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the journal does not grow")
		}
	}
	stop()
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	weir.kill()

	segs := segments()
	change := func(path string, fn func(b []byte) []byte) {
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, fn(b), 0o640)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change(segs[0], func(b []byte) []byte { // two events, far apart
		b[len(b)/3] ^= 4
		b[len(b)/2] ^= 4
		return b
	})
	change(segs[1], func(b []byte) []byte { clear(b[len(b)/2 : len(b)/2+20_000]); return b })
	change(segs[2], func(b []byte) []byte { return b[:len(b)/2] })

	far := &bridgetest.Broker{}
	far.StartAt(t, farAddress)
	start()
	account := func(what string, least, most uint64) web.LedgerAccount {
		t.Helper()
		var l web.Ledger
		for end := time.Now().Add(2 * startTimeout); ; pause(t.Context(), 50*time.Millisecond) {
			get(t, "http://"+httpAddress+"/api/ledger", &l)
			if l.Routes[0].Queued == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v", what, l)
			}
		}
		a := l.Routes[0]
		lost := uint64(0)
		for _, n := range a.Dropped {
			lost += n
		}
		if l.Unaccounted != 0 || lost < least || lost > most || a.Routed != a.Delivered+lost {
			t.Errorf("%s: %+v", what, l)
		}
		return a
	}
	a := account("damage", 2, 400)
	arrived := map[string]bool{}
	for _, p := range far.Published() {
		arrived[p.Topic+" "+string(p.Payload)] = true
	}
	if uint64(len(arrived)) != a.Delivered {
		t.Errorf("%d different events arrived, and the ledger says %d", len(arrived), a.Delivered)
	}
	t.Logf("%d events were due, %v", a.Routed, a.Dropped)

	// After a restart it says the same.
	weir.kill()
	start()
	if again := account("after a kill", 2, 400); again.Routed != a.Routed || again.Delivered != a.Delivered {
		t.Errorf("%+v, and before the kill %+v", again, a)
	}
	if err := weir.stop(); err != nil {
		t.Error(err)
	}
}
