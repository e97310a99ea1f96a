package store

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

// Reservoir keeps holders' long backlogs: what an uplink or a session still needs when the
// journal's window has passed. It is Badger, like the state, and a database of its own, so that a big or
// damaged backlog never slows or hurts what is keyed and small. It is safe for concurrent use.
//
//	Put ─► chunks of 8 KiB ─► Read ─► Release
//	           │
//	        Shrink: by the holder's policy, when it is over its bytes
//
// Of every chunk a small entry is kept in memory and stored apart: reservoir_chunk.go. A change is one
// transaction together with the holder's ledger, so that the counters always fit what is there:
// Put = stored + released + dropped. What damage took becomes a lost entry, which readers are told.
type Reservoir struct {
	dir  string
	log  *slog.Logger
	lock *os.File

	w      sync.Mutex // held by who changes something; taken before mu
	stale  bool       // a change failed, so the index may not be what is stored
	full   bool       // opened for reading only
	closed bool
	fresh  int64 // bytes in tables, and put since, about
	swapAt int64 // swapBytes

	swapping *swapping // nil if there is none

	stepChunks, planChunks int // as the constants say

	mu      sync.RWMutex // guards what follows, for readers
	db      *badger.DB   // nil when closed
	holders map[string]*backlog
}

// Record is one event of a backlog.
type Record struct {
	Offset uint64
	Epoch  string // of at most 8 bytes
	Age    int64  // milliseconds on a clock that never jumps; grows with the offset
	Key    uint64 // hash of what "latest" and "one a minute" are counted by: the topic
	Body   []byte // the journal's frame body

	// Gone, if it has a count, makes of this no record, but a range from Offset to Gone.To that damage took
	// before it could be put. It is for Put only: Read tells of it as Lost.
	Gone LostRange
}

// Why a record left without being released.
const (
	DroppedThinned = "thinned"
	DroppedOldest  = "drop-oldest"
	DroppedNewest  = "drop-newest"
	DroppedDamaged = "damaged"
)

// Stat is what is known of a backlog, in records if not said otherwise. Put = Count + Released +
// the sum of Dropped.
type Stat struct {
	Count       uint64
	Bytes       int64 // on disk, before Badger adds its own
	First, Last uint64
	OldestAge   int64  // of the first
	Mark        uint64 // everything below that the holder needs was put
	Put         uint64
	Released    uint64
	Dropped     map[string]uint64
}

// ledger is what is stored of a holder beside its chunks.
type ledger struct {
	Name     string
	Mark     uint64
	Done     uint64 // offsets up to here are released
	Gen      uint64
	Put      uint64
	Released uint64
	Dropped  map[string]uint64
}

func (l ledger) stored() int64 {
	n := l.Put - l.Released
	for _, d := range l.Dropped {
		n -= d
	}
	return int64(n)
}

// backlog is one holder's part.
type backlog struct {
	ledger
	number uint32
	chunks []chunk // in order; none ends before Done
	skip   uint32  // records of the first stored chunk that are released
	bytes  int64
	gone   []chunk // released, still in Badger
	dirty  bool    // Done is not stored yet

	thinning *thinning // the one that is under way, of who has w
}

// OpenReservoir opens the reservoir in dir, or begins one. It fails if another process has it, or if
// the disk is full (ErrFull); a damaged one is renamed to dir.damaged-N and what it held counts as dropped.
func OpenReservoir(dir string, log *slog.Logger) (*Reservoir, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return nil, fmt.Errorf("open reservoir: %w", err)
	}
	lock, err := lockFile(dir + ".lock")
	if err != nil {
		return nil, fmt.Errorf("open reservoir: %w", err)
	}
	r := &Reservoir{dir: dir, log: log, lock: lock, swapAt: swapBytes, stepChunks: stepChunks, planChunks: planChunks}
	err = finishSwap(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o750)
	}
	if err == nil {
		err = openGuarded(dir, log, r.open)
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open reservoir in %s: %w", dir, err)
	}
	return r, nil
}

func (r *Reservoir) open() error {
	if err := dropBadTables(r.dir, r.log); err != nil {
		return err
	}
	db, err := openBadger(r.dir, false, r.log)
	if err != nil {
		return err
	}
	r.db = db
	for _, t := range db.Tables() {
		r.fresh += int64(t.OnDiskSize)
	}
	err = r.load()
	for _, h := range r.holders {
		if err == nil && h.Done == discarded {
			err = r.forget(h)
		}
	}
	if err != nil {
		r.db = nil
		return errors.Join(err, db.Close())
	}
	return nil
}

var errReservoirClosed = gateway.Errorf(gateway.ErrTransient, "the reservoir is closed")

// begin takes w and makes sure that the index is what is stored.
func (r *Reservoir) begin() error {
	r.w.Lock()
	err := error(nil)
	switch {
	case r.full: // what changes only memory may go on
	case r.db == nil:
		err = errReservoirClosed
	case r.stale:
		if err = r.load(); err == nil {
			r.stale = false
		}
	}
	if err != nil {
		r.w.Unlock()
	}
	return err
}

// Stat tells what holder has; nothing if there is no such holder.
func (r *Reservoir) Stat(holder string) (s Stat) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.holders[holder]
	if h == nil {
		return s
	}
	s = Stat{
		Count: uint64(h.stored()), Bytes: h.bytes, Mark: h.Mark,
		Put: h.Put, Released: h.Released, Dropped: maps.Clone(h.Dropped),
	}
	for _, c := range h.chunks {
		if c.kind == stored {
			s.First, s.OldestAge = max(c.first, h.Done+1), c.firstAge
			break
		}
	}
	for _, c := range slices.Backward(h.chunks) {
		if c.kind == stored {
			s.Last = c.last
			break
		}
	}
	return s
}

// Holders are the names of all that ever put something, or moved a mark, and were not discarded.
func (r *Reservoir) Holders() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.holders))
}

// Close stores what was released and closes the reservoir.
func (r *Reservoir) Close() error {
	r.w.Lock()
	defer r.w.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	var errs []error
	errs = append(errs, r.endSwap())
	if r.db != nil && !r.stale && r.checkFree() == nil {
		for _, h := range r.holders {
			errs = append(errs, r.flush(h))
		}
	}
	if !r.full {
		r.noteCounts()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db != nil {
		errs = append(errs, r.db.Close())
		r.db = nil
	}
	errs = append(errs, r.lock.Close())
	return errors.Join(errs...)
}
