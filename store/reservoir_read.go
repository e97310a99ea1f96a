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
// entry that a reader begins in the middle of are counted in full.
type LostRange struct {
	From, To uint64
	Count    uint64
}

// Read returns records from offset from on, oldest first: about max at most, or 512, and about 1 MiB, but one if
// there is one. It ends where a chunk does, so that damage never takes the second half of what was half read. What was
// released or dropped is passed over; what damage took is told as Lost, each time it is passed.
func (r *Reservoir) Read(holder string, from uint64, max int) (Backlog, error) {
	for {
		b, bad, err := r.read(holder, from, max)
		if err != nil || bad == nil {
			return b, err
		}
		if err := r.damaged(holder, *bad, from); err != nil {
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
		if len(b.Records) > 0 && (len(b.Records)+int(c.count) > limit || size > readBytes) {
			b.Next = c.first
			return b, nil, nil
		}
		data, err := loadChunk(txn, h.number, c)
		if err == nil {
			err = decodeChunk(h.number, c.first, data, func(rec *Record) bool {
				if rec.Offset >= from && rec.Offset <= c.last {
					b.Records = append(b.Records, *rec)
					size += len(rec.Body) + 64
				}
				return true
			})
		}
		if err != nil {
			return b, &c, nil
		}
	}
	b.Next = max(b.Next, h.Mark)
	return b, nil, nil
}

// damaged makes a lost entry of a chunk from an offset on, if it is still there and cannot be read.
func (r *Reservoir) damaged(holder string, c chunk, from uint64) error {
	if err := r.begin(); err != nil {
		return err
	}
	defer r.w.Unlock()
	if r.full {
		return errReadOnly
	}
	h := r.holders[holder]
	if h == nil {
		return nil
	}
	if _, ok := h.find(c); !ok {
		return nil
	}
	err := r.db.View(func(txn *badger.Txn) error {
		return eachRecord(txn, h, c, func(*Record) bool { return true })
	})
	if err == nil {
		return nil
	}
	return r.lose(h, c, from, err)
}

// lose is damaged for who has w. A reader that begins within the chunk had what lies before, at an earlier start: that is not lost
// to it. It stays as a chunk without bytes, until it is released, or until somebody wants to read it after all.
func (r *Reservoir) lose(h *backlog, c chunk, from uint64, why error) error {
	from = max(from, c.first)
	skip := uint32(0)
	if c.first <= h.Done {
		skip = h.skip
	}
	count := uint32(min(uint64(c.count-skip), c.last-from+1))
	before := c
	before.count, before.size, before.last = c.count-count, 0, from-1
	r.log.Error("damage in the reservoir", "holder", h.Name, "from", from, "to", c.last, "lost", count, "error", why)
	b := r.refill(h)
	if err := b.drop(c); err != nil {
		return b.failed(err)
	}
	gone := chunk{kind: lost, count: count, first: c.first, last: c.last, to: c.last + 1, gen: c.gen}
	left := before.count > skip
	if left {
		gone.first = from
		b.insert = append(b.insert, before)
		if err := b.Set(indexKey(h.number, before), before.encode()); err != nil {
			return b.failed(err)
		}
	}
	b.insert = append(b.insert, gone)
	if err := b.Set(indexKey(h.number, gone), gone.encode()); err != nil {
		return b.failed(err)
	}
	b.ledger.Dropped[DroppedDamaged] += uint64(count)
	if err := b.commit(); err != nil {
		return err
	}
	if c.first <= h.Done && !left {
		h.skip = 0
	}
	r.noteCounts()
	return nil
}
