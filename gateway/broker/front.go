package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// conn is the front of one connection: the net.Conn that the engine reads from and
// writes to. It takes packets off the socket one at a time, refuses what the standard
// refuses, keeps what is Weir's own (PUBLISH and the four acknowledgements, DISCONNECT)
// and hands the rest to the engine, one packet per turn: when the engine asks for the next,
// it is done with the last. So whatever the front handles is in order with what the
// engine handles, and comes after authentication.
type conn struct {
	b       *Broker
	nc      net.Conn
	r       *bufio.Reader
	w       *writer
	answers *answers
	ctx     context.Context // ends when the connection is to end
	cancel  context.CancelFunc
	log     *slog.Logger
	since   time.Time
	ended   chan struct{} // closed when the session is free for the next connection
	proxy   *Proxy        // nil: the client speaks for itself

	// Of the reading goroutine, which is the engine's.
	handed  []byte // what the engine has yet to read of its packet
	scratch []byte
	aliases map[uint16]string
	subs    []subscription // of the SUBSCRIBE that the engine is at
	filters []string       // of the UNSUBSCRIBE
	codes   []byte         // the reason codes for either

	// Set by CONNECT, before the session is.
	connect  connect
	id       string
	assigned bool // id is ours, not the client's
	account  *auth.Account
	expiry   uint32 // of the session, in seconds; as granted
	present  bool   // the session was there
	refused  byte   // why CONNACK says no
	accepted atomic.Bool
	session  atomic.Pointer[session]

	mu    sync.Mutex
	cause *cause
	hurry chan struct{} // closed when whoever waits for the end cannot wait
	rush  bool
}

// cause is why a connection ends.
type cause struct {
	code   byte   // of the DISCONNECT, for v5; 0: none is sent
	reason string // a constant, for people and metrics
	detail error
	clean  bool // the client said goodbye: no will
	pause  bool // read nothing for a while, then close
}

// reasonLost is the reason of a connection that ended without a word.
const reasonLost = "connection lost"

func newConn(ctx context.Context, b *Broker, nc net.Conn) *conn {
	c := &conn{b: b, nc: nc, log: b.log, since: time.Now(),
		ended: make(chan struct{}), hurry: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.r = bufio.NewReaderSize(nc, 2048)
	c.w = newWriter(nc, b.o.QueueBytes)
	c.w.wrote = func() {
		if s := c.session.Load(); s != nil {
			s.drain()
		}
	}
	c.w.fail = func(err error) { c.stop(cause{reason: reasonLost, detail: err}) }
	c.w.crash = c.crashed
	c.answers = newAnswers(int(b.o.ReceiveMaximum), c.write)
	return c
}

// stop ends the connection; the first cause counts. It does not wait.
func (c *conn) stop(why cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = &why
		c.cancel()
		c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	} else if !c.rush && !why.pause && why.code != 0 {
		c.rush = true // somebody waits for the end: no pause
		close(c.hurry)
	}
}

func (c *conn) crashed(r any) {
	c.log.Error("panic in an MQTT connection", "client", c.id, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	c.stop(cause{code: codeImplementation, reason: "internal error"})
}

// write queues packets for the client. A client that does not take them is closed.
func (c *conn) write(packets []byte) {
	if _, full := c.w.send(packets); full {
		c.slow()
	}
}

func (c *conn) slow() {
	c.stop(cause{code: codeQuota, reason: "slow receiver"})
}

// serve runs the connection to its end.
func (c *conn) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		c.stop(cause{code: codeShuttingDown, reason: "shutting down"})
	})
	defer stop()
	func() {
		defer func() {
			if r := recover(); r != nil {
				c.crashed(r)
			}
		}()
		c.b.engine.attach(c)
	}()
	c.stop(cause{reason: reasonLost}) // if nobody has said why
	c.mu.Lock()
	why := *c.cause
	c.mu.Unlock()
	if why.pause {
		c.pause()
	}
	c.answers.close()
	c.b.leave(c, why)
	close(c.ended)

	var last []byte
	if c.accepted.Load() && c.connect.version == v5 && why.code != 0 {
		last = appendDisconnect(nil, why.code, c.reasonString(why))
	}
	c.w.finish(last, c.b.o.CloseTimeout, !why.clean && why.reason != reasonLost)
}

// reasonString is the text of a v5 DISCONNECT; none if the client wants none (§3.1.2.11.7).
func (c *conn) reasonString(why cause) string {
	p := &c.connect.props
	if p.requestProblem == 0 || p.set.has(propMaxPacket) && p.maxPacket < 256 {
		return ""
	}
	if why.detail == nil {
		return why.reason
	}
	text := why.detail.Error()
	return strings.ToValidUTF8(text[:min(len(text), 120)], "")
}

// pause keeps a client waiting that has no other way to learn that it should slow down.
func (c *conn) pause() {
	t := time.NewTimer(c.b.o.RefusalPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.hurry:
	case <-c.b.stopped:
	}
}

// Read hands the engine what is left of its packet, or the next one.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.handed) == 0 {
		packet, err := c.next()
		if err != nil {
			c.stop(causeOf(err, c.accepted.Load()))
			return 0, io.EOF
		}
		c.handed = packet
	}
	n := copy(p, c.handed)
	c.handed = c.handed[n:]
	return n, nil
}

// causeOf turns what ended the reading into the cause.
func causeOf(err error, accepted bool) cause {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return cause{code: r.code, reason: "protocol error", detail: err}
	case errors.Is(err, errGoodbye):
		return cause{reason: "client disconnected", clean: true}
	case errors.Is(err, errGoodbyeWithWill):
		return cause{reason: "client disconnected with will"}
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return cause{reason: reasonLost, detail: err}
	case !accepted:
		return cause{reason: "connect timeout"}
	}
	return cause{code: codeKeepAlive, reason: "keep alive timeout"}
}

var (
	errGoodbye         = errors.New("DISCONNECT")
	errGoodbyeWithWill = errors.New("DISCONNECT with will")
)

// next handles packets until one is the engine's.
func (c *conn) next() ([]byte, error) {
	for {
		c.answers.wait(c.ctx)
		header, body, err := c.readPacket()
		if err != nil {
			return nil, err
		}
		if c.connect.version == 0 {
			return c.handleConnect(header, body)
		}
		if !flagsOK(header) {
			return nil, refuse(codeMalformed, "reserved flags of packet type %d are set", header>>4)
		}
		mine, err := c.handle(header, body)
		if err != nil {
			return nil, err
		}
		if !mine {
			packet := append(make([]byte, 0, 5+len(body)), header)
			return append(appendVarint(packet, len(body)), body...), nil
		}
	}
}

// readPacket takes one packet off the socket. The body of a PUBLISH is the caller's
// for good, any other until the next call.
func (c *conn) readPacket() (header byte, body []byte, err error) {
	c.arm()
	if header, err = c.r.ReadByte(); err != nil {
		return 0, nil, err
	}
	first := c.connect.version == 0
	if first && header != typeConnect<<4 {
		return 0, nil, refuse(codeProtocol, "first packet is not CONNECT")
	}
	size, err := c.readLength()
	if err != nil {
		return 0, nil, err
	}
	max := c.b.o.MaxPacket
	if first {
		max = min(max, maxConnect)
	}
	if size > max {
		return 0, nil, refuse(codePacketTooLarge, "packet of %d bytes is larger than %d", size, max)
	}
	if header>>4 == typePublish || size > keepBuffer {
		body, err = c.readBody(nil, size)
	} else {
		body, err = c.readBody(c.scratch[:0], size)
		c.scratch = body
	}
	return header, body, err
}

func (c *conn) readLength() (int, error) {
	n := 0
	for i := range 4 {
		b, err := c.r.ReadByte()
		if err != nil {
			return 0, err
		}
		n |= int(b&0x7F) << (7 * i)
		if b&0x80 == 0 {
			if i > 0 && b == 0 {
				return 0, refuse(codeMalformed, "remaining length is longer than it need be")
			}
			return n, nil
		}
	}
	return 0, refuse(codeMalformed, "remaining length has more than four bytes")
}

// readBody reads size bytes into b. It allocates as they come: who announces a large
// packet and sends nothing gets nothing.
func (c *conn) readBody(b []byte, size int) ([]byte, error) {
	const step = 64 << 10
	for len(b) < size {
		from := len(b)
		n := min(size-from, max(step, from))
		b = slices.Grow(b, n)[:from+n]
		if _, err := io.ReadFull(c.r, b[from:]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// arm sets the time by which the next packet must have come: MQTT 5 §3.1.2.10, one and
// a half times the keep alive.
func (c *conn) arm() {
	var by time.Time
	if !c.accepted.Load() {
		by = c.since.Add(c.b.o.ConnectTimeout)
	} else if k := c.connect.keepAlive; k > 0 {
		by = time.Now().Add(k + k/2)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.nc.SetReadDeadline(by)
	}
}

// handleConnect returns the CONNECT that the engine gets: the client's without what is
// Weir's own to keep, which is the will, the session and the keep alive.
func (c *conn) handleConnect(header byte, body []byte) ([]byte, error) {
	var err error
	c.connect, err = decodeConnect(body)
	if err != nil {
		var r *refusal
		if errors.As(err, &r) && c.connect.version != 0 {
			c.write(appendConnack(nil, c.connect.version, r.code))
		}
		return nil, err
	}
	c.id = c.connect.clientID
	if c.id == "" {
		c.id, c.assigned = newClientID(), true
	}
	p := &c.connect.props
	longest := uint32(c.b.o.MaxSessionExpiry / time.Second)
	switch {
	case c.connect.version == v5:
		c.expiry = min(p.sessionExpiry, longest)
	case !c.connect.clean:
		c.expiry = longest
	}
	rest := []byte{0, 4, 'M', 'Q', 'T', 'T', c.connect.version, 0x02, 0, 60}
	if c.connect.version == v5 {
		if m := p.maxPacket; m > 0 {
			rest = append(rest, 5, propMaxPacket, byte(m>>24), byte(m>>16), byte(m>>8), byte(m))
		} else {
			rest = append(rest, 0)
		}
	}
	rest = appendString(rest, c.id)
	return append(appendVarint([]byte{header}, len(rest)), rest...), nil
}

// handle does what is Weir's own. It returns false for a packet that the engine is to
// have, which was found to be well formed.
func (c *conn) handle(header byte, body []byte) (mine bool, err error) {
	version := c.connect.version
	switch header >> 4 {
	case typePublish:
		return true, c.publish(header, body)
	case typePubrel:
		id, _, err := decodeAck(version, body)
		if err == nil {
			c.release(id)
		}
		return true, err
	case typePuback, typePubrec, typePubcomp:
		id, code, err := decodeAck(version, body)
		if err == nil {
			c.session.Load().acked(c, header>>4, id, code)
		}
		return true, err
	case typeSubscribe:
		c.subs, err = decodeSubscribe(version, body)
		return false, err
	case typeUnsubscribe:
		c.filters, err = decodeUnsubscribe(version, body)
		return false, err
	case typePingreq:
		if len(body) > 0 {
			return false, refuse(codeMalformed, "PINGREQ has a body")
		}
		return false, nil
	case typeDisconnect:
		return true, c.goodbye(body)
	case typeConnect:
		return true, refuse(codeProtocol, "second CONNECT")
	case typeAuth:
		if version == v5 {
			return true, refuse(codeProtocol, "AUTH without an authentication method")
		}
	}
	return true, refuse(codeMalformed, "packet type %d is not a client's", header>>4)
}

// goodbye handles DISCONNECT, §3.14.
func (c *conn) goodbye(body []byte) error {
	code, props, err := decodeDisconnect(c.connect.version, body)
	if err != nil {
		return err
	}
	if props.set.has(propSessionExpiry) {
		if c.expiry == 0 && props.sessionExpiry != 0 {
			return refuse(codeProtocol, "session expiry interval of a session that has none")
		}
		c.expiry = min(props.sessionExpiry, uint32(c.b.o.MaxSessionExpiry/time.Second))
	}
	if code == codeSuccess {
		return errGoodbye
	}
	return errGoodbyeWithWill
}

// publish takes a client's PUBLISH in: alias, rights, Ingest.
func (c *conn) publish(header byte, body []byte) error {
	p, err := decodePublish(c.connect.version, header, body)
	if err != nil {
		return err
	}
	e := p.event
	if p.alias > 0 {
		if err := c.resolveAlias(p.alias, e); err != nil {
			return err
		}
	}
	e.Origin = gateway.Origin{Via: via, ID: c.id, User: c.account.Name()}
	switch e.QoS {
	case 0:
		if err := c.b.allowed(c.account, e); err != nil {
			c.b.o.Observer.Refused(e, err)
			return nil
		}
		c.b.o.Ingest(c.ctx, e, nil) // counts its own refusals; at QoS 0 nobody is told
	case 1:
		n := c.answers.add(typePuback, p.id)
		done := func(err error) { c.answer(n, e, err) }
		if err := c.b.allowed(c.account, e); err != nil {
			c.b.o.Observer.Refused(e, err)
			done(err)
		} else if err := c.b.o.Ingest(c.ctx, e, done); err != nil {
			done(err)
		}
	case 2:
		e.PacketID = p.id
		return c.session.Load().receive(c, e)
	}
	return nil
}

// resolveAlias gives e the topic that alias stands for, or learns it: MQTT 5 §3.3.2.3.4.
func (c *conn) resolveAlias(alias uint16, e *gateway.Event) error {
	if alias > c.b.o.TopicAliasMaximum {
		return refuse(codeAliasInvalid, "topic alias %d is above the maximum of %d", alias, c.b.o.TopicAliasMaximum)
	}
	if e.Topic != "" {
		if c.aliases == nil {
			c.aliases = map[uint16]string{}
		}
		c.aliases[alias] = e.Topic
		return nil
	}
	topic, known := c.aliases[alias]
	if !known {
		return refuse(codeProtocol, "topic alias %d is not known", alias)
	}
	e.Topic = topic
	return nil
}

// answer says what became of e. v3.1.1 has no word for "not stored": such a client gets no
// answer, nor any of those behind it, is not read from for a while, and is closed. Being
// told success instead is what §3.3.5.2 allows for a denial, and what Weir never does.
func (c *conn) answer(n uint64, e *gateway.Event, err error) {
	switch {
	case err == nil:
		c.answers.resolve(n, codeSuccess)
	case c.connect.version == v5:
		c.answers.resolve(n, answerCode(e, err))
	default:
		c.stop(cause{reason: "publish refused", detail: err, pause: true})
	}
}

func answerCode(e *gateway.Event, err error) byte {
	switch {
	case errors.Is(err, gateway.ErrDenied):
		return codeNotAuthorized
	case errors.Is(err, gateway.ErrFull):
		return codeQuota
	case errors.Is(err, gateway.ErrInvalid):
		if gateway.ValidateTopic(e.Topic) != nil {
			return codeTopicInvalid
		}
		return codePayloadInvalid
	}
	return codeImplementation
}

// The rest of net.Conn, as far as the engine needs it.

// Write queues what the engine says.
func (c *conn) Write(p []byte) (int, error) {
	c.write(p)
	return len(p), nil
}

// Close is called by the engine when it is done; serve closes the socket.
func (c *conn) Close() error { return nil }

func (c *conn) LocalAddr() net.Addr              { return c.nc.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr             { return c.nc.RemoteAddr() }
func (c *conn) SetDeadline(time.Time) error      { return nil } // deadlines are the front's own
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
