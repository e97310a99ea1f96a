package gateway

import (
	"context"
	"sync"
	"time"
)

// Log is the journal as readers see it.
type Log interface {
	// Read returns released events from offset from on that match want, oldest
	// first, without their Change entries. It looks at a bounded stretch of the
	// journal, so a batch may be empty; Next says where to go on. It does not wait.
	Read(from uint64, want Matcher, max int) (Batch, error)
	// Resume turns the position a reader last saw into the offset to read from.
	// If something in between cannot be had any more, the gap says what, and from
	// is where the journal goes on behind it.
	Resume(after Position) (from uint64, gap *Gap)
	// Epoch is the name of the history that is being written.
	Epoch() string
}

// Batch is a stretch of the journal.
type Batch struct {
	Events []*Event
	Next   uint64 // the stretch ends before this offset
	Gap    *Gap   // if not nil, it lies before Events: these offsets could not be read
}

// Tap is told every batch of released entries, Change entries included, in order and
// before their senders are acknowledged. It must not block and must not keep the slice.
type Tap func(batch []*Event)

// The hub's tail: how much of the newest is kept in memory for its readers.
const (
	tailEvents = 4096
	tailBytes  = 4 << 20
)

// Hub tells readers that there is more, and hands over the fresh tail from memory. It
// never waits for a reader: one that falls behind the tail reads the journal.
type Hub struct {
	log  Log
	taps []Tap

	mu       sync.Mutex
	tail     []*Event // released Data events, oldest first
	bytes    int
	tailFrom uint64 // the tail holds every Data event with tailFrom <= offset < released
	released uint64 // offsets below are released
	synced   uint64 // offsets below are on stable storage
	more     chan struct{}
}

// NewHub returns a hub over log, whose entries below next are already released and
// synced.
func NewHub(log Log, next uint64, taps ...Tap) *Hub {
	return &Hub{log: log, taps: taps, tailFrom: next, released: next, synced: next, more: make(chan struct{})}
}

// Released tells the hub that the entries of batch, all offsets below next, are
// released. The journal calls it in offset order from one goroutine.
func (h *Hub) Released(batch []*Event, next uint64) {
	for _, tap := range h.taps {
		tap(batch)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range batch {
		if e.Kind == Data {
			h.tail = append(h.tail, e)
			h.bytes += e.Size()
		}
	}
	h.released = next
	h.trim()
	h.wake()
}

// Synced tells the hub that all offsets below next are on stable storage.
func (h *Hub) Synced(next uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if next > h.synced {
		h.synced = next
		h.wake()
	}
}

func (h *Hub) wake() {
	close(h.more)
	h.more = make(chan struct{})
}

func (h *Hub) trim() {
	drop := 0
	for drop < len(h.tail) && (len(h.tail)-drop > tailEvents || h.bytes > tailBytes) {
		h.bytes -= h.tail[drop].Size()
		h.tailFrom = h.tail[drop].Offset + 1
		drop++
	}
	if drop > 0 {
		// Let the events go now; append moves the rest when the array is used up.
		clear(h.tail[:drop])
		h.tail = h.tail[drop:]
	}
}

// Next is the offset after the last released one, and the one after the last synced.
func (h *Hub) Next() (released, synced uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.released, h.synced
}

// Epoch is the name of the history that is being written.
func (h *Hub) Epoch() string { return h.log.Epoch() }

// Resume is [Log].Resume.
func (h *Hub) Resume(after Position) (uint64, *Gap) { return h.log.Resume(after) }

// Reader returns a reader of the events that match want, from offset from on. One
// that asks for Synced sees only what is on stable storage, as whatever leaves the
// gateway must.
func (h *Hub) Reader(from uint64, want Matcher, see Durability) *Reader {
	return &Reader{hub: h, next: from, want: want, see: see}
}

// Reader is a cursor over the journal and its live tail. It is not for concurrent use.
type Reader struct {
	hub  *Hub
	next uint64
	want Matcher
	see  Durability
}

// Offset is where r goes on: everything below was returned, did not match, or was
// reported as a gap.
func (r *Reader) Offset() uint64 { return r.next }

// Position is the last place r has passed: what a client resumes from.
func (r *Reader) Position() Position { return Position{r.hub.Epoch(), r.next - 1} }

// readMax bounds the events of one batch.
const readMax = 512

// Next waits for matching events, or a gap, and returns them. When ctx ends first it
// returns its error, and Offset may have grown all the same: what it passed did not match.
func (r *Reader) Next(ctx context.Context) (Batch, error) {
	for {
		b, more, err := r.poll()
		if err != nil || len(b.Events) > 0 || b.Gap != nil {
			return b, err
		}
		if more == nil { // passed a stretch without a match; go on
			if err := ctx.Err(); err != nil {
				return Batch{Next: r.next}, err
			}
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return Batch{Next: r.next}, ctx.Err()
		}
	}
}

// NextWithin is Next with a limit on the wait. A batch without events says that d
// passed and nothing matched. With a d of 0 it looks once, at a bounded stretch.
func (r *Reader) NextWithin(ctx context.Context, d time.Duration) (Batch, error) {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	b, err := r.Next(wait)
	if err != nil && err == wait.Err() && ctx.Err() == nil { // not an error of the journal
		err = nil
	}
	return b, err
}

// poll returns what there is. A non-nil channel says that r is at the end, and closes
// when there is more.
func (r *Reader) poll() (Batch, <-chan struct{}, error) {
	h := r.hub
	h.mu.Lock()
	end, more := h.released, h.more
	if r.see == Synced && h.synced < end {
		end = h.synced
	}
	if r.next >= end {
		h.mu.Unlock()
		return Batch{Next: r.next}, more, nil
	}
	if r.next >= h.tailFrom {
		b := h.fromTail(r, end)
		h.mu.Unlock()
		r.next = b.Next
		return b, nil, nil
	}
	h.mu.Unlock()

	b, err := h.log.Read(r.next, r.want, readMax)
	if err != nil {
		return Batch{Next: r.next}, nil, err
	}
	if r.see == Synced { // the log serves all that is released
		for i, e := range b.Events {
			if e.Offset >= end {
				b.Events = b.Events[:i]
				break
			}
		}
		b.Next = min(b.Next, end)
	}
	r.next = b.Next
	return b, nil, nil
}

func (h *Hub) fromTail(r *Reader, end uint64) Batch {
	lo, hi := 0, len(h.tail)
	for lo < hi { // the first event not before r.next
		if mid := (lo + hi) / 2; h.tail[mid].Offset < r.next {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	b := Batch{Next: end}
	for _, e := range h.tail[lo:] {
		if e.Offset >= end {
			break
		}
		if len(b.Events) == readMax {
			b.Next = e.Offset
			break
		}
		if r.want.Match(e.Topic) {
			b.Events = append(b.Events, e)
		}
	}
	return b
}
