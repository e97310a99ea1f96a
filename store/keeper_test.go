package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

// keeping is a small journal that is kept, with a reservoir.
type keeping struct {
	t    *testing.T
	dir  string
	j    *store.Journal
	r    *store.Reservoir
	k    *store.Keeper
	stop func()
	n    int
}

var everything = gateway.Filters{gateway.MustFilter("#")}

func keep(t *testing.T, dir string, maxSize int64, o store.KeeperOptions) *keeping {
	t.Helper()
	j, err := store.Open(store.Options{Dir: filepath.Join(dir, "journal"), MaxSize: maxSize, FlushInterval: 10 * time.Millisecond, MinFree: store.MinFree{Bytes: 1}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := store.OpenReservoir(filepath.Join(dir, "reservoir"), nil)
	if err != nil {
		t.Fatal(err)
	}
	o.Journal = j
	if s, ok := o.Backlogs.(*slowShrink); ok {
		s.Reservoir = r
	} else {
		o.Backlogs = r
	}
	k := &keeping{t: t, dir: dir, j: j, r: r, k: store.NewKeeper(o)}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 2)
	go func() { over <- j.Run(ctx, deaf{}) }()
	go func() { over <- k.k.Run(ctx) }()
	k.stop = func() {
		cancel()
		for range 2 {
			if err := <-over; err != nil {
				t.Error(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	return k
}

type deaf struct{}

func (deaf) Released([]*gateway.Event, uint64) {}
func (deaf) Synced(uint64)                     {}

// put stores n events of 1 KB on "a/0" to "a/9" and, every tenth, on "b".
func (k *keeping) put(n int) {
	k.t.Helper()
	stored := make(chan error, n)
	for range n {
		topic := fmt.Sprintf("a/%d", k.n%10)
		if k.n%10 == 9 {
			topic = "b"
		}
		e := &gateway.Event{Topic: topic, Payload: fmt.Appendf(nil, "%01000d", k.n)}
		k.n++
		if err := k.j.Append(context.Background(), e, gateway.Synced, func(err error) { stored <- err }); err != nil {
			k.t.Fatal(err)
		}
	}
	for range n {
		if err := <-stored; err != nil {
			k.t.Fatal(err)
		}
	}
}

func (k *keeping) until(what string, cond func() bool) {
	k.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			k.t.Fatalf("waited in vain until %s: %+v, %+v", what, k.j.Stats(), k.k.Stats())
		}
	}
}

// all is what a holder that has done nothing yet still gets: its backlog, then the journal.
func (k *keeping) all(holder string, m gateway.Matcher) (payloads []string) {
	k.t.Helper()
	from := uint64(1)
	for k.r.Stat(holder).Mark > from {
		b, err := k.r.Read(holder, from, 0)
		if err != nil {
			k.t.Fatal(err)
		}
		batch := b.Batch()
		if batch.Gap != nil {
			k.t.Fatalf("gap %v", batch.Gap)
		}
		for _, e := range batch.Events {
			payloads = append(payloads, string(e.Payload))
		}
		from = batch.Next
	}
	for from < k.j.Next() {
		b, err := k.j.Read(from, m, 1000)
		if err != nil || b.Gap != nil {
			k.t.Fatalf("%v, gap %v", err, b.Gap)
		}
		for _, e := range b.Events {
			payloads = append(payloads, string(e.Payload))
		}
		from = b.Next
	}
	return payloads
}

func zero() uint64 { return 0 }

func idle(name, filter string, p store.Policy, max int64) store.Holder {
	return store.Holder{Name: name, Match: gateway.MustFilter(filter), Committed: zero, Read: zero, Policy: p, MaxBytes: max}
}

// Nobody needs anything: the journal is a window of what is newest.
func TestKeeperBoundsTheJournal(t *testing.T) {
	k := keep(t, t.TempDir(), 1<<20, store.KeeperOptions{})
	defer k.stop()
	k.put(5000) // 5 MB
	if s := k.j.Stats(); s.Bytes > 1<<20 || s.Oldest < 3000 || s.Full {
		t.Errorf("%+v", s)
	}
	files, _ := filepath.Glob(filepath.Join(k.dir, "journal", "*"))
	total := int64(0)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			total += info.Size()
		}
	}
	if total > 1<<20+256<<10 { // the table and the indexes are beside it
		t.Errorf("the journal takes %d bytes in %d files", total, len(files))
	}
	// A reader that comes from before is told.
	from, gap := k.j.Resume(gateway.Position{Epoch: k.j.Epoch(), Offset: 10})
	if gap == nil || gap.Reason != gateway.GapTrimmed || from != k.j.Stats().Oldest {
		t.Errorf("resumed at %d, gap %v", from, gap)
	}
	b, err := k.j.Read(11, everything, 10)
	if err != nil || b.Gap == nil || b.Gap.Reason != gateway.GapTrimmed {
		t.Errorf("%+v, %v", b, err)
	}
}

// An outage that outlasts the window: each holder has all it is owed, in order, over restarts.
func TestKeeperMovesWhatIsNeeded(t *testing.T) {
	dir := t.TempDir()
	holders := []store.Holder{
		idle("cloud/all", "#", store.Policy{Mode: store.Thin}, 1<<30), idle("cloud/b", "b", store.Policy{Mode: store.Thin}, 1<<30),
	}
	k := keep(t, dir, 1<<20, store.KeeperOptions{Holders: holders})
	k.put(3000)
	k.stop()
	n := k.n
	k = keep(t, dir, 1<<20, store.KeeperOptions{Holders: holders})
	k.n = n
	k.put(3000)
	defer k.stop()
	got := k.all("cloud/all", everything)
	if len(got) != 6000 {
		t.Fatalf("%d of 6000 events", len(got))
	}
	for i, p := range got {
		if p != fmt.Sprintf("%01000d", i) {
			t.Fatalf("event %d is %s", i, p[990:])
		}
	}
	if got := k.all("cloud/b", gateway.MustFilter("b")); len(got) != 600 {
		t.Errorf("%d of 600 events on b", len(got))
	}
	if s := k.j.Stats(); s.Bytes > 1<<20 {
		t.Errorf("%+v", s)
	}
	if all, b := k.r.Stat("cloud/all"), k.r.Stat("cloud/b"); all.Put < 4000 || b.Put < 400 || all.Put > 6000 {
		t.Errorf("all %+v, b %+v", all, b)
	}
}

func TestKeeperPolicies(t *testing.T) {
	const max = 512 << 10
	k := keep(t, t.TempDir(), 1<<20, store.KeeperOptions{Holders: []store.Holder{
		idle("u/oldest", "#", store.Policy{Mode: store.DropOldest}, max),
		idle("u/newest", "#", store.Policy{Mode: store.DropNewest}, max),
		idle("u/thin", "#", store.Policy{Mode: store.Thin, Keep: []store.Step{{For: 50 * time.Millisecond}, {For: time.Hour, Every: 50 * time.Millisecond}, {Latest: true}}}, max),
		idle("u/reject", "b", store.Policy{Mode: store.Reject}, 64<<10),
	}})
	defer k.stop()
	k.put(5000)
	k.until("the bounds are kept", func() bool {
		return k.r.Stat("u/oldest").Bytes <= max && k.r.Stat("u/newest").Bytes <= max && k.r.Stat("u/thin").Bytes <= max
	})
	mark := k.r.Stat("u/oldest").Mark
	for _, c := range []struct{ holder, reason string }{{"u/oldest", store.DroppedOldest}, {"u/newest", store.DroppedNewest}, {"u/thin", store.DroppedThinned}} {
		s := k.r.Stat(c.holder)
		if s.Put != s.Count+s.Dropped[c.reason] || s.Dropped[c.reason] == 0 || len(s.Dropped) != 1 {
			t.Errorf("%s: %+v", c.holder, s)
		}
	}
	if s := k.r.Stat("u/oldest"); s.Last+1 != mark {
		t.Errorf("drop-oldest keeps the newest: %+v", s)
	}
	if s := k.r.Stat("u/newest"); s.First != 1 {
		t.Errorf("drop-newest keeps the oldest: %+v", s)
	}
	if s := k.r.Stat("u/thin"); s.First > mark/2 {
		t.Errorf("thinning keeps some of what is old: %+v", s)
	}
	// reject drops nothing, and says so at the door.
	k.until("new events are refused", func() bool { return k.k.Admit(&gateway.Event{Topic: "b"}) != nil })
	if err := k.k.Admit(&gateway.Event{Topic: "a/1"}); err != nil {
		t.Error(err)
	}
	if s := k.r.Stat("u/reject"); len(s.Dropped) != 0 || len(k.all("u/reject", gateway.MustFilter("b"))) != 500 {
		t.Errorf("%+v", s)
	}
}

// slowShrink is a Reservoir whose Shrink gets nowhere until it is let.
type slowShrink struct {
	*store.Reservoir
	let, most atomic.Int64
	asked     atomic.Bool
	puts      atomic.Int64 // since it was asked
}

func (s *slowShrink) Shrink(holder string, after uint64, p store.Policy, maxBytes, now int64) (bool, error) {
	s.asked.Store(true)
	if s.let.Load() == 0 {
		return true, nil
	}
	return s.Reservoir.Shrink(holder, after, p, maxBytes, now)
}

func (s *slowShrink) Put(holder string, upTo uint64, records []store.Record) error {
	err := s.Reservoir.Put(holder, upTo, records)
	if s.asked.Load() {
		s.puts.Add(1)
	}
	s.most.Store(max(s.most.Load(), s.Reservoir.Stat(holder).Bytes))
	return err
}

// While a backlog is shrunk the journal goes on, but it does not outrun it.
func TestKeeperShrinksBeside(t *testing.T) {
	const max, segment = 4 << 20, 256 << 10
	slow := &slowShrink{}
	k := keep(t, t.TempDir(), 1<<20, store.KeeperOptions{
		Backlogs: slow, Holders: []store.Holder{idle("up", "#", store.Policy{Mode: store.Thin}, max)},
	})
	defer k.stop()
	for !slow.asked.Load() {
		k.put(100)
	}
	at := k.j.Stats().Oldest
	k.put(300)
	k.until("segments are let go of while it is shrunk", func() bool { return k.j.Stats().Oldest > at && slow.puts.Load() > 0 })
	for err := error(nil); err == nil && slow.most.Load() < 2*max; { // until it is too far behind
		stored := make(chan error, 1)
		if err = k.j.Append(context.Background(), &gateway.Event{Topic: "a", Payload: make([]byte, 1000)}, gateway.Synced, func(err error) { stored <- err }); err == nil {
			err = <-stored
		}
		if err != nil && !errors.Is(err, gateway.ErrFull) {
			t.Fatal(err)
		}
	}
	if most := slow.most.Load(); most < max+max/8 || most > max+max/8+segment {
		t.Errorf("the backlog grew to %d bytes; its bound is %d", most, max)
	}
	slow.let.Store(1)
	k.until("it is shrunk", func() bool { return slow.Stat("up").Bytes <= max })
	k.put(500)
	s := slow.Stat("up")
	if s.Put != s.Count+s.Dropped[store.DroppedThinned]+s.Dropped[store.DroppedOldest] {
		t.Errorf("%+v", s)
	}
}

func TestKeeperAge(t *testing.T) {
	k := keep(t, t.TempDir(), 64<<20, store.KeeperOptions{MaxAge: 50 * time.Millisecond})
	defer k.stop()
	k.put(100)
	k.until("what is too old is gone", func() bool {
		s := k.j.Stats()
		return s.Oldest == 101 && s.Segments <= 2
	})
	k.put(1)
	if b, err := k.j.Read(101, everything, 10); err != nil || len(b.Events) != 1 {
		t.Errorf("%+v, %v", b, err)
	}
}

// What is rolled forward from the journal holds it, and is asked to move on.
func TestKeeperAnchors(t *testing.T) {
	needs, asked := make(chan uint64, 1), make(chan struct{}, 1)
	needs <- 1
	k := keep(t, t.TempDir(), 1<<20, store.KeeperOptions{Anchors: []store.Anchor{{
		Name:  "the broker",
		Needs: func() uint64 { n := <-needs; needs <- n; return n },
		Advance: func() {
			select {
			case asked <- struct{}{}:
			default:
			}
		},
	}}})
	defer k.stop()
	k.put(800)
	<-asked
	if s := k.j.Stats(); s.Oldest != 1 {
		t.Errorf("%+v", s)
	}
	<-needs
	needs <- 800
	k.put(500) // waits until there is room
	if s := k.j.Stats(); s.Oldest == 1 {
		t.Errorf("%+v", s)
	}
}

// A reader that is inside a segment while it is deleted goes on behind it, and is told.
func TestReadWhileSegmentsGo(t *testing.T) {
	k := keep(t, t.TempDir(), 1<<20, store.KeeperOptions{})
	defer k.stop()
	k.put(200)
	over := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		from, last := uint64(1), uint64(0)
		for {
			select {
			case <-done:
				over <- nil
				return
			default:
			}
			b, err := k.j.Read(from, everything, 7)
			if err != nil {
				over <- err
				return
			}
			if b.Gap != nil && (b.Gap.From != from || b.Gap.Reason != gateway.GapTrimmed) {
				over <- fmt.Errorf("from %d: gap %v", from, b.Gap)
				return
			}
			for _, e := range b.Events {
				if e.Offset <= last {
					over <- fmt.Errorf("%d after %d", e.Offset, last)
					return
				}
				last = e.Offset
			}
			if _, err := k.j.Count(1, gateway.MaxOffset, everything); err != nil {
				over <- err
				return
			}
			if from = b.Next; from >= k.j.Next() {
				from = 1
				last = 0
			}
		}
	}()
	for range 20 {
		k.put(500)
	}
	close(done)
	if err := <-over; err != nil {
		t.Error(err)
	}
}
