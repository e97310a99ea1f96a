package store

import (
	"math"
	"time"
)

// Policy says what goes when a backlog is over its bytes.
type Policy struct {
	// Mode is "thin", "drop-oldest", "drop-newest" or "reject", which drops nothing: somebody else refuses.
	Mode string
	// Keep is for thin, from the youngest to the oldest.
	Keep []Step
}

// Step says what stays of the records younger than For; of all that are older than the steps
// before it if For is 0. Of records that no step is for nothing stays.
type Step struct {
	For    time.Duration
	Every  time.Duration // the last of each key in each such span; 0 is every record
	Latest bool          // only if no younger one of the key is kept
}

// maxKeys bounds what thinning remembers, about 4 MB. When a backlog has more keys, records of those that find
// no room are kept as if they were the only ones of theirs; what then is too much, the oldest of all, goes.
const maxKeys = 100_000

// maxHalvings is how often resolution is halved: 2^31 ms are 25 days, 2^31 minutes 4,000 years.
const maxHalvings = 31

// thinner decides, from the newest record to the oldest, which ones stay.
type thinner struct {
	steps []Step
	now   int64
	kept  map[uint64]int64 // the age of the last record of a key that was kept
}

// newThinner makes one for a ladder with half the resolution, that many times: the span in which every record
// stays is halved, the intervals of which one stays are doubled.
func newThinner(keep []Step, now int64, halvings int) *thinner {
	t := &thinner{now: now, kept: map[uint64]int64{}}
	for _, s := range keep {
		switch {
		case s.Every > 0:
			s.Every = min(s.Every, math.MaxInt64>>halvings) << halvings
		case !s.Latest:
			s.For >>= halvings
		}
		t.steps = append(t.steps, s)
	}
	return t
}

// step is the step for records of an age, or nil. A step whose span is halved to nothing is for none,
// while one without a span is for all.
func (t *thinner) step(keep []Step, age int64) *Step {
	old := time.Duration(t.now-age) * time.Millisecond
	for i := range t.steps {
		if keep[i].For == 0 || old < t.steps[i].For {
			return &t.steps[i]
		}
	}
	return nil
}

func (t *thinner) keep(policy []Step, key uint64, age int64) bool {
	s := t.step(policy, age)
	if s == nil {
		return false
	}
	younger, seen := t.kept[key]
	if seen {
		if s.Latest {
			return false
		}
		if ms := s.Every.Milliseconds(); ms > 0 && floorDiv(younger, ms) == floorDiv(age, ms) {
			return false
		}
	}
	if seen || len(t.kept) < maxKeys {
		t.kept[key] = age
	}
	return true
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
