package store

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// entry is what an appender leaves for the writer.
type entry struct {
	event *gateway.Event
	done  func(error)
	need  gateway.Durability
	size  int    // of its frame
	sum   uint32 // of its body
}

func (e *entry) answer(err error) {
	if e.done != nil {
		e.done(err)
	}
}

// batch is what was queued at one time: the frames one behind another, without their headers yet.
type batch struct {
	buf     []byte
	entries []entry
	events  []*gateway.Event
}

// queue is where appenders and the writer meet.
type queue struct {
	wake chan struct{}
	max  int

	mu     sync.Mutex
	cur    *batch
	free   []*batch
	room   chan struct{} // closed when there is room again; nil while nobody waits
	closed error
}

func (q *queue) init(max int) {
	q.wake = make(chan struct{}, 1)
	q.max = max
	q.cur = new(batch)
}

// put copies frame, whose header is not filled in, to the end of the queue.
func (q *queue) put(ctx context.Context, frame []byte, e entry) error {
	q.mu.Lock()
	for q.closed == nil && len(q.cur.buf) > 0 && len(q.cur.buf)+len(frame) > q.max {
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return gateway.Errorf(gateway.ErrTransient, "wait for the journal's writer: %w", context.Cause(ctx))
		}
		q.mu.Lock()
	}
	if err := q.closed; err != nil {
		q.mu.Unlock()
		return err
	}
	q.cur.buf = append(q.cur.buf, frame...)
	q.cur.entries = append(q.cur.entries, e)
	q.cur.events = append(q.cur.events, e.event)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return nil
}

// take returns all that is queued, or nil.
func (q *queue) take() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	b := q.cur
	if len(b.entries) == 0 {
		return nil
	}
	if n := len(q.free); n > 0 {
		q.cur, q.free = q.free[n-1], q.free[:n-1]
	} else {
		q.cur = new(batch)
	}
	return b
}

// give hands a batch back for the next appenders, unless it has grown large.
func (q *queue) give(b *batch) {
	if cap(b.buf) > 1<<20 || cap(b.entries) > 8192 {
		return
	}
	clear(b.entries)
	clear(b.events)
	b.buf, b.entries, b.events = b.buf[:0], b.entries[:0], b.events[:0]
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.free) < 3 {
		q.free = append(q.free, b)
	}
}

// close makes put refuse with err.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}

func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.cur.buf)
}

// release is what the writer tells the releaser: that the entries from to to of a batch are
// as durable as they need to be, or why not.
type release struct {
	batch    *batch
	from, to int
	err      error
	seg      *segment // where they are, up to end
	end      int64
	next     uint64
	synced   uint64 // offsets below are synced; 0 says nothing new
	last     bool   // the batch is done with
}

// Run writes and releases until ctx ends or Close is called. Then it takes nothing
// more, writes, syncs and releases all that is queued, and notes that it ended
// properly. It returns nil, or why the journal had failed.
func (j *Journal) Run(ctx context.Context, to Releaser) error {
	if j.ran.Swap(true) {
		return errors.New("journal: Run was called before")
	}
	defer close(j.ended)
	w := &writer{Journal: j, releases: make(chan release, 4)}
	released := make(chan struct{})
	go func() {
		defer close(released)
		j.release(w.releases, to)
	}()
	w.run(ctx)
	close(w.releases)
	<-released
	if err := j.failure(); err != nil {
		return err
	}
	return j.markClean()
}

// writer is the one goroutine that gives out offsets and writes.
type writer struct {
	*Journal
	releases chan release
	dirty    bool // something is written and not synced
	flush    *time.Timer
}

func (w *writer) run(ctx context.Context) {
	w.flush = time.NewTimer(time.Hour)
	w.flush.Stop()
	defer w.flush.Stop()
	for {
		select {
		case <-w.queue.wake:
			// Let those join who are about to append: the first yield lets the releaser answer,
			// the second lets whom it answered append again. So one sync serves more.
			runtime.Gosched()
			runtime.Gosched()
			if b := w.queue.take(); b != nil {
				w.write(b)
			}
			continue
		case <-w.flush.C:
			w.sync(0)
			continue
		case age := <-w.room.old:
			w.retire(age)
			continue
		case <-ctx.Done():
		case <-w.stop:
		}
		break
	}
	w.queue.close(errStopped)
	if b := w.queue.take(); b != nil {
		w.write(b)
	}
	w.sync(0)
}

// write stores b. It goes to as many segments as it needs, each part with one write(2).
func (w *writer) write(b *batch) {
	n := len(b.entries) // once its last part is released, b belongs to the appenders
	if err := w.reserve(uint64(n)); err != nil {
		w.refuse(b, 0, n, err)
		return
	}
	for i, at := 0, 0; i < n; {
		if err := w.failure(); err != nil {
			w.refuse(b, i, n, err)
			return
		}
		first := int64(b.entries[i].size)
		if w.act == nil || w.act.pos+first > w.act.size {
			if err := w.roll(first); err != nil {
				w.refuse(b, i, n, err)
				return
			}
		}
		k, end := i, at
		for k < n && w.act.pos+int64(end-at+b.entries[k].size) <= w.act.size {
			end += b.entries[k].size
			k++
		}
		w.writePart(b, i, k, b.buf[at:end])
		i, at = k, end
	}
}

// roomAgain is how many bytes the active segment has free when the disk no longer counts as full.
const roomAgain = 64 << 10

// writePart writes the entries from to to of b, whose frames are buf, to the active segment.
func (w *writer) writePart(b *batch, from, to int, buf []byte) {
	a := w.act
	first := w.next.Load()
	wait, waiting := to, 0
	for i, at := from, 0; i < to; i++ {
		e := &b.entries[i]
		e.event.Epoch, e.event.Offset = w.epoch, first+uint64(i-from)
		stamp(buf[at:at+e.size], a.seed, e.sum, e.event.Kind, e.event.Offset)
		at += e.size
		if e.need == gateway.Synced {
			wait, waiting = min(wait, i), waiting+1
		}
	}
	next := first + uint64(to-from)
	w.next.Store(next) // also when it fails: an offset is never used twice

	if _, err := a.f.WriteAt(buf, a.pos); err != nil {
		w.undo(err)
		w.refuse(b, from, to, gateway.Errorf(writeKind(err), "write to the journal: %w", err))
		return
	}
	// What is small may fit where the last segment ends; that is not room.
	if a.size-a.pos-int64(len(buf)) >= min(roomAgain, w.o.SegmentSize/2) && w.diskFull.CompareAndSwap(true, false) {
		w.log.Info("the journal can grow again")
	}
	w.o.Observer.Written(to-from, len(buf))
	mid := a.pos // where the entries before the first that waits end
	for i := from; i < to; i++ {
		e := &b.entries[i]
		if i < wait {
			mid += int64(e.size)
		}
		if a.build.add(e.event.Kind, e.event.Topic, e.event.Age, e.event.Offset, a.pos) {
			a.mu.Lock()
			a.places = a.build.places
			a.mu.Unlock()
		}
		a.pos += int64(e.size)
	}
	w.last = next - 1
	a.oldest.CompareAndSwap(-1, int64(b.entries[from].event.Age))
	if !w.dirty {
		w.dirty = true
		w.flush.Reset(w.o.FlushInterval)
	}
	last := to == len(b.entries)
	if wait > from { // nobody waits for these: not for the sync either
		w.releases <- release{batch: b, from: from, to: wait, seg: a.segment, end: mid,
			next: first + uint64(wait-from), last: last && wait == to}
	}
	if wait == to {
		return
	}
	if err := w.fsync(waiting); err != nil {
		w.refuse(b, wait, to, err)
		return
	}
	w.releases <- release{batch: b, from: wait, to: to, seg: a.segment, end: a.pos,
		next: next, synced: next, last: last}
}

// refuse answers the entries from to to of b with err, in their turn.
func (w *writer) refuse(b *batch, from, to int, err error) {
	var freed int64
	for i := from; i < to; i++ {
		freed += int64(b.entries[i].size)
	}
	w.size.Add(-freed)
	if errors.Is(err, gateway.ErrFull) && !w.diskFull.Swap(true) {
		w.log.Warn("the journal cannot grow and refuses events", "error", err)
	}
	w.releases <- release{batch: b, from: from, to: to, err: err, last: to == len(b.entries)}
}

// undo takes back a write that failed half way, so that not even a restart finds entries
// whose senders were told that they were not stored.
func (w *writer) undo(cause error) {
	a := w.act
	err := a.f.Truncate(a.pos)
	if err == nil {
		err = a.f.Sync()
	}
	if err != nil {
		w.fail(errors.Join(cause, err))
		return
	}
	// The blocks behind are gone: write on only where there are some again.
	if err := a.f.Allocate(a.size); err != nil {
		a.size = a.pos
	}
}

// sync makes everything written durable and says so.
func (w *writer) sync(waiting int) {
	if !w.dirty || w.failure() != nil {
		return
	}
	if err := w.fsync(waiting); err == nil {
		w.releases <- release{synced: w.last + 1} // offsets behind may have been burnt
	}
}

func (w *writer) fsync(waiting int) error {
	start := time.Now()
	w.flush.Stop()
	if err := w.act.f.Sync(); err != nil {
		return w.fail(err)
	}
	w.dirty = false
	w.syncs.Add(1)
	w.o.Observer.Synced(waiting, time.Since(start))
	return nil
}

// roll seals the active segment and begins the next, with room for a frame of need bytes.
func (w *writer) roll(need int64) error {
	if w.act != nil {
		if w.sync(0); w.dirty {
			return w.failure()
		}
	}
	next := w.next.Load()
	need += segData
	size := max(need, min(w.o.SegmentSize, w.o.MaxSize+w.o.SegmentSize-w.size.Load()))
	a, err := w.createSegment(w.epoch, next, size, need)
	if err != nil {
		return err
	}
	if w.act != nil {
		w.seal(w.act, next)
		w.indexes.use(w.act.segment)
	}
	w.size.Add(segData)
	w.act = a
	w.editSegs(func(segs []*segment) []*segment { return append(segs[:len(segs):len(segs)], a.segment) })
	return nil
}

// retire begins a new segment if the active one begins with an entry older than age.
func (w *writer) retire(age time.Duration) {
	if w.act == nil || w.failure() != nil {
		return
	}
	if oldest := w.act.oldest.Load(); oldest >= 0 && time.Duration(oldest) < age {
		if err := w.roll(0); err != nil {
			w.log.Warn("cannot begin a new segment for age", "error", err)
		}
	}
}

// reserve makes sure that n more offsets may be given out.
func (w *writer) reserve(n uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := w.next.Load()
	if next+n <= w.table.reserve {
		return nil
	}
	if next+n+reserveStep > gateway.MaxOffset {
		return gateway.Errorf(gateway.ErrFull, "the journal has used up its offsets")
	}
	old := w.table.reserve
	w.table.reserve, w.table.age = next+n+reserveStep, w.age.mark()
	if err := w.tables.save(w.table); err != nil {
		w.table.reserve = old
		return gateway.Errorf(writeKind(err), "reserve offsets: %w", err)
	}
	return nil
}

// release is the one goroutine that tells what is stored.
func (j *Journal) release(releases <-chan release, to Releaser) {
	for r := range releases {
		if r.from < r.to {
			if r.err == nil {
				r.seg.end.Store(r.end)
				j.visible.Store(r.next)
				to.Released(r.batch.events[r.from:r.to], r.next)
			}
			for i := r.from; i < r.to; i++ {
				r.batch.entries[i].answer(r.err)
			}
		}
		if r.synced > 0 {
			j.synced.Store(r.synced)
			to.Synced(r.synced)
		}
		if r.last {
			j.queue.give(r.batch)
		}
	}
}

// markClean notes that the journal ended properly, so that the epoch goes on in the next boot.
func (j *Journal) markClean() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.table.clean, j.table.last, j.table.age = j.next.Load(), j.last, j.age.mark()
	if err := j.tables.save(j.table); err != nil {
		return gateway.Errorf(writeKind(err), "mark the journal as stopped: %w", err)
	}
	return nil
}
