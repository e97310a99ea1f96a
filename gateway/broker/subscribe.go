package broker

import (
	"errors"
	"slices"
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// handleSubscribe decides about the filters of the SUBSCRIBE at hand, stores those of
// a durable session, and leaves the reason codes in c.codes. What the new
// subscriptions are sent waits until SUBACK has left: subscribed.
func (c *conn) handleSubscribe() {
	b, s := c.b, c.session.Load()
	s.hold(true)
	c.codes = make([]byte, len(c.subs))
	var granted []subscription
	var retained []subscription // of those, the ones that get retained messages
	s.mu.Lock()
	count := len(s.subs)
	for i, sub := range c.subs {
		_, existed := s.subs[sub.Filter]
		existed = existed || slices.ContainsFunc(granted, func(g subscription) bool { return g.Filter == sub.Filter })
		switch err := c.maySubscribe(sub); {
		case err != nil:
			c.codes[i] = subackCode(err)
		case !existed && count >= b.o.MaxSubscriptions:
			c.codes[i] = codeQuota
		default:
			c.codes[i] = sub.QoS
			granted = append(granted, sub)
			if !existed {
				count++
			}
			if !isShared(sub.Filter) && (sub.retainHandling == 0 || sub.retainHandling == 1 && !existed) {
				retained = append(retained, sub)
			}
		}
	}
	s.mu.Unlock()

	if len(granted) > 0 {
		if err := c.subscribe(s, granted, retained); err != nil {
			c.log.Warn("subscription not stored", "client", c.id, "error", err)
			for i, code := range c.codes {
				if code <= 2 {
					c.codes[i] = subackCode(err)
				}
			}
		}
	}
	if c.connect.version == v4 {
		for i, code := range c.codes {
			if code > 2 {
				c.codes[i] = codeSubscribeFailure
			}
		}
	}
}

// subscribe makes the granted subscriptions and queues their retained messages.
// Nothing is released between the two, so a client never gets an older message after a
// newer one; a durable session may get one twice.
func (c *conn) subscribe(s *session, granted, retained []subscription) error {
	b := c.b
	if s.durable {
		if err := b.store(c.ctx, c.change(change{Op: opSubscribe, Subs: granted})); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.durable {
		s.mu.Lock()
		for _, sub := range granted {
			b.subscribe(s, sub)
		}
		s.mu.Unlock()
	}
	for _, sub := range retained {
		f, err := parseFilter(sub.Filter)
		if err != nil {
			return err
		}
		b.matchRetained(f, func(e *gateway.Event) {
			if sub.NoLocal && e.Origin.Via == via && e.Origin.ID == s.id {
				return
			}
			it := item{event: e, qos: min(e.QoS, sub.QoS)}
			if sub.ID != 0 {
				it.subIDs = []uint32{sub.ID}
			}
			s.pushRetained(it)
		})
	}
	return nil
}

// subscribed lets the queue go on: SUBACK is on its way.
func (c *conn) subscribed() { c.session.Load().hold(false) }

func (c *conn) maySubscribe(sub subscription) error {
	f, err := parseFilter(sub.Filter)
	if err != nil {
		return err
	}
	return c.account.CanSubscribe(f, c.id)
}

func subackCode(err error) byte {
	switch {
	case errors.Is(err, gateway.ErrInvalid):
		return codeFilterInvalid
	case errors.Is(err, gateway.ErrDenied):
		return codeNotAuthorized
	case errors.Is(err, gateway.ErrFull):
		return codeQuota
	}
	return codeImplementation
}

// handleUnsubscribe ends the subscriptions that the UNSUBSCRIBE at hand names.
func (c *conn) handleUnsubscribe() {
	b, s := c.b, c.session.Load()
	c.codes = make([]byte, len(c.filters))
	var ended []string
	s.mu.Lock()
	for i, f := range c.filters {
		if _, there := s.subs[f]; there {
			ended = append(ended, f)
		} else {
			c.codes[i] = codeNoSubscription
		}
	}
	s.mu.Unlock()
	if len(ended) == 0 {
		return
	}
	if s.durable {
		if err := b.store(c.ctx, c.change(change{Op: opUnsubscribe, Filters: ended})); err != nil {
			c.log.Warn("end of subscription not stored", "client", c.id, "error", err)
			for i, code := range c.codes {
				if code == codeSuccess {
					c.codes[i] = codeImplementation
				}
			}
			if c.connect.version == v4 { // its UNSUBACK cannot say no
				c.stop(cause{reason: "unsubscribe not stored", detail: err, pause: true})
			}
		}
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range ended {
		b.unsubscribe(s, f)
	}
}

// matchRetained calls fn for the retained messages that match f. Broker.mu is held.
func (b *Broker) matchRetained(f gateway.Filter, fn func(*gateway.Event)) {
	if e := b.retained[f.String()]; e != nil { // no wildcard, or it would be no topic
		fn(e)
		return
	}
	if !strings.ContainsAny(f.String(), "+#") {
		return
	}
	for topic, e := range b.retained {
		if f.Match(topic) {
			fn(e)
		}
	}
}

// Retained returns the retained messages that match, each once, in no order.
func (b *Broker) Retained(want gateway.Filters) (all []*gateway.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, f := range want {
		b.matchRetained(f, func(e *gateway.Event) {
			if !want[:i].Match(e.Topic) && !e.Expired(b.o.Age()) {
				all = append(all, e)
			}
		})
	}
	return all
}
