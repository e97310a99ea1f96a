package nats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/gateway"
)

// flight is an event that is taken and not settled.
type flight struct {
	event *gateway.Event
	key   string
	msg   *nats.Msg
	sent  bool // false: one of its key is under way
}

// link is one connection. Its fields belong to the goroutine of run, but for the channels.
type link struct {
	s    *Sink
	done func(*gateway.Event, error)

	answers chan *nats.Msg // at most one for each flight, and a few for strangers
	errs    chan error     // what the server complains about
	closed  chan struct{}  // the library has let go of the connection
	quit    chan struct{}  // nobody reads errs any more

	nc      *nats.Conn
	inbox   string
	token   uint64
	flights []*flight      // as they came; the first is always sent
	keys    map[string]int // how many of a key are among them
	since   time.Time      // when the first became the first
	last    string         // id of the last one sent
	over    bool           // nothing is sent any more
}

func newLink(s *Sink, done func(*gateway.Event, error)) *link {
	return &link{
		s: s, done: done, answers: make(chan *nats.Msg, s.c.Window+64), errs: make(chan error, 64),
		closed: make(chan struct{}), quit: make(chan struct{}), keys: map[string]int{},
	}
}

func (l *link) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	select {
	case l.errs <- err:
	case <-l.quit:
	}
}

// open listens for answers, and waits until the server has agreed to that.
func (l *link) open(ctx context.Context, nc *nats.Conn) error {
	l.nc, l.inbox = nc, nc.NewInbox()
	if _, err := nc.ChanSubscribe(l.inbox+".*", l.answers); err != nil {
		return l.why(err)
	}
	ctx, cancel := context.WithTimeout(ctx, l.s.dialer.Timeout())
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("no answer to a ping within %v", l.s.dialer.Timeout())
		}
		return l.why(err)
	}
	return nc.LastError() // a subscription that is denied is told before the ping is answered
}

// run publishes until events is closed and all is settled, or the connection is lost. What was
// answered before that counts.
func (l *link) run(ctx context.Context, events <-chan *gateway.Event) error {
	err := l.loop(ctx, events)
	l.over = true
	for {
		select {
		case m := <-l.answers:
			l.answered(m) // err tells the first trouble, and this may be its echo
		default:
			return err
		}
	}
}

func (l *link) loop(ctx context.Context, events <-chan *gateway.Event) error {
	tick := time.NewTicker(l.s.c.AckTimeout / 4)
	defer tick.Stop()
	for events != nil || len(l.flights) > 0 {
		in := events
		if len(l.flights) >= l.s.c.Window {
			in = nil
		}
		var err error
		select {
		case e, ok := <-in:
			if !ok {
				events = nil
				continue
			}
			err = l.take(e)
		case m := <-l.answers:
			err = l.answered(m)
		case err = <-l.errs:
			err = l.complaint(err)
		case <-tick.C:
			if len(l.flights) > 0 && time.Since(l.since) > l.s.c.AckTimeout {
				err = fmt.Errorf("no acknowledgement for %v on the subject %s", l.s.c.AckTimeout, l.flights[0].msg.Subject)
			}
		case <-l.closed:
			return l.why(nats.ErrConnectionClosed)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// take sends e, or keeps it until those of its key before it are settled.
func (l *link) take(e *gateway.Event) error {
	m, err := l.s.message(e)
	if err != nil {
		l.done(e, err)
		return nil
	}
	f := &flight{event: e, key: l.s.key(e), msg: m}
	if len(l.flights) == 0 {
		l.since = time.Now()
	}
	l.flights = append(l.flights, f)
	l.keys[f.key]++
	if l.keys[f.key] > 1 && !l.s.c.Exclusive {
		return nil
	}
	return l.publish(f)
}

// publish sends f. An event that is too large for the server is settled at once.
func (l *link) publish(f *flight) error {
	l.token++
	f.msg.Reply = l.inbox + "." + strconv.FormatUint(l.token, 36)
	id := f.msg.Header.Get(nats.MsgIdHdr)
	if l.s.c.Exclusive && l.last != "" {
		f.msg.Header.Set(expectedLast, l.last)
	}
	f.sent = true
	switch err := l.nc.PublishMsg(f.msg); {
	case err == nil:
		l.last = id
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return l.settle(f, gateway.Errorf(gateway.ErrInvalid, "message of %d bytes and its headers are larger than the %d that the server takes", len(f.msg.Data), l.nc.MaxPayload()))
	default:
		return l.why(err)
	}
}

// settle tells of f's end, and sends the next one of its key.
func (l *link) settle(f *flight, err error) error {
	i := slices.Index(l.flights, f)
	l.flights = slices.Delete(l.flights, i, i+1)
	if i == 0 {
		l.since = time.Now()
	}
	if l.keys[f.key]--; l.keys[f.key] == 0 {
		delete(l.keys, f.key)
	}
	l.done(f.event, err)
	if l.keys[f.key] == 0 || l.s.c.Exclusive || l.over {
		return nil
	}
	next := slices.IndexFunc(l.flights, func(o *flight) bool { return o.key == f.key })
	return l.publish(l.flights[next])
}

// answered settles the event that m is the answer to. An event that is refused for now ends the
// connection; those of its key behind it must not pass it.
func (l *link) answered(m *nats.Msg) error {
	i := slices.IndexFunc(l.flights, func(f *flight) bool { return f.sent && f.msg.Reply == m.Subject })
	if i < 0 {
		return nil // a second answer to one that is settled: two streams listen, or a stranger does
	}
	f := l.flights[i]
	err := verdict(m, f.msg.Subject)
	if err != nil && !errors.Is(err, gateway.ErrInvalid) {
		return err
	}
	return l.settle(f, err)
}

// complaint is an error that the server sent outside of any answer, and that does not end the
// connection: the account may not publish somewhere. Where the topic makes the subject, that is the
// event's own fault; else nothing would get through, and the uplink is down.
func (l *link) complaint(err error) error {
	_, quoted, ok := strings.Cut(err.Error(), "Permissions Violation for Publish to ")
	if !ok || !l.s.subject.byTopic {
		return err
	}
	subject, bad := strconv.Unquote(quoted)
	i := slices.IndexFunc(l.flights, func(f *flight) bool { return f.sent && f.msg.Subject == subject })
	if bad != nil || i < 0 {
		return err
	}
	return l.settle(l.flights[i], gateway.Errorf(gateway.ErrDenied, "the account may not publish on the subject %s", subject))
}

// why is what ended the connection, or else err.
func (l *link) why(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) {
		if last := l.nc.LastError(); last != nil {
			err = last
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, nats.ErrConnectionClosed) {
		return errors.New("the server closed the connection")
	}
	return err
}
