package bridge

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// TestWindowAgainstModel plays random histories and compares the low-water mark with a
// model that knows nothing of windows: everything up to it is settled, what follows is not.
func TestWindowAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWindow(Route{}.withDefaults(), gateway.Position{Epoch: "e1", Offset: 10})
		now := time.Hour
		clock := func() time.Duration { return now }
		offset := uint64(11)
		var events []*gateway.Event
		settled := map[*gateway.Event]bool{}
		var sent []*gateway.Event
		delivered := 0
		pop := func() {
			w.pop(func(e *entry) {
				if e.outcome == accepted {
					delivered++
				}
			})
		}
		for range 300 {
			switch r.IntN(5) {
			case 0: // the cursor goes on, sometimes over what is not for us
				var batch []*gateway.Event
				for range r.IntN(5) {
					offset += uint64(r.IntN(3))
					e := &gateway.Event{Epoch: "e1", Offset: offset, Age: now}
					if r.IntN(10) == 0 {
						e.Expiry, e.Age = time.Second, now-time.Minute
					}
					offset++
					batch = append(batch, e)
				}
				events = append(events, batch...)
				offset += uint64(r.IntN(3))
				w.add("far", lost{}, batch, gateway.Position{Epoch: "e1", Offset: offset - 1})
				pop()
			case 1, 2: // send
				e := w.peek(0, clock)
				if e == nil {
					continue
				}
				again := w.take(0)
				if e.Expired(now) {
					t.Fatalf("seed %d: an expired event is sent", seed)
				}
				if again != (indexOf(sent, e) >= 0) {
					t.Fatalf("seed %d: again is %t", seed, again)
				}
				sent = append(sent, e)
			case 3: // an acknowledgement, in any order
				if len(sent) == 0 {
					continue
				}
				e := sent[r.IntN(len(sent))]
				if entry := w.find(e); entry != nil {
					entry.outcome = accepted
					settled[e] = true
				}
				pop()
			case 4: // the connection is lost
				if r.IntN(5) > 0 {
					continue
				}
				w.rewind(0)
				for _, e := range events { // what lies behind the mark counts as never answered
					if e.Offset > w.done.Offset {
						settled[e] = false
					}
				}
				if e := w.peek(0, clock); e != nil {
					w.take(0)
					if first := w.first(); e != first {
						t.Fatalf("seed %d: begins again at %d, not at %d", seed, e.Offset, first.Offset)
					}
					sent = append(sent, e)
				}
			}
			acked := 0
			for _, e := range events {
				if e.Offset <= w.done.Offset {
					if !settled[e] && !e.Expired(now) {
						t.Fatalf("seed %d: mark %d is above %d, which is not settled", seed, w.done.Offset, e.Offset)
					}
					if settled[e] {
						acked++
					}
				}
			}
			if acked != delivered {
				t.Fatalf("seed %d: delivered %d of %d", seed, delivered, acked)
			}
			if len(w.entries) > 0 && w.entries[0].settled() && w.entries[0].outcome != expired {
				t.Fatalf("seed %d: a settled entry stays at the front", seed)
			}
			if len(w.entries) == 0 && (w.bytes != 0 || w.done.Offset != offset-1) {
				t.Fatalf("seed %d: empty, but %d bytes and mark %d of %d", seed, w.bytes, w.done.Offset, offset-1)
			}
		}
	}
}

func indexOf(events []*gateway.Event, e *gateway.Event) int {
	for i := range events {
		if events[i] == e {
			return i
		}
	}
	return -1
}
