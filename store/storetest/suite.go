package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

// TestJournal runs the suite on journals that open opens.
func TestJournal(t *testing.T, open Open) {
	if dir := os.Getenv(childDir); dir != "" {
		child(open, dir)
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"every field comes back", testFields},
		{"order, and done exactly once", testOrder},
		{"one sync for many", testGroupCommit},
		{"who does not wait is not held by a sync", testWrittenBeforeSync},
		{"readings cause one sync per flush interval", testFlushInterval},
		{"a full queue blocks until ctx ends", testQueue},
		{"stop flushes, and answers everybody", testStop},
		{"filters, last and count", testFilters},
		{"resume", testResume},
		{"a second process is refused", testLock},
		{"the bound", testBound},
		{"large events", testLarge},
		{"a full disk", testFullDisk},
		{"a short write", testShortWrite},
		{"a failed sync", testFailedSync},
		{"a torn tail", testTornTail},
		{"flipped bits", testFlippedBits},
		{"a missing segment", testMissingSegment},
		{"an index that is damaged or gone", testIndex},
		{"the table of epochs is lost", testTableLost},
		{"power cut", testPowerCut},
		{"a clone", testClone},
		{"kill", func(t *testing.T, open Open) { testKill(t, open) }},
		{"histories", testHistories},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open) })
	}
}

func testFields(t *testing.T, open Open) {
	dir := t.TempDir()
	r := start(t, open, store.Options{Dir: dir})
	want := []*gateway.Event{
		{Topic: "a"},
		{
			Kind: gateway.Data, Topic: "plant/ü/x", Payload: []byte{0, 0xff, 0}, QoS: 2, Retain: true, Expiry: 90 * time.Second, UTF8: true,
			ContentType: "application/json", ResponseTopic: "answer", CorrelationData: []byte{1, 2},
			UserProperties: []gateway.UserProperty{{Key: "k", Value: "v"}, {Key: "k", Value: ""}, {}},
			Origin:         gateway.Origin{Via: "mqtt", ID: "client", User: "boiler"},
			Accepted:       time.Date(2026, 11, 23, 1, 2, 3, 456789, time.FixedZone("", 3600)), Source: time.Date(9999, 1, 1, 0, 0, 0, 1, time.UTC),
			Quality: gateway.Bad, PacketID: 65535,
		},
		{Topic: "b", Accepted: time.Date(1, 2, 3, 0, 0, 0, 0, time.UTC), Source: time.Unix(-1, 999_999_999)},
		{Kind: gateway.Change, Topic: "sessions", Payload: []byte("release 7")},
	}
	for _, e := range want {
		r.mustPut(e, gateway.Synced)
	}
	for round := range 2 {
		got, gaps := r.readAll(1, all, 10)
		if gaps != nil {
			t.Fatal(gaps)
		}
		equal(t, "read", got, want[:3])
		var replayed []*gateway.Event
		if err := r.Replay(0, func(e *gateway.Event) error { replayed = append(replayed, e); return nil }); err != nil {
			t.Fatal(err)
		}
		equal(t, "replayed", replayed, want)
		r.mustStop()
		if round == 0 {
			r = start(t, open, store.Options{Dir: dir})
		}
	}
	stop := errors.New("stop")
	r = start(t, open, store.Options{Dir: dir})
	defer r.mustStop()
	calls := 0
	if err := r.Replay(2, func(e *gateway.Event) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("replay that is stopped: %v after %d calls", err, calls)
	}
	if err := r.Append(t.Context(), &gateway.Event{Kind: 7}, gateway.Synced, nil); !errors.Is(err, gateway.ErrInvalid) {
		t.Errorf("unknown kind: %v", err)
	}
}

func testOrder(t *testing.T, open Open) {
	r := start(t, open, store.Options{Dir: t.TempDir(), SegmentSize: 16 << 10})
	const producers, each = 20, 150
	var mu sync.Mutex
	var order []*gateway.Event // as done was called
	var all []*gateway.Event
	calls := map[*gateway.Event]int{}
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(int64(p)))
			for i := range each {
				e := event(fmt.Sprintf("p/%d", p), fmt.Sprint(i))
				done := make(chan struct{})
				err := r.Append(t.Context(), e, gateway.Durability(rnd.Intn(2)), func(err error) {
					if err != nil {
						t.Error(err)
					}
					if e.Offset >= r.releasedUpTo() {
						t.Errorf("done was called for offset %d before it was released", e.Offset)
					}
					mu.Lock()
					defer mu.Unlock()
					order = append(order, e)
					calls[e]++
					close(done)
				})
				if err != nil {
					t.Error(err)
					return
				}
				if rnd.Intn(3) == 0 {
					<-done
				}
			}
		})
	}
	wg.Wait()
	r.mustStop()
	all = r.events
	if len(order) != producers*each || len(all) != producers*each {
		t.Fatalf("%d answers and %d released events, want %d", len(order), len(all), producers*each)
	}
	last := map[string]int{}
	for i, e := range order {
		if e != all[i] || e.Offset != uint64(i+1) || calls[e] != 1 {
			t.Fatalf("answer %d is for offset %d, released as %d, answered %d times", i, e.Offset, all[i].Offset, calls[e])
		}
		var n int
		fmt.Sscan(string(e.Payload), &n)
		if before, ok := last[e.Topic]; ok && n != before+1 || !ok && n != 0 {
			t.Fatalf("%s: %d after %d", e.Topic, n, before)
		}
		last[e.Topic] = n
	}
}

// gate makes syncs of segments wait, and tells that one began.
type gate struct {
	began chan struct{}
	open  chan struct{}
}

func newGate(d *Disk) *gate {
	g := &gate{began: make(chan struct{}, 1000), open: make(chan struct{})}
	d.OnSync(func(path string) error {
		if strings.HasSuffix(path, ".seg") {
			g.began <- struct{}{}
			<-g.open
		}
		return nil
	})
	return g
}

// wait gives the writer ten seconds to begin a sync, or else fails the test.
func (g *gate) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.began:
	case <-time.After(10 * time.Second):
		close(g.open)
		t.Fatal("nobody syncs")
	}
}

func testGroupCommit(t *testing.T, open Open) {
	d := NewDisk()
	r := start(t, open, store.Options{Dir: t.TempDir(), Disk: d, FlushInterval: time.Hour})
	defer r.mustStop()
	r.mustPut(event("a", "makes the segment"), gateway.Synced)
	before := d.Syncs()
	g := newGate(d)
	var wg sync.WaitGroup
	wg.Add(101)
	put := func() {
		if err := r.Append(t.Context(), event("a", ""), gateway.Synced, func(error) { wg.Done() }); err != nil {
			t.Error(err)
		}
	}
	put()
	g.wait(t) // its sync is under way; whoever comes now shares the next one
	for range 100 {
		put()
	}
	close(g.open)
	wg.Wait()
	if n := d.Syncs() - before; n != 2 {
		t.Errorf("1 and then 100 concurrent appends took %d syncs, want 2", n)
	}
}

func testWrittenBeforeSync(t *testing.T, open Open) {
	d := NewDisk()
	r := start(t, open, store.Options{Dir: t.TempDir(), Disk: d, FlushInterval: time.Hour})
	defer r.mustStop()
	r.mustPut(event("a", "makes the segment"), gateway.Synced)
	g := newGate(d)
	var order []string
	var wg sync.WaitGroup
	put := func(name string, need gateway.Durability) {
		wg.Add(1)
		err := r.Append(t.Context(), event("a", name), need, func(error) { order = append(order, name); wg.Done() })
		if err != nil {
			t.Error(err)
		}
	}
	put("first", gateway.Synced)
	g.wait(t)
	early := make(chan struct{})
	if err := r.Append(t.Context(), event("a", "early"), gateway.Written, func(error) { order = append(order, "early"); close(early) }); err != nil {
		t.Fatal(err)
	}
	put("second", gateway.Synced)
	put("late", gateway.Written)
	g.open <- struct{}{} // the first sync ends; the next batch is early, second, late
	select {
	case <-early: // although nobody lets the second sync end
	case <-time.After(10 * time.Second):
		t.Error("who needs only Written waits for a sync")
		close(g.open)
		return
	}
	g.wait(t)
	if up := r.syncedUpTo(); up > r.releasedUpTo() {
		t.Errorf("synced up to %d", up)
	}
	close(g.open)
	wg.Wait()
	if got := strings.Join(order, " "); got != "first early second late" {
		t.Errorf("order: %s", got)
	}
}

func testFlushInterval(t *testing.T, open Open) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := NewDisk()
		r := start(t, open, store.Options{Dir: dir, Disk: d, FlushInterval: time.Second})
		before := d.Syncs()
		for range 200 { // 10 Hz for 20 seconds
			r.mustPut(event("a", "reading"), gateway.Written)
			time.Sleep(100 * time.Millisecond)
		}
		if n := d.Syncs() - before; n > 21 || n < 18 {
			t.Errorf("20 seconds of readings took %d syncs, want about 20", n)
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if up := r.syncedUpTo(); up != r.Next() {
			t.Errorf("synced up to %d of %d after a flush interval", up, r.Next())
		}
		before = d.Syncs()
		time.Sleep(time.Minute)
		if n := d.Syncs() - before; n != 0 {
			t.Errorf("%d syncs while nothing was written", n)
		}
		r.mustStop()
	})
}

func testQueue(t *testing.T, open Open) {
	d := NewDisk()
	r := start(t, open, store.Options{Dir: t.TempDir(), Disk: d, QueueSize: 4 << 10})
	r.mustPut(event("a", "makes the segment"), gateway.Synced)
	g := newGate(d)
	var answers atomic.Int32
	accepted := int32(0)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	blocked := make(chan error, 1)
	go func() {
		for accepted < 1000 {
			err := r.Append(ctx, event("a", strings.Repeat("x", 500)), gateway.Synced, func(error) { answers.Add(1) })
			if err != nil {
				blocked <- err
				return
			}
			accepted++
		}
		blocked <- nil
	}()
	g.wait(t) // the writer is busy, so the queue fills
	select {
	case err := <-blocked:
		t.Fatalf("append did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	cancel(reason)
	if err := <-blocked; !errors.Is(err, reason) || !errors.Is(err, gateway.ErrTransient) {
		t.Errorf("append whose ctx ended: %v", err)
	}
	if accepted > 30 {
		t.Errorf("a queue of 4 KiB took %d events of 500 bytes", accepted)
	}
	close(g.open)
	r.mustStop()
	if answers.Load() != accepted {
		t.Errorf("%d answers for %d accepted", answers.Load(), accepted)
	}
}

func testStop(t *testing.T, open Open) {
	dir := t.TempDir()
	j, err := open(store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	stored := 0
	for range 10 { // before Run: queued
		if err := j.Append(t.Context(), event("a", ""), gateway.Written, func(err error) {
			if err == nil {
				stored++
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	r := &running{t: t, next: j.Next()}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Run(ctx, r); err != nil {
		t.Fatal(err)
	}
	if stored != 10 || r.synced != 11 {
		t.Errorf("%d of 10 queued events were stored, synced up to %d", stored, r.synced)
	}
	if err := j.Append(t.Context(), event("a", ""), gateway.Written, nil); !errors.Is(err, gateway.ErrTransient) {
		t.Errorf("append after the end: %v", err)
	}
	if err := j.Run(t.Context(), r); err == nil {
		t.Error("run a second time")
	}
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Error(err)
	}

	j, err = open(store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var refused error
	if err := j.Append(t.Context(), event("a", ""), gateway.Synced, func(err error) { refused = err }); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil { // without Run
		t.Error(err)
	}
	if !errors.Is(refused, gateway.ErrTransient) {
		t.Errorf("an event that was never written was answered with %v", refused)
	}
}

func testFilters(t *testing.T, open Open) {
	dir := t.TempDir()
	o := store.Options{Dir: dir, SegmentSize: 32 << 10, FlushInterval: time.Hour}
	r := start(t, open, o)
	rnd := rand.New(rand.NewSource(1))
	var events []*gateway.Event
	for i := range 6000 {
		topic := fmt.Sprintf("common/%d", rnd.Intn(5))
		switch {
		case i%2000 == 1999:
			topic = "rare/one"
		case i > 3000 && i < 3300:
			topic = fmt.Sprintf("many/%s/%d", strings.Repeat("long", 300), i) // more than an index holds
		}
		e := event(topic, fmt.Sprint(i))
		if i%100 == 50 {
			e.Kind = gateway.Change
		}
		if err := r.Append(t.Context(), e, gateway.Written, nil); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	r.mustStop()
	for round := range 2 {
		r = start(t, open, o)
		for _, f := range []string{"#", "common/3", "rare/+", "many/#", "nothing", "+/0"} {
			filters := gateway.Filters{gateway.MustFilter(f)}
			for _, from := range []uint64{0, 1, 2, 1000, 1999, 2000, 3150, 5990, 6000, 6001, 9000} {
				want := matching(events, from, filters)
				got, gaps := r.readAll(from, filters, 1+rnd.Intn(600))
				if gaps != nil {
					t.Fatalf("%s from %d: gaps %v", f, from, gaps)
				}
				equal(t, fmt.Sprintf("read %s from %d", f, from), got, want)
				if n, err := r.Count(from, gateway.MaxOffset, filters); err != nil || n != uint64(len(want)) {
					t.Fatalf("count %s from %d: %d, %v; want %d", f, from, n, err, len(want))
				}
			}
			want := matching(events, 1, filters)
			for _, n := range []int{0, 1, 2, 7, 1000, 10000} {
				got, err := r.Last(filters, n)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, fmt.Sprintf("last %d of %s", n, f), got, want[max(0, len(want)-n):])
			}
		}
		if round == 0 {
			for i := range 500 {
				events = append(events, r.mustPut(event("common/9", fmt.Sprint(i)), gateway.Written))
			}
		}
		r.mustStop()
	}
}

func testResume(t *testing.T, open Open) {
	dir := t.TempDir()
	boot := "one"
	o := store.Options{Dir: dir, MachineID: same("m"), BootID: func() string { return boot }}
	r := start(t, open, o)
	e1 := r.Epoch()
	for range 10 {
		r.mustPut(event("a", ""), gateway.Synced)
	}
	check := func(after gateway.Position, from uint64, want *gateway.Gap) {
		t.Helper()
		got, gap := r.Resume(after)
		if want != nil {
			want.Asked = after
		}
		if got != from || (gap == nil) != (want == nil) || gap != nil && *gap != *want {
			t.Errorf("resume after %s: %d, %+v; want %d, %+v", after, got, gap, from, want)
		}
	}
	unknown := &gateway.Gap{From: 0, To: 1, Reason: gateway.GapUnknown}
	check(gateway.Position{}, 1, nil)
	check(gateway.Position{Epoch: e1}, 1, nil)
	check(gateway.Position{Epoch: e1, Offset: 4}, 5, nil)
	check(gateway.Position{Epoch: e1, Offset: 10}, 11, nil)
	check(gateway.Position{Epoch: e1, Offset: 11}, 1, unknown)
	check(gateway.Position{Epoch: "foreign2", Offset: 4}, 1, unknown)

	// Without a proper stop, in another boot.
	copied := t.TempDir()
	copyDir(t, dir, copied)
	r.mustStop()
	os.RemoveAll(dir)
	o.Dir, boot = copied, "two"
	r = start(t, open, o)
	e2, first := r.Epoch(), r.Next()
	if e2 == e1 || first <= 11 || r.recovery.NewEpoch == "" {
		t.Fatalf("epoch %s at %d after a power loss: %+v", e2, first, r.recovery)
	}
	lost := &gateway.Gap{From: 11, To: first, Reason: gateway.GapLost}
	check(gateway.Position{Epoch: e1, Offset: 4}, 5, nil)
	check(gateway.Position{Epoch: e1, Offset: 10}, 11, nil)
	check(gateway.Position{Epoch: e1, Offset: 12}, first, lost)
	check(gateway.Position{Epoch: e2, Offset: first - 1}, first, nil)
	check(gateway.Position{Epoch: e2, Offset: 0}, 1, nil)
	check(gateway.Position{Epoch: e2, Offset: 4}, 5, nil) // a reader that is behind tells the newest epoch
	check(gateway.Position{Epoch: e2, Offset: first}, 1, unknown)
	r.mustPut(event("a", ""), gateway.Synced)
	check(gateway.Position{Epoch: e2, Offset: first}, first+1, nil)

	// Who reads on across the epochs is told as well.
	events, gaps := r.readAll(5, all, 100)
	if len(events) != 7 || len(gaps) != 1 || gaps[0].From != 11 || gaps[0].To != first || gaps[0].Reason != gateway.GapLost {
		t.Errorf("read across a power loss: %d events, gaps %+v", len(events), gaps)
	}
	r.mustStop()

	// A clean stop goes on in the next boot.
	boot = "three"
	r = start(t, open, o)
	if r.Epoch() != e2 || r.Next() != first+1 || r.recovery.NewEpoch != "" {
		t.Errorf("epoch %s at %d after a clean stop: %+v", r.Epoch(), r.Next(), r.recovery)
	}
	r.mustStop()
}

func testLock(t *testing.T, open Open) {
	dir := t.TempDir()
	r := start(t, open, store.Options{Dir: dir})
	defer r.mustStop()
	if _, err := open(store.Options{Dir: dir}); !errors.Is(err, gateway.ErrTransient) || !strings.Contains(err.Error(), "another weir") {
		t.Errorf("second open: %v", err)
	}
}

func testBound(t *testing.T, open Open) {
	o := store.Options{Dir: t.TempDir(), MaxSize: 64 << 10, SegmentSize: 16 << 10}
	r := start(t, open, o)
	stored := 0
	for stored < 100 {
		err := r.put(event("a", strings.Repeat("x", 1000)), gateway.Written)
		if err != nil {
			if !errors.Is(err, gateway.ErrFull) {
				t.Fatal(err)
			}
			break
		}
		stored++
	}
	if stored < 50 || stored > 64 {
		t.Errorf("64 KiB took %d events of 1000 bytes", stored)
	}
	changes := 0
	for changes < 100 && r.put(&gateway.Event{Kind: gateway.Change, Topic: "s", Payload: make([]byte, 1000)}, gateway.Synced) == nil {
		changes++
	}
	if changes < 10 || changes > 17 {
		t.Errorf("a headroom of 16 KiB took %d changes of 1000 bytes", changes)
	}
	var used int64
	for _, path := range files(t, o.Dir, ".seg") {
		used += size(t, path)
	}
	if used > 64<<10+16<<10+8<<10 {
		t.Errorf("the segments use %d bytes", used)
	}
	r.mustStop()
	r = start(t, open, o)
	if err := r.put(event("a", strings.Repeat("x", 1000)), gateway.Synced); !errors.Is(err, gateway.ErrFull) {
		t.Errorf("after a restart: %v", err)
	}
	if events, gaps := r.readAll(1, all, 100); len(events) != stored || gaps != nil {
		t.Errorf("%d of %d events, gaps %v", len(events), stored, gaps)
	}
	r.mustStop()
}

func testLarge(t *testing.T, open Open) {
	dir := t.TempDir()
	r := start(t, open, store.Options{Dir: dir, SegmentSize: 16 << 10, QueueSize: 8 << 10})
	var want []*gateway.Event
	for i := range 20 {
		want = append(want, r.mustPut(event("a", strings.Repeat("x", i*i*5000)), gateway.Durability(i%2)))
	}
	got, _ := r.readAll(1, all, 100)
	equal(t, "large", got, want)
	r.mustStop()
	r = start(t, open, store.Options{Dir: dir})
	defer r.mustStop()
	got, gaps := r.readAll(1, all, 3)
	if gaps != nil {
		t.Fatal(gaps)
	}
	equal(t, "large, after a restart", got, want)
}
