package kinesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/weir-iot/weir/gateway"
)

// link is one call of Send. It belongs to that goroutine.
type link struct {
	s       *Sink
	events  <-chan *gateway.Event // nil after its end
	done    func(*gateway.Event, error)
	waiting []item // not answered, in order
	next    uint64 // the offset behind the last event that has come
}

// run makes call after call until the events end or one is not taken.
func (l *link) run(ctx context.Context) error {
	for {
		if err := l.fill(ctx); err != nil || len(l.waiting) == 0 {
			return err
		}
		call := l.pick()
		if err := l.s.haveCredentials(ctx); err != nil {
			return err
		}
		taken, err := l.put(ctx, call)
		switch {
		case errors.Is(err, gateway.ErrInvalid) && len(call) > 1: // one of them is guilty
			l.s.alone = len(call)
			continue
		case errors.Is(err, gateway.ErrInvalid):
			l.done(call[0].event, err)
			l.answered(call)
			continue
		}
		for _, i := range taken {
			l.s.taken[i.event.Offset] = true
			l.done(i.event, nil)
		}
		if err != nil {
			return err
		}
		l.answered(call)
		l.forget()
	}
}

// fill waits for the first event, and takes what else is there.
func (l *link) fill(ctx context.Context) error {
	for l.events != nil && len(l.waiting) == 0 {
		select {
		case e, ok := <-l.events:
			l.take(e, ok)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for l.events != nil && len(l.waiting) < maxRecords {
		select {
		case e, ok := <-l.events:
			l.take(e, ok)
		default:
			return nil
		}
	}
	return nil
}

func (l *link) take(e *gateway.Event, ok bool) {
	if !ok {
		l.events = nil
		return
	}
	l.next = e.Offset + 1
	if l.s.taken[e.Offset] {
		l.done(e, nil)
		return
	}
	i, err := l.s.item(e)
	if err != nil {
		l.done(e, err)
		return
	}
	l.waiting = append(l.waiting, i)
}

// pick returns the first waiting record of each key, as many as go into one call.
func (l *link) pick() (call []item) {
	most, size := maxRecords, 0
	if l.s.alone > 0 {
		most = 1
	}
	keys := map[string]bool{}
	for _, i := range l.waiting {
		if keys[i.key] {
			continue
		}
		keys[i.key] = true
		if size += i.size(); len(call) == most || size > maxCallBytes {
			break
		}
		call = append(call, i)
	}
	return call
}

// answered removes a call from what is waiting.
func (l *link) answered(call []item) {
	offsets := map[uint64]bool{}
	for _, i := range call {
		offsets[i.event.Offset] = true
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(i item) bool { return offsets[i.event.Offset] })
	l.s.alone = max(0, l.s.alone-len(call))
}

// forget lets go of what was taken before the first event that is not: it will not come again.
func (l *link) forget() {
	first := l.next
	if len(l.waiting) > 0 {
		first = l.waiting[0].event.Offset
	}
	maps.DeleteFunc(l.s.taken, func(offset uint64, _ bool) bool { return offset < first })
}

// put makes one call. It returns the records that were taken, and an error if not all were.
func (l *link) put(ctx context.Context, call []item) (taken []item, err error) {
	in := &kinesis.PutRecordsInput{StreamName: &l.s.c.Stream}
	for i := range call {
		in.Records = append(in.Records, types.PutRecordsRequestEntry{PartitionKey: &call[i].key, Data: call[i].data})
	}
	out, err := l.s.client.PutRecords(ctx, in)
	if err != nil {
		return nil, l.callError(err)
	}
	if len(out.Records) != len(call) {
		return nil, fmt.Errorf("the far end answers for %d of %d records", len(out.Records), len(call))
	}
	refused, reason, kind := 0, "", gateway.ErrTransient
	for i, r := range out.Records {
		switch {
		case r.ErrorCode != nil:
			if refused++; refused == 1 {
				reason = *r.ErrorCode + ": " + aws.ToString(r.ErrorMessage)
			}
			if *r.ErrorCode == "ProvisionedThroughputExceededException" {
				kind = gateway.ErrFull
			}
		case r.SequenceNumber == nil:
			return nil, errors.New("the far end answers for a record without saying that it has it")
		default:
			taken = append(taken, call[i])
		}
	}
	if refused > 0 {
		return taken, gateway.Errorf(kind, "the far end refused %d of %d records for now: %s", refused, len(call), reason)
	}
	return taken, nil
}
