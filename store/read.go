package store

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"

	"github.com/weir-iot/weir/gateway"
)

const (
	readStretch = 256 << 10 // bytes that one Read looks at, about
	skipCost    = 2 << 10   // what passing a segment by its index counts as
	lastScan    = 64 << 20  // bytes that one Last looks at
	lastBytes   = 16 << 20  // bytes of events that one Last returns
)

func (j *Journal) oldest(segs []*segment) uint64 {
	if len(segs) == 0 {
		return j.next.Load()
	}
	return segs[0].first
}

// Resume is part of [gateway.Log]. The zero position is before the first event there is.
func (j *Journal) Resume(after gateway.Position) (uint64, *gateway.Gap) {
	limit := j.visible.Load()
	oldest := min(j.oldest(*j.segs.Load()), limit)
	if after == (gateway.Position{}) {
		return oldest, nil
	}
	gap := func(from, to uint64, reason string) *gateway.Gap {
		return &gateway.Gap{Asked: after, From: from, To: to, Reason: reason}
	}
	j.mu.Lock()
	epochs := j.table.epochs
	j.mu.Unlock()
	i := slices.IndexFunc(epochs, func(e epoch) bool { return e.name == after.Epoch })
	from := after.Offset + 1
	switch {
	case i < 0, i == len(epochs)-1 && from > limit:
		return oldest, gap(0, oldest, gateway.GapUnknown)
	case i < len(epochs)-1 && after.Offset > epochs[i].last:
		next := epochs[i+1].first
		reason := gateway.GapLost
		if !epochs[i].lost { // this journal never had it; a clone or an older copy of it may have
			reason = gateway.GapUnknown
		}
		return next, gap(epochs[i].last+1, next, reason)
	}
	for from < oldest { // there is no segment any more, or there never was one
		end, reason := j.before(from, oldest)
		if reason != "" {
			return end, gap(from, end, reason)
		}
		from = end
	}
	return from, nil
}

// before is hole in front of the oldest segment.
func (j *Journal) before(from, oldest uint64) (end uint64, reason string) {
	end, reason = j.hole(from, oldest)
	if reason == gateway.GapDamaged {
		reason = gateway.GapTrimmed
	}
	return end, reason
}

// hole says why nothing is at from, and where that ends, at most at to. An empty
// reason says that no entry was ever there.
func (j *Journal) hole(from, to uint64) (end uint64, reason string) {
	j.mu.Lock()
	epochs := j.table.epochs
	j.mu.Unlock()
	for i := range epochs[:len(epochs)-1] {
		lost, next := epochs[i].last+1, epochs[i+1].first
		switch {
		case from < lost:
			return min(to, lost), gateway.GapDamaged
		case from < next && epochs[i].lost:
			return min(to, next), gateway.GapLost
		case from < next:
			return min(to, next), ""
		}
	}
	return to, gateway.GapDamaged
}

// Read is part of [gateway.Log].
func (j *Journal) Read(from uint64, want gateway.Matcher, max int) (gateway.Batch, error) {
	limit := j.visible.Load() // before segs: so what it bounds is in them
	segs := *j.segs.Load()
	r := reading{Journal: j, segs: segs, limit: limit, want: want, max: max, budget: readStretch, memo: map[string]bool{}}
	r.b.Next = from
	if from == 0 {
		r.b.Next = min(j.oldest(segs), limit)
	}
	for !r.stop && r.b.Next < limit && r.budget > 0 && len(r.b.Events) < max {
		if err := r.lostFile(r.step()); err != nil {
			return gateway.Batch{Next: from}, err
		}
	}
	return r.b, nil
}

// lostFile passes a segment whose file is gone: because it was let go of meanwhile, or because
// somebody deleted it.
func (r *reading) lostFile(err error) error {
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	at := segmentOf(r.segs, r.b.Next)
	if at < 0 {
		return err
	}
	if !r.listed(r.segs[at]) {
		r.segs = *r.Journal.segs.Load()
		return nil
	}
	bound := r.limit
	if at+1 < len(r.segs) {
		bound = min(bound, r.segs[at+1].first)
	}
	r.gap(r.hole(r.b.Next, bound))
	return nil
}

// reading is one Read.
type reading struct {
	*Journal
	segs   []*segment
	limit  uint64
	want   gateway.Matcher
	max    int
	budget int
	memo   map[string]bool // topics seen, and whether they match
	b      gateway.Batch
	stop   bool // the batch ends here
}

// gap notes that nothing can be read from b.Next to to. A batch has room for one gap,
// before its events; else it ends here and the next begins with it.
func (r *reading) gap(to uint64, reason string) bool {
	if to <= r.b.Next {
		return true
	}
	if reason != "" {
		if r.b.Gap != nil || len(r.b.Events) > 0 {
			r.stop = true
			return false
		}
		r.b.Gap = &gateway.Gap{From: r.b.Next, To: to, Reason: reason}
		if reason == gateway.GapDamaged {
			r.tellDamaged(*r.b.Gap)
		}
	}
	r.b.Next = to
	return true
}

func (j *Journal) tellDamaged(gap gateway.Gap) {
	if j.damaged.Add(1) == 1 {
		j.log.Error("the journal is damaged: entries cannot be read", "from", gap.From, "to", gap.To)
	}
	j.o.Observer.Damaged(gap)
}

// step reads on in the segment that holds b.Next, to its end if nothing stops it.
func (r *reading) step() error {
	i := segmentOf(r.segs, r.b.Next)
	bound := r.limit
	if i+1 < len(r.segs) {
		bound = min(bound, r.segs[i+1].first)
	}
	if i < 0 {
		r.gap(r.before(r.b.Next, bound))
		return nil
	}
	s := r.segs[i]
	v, err := r.view(s, bound)
	if err != nil {
		return err
	}
	if v == nil || r.b.Next >= v.next {
		r.gap(r.hole(r.b.Next, bound))
		return nil
	}
	if v.index != nil {
		first, last, count, exact := v.index.span(r.want)
		if exact && (count == 0 || last < r.b.Next) {
			r.budget -= skipCost
			r.b.Next = min(v.next, r.limit)
			return nil
		}
		if exact {
			r.b.Next = min(max(r.b.Next, first), r.limit)
		}
	}
	pos, ok := r.hints.take(s, r.b.Next)
	if !ok {
		pos = lookup(v.places, r.b.Next)
	}
	return r.walk(s, v, pos, r.b.Next, r.limit, func(fr *frame, skipped bool) bool {
		if skipped && !r.gap(fr.offset, gateway.GapDamaged) {
			return false
		}
		if fr.offset >= r.limit {
			r.b.Next = r.limit
			return false
		}
		if fr.pos < 0 { // the end; what is missing there is told
			r.b.Next = fr.offset
			return false
		}
		if fr.kind == gateway.Data {
			e, err := r.match(v, fr)
			if err != nil {
				if r.b.Next = fr.offset; !r.gap(fr.offset+1, gateway.GapDamaged) {
					return false
				}
			}
			if e != nil {
				r.b.Events = append(r.b.Events, e)
			}
		}
		r.b.Next = fr.offset + 1
		r.budget -= int(fr.size)
		if len(r.b.Events) >= r.max || r.budget <= 0 {
			r.hints.put(s, r.b.Next, fr.pos+fr.size)
			return false
		}
		return true
	})
}

func (r *reading) match(v *view, fr *frame) (*gateway.Event, error) {
	topic, err := bodyTopic(fr.body)
	if err != nil {
		return nil, err
	}
	match, known := r.memo[string(topic)]
	if !known {
		match = r.want.Match(string(topic))
		r.memo[string(topic)] = match
	}
	if !match {
		return nil, nil
	}
	return fr.event(v.header.epoch)
}

// segmentOf is the place of the segment that offset belongs to, or -1.
func segmentOf(segs []*segment, offset uint64) int {
	return sort.Search(len(segs), func(i int) bool { return segs[i].first > offset }) - 1
}

// view is what is needed to walk over a segment.
type view struct {
	header *segHeader
	index  *index // nil for the active segment
	places []place
	end    int64
	next   uint64 // the offset behind what is there
}

// view returns nil if nothing of s can be read. bound is the first offset of the segment behind it.
func (j *Journal) view(s *segment, bound uint64) (*view, error) {
	h, err := j.headerOf(s)
	if h == nil {
		return nil, err
	}
	if !s.sealed.Load() {
		s.mu.Lock()
		places := s.places
		s.mu.Unlock()
		return &view{header: h, places: places, end: s.end.Load(), next: bound}, nil
	}
	x, err := j.indexOf(s)
	if err != nil {
		return nil, err
	}
	return &view{header: h, index: x, places: x.places, end: x.end, next: min(x.next, bound)}, nil
}

// headerOf returns nil if the header of s cannot be read.
func (j *Journal) headerOf(s *segment) (*segHeader, error) {
	if h := s.header.Load(); h != nil {
		return h, nil
	}
	f, err := j.files.get(s)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer j.files.put(s)
	h, err := readSegHeader(f, s.first)
	if err != nil {
		return nil, nil
	}
	s.header.Store(&h)
	return &h, nil
}

// indexOf returns the index of a sealed segment, from memory, from its file, or made again
// by a scan.
func (j *Journal) indexOf(s *segment) (*index, error) {
	if x := j.indexes.use(s); x != nil {
		return x, nil
	}
	s.load.Lock()
	defer s.load.Unlock()
	if x := s.index.Load(); x != nil {
		return x, nil
	}
	x, err := j.readIndex(s)
	if err != nil {
		f, err := j.files.get(s)
		if err != nil {
			return nil, err
		}
		defer j.files.put(s)
		size, err := f.Size()
		if err != nil {
			return nil, err
		}
		tl := scanTail(s, f, size, *s.header.Load())
		x = tl.build.finish(max(tl.next, j.lastOf(s)+1), tl.used)
		if tl.used == tl.end {
			x.next = tl.next
		}
		j.log.Info("made the index of a segment again", "path", s.path)
		if err := j.writeIndex(s, x); err != nil {
			j.log.Warn("cannot write the index of a segment; it will be made again when needed", "path", s.path, "error", err)
		}
	}
	s.index.Store(x)
	j.indexes.use(s)
	return x, nil
}

// lastOf is the last offset that can have been in s.
func (j *Journal) lastOf(s *segment) uint64 {
	segs := *j.segs.Load()
	last := j.next.Load() - 1
	if i := segmentOf(segs, s.first); i+1 < len(segs) {
		last = segs[i+1].first - 1
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if i := j.table.find(s.header.Load().epoch); i >= 0 {
		last = min(last, j.table.epochs[i].last)
	}
	return last
}

// walk calls fn for each intact frame of s with an offset from from on, from byte pos on, until
// it returns false. skipped says that before it, behind from or the frame before,
// something is damaged. After the last frame fn is called once more with pos -1 and the
// offset behind.
func (j *Journal) walk(s *segment, v *view, pos int64, from, limit uint64, fn func(fr *frame, skipped bool) bool) error {
	f, err := j.files.get(s)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	defer j.files.put(s)
	sc := newScanner(f, v.header.salt.seed(), pos, v.end)
	sc.buf = j.files.buffer()
	defer func() { j.files.giveBuffer(sc.buf) }()
	for {
		fr, ok := sc.next()
		if !ok {
			end := frame{header: header{offset: min(v.next, limit)}, pos: -1}
			fn(&end, sc.done < v.end)
			return nil
		}
		if fr.offset < from {
			continue
		}
		if !fn(&fr, fr.skip) {
			return nil
		}
	}
}

// Replay calls fn with every entry from offset from on, Change entries included, up to
// what was released when it was called, and stops at the first error. What is damaged
// is passed and told to the Observer. 0 is the oldest entry there is.
func (j *Journal) Replay(from uint64, fn func(*gateway.Event) error) error {
	limit := j.visible.Load()
	segs := *j.segs.Load()
	expect := from
	for i := max(0, segmentOf(segs, from)); i < len(segs) && segs[i].first < limit; i++ {
		s, bound := segs[i], limit
		if i+1 < len(segs) {
			bound = min(bound, segs[i+1].first)
		}
		if end, reason := j.hole(expect, s.first); i > 0 && expect < s.first && reason == gateway.GapDamaged {
			j.tellDamaged(gateway.Gap{From: expect, To: end, Reason: reason})
		}
		expect = max(expect, s.first)
		v, err := j.view(s, bound)
		if err != nil {
			return err
		}
		if v == nil {
			continue // told as a hole, before the next segment
		}
		var failed error
		err = j.walk(s, v, lookup(v.places, from), from, limit, func(fr *frame, skipped bool) bool {
			if skipped && fr.offset > expect {
				j.tellDamaged(gateway.Gap{From: expect, To: fr.offset, Reason: gateway.GapDamaged})
			}
			if expect = min(fr.offset, limit); fr.pos < 0 || fr.offset >= limit {
				return false
			}
			expect++
			e, err := fr.event(v.header.epoch)
			if err != nil {
				j.tellDamaged(gateway.Gap{From: fr.offset, To: fr.offset + 1, Reason: gateway.GapDamaged})
				return true
			}
			failed = fn(e)
			return failed == nil
		})
		if err = errors.Join(failed, err); err != nil {
			return err
		}
	}
	return nil
}

// Count is how many released events with from <= offset < to match want, with what is damaged, as far as
// Missing knows: what was accepted was accepted. Whole segments are counted by their index.
func (j *Journal) Count(from, to uint64, want gateway.Matcher) (events uint64, err error) {
	limit := min(j.visible.Load(), to)
	segs := *j.segs.Load()
	r := reading{Journal: j, want: want, memo: map[string]bool{}}
	for i := max(0, segmentOf(segs, from)); i < len(segs) && segs[i].first < limit; i++ {
		s, bound := segs[i], limit
		if i+1 < len(segs) {
			bound = min(bound, segs[i+1].first)
		}
		v, err := j.view(s, bound)
		if errors.Is(err, os.ErrNotExist) { // let go of meanwhile
			continue
		}
		if err != nil {
			return 0, err
		}
		if v == nil {
			continue
		}
		if x := v.index; x != nil {
			first, last, count, exact := x.span(want)
			if exact && (count == 0 || last < from) {
				continue
			}
			if exact && first >= from && last < limit {
				events += count
				continue
			}
		}
		at := max(from, s.first)
		err = j.walk(s, v, lookup(v.places, from), from, limit, func(fr *frame, skipped bool) bool {
			if hole := min(fr.offset, limit); skipped && at < hole {
				n, _ := j.Missing(at, hole, want)
				events += n
			}
			at = fr.offset + 1
			if fr.pos < 0 || fr.offset >= limit {
				return false
			}
			if fr.kind == gateway.Data && r.matches(fr) {
				events++
			}
			return true
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
	}
	return events, nil
}

func (r *reading) matches(fr *frame) bool {
	topic, err := bodyTopic(fr.body)
	if err != nil {
		return false
	}
	match, known := r.memo[string(topic)]
	if !known {
		match = r.want.Match(string(topic))
		r.memo[string(topic)] = match
	}
	return match
}

// Last returns the newest n released events that match want, oldest first. It looks back over
// 64 MiB of segments that may hold one, and returns events of 16 MiB, at most.
func (j *Journal) Last(want gateway.Matcher, n int) ([]*gateway.Event, error) {
	limit := j.visible.Load()
	segs := *j.segs.Load()
	r := reading{Journal: j, want: want, memo: map[string]bool{}}
	var newest []*gateway.Event // newest first
	scanned, bytes := int64(0), 0
	for i := len(segs) - 1; i >= 0 && len(newest) < n && scanned < lastScan && bytes < lastBytes; i-- {
		s, bound := segs[i], limit
		if i+1 < len(segs) {
			bound = min(bound, segs[i+1].first)
		}
		v, err := j.view(s, bound)
		if errors.Is(err, os.ErrNotExist) { // let go of meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		var first, last uint64 = 0, limit
		if x := v.index; x != nil {
			f, l, count, exact := x.span(want)
			if exact && count == 0 {
				continue
			}
			if exact {
				first, last = f, l
			}
		}
		// Block by block from the end, each from one known place to the next.
		block := *v
		for k := len(v.places) - 1; k >= 0 && len(newest) < n && scanned < lastScan && bytes < lastBytes; k-- {
			p := v.places[k]
			if p.pos >= v.end {
				continue
			}
			if p.offset <= last {
				var found []*gateway.Event
				err := j.walk(s, &block, p.pos, 0, limit, func(fr *frame, _ bool) bool {
					if fr.pos < 0 || fr.offset >= limit {
						return false
					}
					if fr.kind == gateway.Data {
						if e, err := r.match(v, fr); err == nil && e != nil {
							found = append(found, e)
						}
					}
					return true
				})
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					return nil, err
				}
				for f := len(found) - 1; f >= 0 && len(newest) < n && bytes < lastBytes; f-- {
					newest = append(newest, found[f])
					bytes += found[f].Size()
				}
				scanned += block.end - p.pos
			}
			block.end = p.pos
			if p.offset <= first {
				break
			}
		}
	}
	slices.Reverse(newest)
	return newest, nil
}
