package store

import (
	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

// flushChunks is how many released chunks wait before they are removed from Badger.
const flushChunks = 64

// Release says that the holder is done with everything up to and including offset upTo. It is not
// synced: a crash may bring some back, and its counts with it. When little is left of what was there
// the database is begun anew, which gives its disk back.
func (r *Reservoir) Release(holder string, upTo uint64) error {
	if err := r.begin(); err != nil {
		return err
	}
	defer r.w.Unlock()
	h := r.holders[holder]
	if h == nil || upTo <= h.Done {
		return nil
	}
	r.release(h, upTo)
	if len(h.gone) >= flushChunks && r.checkFree() == nil {
		if err := r.flush(h); err != nil {
			return err
		}
		r.noteCounts()
	}
	_, err := r.swap()
	return err
}

func (r *Reservoir) release(h *backlog, upTo uint64) {
	released, bytes, whole := uint64(0), int64(0), 0
	skip := h.skip
	for _, c := range h.chunks {
		if c.last > upTo {
			break
		}
		if c.kind == stored {
			released += uint64(c.count - skip)
			bytes += int64(c.size)
			skip = 0
		}
		whole++
	}
	if whole < len(h.chunks) && h.chunks[whole].kind == stored && h.chunks[whole].first <= upTo {
		c := h.chunks[whole]
		n, err := r.upTo(h, c, upTo)
		if err == nil {
			released += uint64(n - skip)
			skip = n
		} else { // how many it had until there is not known: it is released as a whole, or who reads on in it finds out
			upTo = max(h.Done, c.first-1)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h.gone = append(h.gone, h.chunks[:whole]...)
	h.chunks = h.chunks[whole:]
	h.skip, h.Done, h.dirty = skip, upTo, true
	h.Released += released
	h.bytes -= bytes
}

// upTo counts the records of a chunk up to an offset.
func (r *Reservoir) upTo(h *backlog, c chunk, offset uint64) (n uint32, err error) {
	err = r.db.View(func(txn *badger.Txn) error {
		data, err := loadChunk(txn, h.number, c)
		if err != nil {
			return err
		}
		return decodeChunk(h.number, c.first, data, func(rec *Record) bool {
			if rec.Offset <= offset {
				n++
			}
			return true
		})
	})
	return n, err
}

// flush removes what was released from Badger.
func (r *Reservoir) flush(h *backlog) error {
	for len(h.gone) > 0 || h.dirty {
		b := r.refill(h)
		n := 0
		for n < len(h.gone) && !b.full() {
			if err := b.erase(h.gone[n]); err != nil {
				return b.failed(err)
			}
			n++
		}
		if err := b.commit(); err != nil {
			return err
		}
		h.gone = h.gone[n:]
	}
	h.gone = nil
	return nil
}

// discarded is up to where a holder has released that is being removed.
const discarded = 1<<63 - 1

// Discard removes a holder with all it has. It is counted nowhere any more.
func (r *Reservoir) Discard(holder string) error {
	if err := r.begin(); err != nil {
		return err
	}
	defer r.w.Unlock()
	if err := r.checkFree(); err != nil {
		return err
	}
	h := r.holders[holder]
	if h == nil {
		return nil
	}
	if err := r.endSwap(); err != nil { // it has chunks under a number that will be another's
		return err
	}
	if err := r.forget(h); err != nil {
		return err
	}
	_, err := r.swap()
	return err
}

// forget is Discard for who has w. What a crash leaves of it is done at the next open.
func (r *Reservoir) forget(h *backlog) error {
	r.release(h, discarded)
	if err := r.flush(h); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.holders, h.Name)
	r.mu.Unlock()
	r.noteCounts() // first, or what is missing in the database counts as damage
	s := &series{db: r.db}
	defer s.discard()
	err := s.Delete(holderKey(h.number))
	if err == nil {
		err = s.end()
	}
	if err != nil {
		r.stale = true
		return gateway.Errorf(writeKind(err), "write reservoir: %w", err)
	}
	return nil
}
