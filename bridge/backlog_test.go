package bridge_test

import (
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
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
