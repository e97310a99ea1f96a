package gateway

import (
	"context"
	"time"
)

// MaxPayload is the largest payload Ingest takes unless Options say otherwise.
const MaxPayload = 1 << 20

// Durability is how far an event must have come before it is released.
type Durability uint8

const (
	// Written: handed to the kernel. Survives kill -9, not a power cut; synced within
	// journal.flush_interval. For readings nobody waits for.
	Written Durability = iota
	// Synced: on stable storage. For whatever is acknowledged.
	Synced
)

// Journal is where Ingest puts an event.
type Journal interface {
	// Append hands e to the ordered writer. It returns an error, and then never
	// calls done, when e cannot be queued: ErrFull at the journal's bound, ErrTransient
	// when the journal has stopped. It blocks only while the writer's own queue is
	// full, until ctx ends.
	//
	// Otherwise done is called exactly once: with nil after e is as durable as need
	// says and released (readers and taps have been told), or with the reason it was
	// not stored. Calls come in release order, from one goroutine, and must not
	// block. Only an event that needs Synced causes a sync.
	Append(ctx context.Context, e *Event, need Durability, done func(error)) error
}

// Rules decide what becomes of an event before it is stored. They are stateless.
type Rules interface {
	// Apply returns the events to store in e's place: e itself, none, or several.
	// It must not change e.
	Apply(e *Event) ([]*Event, error)
}

// Options are what a Gateway needs. Only Journal is required.
type Options struct {
	Journal    Journal
	Rules      Rules
	Admit      func(e *Event) error // refuses what a stated limit has no room for; nil admits all
	Observer   Observer
	MaxPayload int              // bytes; 0 means MaxPayload
	Now        func() time.Time // nil means time.Now
}

// Gateway takes events in. Every way into Weir calls Ingest.
type Gateway struct{ o Options }

// New returns a Gateway.
func New(o Options) *Gateway {
	if o.MaxPayload == 0 {
		o.MaxPayload = MaxPayload
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Observer = o.Observer.OrNop()
	return &Gateway{o}
}

// Ingest validates e, stamps Accepted, and hands it to the journal. The caller must
// not touch e afterwards. Authorisation is the caller's, who knows the account.
//
// Either Ingest returns an error, nothing is stored and done is never called; or it
// returns nil and done, if not nil, is called exactly once as [Journal] says. A nil
// done says that nobody waits for e: it is stored as [Written].
func (g *Gateway) Ingest(ctx context.Context, e *Event, done func(error)) error {
	if done == nil {
		return g.Record(ctx, e, func(error) {})
	}
	return g.take(ctx, e, Synced, done)
}

// Record is Ingest for a caller who wants to know what becomes of e and for whom nobody waits: done is called
// when e is [Written].
func (g *Gateway) Record(ctx context.Context, e *Event, done func(error)) error {
	return g.take(ctx, e, Written, done)
}

func (g *Gateway) take(ctx context.Context, e *Event, need Durability, done func(error)) error {
	if err := g.ingest(ctx, e, need, done); err != nil {
		g.o.Observer.Refused(e, err)
		return err
	}
	return nil
}

// IngestWait is Ingest for a caller that has nothing else to do until e is stored.
// When ctx ends first, e may or may not be stored, as with any lost answer.
func (g *Gateway) IngestWait(ctx context.Context, e *Event) error {
	stored := make(chan error, 1)
	if err := g.Ingest(ctx, e, func(err error) { stored <- err }); err != nil {
		return err
	}
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return Errorf(ErrTransient, "wait until the event is stored: %w", context.Cause(ctx))
	}
}

func (g *Gateway) ingest(ctx context.Context, e *Event, need Durability, done func(error)) error {
	if e.Kind == Data {
		if err := ValidateTopic(e.Topic); err != nil {
			return err
		}
	}
	if len(e.Payload) > g.o.MaxPayload {
		return Errorf(ErrInvalid, "payload of %d bytes is larger than %d", len(e.Payload), g.o.MaxPayload)
	}
	if e.QoS > 2 {
		return Errorf(ErrInvalid, "QoS %d does not exist", e.QoS)
	}
	if g.o.Admit != nil && e.Kind == Data {
		if err := g.o.Admit(e); err != nil {
			return err
		}
	}
	e.Accepted = g.o.Now()
	if g.o.Rules == nil || e.Kind == Change {
		return g.append(ctx, e, need, done)
	}
	events, err := g.o.Rules.Apply(e)
	if err != nil {
		return err
	}
	return g.appendAll(ctx, events, need, done)
}

func (g *Gateway) append(ctx context.Context, e *Event, need Durability, done func(error)) error {
	return g.o.Journal.Append(ctx, e, need, func(err error) {
		if err != nil {
			g.o.Observer.Refused(e, err)
		} else {
			g.o.Observer.Accepted(e)
		}
		done(err)
	})
}

// appendAll stores what the rules made of one event. The sender is told when the
// last is stored: appends are released in order, so then all are, or when one failed.
func (g *Gateway) appendAll(ctx context.Context, events []*Event, need Durability, done func(error)) error {
	if len(events) == 0 { // dropped on purpose; the sender did its part
		done(nil)
		return nil
	}
	left, failed := len(events), error(nil)
	for i, e := range events {
		err := g.append(ctx, e, need, func(err error) { // one goroutine, in order
			if failed == nil {
				failed = err
			}
			if left--; left == 0 {
				done(failed)
			}
		})
		if err != nil {
			if i == 0 {
				return err
			}
			return Errorf(ErrTransient, "stored %d of %d events: %w", i, len(events), err)
		}
	}
	return nil
}
