package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-iot/weir/gateway"
)

// gather returns the events of the next round: one that was refused among others, or what
// comes within Linger of the first, up to the bounds. It returns none after AckTimeout without any. open
// is false when events has ended.
func (c *connection) gather(events <-chan *gateway.Event) (batch []*gateway.Event, open bool, err error) {
	if len(c.again) > 0 {
		batch, c.again = c.again[:1:1], c.again[1:]
		return batch, true, nil
	}
	enough := time.NewTimer(c.s.c.AckTimeout)
	defer enough.Stop()
	for size := 0; len(batch) < c.s.c.BatchEvents && size < c.s.pace.bytes; {
		select {
		case e, ok := <-events:
			if !ok {
				return batch, false, nil
			}
			if len(batch) == 0 {
				enough.Reset(c.s.c.Linger)
			}
			batch = append(batch, e)
			size += e.Size()
		case <-enough.C:
			return batch, true, nil
		case <-c.life.Done():
			return nil, false, context.Cause(c.life)
		}
	}
	return batch, true, nil
}

// round sends batch, waits for the answers and settles the events. Its error ends the
// connection; an event that was not settled by then is the pump's to send again.
func (c *connection) round(batch []*gateway.Event) error {
	began := time.Now()
	size := 0
	var all []sent
	for _, e := range batch {
		r, err := c.s.record(e, began)
		if err != nil {
			c.done(e, err)
			continue
		}
		size += e.Size()
		all = append(all, sent{event: e, record: r})
	}
	if len(all) == 0 {
		return nil
	}
	// The client answers in a goroutine of its own, and may do so after Send has returned.
	type answer struct {
		of  int
		err error
	}
	answers := make(chan answer, len(all))
	for i := range all {
		c.client.Produce(context.Background(), all[i].record, func(_ *kgo.Record, err error) { answers <- answer{i, err} })
	}
	late := c.within(c.s.c.AckTimeout, "no acknowledgement", func() error { return c.client.Flush(c.life) })
	for more := true; more; {
		select {
		case a := <-answers:
			all[a.of].answered, all[a.of].err = true, a.err
		default:
			more = false
		}
	}
	err := c.settle(all, size)
	if late != nil {
		c.s.pace.slower()
		return late
	}
	c.s.pace.took(size, time.Since(began), c.s.c.AckTimeout)
	return err
}
