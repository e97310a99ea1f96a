package sim

import "testing"

// Each violation by itself: the checker is what the proof of the gateway rests on.
func TestCheckFindsEachViolation(t *testing.T) {
	// Topic a: QoS 1, 1 to 3, acknowledged; 2 was sent twice. Topic b: QoS 2, 1, resent as a
	// known repeat. Topic c: QoS 1, 1, refused.
	ledger := func() *Ledger {
		l := NewLedger()
		for seq := range uint64(3) {
			l.Sent("a", seq+1, 1, false)
		}
		l.Sent("a", 2, 1, true)
		for seq := range uint64(3) {
			l.Answered("a", seq+1, 0)
		}
		l.Sent("b", 1, 2, false)
		l.Sent("b", 1, 2, true)
		l.Answered("b", 1, 0)
		l.Sent("c", 1, 1, false)
		l.Answered("c", 1, 0x97)
		return l
	}
	good := []Arrival{{"a", 1, "e-1", 1}, {"a", 2, "e-2", 2}, {"a", 3, "e-3", 3}, {"b", 1, "e-4", 4}}
	with := func(more ...Arrival) []Arrival { return append(append([]Arrival{}, good...), more...) }

	for name, c := range map[string]struct {
		arrivals []Arrival
		list     func(*Report) []string
	}{
		"nothing is wrong":                      {good, nil},
		"a repeat under the same id":            {with(Arrival{"a", 1, "e-1", 1}), nil},
		"a second event of a resent QoS 1":      {with(Arrival{"a", 2, "e-9", 9}), nil},
		"one is lost":                           {good[1:], func(r *Report) []string { return r.Lost }},
		"one was never sent":                    {with(Arrival{"a", 7, "e-9", 9}), func(r *Report) []string { return r.Foreign }},
		"an id names two events":                {with(Arrival{"a", 2, "e-1", 1}), func(r *Report) []string { return r.SharedIDs }},
		"a QoS 1 sent once is two events":       {with(Arrival{"a", 1, "e-9", 9}), func(r *Report) []string { return r.Doubled }},
		"a QoS 2 known for a repeat is doubled": {with(Arrival{"b", 1, "e-9", 9}), func(r *Report) []string { return r.Doubled }},
		"a topic's messages change places": {[]Arrival{{"a", 2, "e-1", 1}, {"a", 1, "e-2", 2}, good[2], good[3]},
			func(r *Report) []string { return r.OutOfOrder }},
		"a topic's events change places": {[]Arrival{{"a", 1, "e-2", 2}, {"a", 2, "e-1", 1}, good[2], good[3]},
			func(r *Report) []string { return r.OutOfOrder }},
	} {
		t.Run(name, func(t *testing.T) {
			r := ledger().Check(c.arrivals)
			want := 0
			if c.list != nil {
				want = 1
				if len(c.list(r)) != 1 {
					t.Error("it was not found")
				}
			}
			if r.Count != want {
				t.Errorf("found %d violations, want %d: %v", r.Count, want, r)
			}
		})
	}
}
