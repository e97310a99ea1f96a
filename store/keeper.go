package store

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Holder is a reader for whom segments are kept: until it is done with them, or until what it
// still needs has moved to its backlog.
type Holder struct {
	Name  string
	Match gateway.Matcher
	// Committed is the offset up to which it is done with everything, also after a crash.
	Committed func() uint64
	// Read is the offset up to which it has read; what lies before may be in use.
	Read func() uint64
	// Hold keeps Committed from moving until what it returns is called, so that what is lost to damage
	// is counted either by the holder or in its backlog. nil: nobody counts.
	Hold   func() (release func())
	Policy Policy
	// MaxBytes bounds its backlog. With Reject the backlog may be larger by what the journal
	// held when it was reached.
	MaxBytes int64
}

// Anchor is what the journal is the only source of: state that is rolled forward from it.
type Anchor struct {
	Name    string
	Needs   func() uint64 // the first offset that is still needed
	Advance func()        // asks it to need less; must not block
}

// Backlogs is what a Keeper needs of a Reservoir.
type Backlogs interface {
	Put(holder string, upTo uint64, records []Record) error
	Shrink(holder string, after uint64, p Policy, maxBytes, now int64) (more bool, err error)
	Stat(holder string) Stat
}

// KeeperOptions are what a Keeper needs. MaxAge of 0 keeps what there is room for.
type KeeperOptions struct {
	Journal  *Journal
	Backlogs Backlogs
	Holders  []Holder
	Anchors  []Anchor
	MaxAge   time.Duration
	Logger   *slog.Logger
}

// Keeper bounds the journal. When it comes near its size, or holds what is too old, or the disk has
// too little left, the oldest segment is looked through once: what holders still need moves to
// their backlogs, and the file is deleted.
//
//	oldest segment ──► needed by a holder? ──► its backlog, synced ──► shrunk, if it is over its bytes
//	      │                                        │
//	      └───────────── deleted ◄─────────────────┘
//
// Shrinking a large backlog takes long, so it goes on beside, step by step, while further segments are let go of. It only
// waits when a backlog is an eighth over its bound: then shrinking comes first.
type Keeper struct {
	o KeeperOptions
	j *Journal

	full atomic.Pointer[[]Holder] // who refuses new events

	shrinking map[string]int64 // by holder, to how many bytes its backlog is being shrunk; of who runs it

	mu    sync.Mutex
	moved map[string]uint64 // by holder, since the start
	lost  map[string]uint64 // could not be moved, because the journal is damaged
	stuck string            // why nothing can be let go of; empty if it can
}

// keepEvery is how often the bounds are looked at when nobody asks.
const keepEvery = time.Second

// NewKeeper returns a Keeper that does nothing until it runs.
func NewKeeper(o KeeperOptions) *Keeper {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{o: o, j: o.Journal, moved: map[string]uint64{}, lost: map[string]uint64{}, shrinking: map[string]int64{}}
	k.full.Store(&[]Holder{})
	k.j.room.kept.Store(true) // from now on an append that finds no room waits for Run to make some
	return k
}

// Run keeps the bounds until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.j.room.kept.Store(false)
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		var soon <-chan time.Time
		if k.keep(ctx) {
			soon = time.After(anchorPause)
		}
		select {
		case <-tick.C:
		case <-soon:
		case <-k.j.room.asked:
		case <-ctx.Done():
			return nil
		}
	}
}

// anchorPause is how long an anchor has until it is looked at again.
const anchorPause = 10 * time.Millisecond

// keep lets go of segments, and shrinks backlogs, until the bounds are kept. It returns true when it waits for an
// anchor.
func (k *Keeper) keep(ctx context.Context) (anchored bool) {
	defer k.checkFull()
	if k.o.MaxAge > 0 {
		select {
		case k.j.room.old <- k.j.Age() - k.o.MaxAge:
		default:
		}
	}
	for ctx.Err() == nil {
		gone, err := k.keepOne()
		if anchored = errors.Is(err, errAnchored); !anchored { // who was asked to move on does, in a moment
			k.setStuck(err)
		}
		if shrunk := k.shrink(); !gone && !shrunk {
			return anchored
		}
		k.checkFull()
	}
	return false
}

// keepOne lets go of the oldest segment if a bound is passed, and tells whether it did.
func (k *Keeper) keepOne() (gone bool, err error) {
	segs := *k.j.segs.Load()
	if len(segs) < 2 {
		return false, nil
	}
	why := k.over(segs[0])
	if why == "" || k.behind() {
		return false, nil
	}
	if err := k.letGo(segs[0], segs[1].first); err != nil {
		return false, err
	}
	k.o.Logger.Debug("a segment is let go of", "path", segs[0].path, "reason", why)
	return true, nil
}

// behind tells whether a backlog grows faster than it is shrunk.
func (k *Keeper) behind() bool {
	for name, bytes := range k.shrinking {
		if k.o.Backlogs.Stat(name).Bytes > bytes+bytes/8 {
			return true
		}
	}
	return false
}

// shrink takes one step with each backlog that is being shrunk, and tells whether there were any.
func (k *Keeper) shrink() (any bool) {
	for _, h := range k.o.Holders {
		bytes, ok := k.shrinking[h.Name]
		if !ok {
			continue
		}
		any = true
		more, err := k.o.Backlogs.Shrink(h.Name, h.Read(), h.Policy, bytes, k.j.Age().Milliseconds())
		if err != nil { // the next that is moved there begins anew
			k.o.Logger.Warn("a backlog cannot be shrunk", "holder", h.Name, "error", err)
		}
		if !more || err != nil {
			delete(k.shrinking, h.Name)
		}
	}
	return any
}

// over says which bound is passed, or nothing.
func (k *Keeper) over(oldest *segment) string {
	j := k.j
	// Ahead of the bound, so that appenders do not meet it.
	if j.size.Load() > j.o.MaxSize-2*j.o.SegmentSize {
		return "size"
	}
	if free, total, err := j.disk.Space(j.o.Dir); err == nil && free-j.o.SegmentSize < j.o.MinFree.of(total) {
		return "disk"
	}
	if k.o.MaxAge > 0 {
		if x, err := j.ageOf(oldest); err == nil && x < j.Age()-k.o.MaxAge {
			return "age"
		}
	}
	return ""
}

// ageOf is the age of the last entry of a sealed segment; 0, very old, if its header is gone.
func (j *Journal) ageOf(s *segment) (time.Duration, error) {
	if h, err := j.headerOf(s); h == nil {
		return 0, err
	}
	x, err := j.indexOf(s)
	if err != nil {
		return 0, err
	}
	return x.age, nil
}

func (k *Keeper) setStuck(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	k.mu.Lock()
	changed := k.stuck != why
	k.stuck = why
	k.mu.Unlock()
	if changed && why != "" {
		k.o.Logger.Warn("the oldest segment cannot be let go of", "reason", why)
	}
}

var errAnchored = errors.New("it is still needed for")

// letGo moves what is needed of s, whose offsets end before next, and deletes it.
func (k *Keeper) letGo(s *segment, next uint64) error {
	for _, a := range k.o.Anchors {
		if a.Needs() < next {
			a.Advance()
			return fmt.Errorf("%w %s", errAnchored, a.Name)
		}
	}
	for _, h := range k.o.Holders {
		if h.Committed()+1 >= next || k.o.Backlogs.Stat(h.Name).Mark >= next {
			continue
		}
		if err := k.move(h, s, next); err != nil {
			return fmt.Errorf("move what %s needs: %w", h.Name, err)
		}
	}
	return k.j.letGo(s)
}

// What one Put of a move holds.
const (
	moveRecords = 1024
	moveBytes   = 1 << 20
)

// move puts what h needs of s into its backlog. It may be done in part, and begins again then.
func (k *Keeper) move(h Holder, s *segment, next uint64) error {
	if err := k.put(h, s, next); err != nil {
		return err
	}
	stat := k.o.Backlogs.Stat(h.Name)
	if _, ok := k.shrinking[h.Name]; !ok && stat.Bytes > k.bound(h, stat) {
		k.shrinking[h.Name] = k.bound(h, stat)
	}
	return nil
}

// put is move without the holder's policy.
func (k *Keeper) put(h Holder, s *segment, next uint64) error {
	if h.Hold != nil {
		defer h.Hold()()
	}
	from := max(h.Committed()+1, k.o.Backlogs.Stat(h.Name).Mark)
	var records []Record
	bytes, found := 0, uint64(0)
	put := func(upTo uint64) error {
		err := k.o.Backlogs.Put(h.Name, upTo, records)
		records, bytes = records[:0], 0
		return err
	}
	lost := uint64(0)
	hole := func(from, to uint64) {
		if n, _ := k.j.Missing(from, to, h.Match); n > 0 {
			records = append(records, Record{Offset: from, Gone: LostRange{From: from, To: to, Count: n}})
			lost += n
		}
	}
	err := k.j.each(s, from, next, h.Match, hole, func(fr *frame, topic []byte, epoch string) error {
		key := fnv.New64a()
		key.Write(topic)
		records = append(records, Record{
			Offset: fr.offset, Epoch: epoch, Age: bodyAge(fr.body).Milliseconds(), Key: key.Sum64(), Body: append([]byte(nil), fr.body...),
		})
		found++
		if bytes += len(fr.body); len(records) >= moveRecords || bytes >= moveBytes {
			return put(fr.offset + 1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := put(next); err != nil {
		return err
	}
	k.mu.Lock()
	k.moved[h.Name] += found
	k.lost[h.Name] += lost
	k.mu.Unlock()
	return nil
}

// bound is what a backlog may take: less than it has when the disk has too little left.
func (k *Keeper) bound(h Holder, stat Stat) int64 {
	free, total, err := k.j.disk.Space(k.j.o.Dir)
	if err == nil && free < k.j.o.MinFree.of(total) {
		return min(h.MaxBytes, stat.Bytes*9/10)
	}
	return h.MaxBytes
}

// each calls fn with the frames of s that h needs: Data, of matching topics, from <= offset < next, and
// hole with the ranges between them that cannot be read any more.
func (j *Journal) each(s *segment, from, next uint64, want gateway.Matcher, hole func(from, to uint64), fn func(fr *frame, topic []byte, epoch string) error) error {
	damaged := func(to uint64) {
		j.tellDamaged(gateway.Gap{From: from, To: to, Reason: gateway.GapDamaged})
		hole(from, to)
	}
	v, err := j.view(s, next)
	if err != nil {
		return err
	}
	if v == nil { // nothing of it can be read
		damaged(next)
		return nil
	}
	_, last, count, exact := v.index.span(want)
	if exact && (count == 0 || last < from) {
		return nil
	}
	r := reading{Journal: j, want: want, memo: map[string]bool{}}
	var failed error
	err = j.walk(s, v, lookup(v.places, from), from, next, func(fr *frame, skipped bool) bool {
		if to := min(fr.offset, next); skipped && from < to {
			damaged(to)
		}
		if fr.pos < 0 || fr.offset >= next {
			return false
		}
		from = fr.offset + 1
		if fr.kind == gateway.Data && r.matches(fr) {
			topic, _ := bodyTopic(fr.body)
			failed = fn(fr, topic, v.header.epoch)
		}
		return failed == nil
	})
	return errors.Join(err, failed)
}

// checkFull finds the routes that refuse new events.
func (k *Keeper) checkFull() {
	var full []Holder
	for _, h := range k.o.Holders {
		if h.Policy.Mode == Reject && k.o.Backlogs.Stat(h.Name).Bytes >= h.MaxBytes {
			full = append(full, h)
		}
	}
	k.full.Store(&full)
}

// Admit is ErrFull for an event that a route with on_full: reject has no room for. Others never are
// refused for a backlog.
func (k *Keeper) Admit(e *gateway.Event) error {
	for _, h := range *k.full.Load() {
		if h.Match.Match(e.Topic) {
			return gateway.Errorf(gateway.ErrFull, "the backlog of %s holds its %d bytes and rejects new events", h.Name, h.MaxBytes)
		}
	}
	return nil
}

// KeeperStats is what a Keeper has done.
type KeeperStats struct {
	Moved map[string]uint64 // to the backlog, by holder, since the start
	Lost  map[string]uint64 // could not be moved because of damage
	Stuck string            // why the oldest segment cannot be let go of
}

// Stats returns what the Keeper has done.
func (k *Keeper) Stats() KeeperStats {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := KeeperStats{Moved: map[string]uint64{}, Lost: map[string]uint64{}, Stuck: k.stuck}
	for h, n := range k.moved {
		s.Moved[h] = n
	}
	for h, n := range k.lost {
		s.Lost[h] = n
	}
	return s
}
