package bridge_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/gateway"
)

// office is a rig whose pump is part of a bridge, so that there is a ledger.
type office struct {
	*rig
	bridge  *bridge.Bridge
	refuses atomic.Bool // odd payloads
}

func newOffice(t *testing.T) *office {
	o := &office{rig: newRig(t)}
	o.far.Answer = func(e *gateway.Event) error {
		if p := string(e.Payload); o.refuses.Load() && strings.ContainsAny(p[len(p)-1:], "13579") {
			return gateway.Errorf(gateway.ErrDenied, "no odd ones")
		}
		return nil
	}
	o.refuses.Store(true)
	return o
}

// open begins a process.
func (o *office) open() {
	o.t.Helper()
	var ledger *bridge.Ledger
	o.hub = o.log.Restart("", func(batch []*gateway.Event) { ledger.Released(batch) })
	o.new()
	b, err := bridge.NewOf(bridge.Options{GatewayID: gw, Hub: o.hub, State: o.state, Count: o.log.Count}, o.pump)
	if err != nil {
		o.t.Fatal(err)
	}
	o.bridge, ledger = b, b.Ledger()
	o.run()
	synctest.Wait()
}

// account checks that the ledger adds up and says what it shall: routed, delivered, dead and dropped.
func (o *office) account(when string, routed, delivered, dead, dropped uint64) {
	o.t.Helper()
	a, err := o.bridge.Accounts()
	if err != nil {
		o.t.Fatal(err)
	}
	kept, err := letters(o.state, "far/all")
	if err != nil {
		o.t.Fatal(err)
	}
	r := a.Routes[0]
	if a.Unaccounted != 0 || r.Routed != routed || r.Delivered != delivered || r.Dead != dead || r.Dropped["dead"] != dropped || uint64(len(kept)) != dead {
		o.t.Errorf("%s: %d letters, %+v", when, len(kept), r)
	}
}

func inOffice(t *testing.T, name string, fn func(t *testing.T, o *office)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { fn(t, newOffice(t)) })
	})
}

func TestRetryDead(t *testing.T) {
	all := bridge.Letters{Uplink: "far"}
	inOffice(t, "delivered at last, under the same id, and counted once", func(t *testing.T, o *office) {
		o.open()
		o.add(6, "up/a")
		settle(5 * time.Second)
		o.account("at first", 6, 3, 3, 0)
		o.refuses.Store(false)
		begun, err := o.bridge.RetryDead(bridge.Letters{ID: "test-gw/e1-3"})
		if err != nil || len(begun) != 1 || begun[0].Events != 1 {
			t.Fatal(begun, err)
		}
		settle(2 * time.Second)
		o.account("one", 6, 4, 2, 0)
		if r := o.bridge.Replays()[0]; r.Ended.IsZero() || r.Delivered != 1 || !r.Dead || r.Refused != 0 {
			t.Errorf("%+v", r)
		}
		if _, err := o.bridge.RetryDead(all); err != nil {
			t.Fatal(err)
		}
		settle(2 * time.Second)
		o.account("all", 6, 6, 0, 0)
		o.want("1 2 3 4 5 6 3 1 5")
		if a := o.far.Arrivals(); a[6].ID != a[2].ID {
			t.Errorf("sent as %s and again as %s", a[2].ID, a[6].ID)
		}
		if s := o.pump.Status(); s.Dead != 0 || s.Routes[0].Delivered != 6 {
			t.Errorf("%+v", s)
		}
		o.stop()
		o.open()
		o.account("after a restart", 6, 6, 0, 0)
		settle(time.Second)
		o.want("1 2 3 4 5 6 3 1 5")
	})
	inOffice(t, "refused again it stays, with the new reason", func(t *testing.T, o *office) {
		o.open()
		o.add(2, "up/a")
		settle(5 * time.Second)
		o.far.Answer = func(*gateway.Event) error { return gateway.Errorf(gateway.ErrInvalid, "still not") }
		if _, err := o.bridge.RetryDead(all); err != nil {
			t.Fatal(err)
		}
		settle(2 * time.Second)
		o.account("after", 2, 1, 1, 0)
		l, _ := letters(o.state, "far")
		if l[0].Reason != "still not" || l[0].Uplink != "far" || l[0].Route != "all" {
			t.Errorf("%+v", l[0])
		}
		if r := o.bridge.Replays()[0]; r.Refused != 1 || r.LastReason != "still not" {
			t.Errorf("%+v", r)
		}
	})
	inOffice(t, "live events go on beside it", func(t *testing.T, o *office) {
		o.open()
		for range 400 {
			o.add(1, "up/a")
		}
		settle(5 * time.Second)
		o.account("at first", 400, 200, 200, 0)
		o.far.FarEnd().Refuse()
		settle(time.Second)
		o.far.Cut()
		o.refuses.Store(false)
		if _, err := o.bridge.RetryDead(all); err != nil {
			t.Fatal(err)
		}
		o.add(3, "up/a")
		settle(time.Minute)
		if _, err := o.bridge.RetryDead(all); err == nil {
			t.Error("what is being sent again is sent twice at once")
		}
		if _, err := o.bridge.DropDead(all); !errors.Is(err, gateway.ErrTransient) {
			t.Errorf("what is being sent is dropped: %v", err)
		}
		o.far.FarEnd().Heal()
		settle(time.Minute)
		o.account("after", 403, 403, 0, 0)
	})
	inOffice(t, "cancelled", func(t *testing.T, o *office) {
		o.open()
		o.add(10, "up/a")
		settle(5 * time.Second)
		o.far.FarEnd().Stall()
		begun, err := o.bridge.RetryDead(all)
		if err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if r, err := o.bridge.CancelReplay(begun[0].ID); err != nil || !r.Cancelled {
			t.Error(r, err)
		}
		if _, err := o.bridge.CancelReplay(begun[0].ID); !errors.Is(err, gateway.ErrInvalid) {
			t.Error(err)
		}
		o.far.FarEnd().Heal()
		settle(time.Minute)
		o.account("cancelled", 10, 5, 5, 0)
		o.refuses.Store(false)
		if _, err := o.bridge.RetryDead(all); err != nil {
			t.Error(err)
		}
		settle(time.Minute)
		o.account("and again", 10, 10, 0, 0)
	})
	inOffice(t, "not too many at once", func(t *testing.T, o *office) {
		o.open()
		o.add(40, "up/a")
		settle(5 * time.Second)
		o.far.FarEnd().Stall()
		kept, err := letters(o.state, "far")
		if err != nil {
			t.Fatal(err)
		}
		begun := 0
		for _, l := range kept {
			if _, err := o.bridge.RetryDead(bridge.Letters{ID: l.ID}); err == nil {
				begun++
			} else if !errors.Is(err, gateway.ErrInvalid) {
				t.Error(err)
			}
		}
		if begun != 8 {
			t.Errorf("%d at once", begun)
		}
		o.refuses.Store(false)
		settle(time.Minute)
		o.far.FarEnd().Heal()
		settle(time.Minute)
		for _, l := range kept[8:] {
			if _, err := o.bridge.RetryDead(bridge.Letters{ID: l.ID}); err != nil {
				t.Error(err)
			}
			settle(2 * time.Second)
		}
		o.account("after", 40, 40, 0, 0)
		if n := len(o.bridge.Replays()); n != 20 {
			t.Errorf("%d are remembered", n)
		}
	})
	inOffice(t, "dropped by hand", func(t *testing.T, o *office) {
		o.open()
		o.add(6, "up/a")
		settle(5 * time.Second)
		if n, err := o.bridge.DropDead(bridge.Letters{ID: "test-gw/e1-5", Uplink: "far", Route: "all"}); n != 1 || err != nil {
			t.Error(n, err)
		}
		o.account("one", 6, 3, 2, 1)
		if n, err := o.bridge.DropDead(all); n != 2 || err != nil {
			t.Error(n, err)
		}
		o.account("all", 6, 3, 0, 3)
		o.stop()
		o.open()
		o.account("after a restart", 6, 3, 0, 3)
	})
	inOffice(t, "what cannot be chosen", func(t *testing.T, o *office) {
		o.open()
		for _, w := range []bridge.Letters{{}, {Route: "all"}, {ID: "test-gw/e1-77"}, {ID: "test-gw/e1-1", Uplink: "near"}} {
			if _, err := o.bridge.RetryDead(w); !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("%+v: %v", w, err)
			}
			if _, err := o.bridge.DropDead(w); !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("%+v: %v", w, err)
			}
		}
	})
	inOffice(t, "not before its route is past it", func(t *testing.T, o *office) {
		o.open()
		o.state.Gate = func(bucket string) bool { return bucket != "cursors" }
		o.add(3, "up/a")
		settle(5 * time.Second)
		if _, err := o.bridge.RetryDead(all); !errors.Is(err, gateway.ErrTransient) {
			t.Error(err)
		}
		if _, err := o.bridge.DropDead(all); !errors.Is(err, gateway.ErrTransient) {
			t.Error(err)
		}
		o.stop()
		o.state.Gate = nil
		o.open() // a kill: all three are sent again, and are as dead as before
		settle(5 * time.Second)
		o.account("after a kill", 3, 1, 2, 0)
	})
	inOffice(t, "of a route that is gone", func(t *testing.T, o *office) {
		o.open()
		o.add(1, "up/a")
		settle(5 * time.Second)
		o.stop()
		o.opts.Routes[0].ID = "new"
		o.open()
		if _, err := o.bridge.RetryDead(all); !errors.Is(err, gateway.ErrInvalid) {
			t.Error(err)
		}
		if n, err := o.bridge.DropDead(all); n != 1 || err != nil {
			t.Error(n, err)
		}
	})
}

// After a kill at any write the ledger adds up, no event is in two places, and a second try ends it.
func TestRetryDeadKilled(t *testing.T) {
	for kill := range 9 {
		inOffice(t, fmt.Sprint("at write ", kill), func(t *testing.T, o *office) {
			o.opts.CommitEvery = 250 * time.Millisecond
			quick := o.far.Answer
			o.far.Answer = func(e *gateway.Event) error { // a slow far end, so that there are many commits
				time.Sleep(100 * time.Millisecond)
				return quick(e)
			}
			o.open()
			o.add(40, "up/a")
			settle(10 * time.Second)
			o.account("before", 40, 20, 20, 0)
			o.refuses.Store(false)
			from := o.state.Writes()
			var left atomic.Int64
			left.Store(int64(kill))
			o.state.Gate = func(string) bool { return left.Add(-1) >= 0 }
			o.bridge.RetryDead(bridge.Letters{Uplink: "far"})
			o.add(3, "up/a")
			for range 20 {
				settle(300 * time.Millisecond)
			}
			o.stop()
			o.state.Gate = nil
			t.Logf("%d writes", o.state.Writes()-from)
			o.open()
			settle(5 * time.Second)
			a, err := o.bridge.Accounts()
			kept, _ := letters(o.state, "far")
			if r := a.Routes[0]; err != nil || a.Unaccounted != 0 || r.Routed != 43 || r.Queued != 0 || r.Dead != uint64(len(kept)) || r.Delivered+r.Dead != 43 {
				t.Errorf("after: %d letters, %+v, %v", len(kept), r, err)
			}
			if len(kept) > 0 {
				if _, err := o.bridge.RetryDead(bridge.Letters{Uplink: "far"}); err != nil {
					t.Error(err)
				}
				settle(10 * time.Second)
			}
			o.account("at last", 43, 43, 0, 0)
		})
	}
}
