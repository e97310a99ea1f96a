package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// memLog is a Log in memory. Its Read looks at a short stretch at a time, as a real
// one does, so that readers meet empty batches.
type memLog struct {
	mu     sync.Mutex
	events []*Event
	next   uint64
	gaps   map[uint64]Gap // by the offset they begin at
}

func (l *memLog) add(batch []*Event, next uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, batch...)
	l.next = next
}

func (l *memLog) Read(from uint64, want Matcher, max int) (Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g, ok := l.gaps[from]; ok {
		return Batch{Next: g.To, Gap: &g}, nil
	}
	b := Batch{Next: min(from+10, l.next)}
	for _, e := range l.events {
		if e.Offset >= from && e.Offset < b.Next && e.Kind == Data && want.Match(e.Topic) {
			b.Events = append(b.Events, e)
		}
	}
	return b, nil
}

func (l *memLog) Resume(p Position) (uint64, *Gap) { return p.Offset + 1, nil }
func (l *memLog) Epoch() string                    { return "e" }

var all = Filters{MustFilter("#")}

func offsets(events []*Event) []uint64 {
	var o []uint64
	for _, e := range events {
		o = append(o, e.Offset)
	}
	return o
}

// Readers that join anywhere, at any speed, see every matching event once and in
// order, whether it comes from the tail or from the log.
func TestReadersSeeEverythingOnce(t *testing.T) {
	const events = 3 * tailEvents
	log := &memLog{next: 1}
	hub := NewHub(log, 1)
	rng := rand.New(rand.NewPCG(1, 2))

	type want struct {
		from   uint64
		filter string
		see    Durability
	}
	var readers sync.WaitGroup
	results := make(chan error, 64)
	for i := range 24 {
		w := want{from: 1 + uint64(rng.IntN(events/2)), filter: []string{"#", "t/1", "t/+"}[i%3], see: Durability(i % 2)}
		readers.Add(1)
		go func() {
			defer readers.Done()
			r := hub.Reader(w.from, Filters{MustFilter(w.filter)}, w.see)
			last := w.from - 1
			for r.Offset() <= events {
				b, err := r.Next(t.Context())
				if err != nil {
					results <- fmt.Errorf("%+v: %w", w, err)
					return
				}
				for _, e := range b.Events {
					for o := last + 1; o < e.Offset; o++ {
						if w.filter != "t/1" || o%3 == 1 {
							results <- fmt.Errorf("%+v: offset %d is missing before %d", w, o, e.Offset)
							return
						}
					}
					if e.Offset <= last {
						results <- fmt.Errorf("%+v: offset %d after %d", w, e.Offset, last)
						return
					}
					last = e.Offset
				}
			}
		}()
	}
	for next := uint64(1); next <= events; {
		var batch []*Event
		for range 1 + rng.IntN(50) {
			if next <= events+1 {
				batch = append(batch, &Event{Topic: fmt.Sprintf("t/%d", next%3), Offset: next})
				next++
			}
		}
		log.add(batch, next)
		hub.Released(batch, next)
		if rng.IntN(3) == 0 || next > events {
			hub.Synced(next)
		}
	}
	readers.Wait()
	close(results)
	for err := range results {
		t.Error(err)
	}
}

func TestSyncedReaderWaitsForTheSync(t *testing.T) {
	log := &memLog{next: 1}
	hub := NewHub(log, 1)
	batch := []*Event{{Topic: "a", Offset: 1}, {Topic: "a", Offset: 2}}
	log.add(batch, 3)
	hub.Released(batch, 3)

	live, durable := hub.Reader(1, all, Written), hub.Reader(1, all, Synced)
	if b, err := live.Next(t.Context()); err != nil || len(b.Events) != 2 {
		t.Fatalf("a reader of what is written got %v, %v", b, err)
	}
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	if b, err := durable.Next(expired); !errors.Is(err, context.Canceled) || len(b.Events) != 0 {
		t.Fatalf("before the sync a reader of what is synced got %v, %v", b, err)
	}
	hub.Synced(2)
	if b, err := durable.Next(t.Context()); err != nil || !cmp.Equal(offsets(b.Events), []uint64{1}) {
		t.Fatalf("after the sync of the first: %v, %v", offsets(b.Events), err)
	}
}

func TestReaderPassesTheGapOn(t *testing.T) {
	log := &memLog{next: 1, gaps: map[uint64]Gap{1: {From: 1, To: 5, Reason: GapDamaged}}}
	batch := []*Event{{Topic: "a", Offset: 5}}
	log.add(batch, 6)
	r := NewHub(log, 6).Reader(1, all, Written)
	b, err := r.Next(t.Context())
	if err != nil || b.Gap == nil || b.Gap.To != 5 {
		t.Fatalf("got %+v, %v; want the gap first", b, err)
	}
	b, err = r.Next(t.Context())
	if err != nil || !cmp.Equal(offsets(b.Events), []uint64{5}) {
		t.Fatalf("after the gap: %v, %v", offsets(b.Events), err)
	}
}

// A reader of a quiet topic grows no older: its position moves past what does not match.
func TestPositionOfAQuietReaderMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &memLog{next: 1}
		hub := NewHub(log, 1)
		r := hub.Reader(1, Filters{MustFilter("quiet")}, Written)
		go func() {
			batch := []*Event{{Topic: "loud", Offset: 1}, {Topic: "loud", Offset: 2}}
			log.add(batch, 3)
			hub.Released(batch, 3)
		}()
		b, err := r.NextWithin(t.Context(), time.Minute)
		if err != nil || len(b.Events) != 0 {
			t.Fatalf("got %v, %v; want an empty batch when the wait ends", b, err)
		}
		if got := r.Position(); got != (Position{"e", 2}) {
			t.Errorf("position is %v, want e:2", got)
		}
	})
}

func TestTapsComeBeforeReadersAndSeeChanges(t *testing.T) {
	log := &memLog{next: 1}
	var seen []uint64
	var hub *Hub
	hub = NewHub(log, 1, func(batch []*Event) {
		if released, _ := hub.Next(); released != 1 {
			t.Errorf("released is %d while the tap runs", released)
		}
		seen = append(seen, offsets(batch)...)
	})
	batch := []*Event{{Kind: Change, Topic: "mqtt", Offset: 1}, {Topic: "a", Offset: 2}}
	log.add(batch, 3)
	hub.Released(batch, 3)
	if !cmp.Equal(seen, []uint64{1, 2}) {
		t.Errorf("the tap saw %v", seen)
	}
	b, _ := hub.Reader(1, all, Written).Next(t.Context())
	if !cmp.Equal(offsets(b.Events), []uint64{2}) {
		t.Errorf("the reader saw %v; changes are not for readers", offsets(b.Events))
	}
}

func TestLastValues(t *testing.T) {
	l := NewLastValues(2)
	l.Update([]*Event{{Topic: "b", Offset: 1}, {Topic: "a", Offset: 2}, {Topic: "c", Offset: 3}, {Topic: "b", Offset: 4}, {Kind: Change, Topic: "b", Offset: 5}})
	if got := offsets(l.Match(all)); !cmp.Equal(got, []uint64{2, 4}) {
		t.Errorf("last values are at %v, want 2 (a) and 4 (b)", got)
	}
	if held, missed := l.Topics(); held != 2 || missed != 1 {
		t.Errorf("held %d, missed %d", held, missed)
	}
}

type brokenLog struct {
	memLog
	err error
}

func (l *brokenLog) Read(uint64, Matcher, int) (Batch, error) { return Batch{}, l.err }

// A wait that is over does not hide that the journal cannot be read.
func TestNextWithinPassesTheJournalsErrorOn(t *testing.T) {
	log := &brokenLog{err: errors.New("input/output error")}
	if _, err := NewHub(log, 6).Reader(1, all, Written).NextWithin(t.Context(), 0); !errors.Is(err, log.err) {
		t.Fatalf("got %v, want %v", err, log.err)
	}
}
