package store

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const minute, hour, day = int64(60_000), int64(3_600_000), int64(86_400_000)

// TestThinner checks each step of the ladder, from the newest record to the oldest.
func TestThinner(t *testing.T) {
	keep := []Step{{For: 24 * time.Hour}, {For: 14 * 24 * time.Hour, Every: time.Minute}, {Latest: true}}
	now := 100 * day
	th := newThinner(keep, now, 0)
	for _, c := range []struct {
		key  uint64
		age  int64 // before now
		want bool
		why  string
	}{
		{1, 1, true, "young"},
		{1, 2, true, "young"},
		{1, day - 1, true, "young"},
		{1, day + 1, true, "the last of its minute"},
		{1, day + 500, false, "its minute has its last"},
		{2, day + 600, true, "of another key"},
		{1, day + minute + 1, true, "the minute before"},
		{1, 14*day - 1, true, "the last of its minute"},
		{1, 14*day + 1, false, "there is a younger one"},
		{3, 50 * day, true, "the latest, however old"},
		{3, 51 * day, false, "there is a younger one"},
	} {
		if got := th.keep(keep, c.key, now-c.age); got != c.want {
			t.Errorf("key %d, %v old: kept %v, but %s", c.key, time.Duration(c.age)*time.Millisecond, got, c.why)
		}
	}
	half := newThinner(keep, now, 1)
	if !half.keep(keep, 1, now-day/2-1) || half.keep(keep, 1, now-day/2-2) {
		t.Error("halved, half a day is not kept in full")
	}
	if last := newThinner(keep, now, maxHalvings); !last.keep(keep, 1, now) || last.keep(keep, 1, now-5000) {
		t.Error("after the last halving more than the latest is kept")
	}
	short := []Step{{For: time.Hour}}
	if newThinner(short, now, 0).keep(short, 1, now-2*hour) {
		t.Error("what no step is for is kept")
	}
}

func TestThinnerIsBounded(t *testing.T) {
	keep := []Step{{Latest: true}}
	th := newThinner(keep, 0, 0)
	for key := range uint64(maxKeys + 1000) {
		if !th.keep(keep, key, 0) {
			t.Fatal("the latest of a key went")
		}
	}
	if len(th.kept) != maxKeys {
		t.Errorf("%d keys are remembered", len(th.kept))
	}
}

// TestThinLosesResolutionNotHistory has four weeks of two topics, one every 40 seconds, and less and
// less room.
func TestThinLosesResolutionNotHistory(t *testing.T) {
	r := openReservoir(t, filepath.Join(t.TempDir(), "reservoir"))
	var all []Record
	now := int64(0)
	for i := range 60_000 {
		now = int64(i) * 40_000 // 28 days
		all = append(all, Record{Offset: uint64(i + 1), Age: now, Key: uint64(i % 2), Body: fmt.Appendf(nil, "%0100d", i)})
	}
	if err := r.Put("up", 60_001, all); err != nil {
		t.Fatal(err)
	}
	before := r.Stat("up").Bytes
	for _, percent := range []int64{75, 40, 10, 1} {
		limit := before * percent / 100
		if err := shrink(r, "up", 0, Policy{Mode: Thin}, limit, now); err != nil {
			t.Fatal(err)
		}
		s := r.Stat("up")
		checkLedger(t, "thinned", s)
		got, _ := readAll(t, r, "up", 0, 0)
		if s.Bytes > limit || s.Count != uint64(len(got)) {
			t.Errorf("%d%%: %d bytes of %d, %d records of %d", percent, s.Bytes, limit, s.Count, len(got))
		}
		if !slices.EqualFunc(got[len(got)-2:], all[len(all)-2:], func(a, b Record) bool { return a.Offset == b.Offset }) {
			t.Errorf("%d%%: the latest is %d", percent, got[len(got)-1].Offset)
		}
		t.Logf("%d%%: %d records, %d bytes, the oldest %v, dropped %v", percent, len(got), s.Bytes,
			time.Duration(now-got[0].Age)*time.Millisecond, s.Dropped)
		if oldest := time.Duration(now-got[0].Age) * time.Millisecond; oldest < 13*24*time.Hour {
			t.Errorf("%d%%: the oldest is of %v ago", percent, oldest)
		}
		if percent == 75 && s.Dropped[DroppedThinned] == 0 || s.Dropped[DroppedOldest] > 0 {
			t.Errorf("%d%%: dropped %v", percent, s.Dropped)
		}
	}
}

// TestShrinkIsInSteps counts what a step does, and puts, releases and reads between any two. What is left in the end is
// what the policy says all the same.
func TestShrinkIsInSteps(t *testing.T) {
	const records, keys = 30_000, 7
	for planned, chunks := range map[string]int{"in one plan": planChunks, "in many plans": 5} {
		t.Run(planned, func(t *testing.T) {
			r := openReservoir(t, filepath.Join(t.TempDir(), "reservoir"))
			r.stepChunks, r.planChunks = 4, chunks
			var all []Record
			for i := range records {
				all = append(all, Record{Offset: uint64(i + 1), Age: int64(i) * 1000, Key: uint64(i*i) % keys, Body: fmt.Appendf(nil, "%0100d", i)})
			}
			if err := r.Put("up", records+1, all); err != nil {
				t.Fatal(err)
			}
			keep := []Step{{For: time.Hour}, {For: 3 * time.Hour, Every: 10 * time.Second}, {Latest: true}}
			now, limit := int64(records*1000), r.Stat("up").Bytes/3
			most := uint64(0)
			for _, c := range r.holders["up"].chunks {
				most = max(most, uint64(c.count))
			}
			steps, released, next := 0, uint64(0), uint64(records+1)
			for more := true; more; steps++ {
				before := r.Stat("up")
				var err error
				if more, err = r.Shrink("up", released, Policy{Mode: Thin, Keep: keep}, limit, now); err != nil {
					t.Fatal(err)
				}
				s := r.Stat("up")
				checkLedger(t, "after a step", s)
				if n := before.Count - s.Count; n > uint64(r.stepChunks)*most {
					t.Fatalf("a step dropped %d records; a chunk has %d at most", n, most)
				}
				if steps%10 != 0 {
					continue
				}
				if err := r.Put("up", next+1, []Record{{Offset: next, Age: now, Key: keys, Body: []byte("meanwhile")}}); err != nil {
					t.Fatal(err)
				}
				next++
				if b, err := r.Read("up", released+1, 1); err != nil || len(b.Records) == 0 {
					t.Fatal(b, err)
				} else if released = b.Records[0].Offset; r.Release("up", released) != nil {
					t.Fatal("released")
				}
			}
			s := r.Stat("up")
			got, gone := readAll(t, r, "up", released+1, 0)
			if least := records / int(most) / r.stepChunks; steps < least || gone != nil || s.Bytes > limit {
				t.Errorf("%d steps, less than %d; lost %v; %d bytes of %d", steps, least, gone, s.Bytes, limit)
			}
			there := map[uint64]bool{}
			for _, rec := range got {
				there[rec.Offset] = true
			}
			for offset := uint64(records + 1); offset < next; offset++ {
				if !there[offset] {
					t.Errorf("%d, put meanwhile, is gone", offset)
				}
			}
			// By some number of halvings, all that goes has gone up to somewhere, and nothing beyond.
			var best map[uint64]bool
			for halvings := range maxHalvings {
				th, wrong, beyond := newThinner(keep, now, halvings), map[uint64]bool{}, true
				kept := map[uint64]bool{}
				for _, rec := range slices.Backward(all) {
					kept[rec.Offset] = th.keep(keep, rec.Key, rec.Age)
				}
				for _, rec := range slices.Backward(all) {
					if rec.Offset <= released+most { // it shared a chunk with what was in flight
						break
					}
					beyond = beyond && there[rec.Offset]
					if !beyond && kept[rec.Offset] != there[rec.Offset] {
						wrong[rec.Offset] = true
					}
				}
				if best == nil || len(wrong) < len(best) {
					best = wrong
				}
			}
			if len(best) > 0 {
				t.Errorf("%d of %d records are not what the policy says, such as %d", len(best), len(got), slices.Min(slices.Collect(maps.Keys(best))))
			}
			t.Logf("%d steps, %d of %d records left, dropped %v", steps, len(got), records, s.Dropped)
		})
	}
}
