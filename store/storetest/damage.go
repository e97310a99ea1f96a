package storetest

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

func files(t testing.TB, dir, suffix string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(paths)
	return paths
}

func size(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// snapshot keeps the contents of a directory; restore puts them back into the same files.
type snapshot map[string][]byte

func takeSnapshot(t testing.TB, dir string) snapshot {
	t.Helper()
	s := snapshot{}
	for _, path := range files(t, dir, "") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s[path] = b
	}
	return s
}

func (s snapshot) restore(t testing.TB, dir string) {
	t.Helper()
	for _, path := range files(t, dir, "") {
		if _, ok := s[path]; !ok {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, b := range s {
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

// used is the end of what is not zero in b.
func used(b []byte) int {
	for i := len(b); i > 0; i-- {
		if b[i-1] != 0 {
			return i
		}
	}
	return 0
}

// killed fills a directory with n events and leaves it as kill -9 does.
func killed(t testing.TB, open Open, o store.Options, n int) (events []*gateway.Event, epoch string) {
	t.Helper()
	d := NewDisk()
	o.Disk = d
	r := start(t, open, o)
	rnd := rand.New(rand.NewSource(int64(n)))
	for i := range n {
		e := event(fmt.Sprintf("t/%d", i%5), fmt.Sprintf("%d:%s", i, strings.Repeat("z", rnd.Intn(60))))
		events = append(events, r.mustPut(e, gateway.Synced))
	}
	epoch = r.Epoch()
	d.Kill()
	r.stop()
	return events, epoch
}

// testTornTail cuts, zeroes and garbles the journal at every byte of its last frames.
func testTornTail(t *testing.T, open Open) {
	o := store.Options{Dir: t.TempDir(), SegmentSize: 4 << 10, MachineID: same("m"), BootID: same("b")}
	events, epoch := killed(t, open, o, 12)
	before := takeSnapshot(t, o.Dir)
	segs := files(t, o.Dir, ".seg")
	last := segs[len(segs)-1]
	whole := before[last]
	end := used(whole)
	for _, damage := range []struct {
		name string
		do   func(b []byte, at int) []byte
		same bool // what a killed process leaves: the epoch goes on
	}{
		{"cut", func(b []byte, at int) []byte { return b[:at] }, false},
		{"zeroed", func(b []byte, at int) []byte { clear(b[at:]); return b }, true},
		{"garbled", func(b []byte, at int) []byte {
			rand.New(rand.NewSource(int64(at))).Read(b[at:end])
			if at < end {
				b[end-1] |= 1 // a zero would look like a write that was broken off
			}
			return b
		}, false},
	} {
		for at := end - 200; at <= end; at++ {
			before.restore(t, o.Dir)
			b := damage.do(append([]byte(nil), whole...), at)
			if err := os.WriteFile(last, b, 0o640); err != nil {
				t.Fatal(err)
			}
			r := start(t, open, o)
			got, gaps := r.readAll(1, all, 100)
			n := len(got)
			if n < 12-4 || n > 12 || at == end && n != 12 {
				t.Fatalf("%s at %d of %d: %d events left", damage.name, at, end, n)
			}
			equal(t, damage.name, got, events[:n])
			cut := used(b) > 0 && r.recovery.Cut > 0
			if cut != (len(files(t, o.Dir, "")) > len(before)) && r.recovery.NewEpoch == "" {
				t.Errorf("%s at %d: cut %d bytes, files %d after %d", damage.name, at, r.recovery.Cut, len(files(t, o.Dir, "")), len(before))
			}
			switch {
			case cut && !damage.same && (r.recovery.NewEpoch == "" || r.Epoch() == epoch):
				t.Fatalf("%s at %d of %d: %d bytes were cut and the epoch went on", damage.name, at, end, r.recovery.Cut)
			case (!cut || damage.same) && (r.recovery.NewEpoch != "" || r.Epoch() != epoch):
				t.Fatalf("%s at %d of %d: a new epoch: %+v", damage.name, at, end, r.recovery)
			case cut && !damage.same && (len(gaps) != 1 || gaps[0].Reason != gateway.GapLost || gaps[0].From != uint64(n+1)):
				t.Fatalf("%s at %d: gaps %v", damage.name, at, gaps)
			}
			e := r.mustPut(event("new", "after"), gateway.Synced)
			if e.Offset <= uint64(n) || r.recovery.Cut > 0 && e.Offset <= uint64(n+1) {
				t.Fatalf("%s at %d: offset %d is used again", damage.name, at, e.Offset)
			}
			got, _ = r.readAll(1, all, 100)
			equal(t, damage.name+", and one more", got, append(events[:n:n], e))
			r.mustStop()
		}
	}
}

// testFlippedBits flips bits anywhere in the segments. Whatever is served must be what was written.
func testFlippedBits(t *testing.T, open Open) {
	o := store.Options{Dir: t.TempDir(), SegmentSize: 8 << 10, MachineID: same("m"), BootID: same("b")}
	events, _ := killed(t, open, o, 300)
	before := takeSnapshot(t, o.Dir)
	segs := files(t, o.Dir, ".seg")
	if len(segs) < 4 {
		t.Fatalf("%d segments", len(segs))
	}
	for seed := range int64(150) {
		rnd := rand.New(rand.NewSource(seed))
		before.restore(t, o.Dir)
		flips := 1 + rnd.Intn(3)
		for range flips {
			path := segs[rnd.Intn(len(segs))]
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := rnd.Intn(used(b))
			b[at] ^= 1 << rnd.Intn(8)
			if err := os.WriteFile(path, b, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		if seed%2 == 0 {
			for _, path := range files(t, o.Dir, ".idx") {
				os.Remove(path)
			}
		}
		r := start(t, open, o)
		got, gaps := r.readAll(1, all, 50)
		if len(got) < len(events)-2*flips {
			t.Errorf("seed %d: %d flipped bits cost %d events", seed, flips, len(events)-len(got))
		}
		checkServed(t, fmt.Sprintf("seed %d", seed), events, got, gaps)
		for _, g := range gaps {
			if g.Reason == gateway.GapDamaged && len(r.damaged) == 0 {
				t.Errorf("seed %d: the observer was not told of %v", seed, g)
			}
		}
		// The same from any place, with a filter.
		filters := gateway.Filters{gateway.MustFilter("t/3")}
		from := uint64(1 + rnd.Intn(len(events)))
		some, _ := r.readAll(from, filters, 7)
		equal(t, "filtered", some, matching(got, from, filters))
		replayed := 0
		if err := r.Replay(0, func(e *gateway.Event) error { replayed++; return nil }); err != nil || replayed != len(got) {
			t.Errorf("seed %d: replayed %d of %d: %v", seed, replayed, len(got), err)
		}
		if last, err := r.Last(all, 1000); err != nil {
			t.Error(err)
		} else {
			equal(t, "last", last, got)
		}
		r.mustStop()
	}
}

// checkServed checks that got are events of written, unchanged and in order, and that each
// missing one is in a gap.
func checkServed(t testing.TB, what string, written, got []*gateway.Event, gaps []gateway.Gap) {
	t.Helper()
	i := 0
	for _, e := range written {
		if i < len(got) && got[i].Offset == e.Offset {
			if d := differ(got[i], e); d != "" {
				t.Fatalf("%s: offset %d differs in %s", what, e.Offset, d)
			}
			i++
			continue
		}
		told := false
		for _, g := range gaps {
			told = told || g.From <= e.Offset && e.Offset < g.To
		}
		if !told {
			t.Fatalf("%s: offset %d is missing and in no gap of %v", what, e.Offset, gaps)
		}
	}
	if i != len(got) {
		t.Fatalf("%s: offset %d was never written", what, got[i].Offset)
	}
}

func testMissingSegment(t *testing.T, open Open) {
	o := store.Options{Dir: t.TempDir(), SegmentSize: 8 << 10, MachineID: same("m"), BootID: same("b")}
	events, epoch := killed(t, open, o, 300)
	segs := files(t, o.Dir, ".seg")
	for i, want := range map[int]string{0: gateway.GapTrimmed, 2: gateway.GapDamaged} {
		if err := os.Remove(segs[i]); err != nil {
			t.Fatal(err)
		}
		r := start(t, open, o)
		if r.Epoch() != epoch {
			t.Errorf("a new epoch: %+v", r.recovery)
		}
		got, gaps := r.readAll(1, all, 50)
		checkServed(t, "missing segment", events, got, gaps)
		if gaps[len(gaps)-1].Reason != want && gaps[0].Reason != want {
			t.Errorf("gaps %v, want one of %s", gaps, want)
		}
		r.mustStop()
	}
	r := start(t, open, o)
	defer r.mustStop()
	from, gap := r.Resume(gateway.Position{Epoch: epoch, Offset: 1})
	if gap == nil || gap.Reason != gateway.GapTrimmed || gap.From != 2 || gap.To != from {
		t.Errorf("resume before the oldest: %d, %+v", from, gap)
	}
}

func testIndex(t *testing.T, open Open) {
	o := store.Options{Dir: t.TempDir(), SegmentSize: 8 << 10, MachineID: same("m"), BootID: same("b")}
	events, _ := killed(t, open, o, 300)
	before := takeSnapshot(t, o.Dir)
	idx := files(t, o.Dir, ".idx")
	if len(idx) < 3 {
		t.Fatalf("%d indexes", len(idx))
	}
	for seed := range int64(30) {
		rnd := rand.New(rand.NewSource(seed))
		before.restore(t, o.Dir)
		for _, path := range idx {
			b := append([]byte(nil), before[path]...)
			switch rnd.Intn(4) {
			case 0:
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				continue
			case 1:
				b = b[:rnd.Intn(len(b))]
			case 2:
				b[rnd.Intn(len(b))] ^= 1 << rnd.Intn(8)
			case 3:
				b = before[idx[rnd.Intn(len(idx))]] // another segment's
			}
			if err := os.WriteFile(path, b, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		r := start(t, open, o)
		filters := gateway.Filters{gateway.MustFilter("t/2")}
		got, gaps := r.readAll(1, filters, 50)
		if gaps != nil {
			t.Error(gaps)
		}
		equal(t, "without indexes", got, matching(events, 1, filters))
		if n, err := r.Count(7, gateway.MaxOffset, filters); err != nil || n != uint64(len(matching(events, 7, filters))) {
			t.Errorf("count: %d, %v", n, err)
		}
		r.mustStop()
		for _, path := range idx { // and they were made again, the same
			if b, err := os.ReadFile(path); err != nil || string(b) != string(before[path]) {
				t.Errorf("%s was not made again: %v", filepath.Base(path), err)
			}
		}
	}
}

func testTableLost(t *testing.T, open Open) {
	o := store.Options{Dir: t.TempDir(), SegmentSize: 8 << 10, MachineID: same("m"), BootID: same("b")}
	events, epoch := killed(t, open, o, 100)
	for _, path := range files(t, o.Dir, "epochs") {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	r := start(t, open, o)
	defer r.mustStop()
	if r.Epoch() == epoch || r.recovery.NewEpoch == "" {
		t.Fatalf("the epoch went on: %+v", r.recovery)
	}
	got, gaps := r.readAll(1, all, 50)
	checkServed(t, "table lost", events, got, gaps)
	if len(got) != len(events) {
		t.Errorf("%d of %d events", len(got), len(events))
	}
	if from, gap := r.Resume(gateway.Position{Epoch: epoch, Offset: 50}); from != 51 || gap != nil {
		t.Errorf("resume in the old epoch: %d, %v", from, gap)
	}
	if e := r.mustPut(event("a", ""), gateway.Synced); e.Offset < 1<<32 {
		t.Errorf("offset %d may have been given out before", e.Offset)
	}
}
