package bridge_test

import (
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// forgetful is a backlog that notes what is released, and forgets it in a crash.
type forgetful struct{ released uint64 }

func (*forgetful) Read(string, uint64) (gateway.Batch, error)      { return gateway.Batch{}, nil }
func (*forgetful) Mark(string) uint64                              { return 0 }
func (*forgetful) Count(string) (n bridge.BacklogCount, err error) { return n, nil }
func (f *forgetful) Release(_ string, upTo uint64) error           { f.released = upTo; return nil }

// After a crash the backlog has again what was delivered from it. It is told before anybody counts.
func TestBacklogIsToldAtStart(t *testing.T) {
	bubble(t, "what was committed", func(t *testing.T, r *rig) {
		b := &forgetful{}
		r.opts.Backlog = b
		r.run()
		r.add(5, "up/a")
		settle(time.Minute)
		r.want("1 2 3 4 5")
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		before := b.released
		b.released = 0
		r.hub = r.log.Restart("")
		r.new()
		if before == 0 || b.released != before {
			t.Errorf("released up to %d at start, and before it was %d", b.released, before)
		}
	})
}

// revived has three events from offset 1 on until they are released.
type revived struct {
	forgetful
}

func (b *revived) Count(string) (n bridge.BacklogCount, err error) {
	if b.released < 3 {
		n = bridge.BacklogCount{First: 1, Events: 3}
	}
	return n, nil
}

// The process with the backlog may die alone, and then it has again what was released. That is not queued twice.
func TestBacklogIsToldWhenItForgets(t *testing.T) {
	log, hub := bridgetest.NewLog("e1")
	for range 3 {
		log.Append(&gateway.Event{Topic: "plant/oven"})
	}
	o := options(t, ledgerText, log, hub, bridgetest.NewState())
	backlog := &revived{}
	o.Backlog = backlog
	b, err := bridge.New(o)
	if err != nil {
		t.Fatal(err)
	}
	backlog.released = 0
	a, err := b.Accounts()
	if err != nil || a.Unaccounted != 0 || a.Routes[1].Queued != 0 || backlog.released != 3 {
		t.Errorf("%+v, %v; released up to %d", a, err, backlog.released)
	}
}
