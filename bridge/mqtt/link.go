package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

// The two packets that both versions write alike (§3.12, §3.14).
var (
	pingreq    = []byte{0xC0, 0}
	disconnect = []byte{0xE0, 0}
)

// codec is one version of the protocol.
type codec interface {
	// connect says hello as c; for a source, with a session that outlasts the connection.
	connect(to *bytes.Buffer, c *Config, source bool) error
	// publish fails with gateway.ErrInvalid if the version has no way to say m.
	publish(to *bytes.Buffer, packetID uint16, m *message, age func() time.Duration) error
	// subscribe asks for filters at QoS 1; those that stand already do not bring their retained messages again.
	subscribe(to *bytes.Buffer, packetID uint16, filters []string) error
	// puback says of a message that it is stored, or why it never will be.
	puback(to *bytes.Buffer, packetID uint16, why error) error
	// most is how large a message may be that read takes.
	most() int
	read(from *bufio.Reader) (answer, error)
}

// flight is a publish without its PUBACK.
type flight struct {
	packetID uint16
	event    *gateway.Event
	sent     time.Time // when the kernel had all of it; zero while it is in our buffer
}

// link is one connection. What is not guarded belongs to the goroutine that sends: run's, or receive's.
type link struct {
	s      *Sink
	conn   net.Conn
	source bool // it is the far end that publishes
	r      *bufio.Reader
	w      *bufio.Writer
	buf    bytes.Buffer
	m      message // the one that is being sent

	limits limits
	lasts  time.Duration // until the account has to be shown anew; 0: for ever
	pace   pace
	lastID uint16
	wrote  time.Time // the last flush of anything

	room chan struct{} // one waiter, one signal: what run waits for has come

	mu       sync.Mutex
	inFlight []flight  // in order of sending
	until    int       // run waits until no more than so many are in flight; -1: it does not
	acked    time.Time // the last PUBACK
	heard    time.Time // the last packet of any kind
	pinged   time.Time // zero: no ping waits for its answer
}

func newLink(s *Sink, conn net.Conn) *link {
	l := &link{
		s: s, conn: conn,
		r: bufio.NewReader(conn),
		w: bufio.NewWriterSize(dial.Paced{Conn: conn, Limit: s.c.AckTimeout}, 16<<10),

		room: make(chan struct{}, 1), until: -1,
	}
	if s.c.Rate > 0 {
		l.pace.every = time.Second / time.Duration(s.c.Rate)
	}
	return l
}

// connect says hello as c, for a connection that may last so long, and waits for the CONNACK.
func (l *link) connect(c Config, lasts time.Duration, deadline time.Time) error {
	l.lasts = lasts
	l.buf.Reset()
	if err := l.s.codec.connect(&l.buf, &c, l.source); err != nil {
		return err
	}
	if err := l.flush(l.buf.Bytes()); err != nil {
		return err
	}
	if err := l.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	a, err := l.read()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no CONNACK within %v", l.s.dialer.Timeout())
	case err != nil:
		return err
	case a.kind != connack:
		return fmt.Errorf("got packet type %d instead of a CONNACK", a.kind)
	case a.err != nil:
		return fmt.Errorf("the far end refused the connection: %w", a.err)
	case a.limits.noQoS1 && !l.source:
		return errors.New("the far end takes QoS 0 only, and that has no acknowledgement")
	}
	l.limits = a.limits
	if most := l.s.c.MaxPacket; most > 0 && (l.limits.maxPacket == 0 || most < l.limits.maxPacket) {
		l.limits.maxPacket = most
	}
	return l.conn.SetReadDeadline(time.Time{})
}

// run sends until events is closed and all is acknowledged, or the link is lost.
//
// Once the window is full it waits until half of it is free. A far end with a small window acknowledges
// each message in a packet of its own: to follow each with one publish would be a system call and a switch
// of goroutines for each, on both sides, and it always has the other half to work on.
func (l *link) run(ctx context.Context, events <-chan *gateway.Event, done func(*gateway.Event, error)) error {
	window := l.s.c.Window
	if l.limits.window > 0 {
		window = min(window, l.limits.window)
	}
	keepAlive := l.keepAlive()
	tick := time.NewTicker(min(keepAlive, l.s.c.AckTimeout) / 4)
	defer tick.Stop()
	now := time.Now()
	l.acked, l.wrote, l.heard = now, now, now
	lost := make(chan error, 1)
	go func() { lost <- l.settle(done) }()
	ended := false
	defer func() {
		l.conn.Close()
		if !ended {
			<-lost
		}
	}()

	var renew <-chan time.Time
	if l.lasts > 0 {
		renew = time.After(l.lasts)
	}
	var end error // what an orderly end is called
	turn := time.NewTimer(0)
	defer turn.Stop()
	full := false
	for {
		in := events
		wait := l.pace.wait(time.Now())
		switch n := l.flying(); {
		case n >= window:
			full = true
		case n <= window/2:
			full = false
		}
		if full || wait > 0 {
			in = nil
		}
		if in != nil {
			select { // as long as there is more, gather it into one write
			case e, ok := <-in:
				if !ok {
					events = nil
				} else if err := l.publish(e, done); err != nil {
					return err
				}
				continue
			default:
			}
		}
		if err := l.flush(nil); err != nil {
			return err
		}
		switch {
		case events == nil && l.clear(0):
			if err := l.flush(disconnect); err != nil {
				return err
			}
			return end
		case full && l.clear(window/2):
			continue
		}
		if wait > 0 {
			turn.Reset(wait)
		}
		select {
		case e, ok := <-in:
			if !ok {
				events = nil
			} else if err := l.publish(e, done); err != nil {
				return err
			}
		case <-l.room:
		case err := <-lost:
			ended = true
			return err
		case <-turn.C:
		case <-renew:
			if events != nil {
				events, end = nil, errRenew
			}
		case <-tick.C:
			if err := l.watch(time.Now(), keepAlive); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// flying is how many publishes are in flight.
func (l *link) flying() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inFlight)
}

// clear tells whether no more than n are in flight; else room gets a signal when it is so.
func (l *link) clear(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.inFlight) <= n {
		return true
	}
	l.until = n
	return false
}

// keepAlive is the config's, or what the far end wants if that is less.
func (l *link) keepAlive() time.Duration {
	if l.limits.keepAlive > 0 {
		return min(l.s.c.KeepAlive, l.limits.keepAlive)
	}
	return l.s.c.KeepAlive
}

// errRenew ends a connection in order: the pump makes the next one.
var errRenew = errors.New("the token is about to expire; connecting again with a new one")

func (l *link) publish(e *gateway.Event, done func(*gateway.Event, error)) error {
	l.buf.Reset()
	id := l.nextID()
	m := &l.m
	err := l.s.shaper.shape(m, e)
	if err == nil {
		m.retain = m.retain && !l.limits.noRetain
		err = l.s.codec.publish(&l.buf, id, m, l.s.age)
	}
	if err == nil && l.limits.maxPacket > 0 && l.buf.Len() > l.limits.maxPacket {
		err = gateway.Errorf(gateway.ErrInvalid, "packet of %d bytes is larger than the %d that the far end takes", l.buf.Len(), l.limits.maxPacket)
	}
	if err != nil {
		if errors.Is(err, gateway.ErrInvalid) {
			done(e, err)
			return nil
		}
		return err
	}
	l.mu.Lock()
	l.inFlight = append(l.inFlight, flight{packetID: id, event: e})
	l.mu.Unlock()
	l.pace.took(time.Now())
	_, err = l.w.Write(l.buf.Bytes())
	return err
}

// nextID returns a packet identifier that is not in flight (§2.2.1).
func (l *link) nextID() uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		l.lastID++
		if l.lastID != 0 && l.find(l.lastID) < 0 {
			return l.lastID
		}
	}
}

// find returns the place of packetID in flight, or -1. The caller holds mu.
func (l *link) find(packetID uint16) int {
	for i := range l.inFlight {
		if l.inFlight[i].packetID == packetID {
			return i
		}
	}
	return -1
}

// flush writes what is buffered, and b behind it.
func (l *link) flush(b []byte) error {
	if l.w.Buffered() == 0 && len(b) == 0 {
		return nil
	}
	if _, err := l.w.Write(b); err != nil {
		return err
	}
	if err := l.w.Flush(); err != nil {
		return err
	}
	l.wrote = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.inFlight) - 1; i >= 0 && l.inFlight[i].sent.IsZero(); i-- {
		l.inFlight[i].sent = l.wrote
	}
	return nil
}

// settle reads the answers until the link is lost, and returns why it is.
func (l *link) settle(done func(*gateway.Event, error)) error {
	for {
		a, err := l.read()
		if err == nil {
			err = l.answered(a, done)
		}
		if err != nil {
			return err
		}
	}
}

// answered takes one answer in.
func (l *link) answered(a answer, done func(*gateway.Event, error)) error {
	switch a.kind {
	case puback:
		e, err := l.landed(a.packetID)
		if err != nil {
			return err
		}
		done(e, a.err)
	case pingresp:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.heard, l.pinged = time.Now(), time.Time{}
	case disconnack:
		return fmt.Errorf("the far end ended the connection: %w", a.err)
	default:
		return fmt.Errorf("the far end sent a packet of type %d, which makes no sense here", a.kind)
	}
	return nil
}

// hear notes that the far end said something.
func (l *link) hear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = time.Now()
}

// landed takes what was acknowledged out of flight.
func (l *link) landed(packetID uint16) (*gateway.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.find(packetID)
	if i < 0 {
		return nil, fmt.Errorf("the far end acknowledged packet %d, which is not in flight", packetID)
	}
	l.heard = time.Now()
	l.acked = l.heard
	e := l.inFlight[i].event
	if i == 0 { // the rule; append moves the rest when it must
		l.inFlight[0] = flight{}
		l.inFlight = l.inFlight[1:]
	} else {
		l.inFlight = append(l.inFlight[:i], l.inFlight[i+1:]...)
	}
	if len(l.inFlight) <= l.until {
		l.until = -1
		select {
		case l.room <- struct{}{}:
		default:
		}
	}
	return e, nil
}

// watch notices a link that lies still, and pings one that is quiet.
func (l *link) watch(now time.Time, keepAlive time.Duration) error {
	ping, err := l.quiet(now, keepAlive)
	if ping {
		err = l.flush(pingreq)
	}
	return err
}

// quiet tells whether it is time for a ping; the error is that of a link that lies still.
func (l *link) quiet(now time.Time, keepAlive time.Duration) (ping bool, err error) {
	limit := l.s.c.AckTimeout
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.inFlight) > 0 {
		since := l.inFlight[0].sent
		if l.acked.After(since) { // slow, but moving
			since = l.acked
		}
		if now.Sub(since) > limit {
			return false, fmt.Errorf("no acknowledgement for %v", limit)
		}
	}
	if !l.pinged.IsZero() {
		if now.Sub(l.pinged) > limit && !l.heard.After(l.pinged) {
			return false, fmt.Errorf("no answer to a ping for %v", limit)
		}
		return false, nil
	}
	// Either direction may be the dead one. A tick is a quarter of the keep alive at most, so
	// this is in time (§3.1.2.10).
	if quiet := keepAlive * 3 / 4; now.Sub(l.wrote) >= quiet || now.Sub(l.heard) >= quiet {
		l.pinged = now
		return true, nil
	}
	return false, nil
}
