package store

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func openReservoir(t testing.TB, dir string) *Reservoir {
	t.Helper()
	r, err := OpenReservoir(dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	r.swapAt = 256 << 10 // so that it happens often
	return r
}

// shrink calls Shrink until there is no more to do.
func shrink(r backlogs, holder string, after uint64, p Policy, maxBytes, now int64) error {
	for {
		if more, err := r.Shrink(holder, after, p, maxBytes, now); !more || err != nil {
			return err
		}
	}
}

// backlogs is a Reservoir, here or in a Box.
type backlogs interface {
	Put(holder string, upTo uint64, records []Record) error
	Read(holder string, from uint64, max int) (Backlog, error)
	Release(holder string, upTo uint64) error
	Shrink(holder string, after uint64, p Policy, maxBytes, now int64) (more bool, err error)
	Stat(holder string) Stat
	Holders() []string
	Discard(holder string) error
}

// readAll reads a backlog from an offset to its end.
func readAll(t testing.TB, r backlogs, holder string, from uint64, max int) (all []Record, gone []LostRange) {
	t.Helper()
	for {
		b, err := r.Read(holder, from, max)
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range b.Records {
			if rec.Offset < from || rec.Offset >= b.Next {
				t.Fatalf("offset %d in a batch from %d to %d", rec.Offset, from, b.Next)
			}
		}
		all, gone = append(all, b.Records...), append(gone, b.Lost...)
		if b.Next == from {
			return all, gone
		}
		from = b.Next
	}
}

func sameRecords(t testing.TB, what string, got, want []Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d records, want %d", what, len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.Offset != w.Offset || g.Epoch != w.Epoch || g.Age != w.Age || g.Key != w.Key || !bytes.Equal(g.Body, w.Body) {
			t.Fatalf("%s: record %d is %d %q %d %d (%d bytes), want %d %q %d %d (%d bytes)", what, i,
				g.Offset, g.Epoch, g.Age, g.Key, len(g.Body), w.Offset, w.Epoch, w.Age, w.Key, len(w.Body))
		}
	}
}

func checkLedger(t testing.TB, what string, s Stat) {
	t.Helper()
	sum := s.Count + s.Released
	for _, n := range s.Dropped {
		sum += n
	}
	if s.Put != sum {
		t.Fatalf("%s: put %d, but stored %d, released %d, dropped %v", what, s.Put, s.Count, s.Released, s.Dropped)
	}
}

// life is what a holder should have.
type life struct {
	records  []Record // not released, not dropped
	mark     uint64
	done     uint64
	put      uint64
	released uint64
	age      int64
	latest   map[uint64]uint64 // by key: the newest that was ever put
}

// TestReservoirHistories plays seeded histories of all that is done with a reservoir, with reopens
// and with crashes, against a model.
func TestReservoirHistories(t *testing.T) {
	seeds := int64(12)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			h := &reservoirHistory{
				T: t, rnd: rand.New(rand.NewSource(seed)), root: t.TempDir(), lives: map[string]*life{},
			}
			h.open = func() {
				r := openReservoir(t, h.dir())
				r.stepChunks, r.planChunks = 1+h.rnd.Intn(20), 1+h.rnd.Intn(20)
				h.r, h.close = r, r.Close
			}
			h.kill = h.copyFiles
			h.open()
			for range 120 {
				h.step()
			}
			h.check()
		})
	}
}

type reservoirHistory struct {
	*testing.T
	rnd   *rand.Rand
	root  string
	n     int // of the directory, which is another after each crash
	r     backlogs
	close func() error
	kill  func() // leaves the files as kill -9 does, and goes on with them
	open  func()
	lives map[string]*life
}

func (h *reservoirHistory) dir() string { return filepath.Join(h.root, fmt.Sprint(h.n), "reservoir") }

func (h *reservoirHistory) step() {
	name := []string{"up", "down", "session/1"}[h.rnd.Intn(3)]
	l := h.lives[name]
	if l == nil {
		l = &life{mark: 1, latest: map[uint64]uint64{}}
		h.lives[name] = l
	}
	switch k := h.rnd.Intn(20); {
	case k < 8:
		h.put(name, l)
	case k < 12:
		h.release(name, l)
	case k < 15:
		h.shrink(name, l)
	case k == 15 && h.rnd.Intn(4) == 0:
		if err := h.r.Discard(name); err != nil {
			h.Fatal(err)
		}
		delete(h.lives, name)
	case k == 16:
		h.reopen()
		h.check()
	case k == 17:
		h.crash()
		h.check()
	case k == 18: // everything is drained
		for name, l := range h.lives {
			if l.mark > 1 {
				l.done = l.mark - 1
				l.released += uint64(len(l.records))
				l.records = nil
				if err := h.r.Release(name, l.done); err != nil {
					h.Fatal(err)
				}
			}
		}
		h.check()
	default:
		h.check()
	}
}

func (h *reservoirHistory) put(name string, l *life) {
	var all []Record
	n := h.rnd.Intn(300)
	if h.rnd.Intn(10) == 0 {
		n = 3000
	}
	offset := l.mark
	for range n {
		offset += uint64(1 + h.rnd.Intn(3)*h.rnd.Intn(3))
		l.age += int64(h.rnd.Intn(10_000))
		size := h.rnd.Intn(300)
		switch h.rnd.Intn(200) {
		case 0:
			size = h.rnd.Intn(30 << 10)
		case 1:
			if n < 300 {
				size = h.rnd.Intn(600 << 10)
			}
		}
		body := make([]byte, size)
		h.rnd.Read(body)
		all = append(all, Record{
			Offset: offset, Epoch: fmt.Sprint("e", offset/5000), Age: l.age, Key: uint64(h.rnd.Intn(20)), Body: body,
		})
	}
	upTo := offset + 1 + uint64(h.rnd.Intn(3))
	again := l.records[max(0, len(l.records)-h.rnd.Intn(50)):] // as after a crash
	if err := h.r.Put(name, upTo, slices.Concat(again, all)); err != nil {
		h.Fatal(err)
	}
	for _, rec := range all {
		l.latest[rec.Key] = rec.Offset
	}
	l.records = append(l.records, all...)
	l.put += uint64(n)
	l.mark = upTo
}

func (h *reservoirHistory) reopen() {
	if err := h.close(); err != nil {
		h.Fatal(err)
	}
	h.open()
}

func (h *reservoirHistory) release(name string, l *life) {
	if len(l.records) == 0 {
		return
	}
	n := h.rnd.Intn(len(l.records))
	l.done = l.records[n].Offset
	l.records = l.records[n+1:]
	l.released += uint64(n + 1)
	if err := h.r.Release(name, l.done); err != nil {
		h.Fatal(err)
	}
}

// shrink shrinks a backlog step by step, and does other things between the steps.
func (h *reservoirHistory) shrink(name string, l *life) {
	if len(l.records) == 0 {
		return
	}
	after := l.records[0].Offset
	if h.rnd.Intn(2) == 0 {
		after = l.records[h.rnd.Intn(len(l.records))].Offset
	}
	p := Policy{Mode: []string{Thin, DropOldest, DropNewest, Reject}[h.rnd.Intn(4)]}
	p.Keep = []Step{{For: time.Hour}, {For: 10 * time.Hour, Every: time.Minute}, {Latest: true}}
	begun := h.r.Stat(name)
	limit := begun.Bytes / 100 * int64(50+h.rnd.Intn(60))
	for more := true; more; {
		before := h.r.Stat(name)
		var err error
		if more, err = h.r.Shrink(name, after, p, limit, l.age); err != nil {
			h.Fatal(err)
		}
		h.shrunk(name, l, after, p, before)
		if s := h.r.Stat(name); (p.Mode == Reject || begun.Bytes <= limit) && s.Put-s.Count-s.Released != begun.Put-begun.Count-begun.Released {
			h.Fatalf("%s shrinks %d bytes with a limit of %d", p.Mode, begun.Bytes, limit)
		}
		if !more {
			break
		}
		switch h.rnd.Intn(12) {
		case 0:
			h.put(name, l)
		case 1:
			h.release(name, l)
		case 2:
			h.reopen()
		case 3:
			h.crash()
		case 4:
			after = max(after, l.records[min(len(l.records)-1, 100)].Offset) // so much is in flight now
		case 5:
			h.check()
		}
		if len(l.records) == 0 {
			return
		}
	}
	if s := h.r.Stat(name); p.Mode != Reject && s.Bytes > limit {
		movable := 0
		for _, rec := range l.records {
			if rec.Offset > after && len(rec.Body) < pieceSize {
				movable++
			}
		}
		if movable > 3000 { // more than what can share a chunk with what is in flight
			h.Fatalf("%s to %d left %d bytes, %d records could have gone", p.Mode, limit, s.Bytes, movable)
		}
	}
}

// shrunk checks what a step has done, and takes it over.
func (h *reservoirHistory) shrunk(name string, l *life, after uint64, p Policy, before Stat) {
	s := h.r.Stat(name)
	checkLedger(h, "after shrinking", s)
	if s.Count == before.Count { // it made a plan
		return
	}
	got, gone := readAll(h, h.r, name, l.done+1, 0)
	if gone != nil {
		h.Fatalf("shrinking lost %v", gone)
	}
	i := 0
	for _, rec := range l.records {
		switch {
		case i < len(got) && got[i].Offset == rec.Offset:
			sameRecords(h, "after shrinking", got[i:i+1], []Record{rec})
			i++
		case rec.Offset <= after:
			h.Fatalf("%s dropped %d, which is in flight", p.Mode, rec.Offset)
		case p.Mode == Thin && s.Dropped[DroppedOldest] == before.Dropped[DroppedOldest] && rec.Offset == l.latest[rec.Key]:
			h.Fatalf("thinning dropped the latest of key %d", rec.Key)
		}
	}
	dropped := s.Put - s.Released - s.Count - (before.Put - before.Released - before.Count)
	if i != len(got) || uint64(len(l.records)-len(got)) != dropped {
		h.Fatalf("%s: %d of %d records are left, %d are counted as dropped, %d are strange", p.Mode, len(got), len(l.records), dropped, len(got)-i)
	}
	l.records = got
}

// copyFiles goes on with a copy of the files as they are now.
func (h *reservoirHistory) copyFiles() {
	from := filepath.Dir(h.dir())
	h.n++
	copyAsKilled(h, from, filepath.Dir(h.dir()))
	if err := h.close(); err != nil {
		h.Fatal(err)
	}
	h.open()
}

// copyAsKilled copies what a kill would leave of from just now.
func copyAsKilled(t testing.TB, from, to string) {
	t.Helper()
	for { // until Badger did nothing to its files meanwhile
		before := listing(from)
		err := os.CopyFS(to, os.DirFS(from))
		if err == nil && before == listing(from) {
			return
		}
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
	}
}

func (h *reservoirHistory) crash() {
	h.kill()
	for name, l := range h.lives {
		s := h.r.Stat(name)
		checkLedger(h, "after a crash", s)
		if s.Released > l.released || s.Put != l.put {
			h.Fatalf("after a crash put %d, released %d; was %d, %d", s.Put, s.Released, l.put, l.released)
		}
		if err := h.r.Release(name, l.done); err != nil { // as the cursor says
			h.Fatal(err)
		}
	}
}

func listing(dir string) string {
	var all strings.Builder
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			if info, err := d.Info(); err == nil && !d.IsDir() {
				fmt.Fprintln(&all, path, info.Size(), info.ModTime())
			}
		}
		return nil
	})
	return all.String()
}

func (h *reservoirHistory) check() {
	h.Helper()
	for name, l := range h.lives {
		got, gone := readAll(h, h.r, name, l.done+1, 1+h.rnd.Intn(600))
		sameRecords(h, name, got, l.records)
		s := h.r.Stat(name)
		checkLedger(h, name, s)
		if gone != nil || s.Put != l.put || s.Released != l.released || s.Count != uint64(len(got)) || l.mark > 1 && s.Mark != l.mark {
			h.Fatalf("%s: lost %v, %+v; model: put %d, released %d, mark %d", name, gone, s, l.put, l.released, l.mark)
		}
		if len(got) > 0 && (s.First > got[0].Offset || s.Last != got[len(got)-1].Offset) {
			h.Fatalf("%s: first %d, last %d of %d to %d", name, s.First, s.Last, got[0].Offset, got[len(got)-1].Offset)
		}
	}
	for _, name := range h.r.Holders() {
		if h.lives[name] == nil {
			h.Fatalf("holder %s is there", name)
		}
	}
}

const reservoirChild = "WEIR_TEST_RESERVOIR"

// TestReservoirKill kills the process, again and again, while it puts, releases and shrinks.
func TestReservoirKill(t *testing.T) {
	if dir := os.Getenv(reservoirChild); dir != "" {
		putForEver(dir)
	}
	dir := filepath.Join(t.TempDir(), "reservoir")
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	rnd := rand.New(rand.NewSource(1))
	acked := uint64(0)
	for round := range rounds {
		cmd := command(itself("-test.run=^TestReservoirKill$"))
		cmd.Env = append(os.Environ(), reservoirChild+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, enough := bufio.NewScanner(out), 5+rnd.Intn(60)
		for n := 0; lines.Scan(); n++ {
			var offset uint64
			if _, err := fmt.Sscanf(lines.Text(), "put %d.", &offset); err == nil && strings.HasSuffix(lines.Text(), ".") {
				acked = offset
			}
			if n == enough {
				cmd.Process.Kill()
			}
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("round %d: the child ended with %v", round, err)
		}
		r := openReservoir(t, dir)
		s := r.Stat("up")
		checkLedger(t, "after a kill", s)
		if s.Mark <= acked {
			t.Fatalf("round %d: put up to %d, the mark is %d", round, acked, s.Mark)
		}
		if s.Put != s.Mark-1 {
			t.Fatalf("round %d: %d records were put below the mark %d", round, s.Put, s.Mark)
		}
		got, gone := readAll(t, r, "up", 0, 0)
		if gone != nil || uint64(len(got)) != s.Count || s.Dropped[DroppedDamaged] > 0 {
			t.Fatalf("round %d: %d records, lost %v, %+v", round, len(got), gone, s)
		}
		last := uint64(0)
		for _, rec := range got {
			if rec.Offset <= last || string(rec.Body) != killBody(rec.Offset) {
				t.Fatalf("round %d: offset %d after %d with %d bytes", round, rec.Offset, last, len(rec.Body))
			}
			last = rec.Offset
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if aside, _ := filepath.Glob(dir + ".damaged-*"); aside != nil {
		t.Error("the reservoir was set aside")
	}
}

func killBody(offset uint64) string {
	n := int(offset * 37 % 400)
	if offset%500 == 0 {
		n = 300 << 10
	}
	return strings.Repeat(fmt.Sprint(offset, " "), 1+n/8)
}

func putForEver(dir string) {
	r, err := OpenReservoir(dir, nil)
	if err != nil {
		panic(err)
	}
	r.swapAt, r.stepChunks, r.planChunks = 256<<10, 3, 10
	rnd := rand.New(rand.NewSource(int64(os.Getpid())))
	for {
		var all []Record
		offset := max(r.Stat("up").Mark, 1)
		for range 1 + rnd.Intn(1500) {
			all = append(all, Record{Offset: offset, Epoch: "e", Age: int64(offset) * 1000, Key: offset % 7, Body: []byte(killBody(offset))})
			offset++
		}
		if err := r.Put("up", offset, all); err != nil {
			panic(err)
		}
		fmt.Printf("put %d.\n", offset-1)
		s := r.Stat("up")
		switch rnd.Intn(4) {
		case 0:
			err = r.Release("up", s.First+uint64(rnd.Intn(int(s.Last-s.First+1))))
		case 1:
			p := Policy{Mode: []string{Thin, DropOldest, DropNewest}[rnd.Intn(3)], Keep: []Step{{For: time.Minute}, {Latest: true}}}
			for more := true; more && err == nil; {
				more, err = r.Shrink("up", s.First, p, s.Bytes/2, int64(offset)*1000)
				fmt.Println("step") // so that it is killed between two
			}
		case 2:
			if rnd.Intn(4) == 0 {
				err = r.Release("up", s.Last) // drained
			}
		}
		if err != nil {
			panic(err)
		}
	}
}

// The pump may be done with an event while the keeper is still moving it. What is below the holder's done
// is not taken in: after a crash it would be taken for released long ago, and then for lost.
func TestReservoirPutBehindRelease(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "reservoir")
	r := openReservoir(t, dir)
	records := func(from, to uint64) (all []Record) {
		for offset := from; offset < to; offset++ {
			all = append(all, Record{Offset: offset, Epoch: "e", Age: 1, Key: 1, Body: []byte(killBody(offset))})
		}
		return all
	}
	put := func(from, to uint64) {
		t.Helper()
		if err := r.Put("h", to, records(from, to)); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 4)
	if err := r.Release("h", 8); err != nil {
		t.Fatal(err)
	}
	put(4, 7) // all of it is done
	put(7, 12)
	check := func(what string, r *Reservoir) {
		t.Helper()
		s := r.Stat("h")
		checkLedger(t, what, s)
		if s.Count != 3 || s.Mark != 12 || len(s.Dropped) != 0 {
			t.Errorf("%s: %+v", what, s)
		}
		got, gone := readAll(t, r, "h", 9, 10)
		sameRecords(t, what, got, records(9, 12))
		if gone != nil {
			t.Errorf("%s: lost %v", what, gone)
		}
	}
	check("before a crash", r)
	copied := filepath.Join(t.TempDir(), "reservoir")
	copyAsKilled(t, filepath.Dir(dir), filepath.Dir(copied))
	check("after a crash", openReservoir(t, copied))
}
