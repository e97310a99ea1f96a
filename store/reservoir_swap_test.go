package store

import (
	"path/filepath"
	"testing"
)

// TestSwapIsInSteps begins a drained database anew while what is live changes, and gives it up half way, once by a Discard
// and once by a crash.
func TestSwapIsInSteps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "reservoir")
	r := openReservoir(t, dir)
	r.stepChunks, r.swapAt = 5, 1<<40
	marks := map[string]uint64{}
	put := func(holder string, n int) {
		t.Helper()
		var all []Record
		from := max(marks[holder], 1)
		for i := range n {
			all = append(all, Record{Offset: from + uint64(i), Age: int64(i), Body: []byte(killBody(from + uint64(i)))})
		}
		marks[holder] = from + uint64(n)
		if err := r.Put(holder, marks[holder], all); err != nil {
			t.Fatal(err)
		}
	}
	release := func(holder string, upTo uint64) {
		t.Helper()
		if err := r.Release(holder, upTo); err != nil {
			t.Fatal(err)
		}
	}
	put("drained", 20_000)
	put("live", 2000)
	put("other", 10)
	release("drained", marks["drained"]-1)
	begin := func() {
		t.Helper()
		r.swapAt = 256 << 10
		for offset := range uint64(2) {
			release("live", r.Stat("live").First+offset)
		}
		if r.swapping == nil {
			t.Fatal("it is not begun anew")
		}
	}
	begin()
	crashed := filepath.Join(t.TempDir(), "reservoir")
	copyAsKilled(t, filepath.Dir(dir), filepath.Dir(crashed))
	if err := r.Discard("other"); err != nil {
		t.Fatal(err)
	}
	put("new", 7) // under the number of the one that is gone
	begin()
	before := r.fresh
	// What was copied changes.
	put("live", 1)
	c := r.holders["live"].chunks[2]
	spoil(t, r, "live", c)
	lost := LostRange{From: c.last, To: c.last + 1, Count: 1}
	if b, err := r.Read("live", c.last, 0); err != nil || len(b.Lost) != 1 || b.Lost[0] != lost {
		t.Fatal(b.Lost, err)
	}
	steps := 0
	for ; r.swapping != nil; steps++ {
		put("live", 3)
		release("live", r.Stat("live").First)
	}
	if steps < 5 || r.fresh > before/3 {
		t.Errorf("%d steps, %d bytes are left of %d", steps, r.fresh, before)
	}
	check := func(what string, r *Reservoir) {
		t.Helper()
		for _, holder := range []string{"live", "new", "drained"} {
			s := r.Stat(holder)
			checkLedger(t, what, s)
			if s.Put != marks[holder]-1 || holder == "live" && s.Dropped[DroppedDamaged] != 1 {
				t.Errorf("%s: %s has %+v", what, holder, s)
			}
			from := s.First
			if holder == "live" {
				from = c.last // what lies before cannot be read
			}
			got, gone := readAll(t, r, holder, from, 0)
			for i, rec := range got {
				if string(rec.Body) != killBody(rec.Offset) || i > 0 && rec.Offset != got[i-1].Offset+1 {
					t.Fatalf("%s: %s: offset %d after %d", what, holder, rec.Offset, from)
				}
				from = rec.Offset
			}
			if s.Count > 0 && from != marks[holder]-1 || holder == "live" != (len(gone) == 1) {
				t.Errorf("%s: %s ends at %d of %d; lost %v", what, holder, from, marks[holder], gone)
			}
		}
	}
	check("begun anew", r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	check("opened again", openReservoir(t, dir))
	if left, _ := filepath.Glob(dir + ".*[wd]"); left != nil { // .new and .drained
		t.Errorf("left: %v", left)
	}
	r = openReservoir(t, crashed)
	if s := r.Stat("live"); s.Put != 2000 || s.Count == 0 || len(s.Dropped) > 0 || r.swapping != nil {
		t.Errorf("after a crash: %+v", s)
	}
}
