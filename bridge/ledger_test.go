package bridge_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

const ledgerText = `
uplinks:
  north: {sink: mqtt, url: "mqtt://127.0.0.1:1"}
routes:
  alarms: {topics: ["plant/alarm/#"], uplink: north, priority: high}
  rest: {topics: ["plant/#"], uplink: north}
`

// ledgerRig is a bridge whose far end is not there, over a log that reports to its ledger.
func ledgerRig(t *testing.T, log *bridgetest.Log, state *bridgetest.State) (b *bridge.Bridge, stop func()) {
	var ledger *bridge.Ledger
	hub := log.Restart("", func(batch []*gateway.Event) { ledger.Released(batch) })
	b, err := load(t, ledgerText, log, hub, state)
	if err != nil {
		t.Fatal(err)
	}
	ledger = b.Ledger()
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- b.Run(ctx) }()
	return b, func() { cancel(); <-over }
}

// The way in is counted for itself, survives kills, and does not wait for a stream that nobody syncs.
func TestLedgerIntake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := bridgetest.NewLog("e1")
		state := bridgetest.NewState()
		b, stop := ledgerRig(t, log, state)
		add := func(topic string, n int) {
			for range n {
				log.Append(&gateway.Event{Topic: topic})
			}
		}
		check := func(when string, accepted, unrouted, alarms, rest uint64) {
			t.Helper()
			a, err := b.Accounts()
			if err != nil {
				t.Fatal(err)
			}
			if a.Accepted != accepted || a.Unrouted != unrouted || a.Routes[0].Routed != alarms || a.Routes[1].Routed != rest || a.Unaccounted != 0 {
				t.Errorf("%s: %+v", when, a)
			}
		}
		add("plant/alarm/fire", 3)
		add("plant/oven", 10)
		add("elsewhere", 2)
		check("at once", 15, 2, 3, 10)
		time.Sleep(1500 * time.Millisecond) // stored
		add("plant/oven", 5)                // and these are not
		state.Break()                       // kill -9
		stop()
		state.Mend()
		b, stop = ledgerRig(t, log, state)
		check("after a kill", 20, 2, 3, 15)
		saved := b.Ledger().Saved()
		log.Hold() // readings that nobody waits for, always some unsynced
		for range 30 {
			add("plant/oven", 1)
			time.Sleep(100 * time.Millisecond)
			log.SyncBelowEnd(1)
		}
		if b.Ledger().Saved() < saved+15 {
			t.Errorf("the ledger is stored up to %d, and was up to %d", b.Ledger().Saved(), saved)
		}
		log.Sync()
		check("after a steady stream", 50, 2, 3, 45)
		stop()
	})
}

// What does not add up is seen: an event that the queue no longer has and nobody delivered.
func TestLedgerSeesALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := bridgetest.NewLog("e1")
		b, stop := ledgerRig(t, log, bridgetest.NewState())
		defer func() { stop() }()
		for range 10 {
			log.Append(&gateway.Event{Topic: "plant/oven"})
		}
		log.Trim(4) // three events vanish from the store
		a, err := b.Accounts()
		if err != nil || a.Unaccounted != 3 || a.Routes[1].Unaccounted != 3 {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

// The ledger was stored in the middle of what damage has taken since. It counts again from the start of that
// segment, where it knows both what was counted and, by the index, what there was.
func TestLedgerCountsDamageFromTheSegmentsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := bridgetest.NewLog("e1")
		state := bridgetest.NewState()
		const first, last = 4, 20 // of a segment, and 8 to 14 of it will be damaged
		sealed := false
		start := func(offset uint64) (uint64, bool) {
			switch {
			case offset < first:
				return 1, true
			case offset <= last:
				return first, sealed
			}
			return last + 1, false
		}
		count := func(from, to uint64, m gateway.Matcher) (uint64, error) {
			if from > 8 && from < 15 { // the index knows what all of them were, and not which
				return log.Count(8, to, m)
			}
			return log.Count(from, to, m)
		}
		var stop func()
		var b *bridge.Bridge
		run := func() {
			var ledger *bridge.Ledger
			hub := log.Restart("", func(batch []*gateway.Event) { ledger.Released(batch) })
			o := options(t, ledgerText, log, hub, state)
			o.Start = start
			if sealed {
				o.Count = count
			}
			var err error
			if b, err = bridge.New(o); err != nil {
				t.Fatal(err)
			}
			ledger = b.Ledger()
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan error, 1)
			go func() { over <- b.Run(ctx) }()
			stop = func() { cancel(); <-over }
		}
		add := func(n int) {
			for range n {
				log.Append(&gateway.Event{Topic: "plant/oven"})
				log.Append(&gateway.Event{Topic: "elsewhere"})
			}
		}
		run()
		add(5)
		time.Sleep(1500 * time.Millisecond) // stored up to 10
		add(15)                             // and these are not
		state.Break()                       // kill -9
		stop()
		state.Mend()
		for i := range 3 { // and kills before the first store
			sealed = true
			run()
			a, err := b.Accounts()
			if err != nil || a.Accepted != 40 || a.Unrouted != 20 || a.Routes[1].Routed != 20 {
				t.Errorf("start %d: %+v, %v", i, a, err)
			}
			state.Break()
			stop()
			state.Mend()
		}
	})
}
