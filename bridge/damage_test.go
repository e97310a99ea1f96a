package bridge_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// damagedLog cannot read its first two offsets.
type damagedLog struct{ *bridgetest.Log }

func (l damagedLog) Read(from uint64, m gateway.Matcher, max int) (gateway.Batch, error) {
	b, err := l.Log.Read(from, m, max)
	if from <= 2 && err == nil {
		b.Gap = &gateway.Gap{From: from, To: 3, Reason: gateway.GapDamaged}
		for len(b.Events) > 0 && b.Events[0].Offset < 3 {
			b.Events = b.Events[1:]
		}
	}
	return b, err
}

// markedBacklog is empty, and its mark is where a test puts it.
type markedBacklog struct{ mark atomic.Uint64 }

func (b *markedBacklog) Read(_ string, from uint64) (gateway.Batch, error) {
	return gateway.Batch{Next: max(from, b.mark.Load())}, nil
}
func (b *markedBacklog) Mark(string) uint64           { return b.mark.Load() }
func (b *markedBacklog) Release(string, uint64) error { return nil }
func (b *markedBacklog) Count(string) (bridge.BacklogCount, error) {
	return bridge.BacklogCount{Mark: b.mark.Load()}, nil
}

// What damage took is counted once: by the pump that passed it, or by the backlog if the keeper has moved the
// stretch there before the pump's commit.
func TestDamageIsCountedOnce(t *testing.T) {
	for _, c := range []struct {
		name  string
		moved bool
		want  uint64
	}{{"the pump passes it", false, 2}, {"the keeper moves it before the commit", true, 0}} {
		bubble(t, c.name, func(t *testing.T, r *rig) {
			backlog := &markedBacklog{}
			r.opts.Backlog = backlog
			r.opts.CommitEvery = time.Minute
			r.opts.Missing = func(from, to uint64, _ gateway.Matcher) (uint64, bool) { return to - from, true }
			r.new() // stores the cursor
			r.add(5, "up/a")
			r.pump, r.hub = nil, gateway.NewHub(damagedLog{r.log}, 6)
			r.run()
			settle(time.Second)
			if got := r.arrived(); got != "3 4 5" {
				t.Errorf("arrived %q", got)
			}
			if c.moved {
				backlog.mark.Store(4)
			}
			settle(2 * time.Minute)
			r.stop()
			v, _, _ := r.state.Get("cursors", "far/all")
			if stored, err := bridge.ParseCommit(v); err != nil || stored.Damaged != c.want || stored.Delivered != 3 {
				t.Errorf("%s, %v", v, err)
			}
		})
	}
}
