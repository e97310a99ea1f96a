package main

import (
	"fmt"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/web"
)

// TestOutlastsTheJournal is an outage longer than the journal's window, on the default config but for
// its size: what the uplink still needs moves to the reservoir, while weir is killed again
// and again. When the far end is back everything acknowledged arrives, backlog first, in order per
// topic, and the ledger adds up before, between and after.
func TestOutlastsTheJournal(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	far := bridgetest.StartMosquitto(t)
	far.Stop()
	weir := startRig(t, fmt.Sprintf(`journal: {max_size: 8MiB}
uplinks: {far: {sink: mqtt, url: "mqtt://%s"}}
routes: {all: {topics: ["#"], uplink: far}}
`, far.Addr))
	ledger, stop := weir.load(200, 2000)
	waiting := func() (journal, backlog uint64) {
		var uplinks []web.Uplink
		get(t, "http://"+weir.http+"/api/uplinks", &uplinks)
		return uplinks[0].Routes[0].Journal, uplinks[0].Routes[0].Backlog
	}
	for kills := range 6 { // each after some more has moved
		_, before := waiting()
		bridgetest.Until(t, "more has moved to the backlog", func() bool { _, now := waiting(); return now > before })
		account(t, weir.http, fmt.Sprintf("before kill %d", kills))
		weir.kill()
		weir.start()
		account(t, weir.http, fmt.Sprintf("after kill %d", kills))
	}
	stop()
	journal, backlog := waiting()
	if journal == 0 || backlog == 0 {
		t.Errorf("%d wait in the journal and %d in the backlog", journal, backlog)
	}
	account(t, weir.http, "before the far end is back")

	far.Start()
	report := readFar(t, far.Addr).report(ledger)
	bridgetest.Until(t, "nothing waits when all has arrived", func() bool { j, b := waiting(); return j+b == 0 })
	if a := account(t, weir.http, "after all"); a.Queued != 0 || a.Delivered != a.Routed {
		t.Errorf("%+v", a)
	}
	t.Logf("%d waited in the journal, %d in the backlog\n%v", journal, backlog, report)
	weir.end()
}
