package store

import (
	"fmt"
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
		if err := r.Shrink("up", 0, Policy{Mode: Thin}, limit, now); err != nil {
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
