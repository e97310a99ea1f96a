package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// When a backlog was drained the database is begun anew, which gives the disk back at once: Badger would
// keep it for long. That is done when there are swapBytes at least in it, and no more than a
// quarter, and swapLive, is live: so much is copied. It is copied in steps, by who releases or shrinks, while the old one serves.
const (
	swapBytes = 4 << 20
	swapLive  = 32 << 20
)

// swapping is the database that is being begun, in dir.new. What changes meanwhile is copied again, or removed, before
// it takes the old one's place.
type swapping struct {
	db   *badger.DB
	have map[entryPlace]chunk
}

// entryPlace is where a chunk has its entry.
type entryPlace struct {
	number uint32
	first  uint64
	lost   bool
}

func placeOf(h *backlog, c chunk) entryPlace { return entryPlace{h.number, c.first, c.kind == lost} }

// finishSwap goes on where a crash broke swap off.
func finishSwap(dir string) error {
	_, err := os.Stat(dir)
	switch {
	case err == nil: // the new one was not whole, or it is in its place
		return errors.Join(os.RemoveAll(dir+".new"), os.RemoveAll(dir+".drained"))
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if err := os.Rename(dir+".new", dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(os.RemoveAll(dir+".drained"), OSDisk{}.SyncDir(filepath.Dir(dir)))
}

// swap takes a step towards a new database if one is worth while, and tells whether there are more to take.
func (r *Reservoir) swap() (more bool, err error) {
	live := int64(0)
	for _, h := range r.holders {
		live += h.bytes
	}
	if r.fresh < r.swapAt || live > min(r.fresh/4, swapLive) || r.checkFree() != nil {
		return false, r.endSwap()
	}
	if r.swapping == nil {
		if err := os.RemoveAll(r.dir + ".new"); err != nil {
			return false, err
		}
		db, err := openBadger(r.dir+".new", false, r.log)
		if err != nil {
			return false, err
		}
		r.swapping = &swapping{db, map[entryPlace]chunk{}}
	}
	all, err := r.copyTo(r.swapping)
	if err != nil {
		return false, errors.Join(err, r.endSwap())
	}
	if !all {
		return true, nil
	}
	err = r.swapping.db.Close()
	r.swapping = nil
	if err != nil {
		return false, errors.Join(err, os.RemoveAll(r.dir+".new"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err = r.db.Close()
	r.db = nil // until it is open again
	if err == nil {
		err = os.Rename(r.dir, r.dir+".drained")
	}
	if err == nil {
		err = finishSwap(r.dir)
	}
	var db *badger.DB
	if err == nil {
		db, err = openBadger(r.dir, false, r.log)
	}
	if err != nil {
		return false, fmt.Errorf("begin the drained reservoir anew: %w", err)
	}
	r.db, r.fresh = db, live
	for _, h := range r.holders {
		h.gone, h.dirty = nil, false
	}
	return false, nil
}

// endSwap gives up the database that is being begun.
func (r *Reservoir) endSwap() error {
	s := r.swapping
	if s == nil {
		return nil
	}
	r.swapping = nil
	return errors.Join(s.db.Close(), os.RemoveAll(r.dir+".new"))
}

// copyTo copies some of what is live and not there yet; when that is all, it removes what is not live any more and writes
// the ledgers. A chunk that cannot be read is left out, and found missing by who reads it.
func (r *Reservoir) copyTo(s *swapping) (all bool, err error) {
	out := &series{db: s.db}
	defer out.discard()
	chunks, bytes := 0, int64(0)
	err = r.db.View(func(txn *badger.Txn) error {
		for _, h := range r.holders {
			for _, c := range h.chunks {
				old, there := s.have[placeOf(h, c)]
				if there && old == c {
					continue
				}
				if all = r.within(chunks, bytes); !all {
					return nil
				}
				if there {
					if err := deleteChunk(out, h.number, old); err != nil {
						return err
					}
				}
				if err := copyChunk(txn, out, h, c); err != nil {
					return err
				}
				s.have[placeOf(h, c)] = c
				chunks, bytes = chunks+1, bytes+int64(c.size)
			}
		}
		all = true
		return nil
	})
	if err != nil {
		return false, err
	}
	if all {
		if err := r.settle(s, out); err != nil {
			return false, err
		}
	}
	return all, out.end()
}

func copyChunk(from *badger.Txn, to setter, h *backlog, c chunk) error {
	if err := to.Set(indexKey(h.number, c), c.encode()); err != nil {
		return err
	}
	data, err := loadChunk(from, h.number, c)
	if err != nil {
		return nil
	}
	return setPieces(to, h.number, c, data)
}

// settle is the last of copyTo.
func (r *Reservoir) settle(s *swapping, out setter) error {
	for _, h := range r.holders {
		for _, c := range h.chunks {
			delete(s.have, placeOf(h, c))
		}
		if err := out.Set(holderKey(h.number), encodeLedger(h.ledger)); err != nil {
			return err
		}
	}
	for at, c := range s.have {
		if err := deleteChunk(out, at.number, c); err != nil {
			return err
		}
	}
	return nil
}
