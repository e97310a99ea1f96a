package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// maxAnswer bounds a packet from the far end: nothing is subscribed to, so only CONNACK and
// DISCONNECT have any size at all.
const maxAnswer = 64 << 10

// The two packets that both versions write alike (§3.12, §3.14).
var (
	pingreq    = []byte{0xC0, 0}
	disconnect = []byte{0xE0, 0}
)

// codec is one version of the protocol.
type codec interface {
	connect(to *bytes.Buffer, c *Config) error
	// publish fails with gateway.ErrInvalid if the version has no way to say e.
	publish(to *bytes.Buffer, packetID uint16, e *gateway.Event, id string, retain bool, now time.Time) error
	read(from *bufio.Reader) (answer, error)
}

// answer is a packet from the far end.
type answer struct {
	kind     byte // one of the constants below
	packetID uint16
	err      error // PUBACK, CONNACK: the refusal; DISCONNECT: why
	limits   limits
}

const (
	connack    = 2
	puback     = 4
	pingresp   = 13
	disconnack = 14 // DISCONNECT from the far end, version 5
)

// limits are what a CONNACK tells. Zero means that it does not say.
type limits struct {
	window    int
	maxPacket int
	keepAlive time.Duration
	noRetain  bool
	noQoS1    bool
}

// flight is a publish without its PUBACK.
type flight struct {
	packetID uint16
	event    *gateway.Event
	sent     time.Time // when the kernel had all of it; zero while it is in our buffer
}

// link is one connection. All but read belongs to the goroutine of run.
type link struct {
	s    *Sink
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	buf  bytes.Buffer

	limits   limits
	inFlight []flight // in order of sending
	lastID   uint16

	acked  time.Time // the last PUBACK
	wrote  time.Time // the last flush of anything
	heard  time.Time // the last packet of any kind
	pinged time.Time // zero: no ping waits for its answer
}

func newLink(s *Sink, conn net.Conn) *link {
	return &link{
		s: s, conn: conn,
		r: bufio.NewReader(conn),
		w: bufio.NewWriterSize(pacedWriter{conn, s.c.AckTimeout}, 16<<10),
	}
}

// pacedWriter demands progress, not completion: a large payload over a slow link may take
// its time, a link that takes nothing at all for limit is dead.
type pacedWriter struct {
	conn  net.Conn
	limit time.Duration
}

func (w pacedWriter) Write(b []byte) (int, error) {
	const chunk = 16 << 10
	n := 0
	for n < len(b) {
		if err := w.conn.SetWriteDeadline(time.Now().Add(w.limit)); err != nil {
			return n, err
		}
		m, err := w.conn.Write(b[n:min(n+chunk, len(b))])
		n += m
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, fmt.Errorf("the link has taken nothing for %v", w.limit)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// connect says hello and waits for the CONNACK.
func (l *link) connect(deadline time.Time) error {
	l.buf.Reset()
	if err := l.s.codec.connect(&l.buf, &l.s.c); err != nil {
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
		return fmt.Errorf("no CONNACK within %v", l.s.c.ConnectTimeout)
	case err != nil:
		return err
	case a.kind != connack:
		return fmt.Errorf("got packet type %d instead of a CONNACK", a.kind)
	case a.err != nil:
		return fmt.Errorf("the far end refused the connection: %w", a.err)
	case a.limits.noQoS1:
		return errors.New("the far end takes QoS 0 only, and that has no acknowledgement")
	}
	l.limits = a.limits
	return l.conn.SetReadDeadline(time.Time{})
}

// read reads one packet. A far end that sends what makes a codec panic (a property length
// that is negative in 32 bits does) loses its connection, and nothing else happens.
func (l *link) read() (a answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the far end sent a malformed packet: %v", p)
		}
	}()
	if err := checkHeader(l.r); err != nil {
		return answer{}, closed(err)
	}
	a, err = l.s.codec.read(l.r)
	return a, closed(err)
}

func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the far end closed the connection")
	}
	return err
}

// checkHeader looks at the fixed header (§2.1) before a codec sees it: the codecs allocate
// what it says, and know packets that have no business here.
func checkHeader(r *bufio.Reader) error {
	size := 0
	for n := 2; n <= 5; n++ {
		head, err := r.Peek(n)
		if err != nil {
			return err
		}
		switch kind := head[0] >> 4; kind {
		case connack, puback, pingresp, disconnack:
		default:
			return fmt.Errorf("the far end sent a packet of type %d, which makes no sense here", kind)
		}
		size |= int(head[n-1]&0x7f) << (7 * (n - 2))
		if head[n-1] < 0x80 {
			if size > maxAnswer {
				return fmt.Errorf("the far end sent a packet of %d bytes; at most %d make sense here", size, maxAnswer)
			}
			return nil
		}
	}
	return errors.New("the far end sent a packet with a malformed length")
}

// run sends until events is closed and all is acknowledged, or the link is lost.
func (l *link) run(ctx context.Context, events <-chan *gateway.Event, done func(*gateway.Event, error)) error {
	window := l.s.c.Window
	if l.limits.window > 0 {
		window = min(window, l.limits.window)
	}
	answers := make(chan answer, window+8)
	lost := make(chan error, 1)
	quit := make(chan struct{})
	go func() { lost <- l.listen(answers, quit) }()
	ended := false
	defer func() {
		close(quit)
		l.conn.Close()
		if !ended {
			<-lost
		}
	}()

	keepAlive := l.s.c.KeepAlive
	if l.limits.keepAlive > 0 {
		keepAlive = min(keepAlive, l.limits.keepAlive)
	}
	tick := time.NewTicker(min(keepAlive, l.s.c.AckTimeout) / 4)
	defer tick.Stop()
	now := time.Now()
	l.acked, l.wrote, l.heard = now, now, now
	for {
		in := events
		if len(l.inFlight) >= window {
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
		if events == nil && len(l.inFlight) == 0 {
			return l.flush(disconnect)
		}
		if err := l.flush(nil); err != nil {
			return err
		}
		select {
		case e, ok := <-in:
			if !ok {
				events = nil
			} else if err := l.publish(e, done); err != nil {
				return err
			}
		case a := <-answers:
			if err := l.answers(a, answers, done); err != nil {
				return err
			}
		case err := <-lost:
			ended = true
			for { // what was read before the end counts
				select {
				case a := <-answers:
					if e := l.answered(a, done); e != nil {
						return e
					}
				default:
					return err
				}
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

// listen reads packets until the connection ends.
func (l *link) listen(to chan<- answer, quit <-chan struct{}) error {
	for {
		a, err := l.read()
		if err != nil {
			return err
		}
		select {
		case to <- a:
		case <-quit:
			return nil
		}
	}
}

func (l *link) publish(e *gateway.Event, done func(*gateway.Event, error)) error {
	l.buf.Reset()
	id := l.nextID()
	err := l.s.codec.publish(&l.buf, id, e, e.ID(l.s.gatewayID), e.Retain && !l.limits.noRetain, time.Now())
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
	l.inFlight = append(l.inFlight, flight{packetID: id, event: e})
	_, err = l.w.Write(l.buf.Bytes())
	return err
}

// nextID returns a packet identifier that is not in flight (§2.2.1).
func (l *link) nextID() uint16 {
	for {
		l.lastID++
		if l.lastID != 0 && l.find(l.lastID) < 0 {
			return l.lastID
		}
	}
}

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
	for i := len(l.inFlight) - 1; i >= 0 && l.inFlight[i].sent.IsZero(); i-- {
		l.inFlight[i].sent = l.wrote
	}
	return nil
}

// answers handles a and whatever else has come, so that the slots it frees are filled with
// one write.
func (l *link) answers(a answer, more <-chan answer, done func(*gateway.Event, error)) error {
	for {
		if err := l.answered(a, done); err != nil {
			return err
		}
		select {
		case a = <-more:
		default:
			return nil
		}
	}
}

func (l *link) answered(a answer, done func(*gateway.Event, error)) error {
	l.heard = time.Now()
	switch a.kind {
	case puback:
		i := l.find(a.packetID)
		if i < 0 {
			return fmt.Errorf("the far end acknowledged packet %d, which is not in flight", a.packetID)
		}
		l.acked = l.heard
		e := l.inFlight[i].event
		l.inFlight = append(l.inFlight[:i], l.inFlight[i+1:]...)
		done(e, a.err)
	case pingresp:
		l.pinged = time.Time{}
	case disconnack:
		return fmt.Errorf("the far end ended the connection: %w", a.err)
	default:
		return fmt.Errorf("the far end sent a packet of type %d, which makes no sense here", a.kind)
	}
	return nil
}

// watch notices a link that lies still, and pings one that is quiet.
func (l *link) watch(now time.Time, keepAlive time.Duration) error {
	limit := l.s.c.AckTimeout
	if len(l.inFlight) > 0 {
		since := l.inFlight[0].sent
		if l.acked.After(since) { // slow, but moving
			since = l.acked
		}
		if now.Sub(since) > limit {
			return fmt.Errorf("no acknowledgement for %v", limit)
		}
	}
	if !l.pinged.IsZero() {
		if now.Sub(l.pinged) > limit && !l.heard.After(l.pinged) {
			return fmt.Errorf("no answer to a ping for %v", limit)
		}
		return nil
	}
	// Either direction may be the dead one. A tick is a quarter of the keep alive at most, so
	// this is in time (§3.1.2.10).
	if quiet := keepAlive * 3 / 4; now.Sub(l.wrote) >= quiet || now.Sub(l.heard) >= quiet {
		l.pinged = now
		return l.flush(pingreq)
	}
	return nil
}
