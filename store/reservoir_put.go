package store

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"

	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

const (
	maxRecord = 256 << 20 // bytes; the largest MQTT packet
	largeSize = 64 << 10  // a chunk larger than this is written before the transaction that shows it
)

// refill is one transaction on a holder's backlog: chunks next to each other are replaced, and the
// ledger changes with them.
type refill struct {
	r      *Reservoir
	h      *backlog
	ledger ledger
	txn    *badger.Txn
	remove []chunk
	insert []chunk
	after  []chunk // large ones, whose pieces are removed after the commit
	keys   int
	bytes  int
}

func (r *Reservoir) refill(h *backlog) *refill {
	l := h.ledger
	l.Dropped = maps.Clone(l.Dropped)
	return &refill{r: r, h: h, ledger: l, txn: r.db.NewTransaction(true)}
}

// full tells that another chunk may not fit.
func (b *refill) full() bool {
	return b.keys > txnKeys/2 || b.bytes > txnBytes-3*pieceSize
}

// Set and Delete are a setter, like a series.
func (b *refill) Set(key, value []byte) error {
	b.keys, b.bytes = b.keys+1, b.bytes+len(key)+len(value)+32
	return b.txn.Set(key, value)
}

func (b *refill) Delete(key []byte) error {
	b.keys, b.bytes = b.keys+1, b.bytes+len(key)+32
	return b.txn.Delete(key)
}

// put seals a chunk and adds it.
func (b *refill) put(p *packer) error {
	b.ledger.Gen++
	p.seal(b.h.number, b.ledger.Gen)
	to := setter(b)
	if p.size > largeSize { // an entry of a partial chunk first, so that a crash leaves nothing behind
		half := p.chunk
		half.kind, half.count = partial, 0
		s := &series{db: b.r.db}
		defer s.discard()
		if err := s.Set(indexKey(b.h.number, half), half.encode()); err != nil {
			return err
		}
		if err := s.end(); err != nil {
			return err
		}
		if err := setPieces(s, b.h.number, p.chunk, p.data); err != nil {
			return err
		}
		if err := s.end(); err != nil {
			return err
		}
	} else if err := setPieces(to, b.h.number, p.chunk, p.data); err != nil {
		return err
	}
	b.insert = append(b.insert, p.chunk)
	return to.Set(indexKey(b.h.number, p.chunk), p.encode())
}

// putGone adds an entry for what damage took. It counts as put and dropped at once.
func (b *refill) putGone(rec *Record) error {
	b.ledger.Gen++
	c := chunk{kind: lost, count: uint32(rec.Gone.Count), first: rec.Offset, last: rec.Gone.To - 1, to: rec.Gone.To, gen: b.ledger.Gen}
	b.ledger.Put += rec.Gone.Count
	b.ledger.Dropped[DroppedDamaged] += rec.Gone.Count
	b.insert = append(b.insert, c)
	return b.Set(indexKey(b.h.number, c), c.encode())
}

func setPieces(to setter, number uint32, c chunk, data []byte) error {
	for n := range c.pieces() {
		piece := data[n*pieceSize : min(len(data), (n+1)*pieceSize)]
		if err := to.Set(chunkKey(number, c.first, n), piece); err != nil {
			return err
		}
	}
	return nil
}

// drop removes a chunk from the backlog.
func (b *refill) drop(c chunk) error {
	b.remove = append(b.remove, c)
	return b.erase(c)
}

// erase removes a chunk from Badger. Of a large one only the entry changes at first, so that a crash
// leaves what load removes.
func (b *refill) erase(c chunk) error {
	if c.kind != lost && c.size > largeSize {
		c.kind, c.count = partial, 0
		b.after = append(b.after, c)
		return b.Set(indexKey(b.h.number, c), c.encode())
	}
	return deleteChunk(b, b.h.number, c)
}

func deleteChunk(from setter, number uint32, c chunk) error {
	for n := range c.pieces() {
		if err := from.Delete(chunkKey(number, c.first, n)); err != nil {
			return err
		}
	}
	return from.Delete(indexKey(number, c))
}

// failed gives a change up.
func (b *refill) failed(err error) error {
	b.txn.Discard()
	b.r.stale = true
	return gateway.Errorf(writeKind(err), "write reservoir: %w", err)
}

// commit makes the change durable, and then visible.
func (b *refill) commit() (err error) {
	if b.r.full {
		b.txn.Discard()
		return errReadOnly
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("badger panicked: %v", p)
		}
		if err != nil {
			err = b.failed(err)
		}
	}()
	if err := b.Set(holderKey(b.h.number), encodeLedger(b.ledger)); err != nil {
		return err
	}
	if err := b.txn.Commit(); err != nil {
		return err
	}
	b.show()
	s := &series{db: b.r.db}
	defer s.discard()
	for _, c := range b.after {
		if err := deleteChunk(s, b.h.number, c); err != nil {
			return err
		}
	}
	return s.end()
}

// show makes the change in the index.
func (b *refill) show() {
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	h := b.h
	h.ledger, h.dirty = b.ledger, false
	if len(b.remove) > 0 {
		at, _ := h.find(b.remove[0])
		h.chunks = slices.Replace(h.chunks, at, at+len(b.remove), b.insert...)
	} else {
		h.chunks = append(h.chunks, b.insert...)
	}
	for _, c := range b.remove {
		h.bytes -= int64(c.size)
	}
	for _, c := range b.insert {
		h.bytes += int64(c.size)
		b.r.fresh += int64(c.size)
	}
	b.r.holders[h.Name] = h
}

// find is where c is in the index.
func (h *backlog) find(c chunk) (at int, ok bool) {
	at = sort.Search(len(h.chunks), func(i int) bool {
		x := h.chunks[i]
		return x.first > c.first || x.first == c.first && x.kind <= c.kind
	})
	return at, at < len(h.chunks) && h.chunks[at].first == c.first && h.chunks[at].kind == c.kind && h.chunks[at].gen == c.gen
}

// holder is the backlog of that name; a new one is stored with its first batch.
func (r *Reservoir) holder(name string) *backlog {
	if h := r.holders[name]; h != nil {
		return h
	}
	h := &backlog{ledger: ledger{Name: name, Dropped: map[string]uint64{}}}
	for _, other := range r.holders {
		h.number = max(h.number, other.number+1)
	}
	return h
}

// Put stores records, in the order of their offsets, and with them the mark: everything below upTo that
// the holder needs is here. When it returns nil that is on stable storage. Records below the mark that is already
// stored are passed over, so a Put may be repeated, and so are those that the holder is done with by now.
// Many records are several transactions, each with the mark that is right for it, so what a crash
// leaves is a beginning. It fails with ErrInvalid for records out of order or above upTo, with ErrFull
// when the disk has little room left.
func (r *Reservoir) Put(holder string, upTo uint64, records []Record) error {
	if err := checkRecords(holder, upTo, records); err != nil {
		return err
	}
	if err := r.begin(); err != nil {
		return err
	}
	defer r.w.Unlock()
	if err := r.checkFree(); err != nil {
		return err
	}
	h := r.holder(holder)
	skip := sort.Search(len(records), func(i int) bool { return records[i].Offset >= h.Mark && records[i].Offset > h.Done })
	records = records[skip:]
	if len(records) == 0 && upTo <= h.Mark {
		return nil
	}
	if len(records) > 0 { // a backlog must not take the room that it needs to become smaller again
		if err := checkRoom(r.dir, growFree); err != nil {
			return err
		}
	}
	defer r.noteCounts()
	b := r.refill(h)
	p := &packer{}
	if len(records) > 0 {
		p = r.tail(b)
	}
	for i := range records {
		rec := &records[i]
		if rec.Gone.Count > 0 {
			if !p.empty() {
				if err := b.put(p); err != nil {
					return b.failed(err)
				}
				p = &packer{}
			}
			if err := b.putGone(rec); err != nil {
				return b.failed(err)
			}
			continue
		}
		if !p.add(rec) {
			if err := b.put(p); err != nil {
				return b.failed(err)
			}
			if b.full() {
				b.ledger.Mark = rec.Offset
				if err := b.commit(); err != nil {
					return err
				}
				b = r.refill(h)
			}
			p = &packer{}
			p.add(rec)
		}
		b.ledger.Put++
	}
	if !p.empty() {
		if err := b.put(p); err != nil {
			return b.failed(err)
		}
	}
	b.ledger.Mark = max(upTo, h.Mark)
	return b.commit()
}

func checkRecords(holder string, upTo uint64, records []Record) error {
	if holder == "" || len(holder) > maxBucket {
		return gateway.Errorf(gateway.ErrInvalid, "a holder's name of %d bytes; 1 to %d are possible", len(holder), maxBucket)
	}
	for i, rec := range records {
		switch {
		case i > 0 && rec.Offset <= records[i-1].Offset:
			return gateway.Errorf(gateway.ErrInvalid, "offset %d after %d", rec.Offset, records[i-1].Offset)
		case rec.Offset >= upTo:
			return gateway.Errorf(gateway.ErrInvalid, "offset %d is not below %d", rec.Offset, upTo)
		case rec.Gone.Count > 0 && (rec.Gone.To <= rec.Offset || rec.Gone.To > upTo || rec.Gone.Count > math.MaxUint32):
			return gateway.Errorf(gateway.ErrInvalid, "%d events that are gone, from offset %d to %d", rec.Gone.Count, rec.Offset, rec.Gone.To)
		case len(rec.Epoch) > maxEpoch || len(rec.Body) > maxRecord:
			return gateway.Errorf(gateway.ErrInvalid, "an epoch of %d and a body of %d bytes; %d and %d are possible", len(rec.Epoch), len(rec.Body), maxEpoch, maxRecord)
		}
	}
	return nil
}

// tail is a packer that goes on with the last chunk if that is small, so that many small puts do not
// leave many small chunks.
func (r *Reservoir) tail(b *refill) *packer {
	if len(b.h.chunks) == 0 {
		return &packer{}
	}
	c := b.h.chunks[len(b.h.chunks)-1]
	if c.kind != stored || c.size > pieceSize/2 {
		return &packer{}
	}
	data, err := loadChunk(b.txn, b.h.number, c)
	if err != nil {
		return &packer{} // whoever reads it finds out
	}
	p, err := resume(b.h.number, c, data)
	if err != nil {
		return &packer{}
	}
	b.remove = append(b.remove, c) // its keys are written again
	return p
}

// loadChunk reads a chunk's bytes.
func loadChunk(txn *badger.Txn, number uint32, c chunk) ([]byte, error) {
	data := make([]byte, 0, c.size)
	for n := range c.pieces() {
		item, err := txn.Get(chunkKey(number, c.first, n))
		if err == nil {
			err = item.Value(func(b []byte) error { data = append(data, b...); return nil })
		}
		if err != nil {
			return nil, errors.Join(errDamagedChunk, err)
		}
	}
	return data, nil
}
