package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/web"
)

// TestDamageIsAccountedFor flips, cuts and removes files of a journal that an uplink has not read yet.
// Weir starts, sends what is left, and the ledger says how much was not, and why.
func TestDamageIsAccountedFor(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	farAddress := freePort(t)
	weir := startRig(t, fmt.Sprintf(`journal: {max_size: 16MiB}
uplinks: {far: {sink: mqtt, url: "mqtt://%s"}}
routes: {even: {topics: ["load/+/0", "load/+/2"], uplink: far}}
`, farAddress))
	_, stop := weir.load(500, 2000)
	segments := func() []string {
		all, _ := filepath.Glob(filepath.Join(weir.dir, "data", "journal", "*.seg"))
		return all
	}
	bridgetest.Until(t, "the journal has five segments", func() bool { return len(segments()) >= 5 })
	stop()
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
	weir.start()
	settled := func(what string, least, most uint64) web.LedgerAccount {
		t.Helper()
		bridgetest.Until(t, "nothing waits", func() bool {
			var l web.Ledger
			get(t, "http://"+weir.http+"/api/ledger", &l)
			return l.Routes[0].Queued == 0
		})
		a := account(t, weir.http, what)
		lost := uint64(0)
		for _, n := range a.Dropped {
			lost += n
		}
		if lost < least || lost > most || a.Routed != a.Delivered+lost {
			t.Errorf("%s: %+v", what, a)
		}
		return a
	}
	a := settled("damage", 2, 400)
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
	weir.start()
	if again := settled("after a kill", 2, 400); again.Routed != a.Routed || again.Delivered != a.Delivered {
		t.Errorf("%+v, and before the kill %+v", again, a)
	}
	weir.end()
}
