package broker

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// session is what Weir knows of one client identifier: MQTT 5 §4.1. A durable one
// outlives its connection and, but for the messages on their way to the client, the
// process; only apply changes its durable part.
type session struct {
	b       *Broker
	id      string
	durable bool

	// Guarded by Broker.mu.
	mark   uint64 // the fan-out that last met this session
	target int    // and where in Broker.targets

	mu sync.Mutex // after Broker.mu

	opened uint64 // offset of the change that opened it; 0 if not durable

	// The durable part.
	user     string
	version  byte
	expiry   uint32        // seconds after the connection's end
	closedAt time.Time     // zero while connected
	closed   time.Duration // the same on the gateway's own clock
	subs     map[string]subscription
	stored   map[uint16]struct{} // QoS 2 identifiers stored and not released

	// QoS 2 identifiers on their way to storage.
	flying    map[uint16]*flight
	releasing map[uint16]*flight

	// While it has no connection.
	deadline time.Time      // when it ends
	ending   bool           // its end is on its way to the journal
	will     *gateway.Event // delayed; authorised already
	willAt   time.Time

	outgoing
}

func newSession(b *Broker, id string, durable bool) *session {
	return &session{b: b, id: id, durable: durable,
		subs: map[string]subscription{}, stored: map[uint16]struct{}{},
		flying: map[uint16]*flight{}, releasing: map[uint16]*flight{}}
}

func newClientID() string { return "weir-" + rand.Text() }

// over tells whether the session has ended, though its end may not be stored yet.
func (s *session) over(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn == nil && !s.deadline.IsZero() && !now.Before(s.deadline)
}

// enter gives c the session it asked for, which is kept, new, or in another's place.
// It returns the reason code for CONNACK. A session is its user's: somebody else who
// comes with the same client identifier does not get it, and does not get rid of its
// connection either.
func (b *Broker) enter(ctx context.Context, c *conn) byte {
	if code := b.claim(ctx, c); code != codeSuccess {
		return code
	}
	b.mu.Lock()
	s, durable := b.sessions[c.id], b.durable
	b.mu.Unlock()
	if s != nil && (c.connect.clean || s.over(time.Now()) || !s.belongsTo(c.account)) {
		s.mu.Lock()
		w := s.will // the session ends here, so what was delayed is due
		s.will = nil
		s.mu.Unlock()
		if w != nil {
			b.publishWill(w)
		}
	} else {
		c.present = s != nil
	}
	ch := change{Op: opOpen, Version: c.connect.version, Expiry: c.expiry}
	switch {
	case c.present:
		if err := b.recheck(ctx, c, s); err != nil {
			c.log.Warn("lost rights not stored", "client", c.id, "error", err)
			return codeOf(err)
		}
		ch.Op = opResume
		if err := b.o.Ingest(ctx, c.change(ch), nil); err != nil {
			// The session is as it was stored; a start would find its old expiry.
			c.log.Warn("resumed session not stored", "client", c.id, "error", err)
		}
	case c.expiry > 0:
		if s == nil && durable >= b.o.MaxSessions {
			c.log.Warn("too many sessions", "client", c.id, "sessions", durable)
			return codeQuota
		}
		if err := b.store(ctx, c.change(ch)); err != nil {
			c.log.Warn("session not stored", "client", c.id, "error", err)
			return codeOf(err)
		}
		b.mu.Lock()
		s = b.sessions[c.id]
		b.mu.Unlock()
		if s == nil { // apply made it before store returned, unless Deliver is not wired
			return codeImplementation
		}
	default:
		if s != nil {
			if err := b.store(ctx, c.change(change{Op: opEnd, Session: s.opened})); err != nil {
				c.log.Warn("end of session not stored", "client", c.id, "error", err)
				return codeOf(err)
			}
		}
		s = newSession(b, c.id, false)
		b.mu.Lock()
		b.sessions[c.id] = s
		b.mu.Unlock()
	}
	s.mu.Lock()
	s.user, s.version = c.account.Name(), c.connect.version
	s.deadline, s.ending, s.will = time.Time{}, false, nil
	s.attach(c)
	s.mu.Unlock()
	c.session.Store(s)
	return codeSuccess
}

// claim makes c the connection of its client identifier: MQTT 5 §3.1.4. It returns
// when the one before has left its session.
func (b *Broker) claim(ctx context.Context, c *conn) byte {
	for {
		b.mu.Lock()
		old := b.byID[c.id]
		if old == nil {
			b.byID[c.id] = c
			b.mu.Unlock()
			return codeSuccess
		}
		b.mu.Unlock()
		if old.account.Name() != c.account.Name() {
			c.log.Warn("client identifier is in use by another user", "client", c.id, "user", c.account.Name())
			return codeClientID
		}
		old.stop(cause{code: codeTakenOver, reason: "taken over"})
		select {
		case <-old.ended:
		case <-ctx.Done():
			return codeUnavailable
		}
	}
}

func (s *session) belongsTo(a *auth.Account) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.user == a.Name()
}

// recheck takes from a kept session what its user may no longer have: the rights may have
// changed between two starts.
func (b *Broker) recheck(ctx context.Context, c *conn, s *session) error {
	var lost []string
	s.mu.Lock()
	for _, sub := range s.subs {
		if c.maySubscribe(sub) != nil {
			lost = append(lost, sub.Filter)
		}
	}
	s.mu.Unlock()
	if len(lost) == 0 {
		return nil
	}
	c.log.Warn("subscriptions ended for lack of rights", "client", c.id, "user", c.account.Name(), "filters", lost)
	if err := b.store(ctx, c.change(change{Op: opUnsubscribe, Filters: lost})); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filter(func(it item) bool { return c.account.CanRead(it.event.Topic, c.id) == nil })
	return nil
}

// leave takes c off its session when c has ended. What the will and the end of the
// session ask for happens here: MQTT 5 §3.1.2.5, §3.1.2.11.2.
func (b *Broker) leave(c *conn, why cause) {
	s := c.session.Load()
	if s != nil {
		b.detach(c, s, why)
		if why.detail == nil { // devices come and go all day
			c.log.Debug("MQTT client disconnected", "client", c.id, "reason", why.reason)
		} else {
			c.log.Info("MQTT client disconnected", "client", c.id, "reason", why.reason, "error", why.detail)
		}
		b.o.Observer.Disconnected(c.id, why.reason)
	} else if why.reason != reasonLost || why.detail == nil {
		c.log.Info("MQTT connection refused", "remote", c.nc.RemoteAddr(), "client", c.id, "reason", why.reason, "error", why.detail)
	}
	b.mu.Lock()
	if b.byID[c.id] == c {
		delete(b.byID, c.id)
	}
	b.mu.Unlock()
}

func (b *Broker) detach(c *conn, s *session, why cause) {
	now := time.Now()
	w := c.connect.will
	if c.proxy != nil {
		w = c.proxy.will()
	}
	if why.clean {
		w = nil
	}
	b.mu.Lock()
	s.mu.Lock()
	s.detach()
	keep := s.durable && c.expiry > 0
	life := time.Duration(c.expiry) * time.Second
	s.deadline = now.Add(life)
	if keep && w != nil && w.delay > 0 && !b.closing {
		s.will, s.willAt = w.event, now.Add(min(w.delay, life))
		s.will.Origin = gateway.Origin{Via: via, ID: c.id, User: c.account.Name()}
		if err := b.may(c.account, s.will); err != nil {
			b.o.Observer.Refused(s.will, err)
			s.will = nil
		}
		w = nil
	}
	if !s.durable && b.sessions[s.id] == s {
		b.drop(s)
	}
	s.mu.Unlock()
	b.mu.Unlock()

	if w != nil {
		w.event.Origin = gateway.Origin{Via: via, ID: c.id, User: c.account.Name()}
		if err := b.allowed(c.account, w.event); err != nil {
			b.o.Observer.Refused(w.event, err)
			c.log.Warn("will refused", "client", c.id, "topic", w.event.Topic, "error", err)
		} else {
			b.publishWill(w.event)
		}
	}
	switch {
	case keep:
		ch := change{Op: opClose, Version: c.connect.version, Expiry: c.expiry, At: now}
		if err := b.o.Ingest(b.background, c.change(ch), nil); err != nil {
			c.log.Warn("end of connection not stored", "client", c.id, "error", err)
		}
	case s.durable:
		b.end(s)
	}
}

// end puts the end of a durable session into the journal. If that fails, the next tick
// tries again; until then the session is over, but not gone.
func (b *Broker) end(s *session) {
	s.mu.Lock()
	w := s.will
	s.will = nil
	s.ending = true
	s.mu.Unlock()
	if w != nil {
		b.publishWill(w)
	}
	failed := func(err error) {
		if err != nil {
			s.mu.Lock()
			s.ending = false
			s.mu.Unlock()
			b.log.Warn("end of session not stored", "client", s.id, "error", err)
		}
	}
	if err := b.o.Ingest(b.background, changeEvent(s.id, change{Op: opEnd, Session: s.opened}.encode()), failed); err != nil {
		failed(err)
	}
}

// publishWill stores a will that was authorised.
func (b *Broker) publishWill(e *gateway.Event) {
	lost := func(err error) {
		if err != nil {
			b.log.Warn("will not stored", "client", e.Origin.ID, "topic", e.Topic, "error", err)
		}
	}
	done := lost
	if e.QoS == 0 {
		done = nil // nobody waits; no sync for it
	}
	if err := b.o.Ingest(b.background, e, done); err != nil {
		lost(err)
	}
}

// tick ends sessions whose time is over and sends wills whose delay has passed.
func (b *Broker) tick(now time.Time) {
	var ended []*session
	var wills []*gateway.Event
	b.mu.Lock()
	for _, s := range b.sessions {
		s.mu.Lock()
		if s.conn == nil && s.durable {
			switch {
			case !now.Before(s.deadline) && !s.ending && b.byID[s.id] == nil:
				ended = append(ended, s)
			case s.will != nil && !now.Before(s.willAt):
				wills = append(wills, s.will)
				s.will = nil
			}
		}
		s.mu.Unlock()
	}
	b.mu.Unlock()
	for _, s := range ended {
		b.end(s)
	}
	for _, e := range wills {
		b.publishWill(e)
	}
}

// drop forgets a session. Broker.mu and s.mu are held.
func (b *Broker) drop(s *session) {
	for filter := range s.subs {
		b.index.remove(filter, s)
	}
	if s.durable {
		b.durable--
	}
	delete(b.sessions, s.id)
}

// Clients returns the sessions there are, by client identifier.
func (b *Broker) Clients() []Client {
	b.mu.Lock()
	defer b.mu.Unlock()
	clients := make([]Client, 0, len(b.sessions))
	for _, s := range b.sessions {
		s.mu.Lock()
		c := Client{ID: s.id, User: s.user, Version: int(s.version), Since: s.closedAt, Persistent: s.durable,
			Subscriptions: []string{}, Queued: len(s.queue), InFlight: len(s.inflight), Unreleased: len(s.stored) + len(s.flying)}
		if s.conn != nil {
			c.Connected, c.Remote, c.Since = true, s.conn.nc.RemoteAddr().String(), s.conn.since
		}
		for filter := range s.subs {
			c.Subscriptions = append(c.Subscriptions, filter)
		}
		s.mu.Unlock()
		slices.Sort(c.Subscriptions)
		clients = append(clients, c)
	}
	slices.SortFunc(clients, func(a, b Client) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return clients
}
