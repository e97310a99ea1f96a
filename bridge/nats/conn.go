package nats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

// CertificateExpiry is bridge.Certified.
func (s *Sink) CertificateExpiry() time.Time { return s.dialer.CertificateExpiry() }

// Send is bridge.Sink.
func (s *Sink) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	err := s.send(ctx, events, up, done)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		s.next = (s.next + 1) % len(s.servers)
	}
	return err
}

func (s *Sink) send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	at := s.servers[s.next]
	ctx, end := context.WithCancel(ctx)
	defer end()
	l := newLink(s, done)
	nc, err := s.connect(ctx, at, l)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", at.address, err)
	}
	defer func() {
		close(l.quit)
		nc.Close()
		<-l.closed
	}()
	err = l.open(ctx, nc)
	if err == nil {
		up()
		err = l.run(ctx, events)
	}
	if err != nil {
		end() // closes the socket, so that Close does not wait for a link that takes nothing
	}
	return err
}

// connect makes one connection to one server.
func (s *Sink) connect(ctx context.Context, at server, l *link) (*nats.Conn, error) {
	options, err := s.login()
	if err != nil {
		return nil, err
	}
	d := &tcp{ctx: ctx, dialer: s.dialer}
	options = append(options,
		nats.Name(s.name), nats.NoReconnect(), nats.SetCustomDialer(d), nats.SkipHostLookup(), nats.IgnoreDiscoveredServers(),
		nats.Timeout(s.dialer.Timeout()), nats.FlusherTimeout(s.c.AckTimeout), nats.SkipSubjectValidation(), // ours is stricter
		nats.PingInterval(s.c.KeepAlive), nats.MaxPingsOutstanding(1), nats.CustomInboxPrefix(s.c.InboxPrefix),
		nats.ErrorHandler(l.onError), nats.ClosedHandler(func(*nats.Conn) { close(l.closed) }),
	)
	if c := s.dialer.TLS(at.address); c != nil {
		options = append(options, nats.Secure(c))
	}
	nc, err := nats.Connect(at.url, options...)
	switch {
	case d.err != nil: // the library forgets why
		return nil, d.err
	case errors.Is(err, io.EOF):
		return nil, errors.New("the server closed the connection")
	case err != nil:
		return nil, err
	case !nc.HeadersSupported():
		nc.Close()
		<-l.closed
		return nil, errors.New("the server has no headers, and so no place for the event's id")
	}
	return nc, nil
}

// tcp hands the library its connections, and closes them with ctx, which no call of the library
// outlives then.
type tcp struct {
	ctx    context.Context
	dialer *dial.Dialer
	err    error
}

// Dial is nats.CustomDialer. TLS is done by the library, as it begins behind the server's INFO.
func (t *tcp) Dial(_, address string) (net.Conn, error) {
	conn, err := t.dialer.DialTCP(t.ctx, address)
	if err != nil {
		t.err = err
		return nil, err
	}
	// What lies in the kernel's buffer looks sent; a small one keeps a slow link from looking
	// like a dead one.
	if c, ok := conn.(*net.TCPConn); ok {
		if err := c.SetWriteBuffer(32 << 10); err != nil {
			conn.Close()
			t.err = err
			return nil, err
		}
	}
	context.AfterFunc(t.ctx, func() { conn.Close() })
	return conn, nil
}
