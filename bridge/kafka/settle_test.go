package kafka

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-iot/weir/gateway"
)

// Behind an event that has to be sent again nothing of its partition counts, and an answer that
// is not there is none.
func TestSettle(t *testing.T) {
	type answer struct {
		partition int32
		err       error
		missing   bool
	}
	const again, poison, taken, open = "again", "poison", "taken", "open"
	for _, c := range []struct {
		name    string
		answers []answer
		want    []string
		lost    bool
	}{
		{"all taken", []answer{{0, nil, false}, {1, nil, false}}, []string{taken, taken}, false},
		{"a batch refused", []answer{{0, kerr.MessageTooLarge, false}, {1, nil, false}, {0, kerr.MessageTooLarge, false}}, []string{again, taken, again}, false},
		{"alone", []answer{{0, kerr.InvalidRecord, false}, {1, kerr.MessageTooLarge, false}}, []string{poison, poison}, false},
		{"overtaken", []answer{{0, kerr.MessageTooLarge, false}, {0, kerr.MessageTooLarge, false}, {0, nil, false}}, []string{again, again, open}, true},
		{"failed", []answer{{0, nil, false}, {0, kerr.NotEnoughReplicas, false}, {0, nil, false}, {1, nil, false}}, []string{taken, open, open, taken}, true},
		{"no answer", []answer{{0, nil, true}, {0, nil, false}, {1, nil, false}}, []string{open, open, open}, true}, // it may have been for any partition
	} {
		got := map[*gateway.Event]string{}
		conn := &connection{s: &Sink{pace: newPace(1 << 20)}, done: func(e *gateway.Event, err error) {
			got[e] = taken
			if err != nil {
				got[e] = poison
			}
		}}
		var round []sent
		for _, a := range c.answers {
			round = append(round, sent{event: &gateway.Event{}, record: &kgo.Record{Topic: "t", Partition: a.partition}, answered: !a.missing, err: a.err})
		}
		lost := conn.settle(round, 1000)
		for _, e := range conn.again {
			got[e] = again
		}
		for i := range round {
			what := got[round[i].event]
			if what == "" {
				what = open
			}
			if what != c.want[i] {
				t.Errorf("%s: event %d is %s, want %s", c.name, i, what, c.want[i])
			}
		}
		if (lost != nil) != c.lost {
			t.Errorf("%s: %v", c.name, lost)
		}
	}
}

func TestPace(t *testing.T) {
	const limit = 20 * time.Second
	p := newPace(512 << 10)
	for range 5 {
		p.took(p.bytes, 50*time.Millisecond, limit)
	}
	if p.bytes != 512<<10 {
		t.Errorf("on a fast link a round holds %d bytes", p.bytes)
	}
	// 64 kbit/s: what one round holds is through within a quarter of the limit.
	link := func(bytes int) time.Duration { return time.Duration(bytes) * time.Second / 8000 }
	for range 10 {
		if d := link(p.bytes); d > limit {
			p.slower()
		} else {
			p.took(p.bytes, d, limit)
		}
	}
	if d := link(p.bytes); d > limit/4 || d < limit/20 {
		t.Errorf("on a slow link a round of %d bytes takes %v", p.bytes, d)
	}
	for range 30 {
		p.slower()
	}
	if p.bytes != 4<<10 {
		t.Errorf("the least is %d bytes", p.bytes)
	}
	p.took(10, 0, limit)
	if p.bytes != 4<<10 {
		t.Error("a small round made it faster")
	}
	p.tooLarge(1000)
	if p.took(500, 0, limit); p.bytes != 500 {
		t.Errorf("%d bytes though 1000 were too many", p.bytes)
	}
}
