package broker

import (
	"context"

	"github.com/weir-iot/weir/gateway"
)

// flight is a QoS 2 publish, or the release of one, on its way to storage. Whoever sends
// the same identifier meanwhile waits for the same flight.
type flight struct {
	waiters  []waiter
	released bool // a release of the publish is on its way behind it
}

type waiter struct {
	c *conn
	n uint64 // of the answer
}

// receive takes in a QoS 2 PUBLISH (MQTT 5 §4.3.3). An identifier is
//
//   - unknown: the publish is a new event;
//   - in flight: its first copy is not stored yet; the answer waits for that one;
//   - stored: PUBREC at once, and no event;
//   - being released: the client has given it back, so the publish is a new event.
//
// An append that failed makes the identifier unknown again.
func (s *session) receive(c *conn, e *gateway.Event) error {
	id := e.PacketID
	s.mu.Lock()
	if f := s.flying[id]; f != nil && !f.released {
		f.waiters = append(f.waiters, waiter{c, c.answers.add(typePubrec, id)})
		s.mu.Unlock()
		return nil
	}
	if _, stored := s.stored[id]; stored && s.releasing[id] == nil {
		s.mu.Unlock()
		c.answers.resolve(c.answers.add(typePubrec, id), codeSuccess)
		return nil
	}
	if c.connect.version == v5 && len(s.stored)+len(s.flying) >= int(c.b.o.ReceiveMaximum) {
		s.mu.Unlock()
		return refuse(codeReceiveMaximum, "more than %d QoS 2 publishes are not released", c.b.o.ReceiveMaximum)
	}
	f := &flight{waiters: []waiter{{c, c.answers.add(typePubrec, id)}}}
	s.flying[id] = f
	s.mu.Unlock()

	landed := func(err error) {
		s.mu.Lock()
		if s.flying[id] == f {
			delete(s.flying, id)
		}
		if err == nil && !s.durable { // a durable session's apply did it, in journal order
			s.stored[id] = struct{}{}
		}
		s.mu.Unlock()
		for _, w := range f.waiters {
			w.c.answer(w.n, e, err)
		}
	}
	if err := c.b.allowed(c.account, e); err != nil {
		c.b.o.Observer.Refused(e, err)
		landed(err)
	} else if err := c.b.o.Ingest(c.ctx, e, landed); err != nil {
		landed(err)
	}
	return nil
}

// release handles PUBREL: the identifier is given back, and PUBCOMP says so once that is
// stored. Were it sent earlier, a crash would bring the identifier back, and the next
// publish that uses it would be taken for a copy.
func (c *conn) release(id uint16) {
	s := c.session.Load()
	n := c.answers.add(typePubcomp, id)
	s.mu.Lock()
	if f := s.releasing[id]; f != nil {
		f.waiters = append(f.waiters, waiter{c, n})
		s.mu.Unlock()
		return
	}
	publish := s.flying[id]
	if _, stored := s.stored[id]; !stored && publish == nil {
		s.mu.Unlock()
		code := byte(codeSuccess)
		if c.connect.version == v5 {
			code = codeUnknownID
		}
		c.answers.resolve(n, code)
		return
	}
	if publish != nil {
		publish.released = true
	}
	f := &flight{waiters: []waiter{{c, n}}}
	s.releasing[id] = f
	s.mu.Unlock()

	e := changeEvent(s.id, releasePayload)
	e.PacketID = id
	landed := func(err error) {
		s.mu.Lock()
		delete(s.releasing, id)
		if err == nil && !s.durable {
			delete(s.stored, id)
		}
		s.mu.Unlock()
		for _, w := range f.waiters {
			if err == nil {
				w.c.answers.resolve(w.n, codeSuccess)
			} else { // PUBCOMP has no reason for it (§3.7.2.1); the client asks again
				w.c.stop(cause{code: answerCode(e, err), reason: "release not stored", detail: err, pause: w.c.connect.version == v4})
			}
		}
	}
	if err := c.b.o.Ingest(c.ctx, e, landed); err != nil {
		landed(err)
	}
}

// store puts a change of a session into the journal and waits until it is applied.
func (b *Broker) store(ctx context.Context, e *gateway.Event) error {
	stored := make(chan error, 1)
	if err := b.o.Ingest(ctx, e, func(err error) { stored <- err }); err != nil {
		return err
	}
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return gateway.Errorf(gateway.ErrTransient, "wait until the session is stored: %w", context.Cause(ctx))
	}
}
