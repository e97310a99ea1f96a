package store

import (
	"slices"
	"sort"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

// The modes of a Policy.
const (
	Thin       = "thin"
	DropOldest = "drop-oldest"
	DropNewest = "drop-newest"
	Reject     = "reject"
)

// defaultKeep is for a policy that thins and does not say how: every record for a day, one a minute for
// two weeks, then the latest.
var defaultKeep = []Step{{For: 24 * time.Hour}, {For: 14 * 24 * time.Hour, Every: time.Minute}, {Latest: true}}

// Shrink brings a backlog that is over maxBytes under it, as p says. now is on the clock of Record.Age. What
// is not after offset `after` is in flight and stays; so may what shares a chunk of 8 KiB with it.
//
// Thinning goes down to nine tenths, so that it is not needed at every put, and from the oldest on, so that
// no more goes than has to. If the steps leave too much, resolution is halved until it fits (newThinner): it is
// detail that is lost, not all that is old. If the latest of each key is still too much, the oldest go.
func (r *Reservoir) Shrink(holder string, after uint64, p Policy, maxBytes, now int64) error {
	if err := r.begin(); err != nil {
		return err
	}
	defer r.w.Unlock()
	h := r.holders[holder]
	if h == nil || h.bytes <= maxBytes || p.Mode == Reject {
		return nil
	}
	if err := r.checkFree(); err != nil {
		return err
	}
	defer r.noteCounts()
	var err error
	switch p.Mode {
	case Thin:
		if len(p.Keep) == 0 {
			p.Keep = defaultKeep
		}
		if err = r.thin(h, after, p.Keep, maxBytes*9/10, now); err == nil && h.bytes > maxBytes {
			err = r.dropOldest(h, after, maxBytes*9/10)
		}
	case DropOldest:
		err = r.dropOldest(h, after, maxBytes)
	case DropNewest:
		err = r.dropNewest(h, after, maxBytes)
	default:
		return gateway.Errorf(gateway.ErrInvalid, "policy %q; %s, %s, %s and %s are possible", p.Mode, Thin, DropOldest, DropNewest, Reject)
	}
	if err != nil {
		return err
	}
	return r.swap()
}

// movable are the chunks that Shrink may touch.
func (h *backlog) movable(after uint64) []chunk {
	at := sort.Search(len(h.chunks), func(i int) bool { return h.chunks[i].first > max(after, h.Done) })
	return slices.Clone(h.chunks[at:])
}

func (r *Reservoir) dropOldest(h *backlog, after uint64, target int64) error {
	chunks, left, n := h.movable(after), h.bytes, 0
	for ; n < len(chunks) && left > target; n++ {
		left -= int64(chunks[n].size)
	}
	return r.drop(h, chunks[:n], DroppedOldest)
}

func (r *Reservoir) dropNewest(h *backlog, after uint64, target int64) error {
	chunks, left := h.movable(after), h.bytes
	n := len(chunks)
	for ; n > 0 && left > target; n-- {
		left -= int64(chunks[n-1].size)
	}
	return r.drop(h, chunks[n:], DroppedNewest)
}

// drop removes what is stored of chunks that lie next to each other.
func (r *Reservoir) drop(h *backlog, chunks []chunk, reason string) error {
	for len(chunks) > 0 {
		b := r.refill(h)
		n := 0
		for n < len(chunks) && !b.full() && chunks[n].kind == stored {
			if err := b.drop(chunks[n]); err != nil {
				return b.failed(err)
			}
			b.ledger.Dropped[reason] += uint64(chunks[n].count)
			n++
		}
		if n == 0 { // a lost one stays, until readers passed it
			b.txn.Discard()
			n = 1
		} else if err := b.commit(); err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}

// thin finds the fewest halvings with which the backlog comes down to target, and applies them.
func (r *Reservoir) thin(h *backlog, after uint64, keep []Step, target, now int64) error {
	chunks := h.movable(after)
	if len(chunks) == 0 {
		return nil
	}
	for halvings := 0; ; halvings++ {
		if all := keep[0].Every == 0 && !keep[0].Latest; all && halvings < maxHalvings &&
			time.Duration(now-chunks[0].firstAge)*time.Millisecond < keep[0].For>>halvings {
			continue // nothing is that old
		}
		going, bytes, err := r.plan(h, chunks, newThinner(keep, now, halvings), keep)
		if err != nil {
			return err
		}
		if h.bytes-bytes <= target || halvings == maxHalvings {
			return r.apply(h, chunks, going, target)
		}
	}
}

// plan tells which records of each chunk go, a bit for each, and how many bytes that makes.
func (r *Reservoir) plan(h *backlog, chunks []chunk, t *thinner, keep []Step) (going []bitmap, bytes int64, err error) {
	going = make([]bitmap, len(chunks))
	type seen struct {
		key  uint64
		age  int64
		size int
	}
	var records []seen
	err = r.db.View(func(txn *badger.Txn) error {
		for i, c := range slices.Backward(chunks) {
			records = records[:0]
			err := eachRecord(txn, h, c, func(rec *Record) bool {
				records = append(records, seen{rec.Key, rec.Age, len(rec.Body) + 14})
				return true
			})
			if err != nil {
				continue // it stays as it is, until it is read
			}
			for n, s := range slices.Backward(records) {
				if !t.keep(keep, s.key, s.age) {
					if going[i] == nil {
						going[i] = make(bitmap, (len(records)+7)/8)
					}
					going[i].set(n)
					bytes += int64(s.size)
				}
			}
		}
		return nil
	})
	return going, bytes, err
}

type bitmap []byte

func (b bitmap) set(n int)      { b[n/8] |= 1 << (n % 8) }
func (b bitmap) has(n int) bool { return n/8 < len(b) && b[n/8]&(1<<(n%8)) != 0 }

func eachRecord(txn *badger.Txn, h *backlog, c chunk, fn func(*Record) bool) error {
	if c.kind != stored {
		return nil
	}
	data, err := loadChunk(txn, h.number, c)
	if err != nil {
		return err
	}
	return decodeChunk(h.number, c.first, data, fn)
}

// apply removes what goes, from the oldest on, until the backlog is down to target. What stays of
// neighbours is put together again.
func (r *Reservoir) apply(h *backlog, chunks []chunk, going []bitmap, target int64) error {
	b, p, left := r.refill(h), &packer{}, h.bytes
	end := func() error {
		if len(b.remove) == 0 {
			b.txn.Discard()
		} else {
			if !p.empty() {
				if err := b.put(p); err != nil {
					return b.failed(err)
				}
			}
			if err := b.commit(); err != nil {
				return err
			}
		}
		b, p, left = r.refill(h), &packer{}, h.bytes
		return nil
	}
	for i, c := range chunks {
		if going[i] == nil && (p.empty() || c.size > pieceSize/2) || c.kind != stored {
			if err := end(); err != nil {
				return err
			}
			continue
		}
		if left <= target && p.empty() {
			break
		}
		n := 0
		var perr error
		err := eachRecord(b.txn, h, c, func(rec *Record) bool {
			if n == 0 {
				if perr = b.drop(c); perr != nil {
					return false
				}
				left -= int64(c.size)
			}
			if going[i].has(n) {
				b.ledger.Dropped[DroppedThinned]++
			} else if !p.add(rec) {
				left += int64(len(p.data))
				if perr = b.put(p); perr != nil {
					return false
				}
				p = &packer{}
				p.add(rec)
			}
			n++
			return true
		})
		if perr != nil {
			return b.failed(perr)
		}
		if err != nil || b.full() || left <= target {
			if err := end(); err != nil {
				return err
			}
		}
	}
	return end()
}
