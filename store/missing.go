package store

import (
	"errors"
	"os"

	"github.com/weir-iot/weir/gateway"
)

// Missing is how many events with from <= offset < to that match want were stored and cannot be read
// any more. Only the index of a segment knows, which is a file of its own; sure is false where there is
// none, or where it does not know the topics, and then n is a lower bound. A segment with several
// damaged stretches has its missing events given to the first of them, as many as it has room for. Where
// one of them lies across from or to, nobody knows on which side its events were: then too n is a lower bound.
func (j *Journal) Missing(from, to uint64, want gateway.Matcher) (n uint64, sure bool) {
	sure = true
	segs := *j.segs.Load()
	for i := max(0, segmentOf(segs, from)); i < len(segs) && segs[i].first < to; i++ {
		next := j.next.Load()
		if i+1 < len(segs) {
			next = segs[i+1].first
		}
		m, ok := j.missingIn(segs[i], next, from, to, want)
		n, sure = n+m, sure && ok
	}
	return n, sure
}

// stretch is from <= offset < to.
type stretch struct{ from, to uint64 }

func (j *Journal) missingIn(s *segment, next, from, to uint64, want gateway.Matcher) (n uint64, sure bool) {
	count, exact := j.indexed(s, want)
	if !exact {
		return 0, false
	}
	left, sure := int64(count), true
	holes := []stretch{}
	at := s.first
	v, err := j.view(s, next)
	if v == nil || errors.Is(err, os.ErrNotExist) { // nothing of it is left
		holes = append(holes, stretch{s.first, next})
	} else {
		r := reading{Journal: j, want: want, memo: map[string]bool{}}
		err = j.walk(s, v, segData, 0, next, func(fr *frame, skipped bool) bool {
			if skipped {
				holes = append(holes, stretch{at, fr.offset})
			}
			if at = fr.offset + 1; fr.pos >= 0 && fr.kind == gateway.Data && r.matches(fr) {
				left--
			}
			return fr.pos >= 0
		})
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, false
	}
	for _, h := range holes {
		here := min(max(left, 0), int64(h.to-h.from))
		left -= here
		if h.from < to && h.to > from && here > 0 {
			outside := int64(h.to-h.from) - int64(min(h.to, to)-max(h.from, from))
			n += uint64(max(here-outside, 0))
			sure = sure && outside == 0
		}
	}
	return n, sure
}

// Start is the first offset of the segment that offset lies in, or will; indexed says that what the segment
// held is known from its index, whatever can still be read of it.
func (j *Journal) Start(offset uint64) (first uint64, indexed bool) {
	segs := *j.segs.Load()
	i := segmentOf(segs, offset)
	if i < 0 {
		return offset, false
	}
	_, indexed = j.indexed(segs[i], everything{})
	return segs[i].first, indexed
}

type everything struct{}

func (everything) Match(string) bool { return true }

// indexed is how many matching events s had when it was sealed, by its index as it was written then.
func (j *Journal) indexed(s *segment, want gateway.Matcher) (count uint64, exact bool) {
	if !s.sealed.Load() {
		return 0, false
	}
	x := s.index.Load()
	if x == nil && s.header.Load() != nil {
		x, _ = j.readIndex(s)
	}
	if x == nil {
		return 0, false
	}
	_, _, count, exact = x.span(want)
	return count, exact
}
