package store

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// scrubPass is how long it takes to look through the whole journal once: seldom enough to be nothing
// beside what is written, often enough to find a dying SD card before its readers do.
const scrubPass = 24 * time.Hour

// Scrub reads the sealed segments, one after the other and again and again, until ctx ends, so that damage
// is found, logged and counted (Observer.Damaged) also where nobody reads. A whole pass takes a day.
func (j *Journal) Scrub(ctx context.Context) error {
	at := uint64(0)
	for {
		segs := *j.segs.Load()
		pause := scrubPass
		if n := len(segs) - 1; n > 0 { // the last is being written
			i := 0
			for i < n && segs[i].first <= at {
				i++
			}
			if i == n {
				i = 0
			}
			at = segs[i].first
			j.scrub(segs[i], segs[i+1].first)
			pause /= time.Duration(n)
		}
		t := time.NewTimer(max(pause, time.Second))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// scrub looks through one segment and tells what of it is damaged. It returns how many stretches are.
func (j *Journal) scrub(s *segment, next uint64) (damaged int) {
	tell := func(from, to uint64) {
		if from < to {
			damaged++
			j.log.Error("a stretch of the journal is damaged", "path", s.path, "from", from, "to", to)
			j.tellDamaged(gateway.Gap{From: from, To: to, Reason: gateway.GapDamaged})
		}
	}
	v, err := j.view(s, next)
	if v == nil || err != nil {
		if !errors.Is(err, os.ErrNotExist) || j.listed(s) {
			tell(s.first, next)
		}
		return damaged
	}
	expect := s.first
	err = j.walk(s, v, segData, 0, next, func(fr *frame, skipped bool) bool {
		if skipped {
			tell(expect, fr.offset)
		}
		expect = fr.offset + 1
		return fr.pos >= 0
	})
	if err != nil && j.listed(s) {
		tell(expect, next)
	}
	return damaged
}
