package store

import (
	"math"
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

// stepChunks is what one call of Shrink does at most: so many chunks, or their usual bytes, but one at least, are
// read, or removed, and one transaction is committed.
const stepChunks = 64

// planChunks bounds the plan of a thinning: twice as many chunks are in it at most, which is about 4 MB. What goes of a larger
// backlog goes by several plans.
const planChunks = 32 << 10

// Shrink brings a backlog that is over maxBytes under it, as p says. It does so in steps: a call does a bounded part of it
// and tells whether there is more to do, and then it is called again with the same p and maxBytes. Between
// the calls anything may happen to the backlog, and a crash leaves what the steps before it did. now is on the clock
// of Record.Age, and not before any of them. What is not after offset `after` is in flight and stays; so may what shares
// a chunk of 8 KiB with it.
//
// Thinning aims at nine tenths, so that it is not needed at every put, and goes from the oldest on, so that
// no more goes than has to. Where its plan is used up before that (much was put meanwhile), it ends as soon as maxBytes is kept, because
// a new plan reads the whole backlog. If the steps of p leave too much, resolution is halved until it fits (newThinner): it is
// detail that is lost, not all that is old. If the latest of each key is still too much, the oldest go.
func (r *Reservoir) Shrink(holder string, after uint64, p Policy, maxBytes, now int64) (more bool, err error) {
	if err := r.begin(); err != nil {
		return false, err
	}
	defer r.w.Unlock()
	h := r.holders[holder]
	if h == nil || p.Mode == Reject {
		return false, nil
	}
	if h.thinning != nil && !h.thinning.is(p, maxBytes) {
		h.thinning = nil
	}
	if h.thinning == nil && h.bytes <= maxBytes {
		if r.swapping == nil {
			return false, nil
		}
		return r.swap()
	}
	if err := r.checkFree(); err != nil {
		return false, err
	}
	switch p.Mode {
	case Thin:
		more, err = r.thin(h, after, p, maxBytes, now)
	case DropOldest:
		more, err = r.dropOldest(h, after, maxBytes)
	case DropNewest:
		more, err = r.dropNewest(h, after, maxBytes)
	default:
		return false, gateway.Errorf(gateway.ErrInvalid, "policy %q; %s, %s, %s and %s are possible", p.Mode, Thin, DropOldest, DropNewest, Reject)
	}
	if more && err == nil {
		return true, nil
	}
	h.thinning = nil
	if err != nil {
		return false, err
	}
	return r.swap()
}

// movable is from where on Shrink may touch chunks.
func (h *backlog) movable(after uint64) int {
	return sort.Search(len(h.chunks), func(i int) bool { return h.chunks[i].first > max(after, h.Done) })
}

// within tells whether a step that has done so much may do more.
func (r *Reservoir) within(chunks int, bytes int64) bool {
	return chunks == 0 || chunks < r.stepChunks && bytes < int64(r.stepChunks)*pieceSize
}

// dropOldest is one step, as the others are.
func (r *Reservoir) dropOldest(h *backlog, after uint64, target int64) (more bool, err error) {
	from := h.movable(after)
	for from < len(h.chunks) && h.chunks[from].kind != stored { // a lost one stays, until readers passed it
		from++
	}
	to, bytes := from, int64(0)
	for to < len(h.chunks) && h.chunks[to].kind == stored && h.bytes-bytes > target && r.within(to-from, bytes) {
		bytes += int64(h.chunks[to].size)
		to++
	}
	return r.drop(h, h.chunks[from:to], DroppedOldest, target)
}

func (r *Reservoir) dropNewest(h *backlog, after uint64, target int64) (more bool, err error) {
	end, to := h.movable(after), len(h.chunks)
	for to > end && h.chunks[to-1].kind != stored {
		to--
	}
	from, bytes := to, int64(0)
	for from > end && h.chunks[from-1].kind == stored && h.bytes-bytes > target && r.within(to-from, bytes) {
		from--
		bytes += int64(h.chunks[from].size)
	}
	return r.drop(h, h.chunks[from:to], DroppedNewest, target)
}

// drop removes chunks that lie next to each other.
func (r *Reservoir) drop(h *backlog, chunks []chunk, reason string, target int64) (more bool, err error) {
	if len(chunks) == 0 {
		return false, nil
	}
	b := r.refill(h)
	for _, c := range chunks {
		if err := b.drop(c); err != nil {
			return false, b.failed(err)
		}
		b.ledger.Dropped[reason] += uint64(c.count)
	}
	if err := b.commit(); err != nil {
		return false, err
	}
	r.noteCounts()
	return h.bytes > target, nil
}

// thinning is one that is under way. Chunks are looked at from the newest to the oldest, which makes a plan of what
// goes; then the plan is carried out from the oldest on. What it says of a chunk that is not there any more, or
// was written again, is passed over.
type thinning struct {
	p        Policy
	maxBytes int64
	keep     []Step

	halvings int
	thinner  *thinner
	before   uint64 // chunks that begin at or after this offset were looked at
	bytes    int64  // what goes, about
	plan     []doomed
	cut      bool // the plan is for the oldest only of those of which something goes
	short    bool // no plan is enough
	phase    phase
}

type phase int

const (
	planning phase = iota
	carrying       // the plan out
	dropping       // the oldest
)

// doomed tells which records of a chunk go.
type doomed struct {
	first, gen uint64
	going      bitmap
}

type bitmap []byte

func (b bitmap) set(n int)      { b[n/8] |= 1 << (n % 8) }
func (b bitmap) has(n int) bool { return n/8 < len(b) && b[n/8]&(1<<(n%8)) != 0 }

func (t *thinning) is(p Policy, maxBytes int64) bool {
	return t.p.Mode == p.Mode && slices.Equal(t.p.Keep, p.Keep) && t.maxBytes == maxBytes
}

// begin begins a plan with so many halvings, or with the next more that make a difference.
func (t *thinning) begin(halvings int, oldest, now int64) {
	if all := t.keep[0].Every == 0 && !t.keep[0].Latest; all { // nothing is that old
		for halvings < maxHalvings && time.Duration(now-oldest)*time.Millisecond < t.keep[0].For>>halvings {
			halvings++
		}
	}
	t.halvings, t.thinner, t.before = halvings, newThinner(t.keep, now, halvings), math.MaxUint64
	t.bytes, t.plan, t.cut, t.phase = 0, t.plan[:0], false, planning
}

func (r *Reservoir) thin(h *backlog, after uint64, p Policy, maxBytes, now int64) (more bool, err error) {
	target := maxBytes * 9 / 10
	oldest := h.movable(after)
	if oldest == len(h.chunks) {
		return false, nil
	}
	t := h.thinning
	if t == nil {
		t = &thinning{p: p, maxBytes: maxBytes, keep: p.Keep}
		if len(t.keep) == 0 {
			t.keep = defaultKeep
		}
		h.thinning = t
		t.begin(0, h.chunks[oldest].firstAge, now)
	}
	switch t.phase {
	case planning:
		all, err := r.plan(h, t, oldest)
		switch {
		case err != nil:
			return false, err
		case h.bytes <= maxBytes: // enough was released meanwhile
			return false, nil
		case !all:
		case h.bytes-t.bytes > target && t.halvings < maxHalvings:
			t.begin(t.halvings+1, h.chunks[oldest].firstAge, now)
		default:
			t.phase, t.short = carrying, h.bytes-t.bytes > target
		}
		return true, nil
	case carrying:
		if err := r.carry(h, t, after, target); err != nil {
			return false, err
		}
		oldest = h.movable(after)
		switch {
		case oldest == len(h.chunks):
			return false, nil
		case h.bytes <= target || len(t.plan) == 0 && h.bytes <= maxBytes:
			return false, nil
		case len(t.plan) > 0:
		case t.short && !t.cut:
			t.phase = dropping
		default: // there is more to it than the plan had, or so much was put meanwhile
			t.begin(t.halvings, h.chunks[oldest].firstAge, now)
		}
		return true, nil
	}
	return r.dropOldest(h, after, target)
}

// plan goes on with the plan, down to the chunk at oldest. It tells whether it is there.
func (r *Reservoir) plan(h *backlog, t *thinning, oldest int) (all bool, err error) {
	type seen struct {
		key  uint64
		age  int64
		size int
	}
	var records []seen
	at := sort.Search(len(h.chunks), func(i int) bool { return h.chunks[i].first >= t.before })
	err = r.db.View(func(txn *badger.Txn) error {
		for n, bytes := 0, int64(0); at > oldest && r.within(n, bytes); n++ {
			at--
			c := h.chunks[at]
			bytes += int64(c.size)
			t.before = c.first
			records = records[:0]
			err := eachRecord(txn, h, c, func(rec *Record) bool {
				records = append(records, seen{rec.Key, rec.Age, len(rec.Body) + 14})
				return true
			})
			if err != nil {
				continue // it stays as it is, until it is read
			}
			var going bitmap
			for n, s := range slices.Backward(records) {
				if !t.thinner.keep(t.keep, s.key, s.age) {
					if going == nil {
						going = make(bitmap, (len(records)+7)/8)
					}
					going.set(n)
					t.bytes += int64(s.size)
				}
			}
			if going == nil {
				continue
			}
			if len(t.plan) == 2*r.planChunks {
				copy(t.plan, t.plan[r.planChunks:])
				clear(t.plan[r.planChunks:])
				t.plan, t.cut = t.plan[:r.planChunks], true
			}
			t.plan = append(t.plan, doomed{c.first, c.gen, going})
		}
		return nil
	})
	return at <= oldest, err
}

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

// next takes the oldest chunk out of the plan that is still there, and what follows it in the index.
func (t *thinning) next(h *backlog, after uint64) []chunk {
	for n := len(t.plan) - 1; n >= 0; n-- {
		d := t.plan[n]
		if at, ok := h.find(chunk{kind: stored, first: d.first, gen: d.gen}); ok && d.first > max(after, h.Done) {
			return h.chunks[at:]
		}
		t.plan = t.plan[:n]
	}
	return nil
}

// going is what the plan says of c, the next chunk there is.
func (t *thinning) going(c chunk) bitmap {
	for n := len(t.plan) - 1; n >= 0 && t.plan[n].first <= c.first; n-- {
		d := t.plan[n]
		t.plan = t.plan[:n]
		if d.first == c.first && d.gen == c.gen {
			return d.going
		}
	}
	return nil
}

// carry removes what goes by the plan, from the oldest on, until the backlog is down to target. What stays of
// neighbours is put together again.
func (r *Reservoir) carry(h *backlog, t *thinning, after uint64, target int64) error {
	b, p, left, read := r.refill(h), &packer{}, h.bytes, int64(0)
	for i, c := range t.next(h, after) {
		if b.full() || left <= target || !r.within(i, read) {
			break
		}
		going := t.going(c)
		if c.kind != stored || going == nil && (p.empty() || c.size > pieceSize/2) {
			break
		}
		read += int64(c.size)
		n := 0
		var failed error
		err := eachRecord(b.txn, h, c, func(rec *Record) bool {
			if n == 0 {
				if failed = b.drop(c); failed != nil {
					return false
				}
				left -= int64(c.size)
			}
			if going.has(n) {
				b.ledger.Dropped[DroppedThinned]++
			} else if !p.add(rec) {
				left += int64(len(p.data))
				if failed = b.put(p); failed != nil {
					return false
				}
				p = &packer{}
				p.add(rec)
			}
			n++
			return true
		})
		if failed != nil {
			return b.failed(failed)
		}
		if err != nil && n > 0 { // this build does not know its form: nothing of it is counted yet
			b.txn.Discard()
			return nil
		}
		if err != nil { // it stays as it is, until it is read
			break
		}
	}
	if len(b.remove) == 0 {
		b.txn.Discard()
		return nil
	}
	if !p.empty() {
		if err := b.put(p); err != nil {
			return b.failed(err)
		}
	}
	if err := b.commit(); err != nil {
		return err
	}
	r.noteCounts()
	return nil
}
