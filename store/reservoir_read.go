package store

import (
	"sort"

	"github.com/dgraph-io/badger/v4"
)

// What one Read returns at most.
const (
	readRecords = 512
	readBytes   = 1 << 20
)

// Backlog is what Read found.
type Backlog struct {
	Records []Record
	Next    uint64 // go on from here; the mark when there is no more
	Lost    []LostRange
}

// LostRange are records, from From to before To, that damage took. Count is how many; those of an
// entry that a reader is in the middle of are counted in full.
type LostRange struct {
	From, To uint64
	Count    uint64
}

// Read returns records from offset from on, oldest first: at most max, or 512, and about 1 MiB, but one if
// there is one. What was released or dropped is passed over; what damage took is told as Lost, each time
// it is passed.
func (r *Reservoir) Read(holder string, from uint64, max int) (Backlog, error) {
	for {
		b, bad, err := r.read(holder, from, max)
		if err != nil || bad == nil {
			return b, err
		}
		if err := r.damaged(holder, *bad); err != nil {
			return b, err
		}
	}
}

// read stops at the first chunk that cannot be read, which may have been rewritten meanwhile.
func (r *Reservoir) read(holder string, from uint64, limit int) (b Backlog, bad *chunk, err error) {
	if limit <= 0 || limit > readRecords {
		limit = readRecords
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	b.Next = from
	if r.db == nil && !r.full {
		return b, nil, errReservoirClosed
	}
	h := r.holders[holder]
	if h == nil {
		return b, nil, nil
	}
	from = max(from, h.Done+1)
	txn := r.db.NewTransaction(false)
	defer txn.Discard()
	size := 0
	at := sort.Search(len(h.chunks), func(i int) bool { return h.chunks[i].last >= from })
	for _, c := range h.chunks[at:] {
		if c.kind == lost {
			b.Lost = append(b.Lost, LostRange{From: max(c.first, from), To: c.to, Count: uint64(c.count)})
			continue
		}
		data, err := loadChunk(txn, h.number, c)
		full := false
		if err == nil {
			err = decodeChunk(h.number, c.first, data, func(rec *Record) bool {
				if rec.Offset < from || rec.Offset > c.last {
					return true
				}
				if full = len(b.Records) == limit || size > readBytes; full {
					return false
				}
				b.Records = append(b.Records, *rec)
				size += len(rec.Body) + 64
				return true
			})
		}
		if err != nil {
			return b, &c, nil
		}
		if full {
			b.Next = b.Records[len(b.Records)-1].Offset + 1
			return b, nil, nil
		}
	}
	b.Next = max(b.Next, h.Mark)
	return b, nil, nil
}

// damaged makes a lost entry of a chunk, if it is still there and cannot be read.
func (r *Reservoir) damaged(holder string, c chunk) error {
	if err := r.begin(); err != nil {
		return err
	}
	defer r.w.Unlock()
	h := r.holders[holder]
	if h == nil {
		return nil
	}
	if _, ok := h.find(c); !ok {
		return nil
	}
	return r.lose(h, c)
}

// lose is damaged for who has w and knows that c is there.
func (r *Reservoir) lose(h *backlog, c chunk) error {
	if r.full {
		return errReadOnly
	}
	err := r.db.View(func(txn *badger.Txn) error {
		data, err := loadChunk(txn, h.number, c)
		if err == nil {
			err = decodeChunk(h.number, c.first, data, func(*Record) bool { return true })
		}
		return err
	})
	if err == nil {
		return nil
	}
	count := c.count
	head := c.first <= h.Done
	if head {
		count -= h.skip
	}
	r.log.Error("damage in the reservoir", "holder", h.Name, "from", c.first, "to", c.last, "lost", count, "error", err)
	b := r.refill(h)
	if err := b.drop(c); err != nil {
		return err
	}
	gone := chunk{kind: lost, count: count, first: c.first, last: c.last, to: c.last + 1, gen: c.gen}
	b.insert = append(b.insert, gone)
	if err := b.Set(indexKey(h.number, gone), gone.encode()); err != nil {
		return err
	}
	b.ledger.Dropped[DroppedDamaged] += uint64(count)
	if err := b.commit(); err != nil {
		return err
	}
	if head {
		h.skip = 0
	}
	r.noteCounts()
	return nil
}
