package webhook

import (
	"context"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// refill is how long a batch that is sent again waits for the next of its events. The pump has
// them at hand, unless they have expired.
const refill = time.Second

// gather takes events until there is a batch: one that had no answer, up to the offset where
// it ended then, else a new one within the limits. Events of another route or of a replay may come before
// those that had no answer, so what is more than a batch may have ends at the limits all the same. It is
// empty at the end of the events.
func (l *link) gather(ctx context.Context) ([]item, error) {
	for {
		if len(l.items) == 0 {
			if _, err := l.take(ctx, nil); err != nil {
				return nil, err
			}
			if len(l.items) == 0 {
				return nil, nil
			}
		}
		if len(l.s.cuts) == 0 {
			n, err := l.fill(ctx)
			if err != nil {
				return nil, err
			}
			l.s.cuts = []uint64{l.items[n-1].event.Offset}
		}
		end := l.s.cuts[0]
		for l.items[len(l.items)-1].event.Offset < end && len(l.items) < l.s.c.MaxEvents {
			timeout := time.NewTimer(refill)
			more, err := l.take(ctx, timeout.C)
			timeout.Stop()
			if err != nil {
				return nil, err
			}
			if !more {
				break
			}
		}
		n := 0
		for size := 0; n < min(len(l.items), l.s.c.MaxEvents) && l.items[n].event.Offset <= end; n++ {
			if size = l.s.grow(size, n, l.items[n]); n > 0 && size > l.s.c.MaxBytes {
				break
			}
		}
		if n > 0 {
			last := l.items[n-1].event.Offset
			if n == l.s.c.MaxEvents && last < end || n < len(l.items) && l.items[n].event.Offset <= end {
				l.s.cuts = append([]uint64{last}, l.s.cuts...)
			}
			return l.items[:n:n], nil
		}
		l.s.cuts = l.s.cuts[1:] // nothing of that batch came again
	}
}

// fill takes events up to the limits of a batch, and returns how many of items are in it.
func (l *link) fill(ctx context.Context) (int, error) {
	linger := time.NewTimer(l.s.c.Linger)
	defer linger.Stop()
	n, size := 1, l.s.grow(0, 0, l.items[0])
	for n < l.s.c.MaxEvents {
		if n == len(l.items) {
			if more, err := l.take(ctx, linger.C); err != nil || !more {
				return n, err
			}
		}
		if size = l.s.grow(size, n, l.items[n]); size > l.s.c.MaxBytes {
			break
		}
		n++
	}
	return n, nil
}

// grow is the size of a batch of n items with one more.
func (s *Sink) grow(size, n int, next item) int {
	if n > 0 {
		size += len(s.c.BatchSeparator)
	}
	return size + len(next.body)
}

// take appends the next event to items, or returns false at timeout and at the end of the events.
func (l *link) take(ctx context.Context, timeout <-chan time.Time) (bool, error) {
	for l.events != nil {
		select {
		case e, ok := <-l.events:
			if !ok {
				l.events = nil
				return false, nil
			}
			body, contentType, err := l.s.encode(e)
			if err != nil {
				l.done(e, gateway.Errorf(gateway.ErrInvalid, "%w", err))
				continue
			}
			l.items = append(l.items, item{e, body, contentType})
			return true, nil
		case <-timeout:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	return false, nil
}

// answered removes a batch that the far end is done with.
func (l *link) answered(batch []item) {
	clear(batch) // let go of the events
	l.items = l.items[len(batch):]
	l.s.cuts = l.s.cuts[1:]
}

// halve makes two batches of one in which the far end does not like something. It goes on
// until the guilty event is alone.
func (l *link) halve(batch []item) {
	middle := batch[len(batch)/2-1].event.Offset
	l.s.cuts = append([]uint64{middle}, l.s.cuts...)
}
