package amqp

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/gateway"
)

// flight is a publish without its confirm.
type flight struct {
	event    *gateway.Event
	id       string
	sent     time.Time
	confirm  *amqp.DeferredConfirmation
	returned error // the far end has no place for it, and said so
}

// link is one connection and its channel. All belongs to the goroutine of Send or Receive, but the wire's end.
type link struct {
	s       *Sink
	wire    *wire
	conn    *amqp.Connection
	lost    chan *amqp.Error // the end of conn
	blocked chan amqp.Blocking

	ch      *amqp.Channel
	closed  chan *amqp.Error // the end of ch
	returns chan amqp.Return // has room for the whole window: one that is full would lose some

	inFlight []flight // in order of sending
	moved    time.Time
	block    string    // why the far end takes nothing now; empty: it does
	since    time.Time // of block
}

// frameSize is the largest frame offered: RabbitMQ's own default.
const frameSize = 128 << 10

// connect returns a link with what open opens on it. The caller has to end it.
func (s *Sink) connect(ctx context.Context, open func(*link) error) (*link, error) {
	conn, err := s.dialer.Dial(ctx, s.address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.address, err)
	}
	l := &link{s: s, wire: newWire(conn, s.c.AckTimeout)}
	defer context.AfterFunc(ctx, l.wire.kill)()
	late := l.hurry()
	properties := amqp.NewConnectionProperties()
	properties["product"] = "Weir"
	properties.SetClientConnectionName(s.name)
	l.conn, err = amqp.Open(l.wire, amqp.Config{
		SASL: []amqp.Authentication{s.authentication()}, Vhost: s.c.VHost, Heartbeat: s.c.Heartbeat,
		FrameSize: frameSize, Locale: "en_US", Properties: properties,
	})
	l.lost = l.conn.NotifyClose(make(chan *amqp.Error, 1))
	l.blocked = l.conn.NotifyBlocked(make(chan amqp.Blocking, 8))
	if err == nil {
		err = open(l)
	}
	intime := late.Stop()
	if err != nil {
		// RabbitMQ gives a reason to those only that the library cannot count itself among.
		if why := l.reason(err); intime && errors.Is(err, amqp.ErrCredentials) {
			err = fmt.Errorf("connect to %s: it does not accept the account: %w", s.address, why)
		} else {
			err = fmt.Errorf("connect to %s: %w", s.address, why)
		}
		l.end()
		return nil, err
	}
	return l, nil
}

// hurry ends the wire if what waits for an answer now does not get it in time.
func (l *link) hurry() *time.Timer {
	limit := l.s.dialer.Timeout()
	return time.AfterFunc(limit, func() { l.wire.fail(fmt.Errorf("no answer within %v", limit)) })
}

func (l *link) openChannel() error {
	ch, err := l.conn.Channel()
	if err != nil {
		return err
	}
	l.ch = ch
	l.closed = ch.NotifyClose(make(chan *amqp.Error, 1))
	return nil
}

// open opens a channel in confirm mode, and looks whether the exchange is there.
func (l *link) open() error {
	if err := l.openChannel(); err != nil {
		return err
	}
	l.returns = l.ch.NotifyReturn(make(chan amqp.Return, l.s.c.Window))
	if err := l.ch.Confirm(false); err != nil {
		return err
	}
	if l.s.exchange == "" { // it is always there, and may not be asked for
		return nil
	}
	return l.ch.ExchangeDeclarePassive(l.s.exchange, amqp.ExchangeTopic, true, false, false, false, nil)
}

// end closes everything and waits until the library has let go of it.
func (l *link) end() {
	l.wire.kill()
	l.conn.Close() // returns at once now, and frees a reader that the far end has confused
	for range l.lost {
	}
	for range l.blocked {
	}
}

// reason is why the link ended, in words; err is what the library says, which may be nothing.
func (l *link) reason(err error) error {
	var e *amqp.Error
	if errors.As(err, &e) && e != nil && e.Server {
		return fmt.Errorf("the far end says %d %s", e.Code, e.Reason)
	}
	if cause := l.wire.cause(); cause != nil {
		return cause
	}
	if err == nil || errors.As(err, &e) && e == nil {
		return errors.New("the connection is lost")
	}
	return err
}

// awaitUnblocked holds a link whose far end took no publishes the last time until it takes
// them again. RabbitMQ says that it is blocked to those only that publish, so two messages go
// where nobody gets them: if it is blocked, it does not confirm the second. Nothing is up until
// then, so that the reason stays what the uplink shows, and an alarm of hours costs one connection.
func (l *link) awaitUnblocked(ctx context.Context) error {
	if !l.s.blocked {
		return nil
	}
	var probe *amqp.DeferredConfirmation
	for range 2 {
		var err error
		if probe, err = l.ch.PublishWithDeferredConfirm("", "weir-nobody", false, false, amqp.Publishing{}); err != nil {
			return l.reason(err)
		}
	}
	free := probe.Done()
	for {
		select {
		case <-free:
			if l.ch.IsClosed() { // this account may not publish there, so it goes without
				if err := l.reason(<-l.closed); l.conn.IsClosed() {
					return err
				}
				defer l.hurry().Stop()
				if err := l.open(); err != nil {
					return l.reason(err)
				}
			}
			l.s.blocked = false
			return nil
		case b := <-l.blocked:
			if !b.Active {
				l.s.blocked = false
				return nil
			}
		case e := <-l.lost:
			return l.reason(e)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run sends until events is closed and all is confirmed, or the link is lost.
func (l *link) run(ctx context.Context, events <-chan *gateway.Event, done func(*gateway.Event, error)) error {
	tick := time.NewTicker(l.s.c.AckTimeout / 4)
	defer tick.Stop()
	for events != nil || len(l.inFlight) > 0 {
		in := events
		if l.full() {
			in = nil
		}
		var oldest <-chan struct{}
		if len(l.inFlight) > 0 {
			oldest = l.inFlight[0].confirm.Done()
		}
		var err error
		select {
		case e, ok := <-in:
			if !ok {
				events = nil
				continue
			}
			err = l.publish(e, done)
		case <-oldest:
			if l.confirmed(done); len(l.inFlight) > 0 && l.ch.IsClosed() {
				err = l.channelClosed(<-l.closed, done)
			}
		case e := <-l.closed:
			err = l.channelClosed(e, done)
		case e := <-l.lost:
			err = l.reason(e)
		case b := <-l.blocked:
			l.setBlock(b)
		case <-tick.C:
			err = l.watch(time.Now())
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *link) full() bool {
	if l.s.careful > 0 {
		return len(l.inFlight) > 0 || l.block != ""
	}
	return len(l.inFlight) >= l.s.c.Window || l.block != ""
}

func (l *link) publish(e *gateway.Event, done func(*gateway.Event, error)) error {
	m, key, err := l.s.message(e, l.conn.Config.FrameSize)
	if err != nil {
		done(e, err)
		return nil
	}
	if len(l.inFlight) == 0 {
		l.moved = time.Now()
	}
	confirm, err := l.ch.PublishWithDeferredConfirm(l.s.exchange, key, true, false, m)
	if err != nil {
		if l.ch.IsClosed() && !l.conn.IsClosed() {
			return l.channelClosed(<-l.closed, done)
		}
		select { // a far end that takes nothing has said why, while the write hung
		case b := <-l.blocked:
			l.setBlock(b)
		default:
		}
		if l.block != "" {
			return l.takesNothing()
		}
		return l.reason(err)
	}
	l.inFlight = append(l.inFlight, flight{event: e, id: m.MessageId, confirm: confirm, sent: time.Now()})
	return nil
}

// confirmed settles what is confirmed, in order, up to the first that is not. The library ends
// all confirms when the channel closes, as if they were negative; those stay.
func (l *link) confirmed(done func(*gateway.Event, error)) {
	n := 0
	for ; n < len(l.inFlight); n++ {
		f := &l.inFlight[n]
		select {
		case <-f.confirm.Done():
		default:
			l.settled(n)
			return
		}
		l.takeReturns() // a return is sent before its confirm, and so it is here by now
		switch {
		case f.returned != nil:
			done(f.event, f.returned)
		case f.confirm.Acked():
			done(f.event, nil)
		case l.ch.IsClosed():
			l.settled(n)
			return
		default:
			done(f.event, gateway.Errorf(gateway.ErrFull, "a queue did not take it (basic.nack)"))
		}
	}
	l.settled(n)
}

func (l *link) settled(n int) {
	if n == 0 {
		return
	}
	l.moved = time.Now()
	l.s.careful = max(l.s.careful-n, 0)
	l.inFlight = append(l.inFlight[:0], l.inFlight[n:]...)
}

func (l *link) takeReturns() {
	for {
		select {
		case r, ok := <-l.returns:
			if !ok {
				l.returns = nil
				return
			}
			for i := range l.inFlight {
				if f := &l.inFlight[i]; f.id == r.MessageId {
					f.returned = gateway.Errorf(gateway.ErrInvalid, "no queue wants it: exchange %q, routing key %q: %d %s", r.Exchange, r.RoutingKey, r.ReplyCode, r.ReplyText)
				}
			}
		default:
			return
		}
	}
}

// channelClosed handles the end of the channel, with which the far end refuses a publish. It does
// not say which one. So where one alone is in flight, that is it, and a new channel goes on; where
// more are, the next connection sends as many one by one.
func (l *link) channelClosed(e *amqp.Error, done func(*gateway.Event, error)) error {
	l.confirmed(done) // what was confirmed before counts
	err := l.reason(e)
	kind := fault(e)
	switch {
	case kind == nil || l.conn.IsClosed():
		return err
	case len(l.inFlight) != 1:
		l.s.careful = max(l.s.careful, len(l.inFlight))
		return err
	}
	done(l.inFlight[0].event, gateway.Errorf(kind, "%w", err))
	l.settled(1)
	defer l.hurry().Stop()
	if err := l.open(); err != nil {
		return l.reason(err)
	}
	return nil
}

func (l *link) setBlock(b amqp.Blocking) {
	switch {
	case !b.Active:
		l.block = ""
		l.moved = time.Now() // what is in flight begins to wait now
	case l.block == "":
		l.block, l.since = "no reason given", time.Now()
		if b.Reason != "" {
			l.block = b.Reason
		}
	}
}

// watch notices a far end that lies still, or takes nothing.
func (l *link) watch(now time.Time) error {
	limit := l.s.c.AckTimeout
	switch {
	case l.block != "" && now.Sub(l.since) > limit:
		return l.takesNothing()
	case len(l.inFlight) > 0 && now.Sub(l.inFlight[0].sent) > limit && now.Sub(l.moved) > limit:
		l.s.careful = max(l.s.careful, 1) // the next connection begins with one, not with a window of repeats
		return fmt.Errorf("no confirm for %v", limit)
	}
	return nil
}

func (l *link) takesNothing() error {
	l.s.blocked, l.s.careful = true, max(l.s.careful, 1)
	return gateway.Errorf(gateway.ErrFull, "the far end takes no publishes: %s", l.block)
}
