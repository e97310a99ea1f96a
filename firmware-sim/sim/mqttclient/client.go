// Package mqttclient is an MQTT client such as a firmware has: it publishes with a window of
// unacknowledged messages, comes back after a lost connection by itself, and sends again,
// in order, what was not acknowledged. It is our own, so that tests of the gateway know exactly
// what was sent, how often, and what was acknowledged; no library tells them that.
//
// MQTT 3.1.1 and 5; QoS 0, 1 and 2; clean and persistent sessions. Paragraphs are of MQTT 5.
package mqttclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Options of a Client. Address or Dial, and ClientID, are needed.
type Options struct {
	Address string // host:port
	Dial    func(ctx context.Context) (net.Conn, error)

	ClientID      string
	Version       Version // 0 means V311
	Clean         bool    // clean session (3.1.1), or clean start and no expiry (5)
	SessionExpiry time.Duration
	KeepAlive     time.Duration // whole seconds; default 30 s
	User          string
	Password      string
	Will          *Message

	// Window is how many QoS 1 and 2 messages may be unacknowledged; default 20. A smaller
	// receive maximum of the server is kept.
	Window int
	// Backoff is the first wait before it connects again, doubled up to BackoffMax, up to a
	// fifth more or less by chance. Defaults 100 ms and 5 s.
	Backoff, BackoffMax time.Duration

	// The callbacks are called in order, from the client's goroutines, with its lock held:
	// they must be quick and must not call the client.

	// Sent: m is about to be written to a connection. The bytes may or may not reach the
	// server. Dup: it went before in this session, which lets the server recognise a
	// repeated QoS 2 message, but not a QoS 1 message.
	Sent func(m *Message, dup bool)
	// Acked: the server has taken m (PUBACK or PUBREC), or refused it: reason >= 0x80.
	Acked func(m *Message, reason byte)
	// Received: a message came. A QoS 2 message comes once, a QoS 1 one perhaps again.
	Received func(m *Message)
	// State: the connection is up (present: the server had kept the session) or down.
	State func(up, present bool, reason string)
}

// ErrOffline says that a QoS 0 message was not sent because there is no connection, or none
// that takes anything.
var ErrOffline = errors.New("not connected")

// flight is a QoS 1 or 2 message until its exchange is complete.
type flight struct {
	m        *Message
	id       uint16
	sentHere bool // on this connection
	known    bool // sent in this session: what follows is a repeat, and the server knows it
	released bool // PUBREC came: only the PUBREL is to be repeated
	done     chan struct{}
}

type subscription struct {
	subs  []Sub
	codes chan []byte
}

// Client is one. Make it with New, start it with Run.
type Client struct {
	o Options

	mu       sync.Mutex
	conn     *conn // nil: offline
	room     chan struct{}
	flights  []*flight // in the order they were published
	rels     []*flight // PUBRECs came in this order
	byID     map[uint16]*flight
	lastID   uint16
	subs     []Sub
	pending  map[uint16]*subscription
	incoming map[uint16]bool // QoS 2 ids received and not yet released
	drained  chan struct{}   // closed while there are no flights; else replaced
}

// New returns a client that is not connected yet.
func New(o Options) *Client {
	if o.Version == 0 {
		o.Version = V311
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 30 * time.Second
	}
	if o.Window == 0 {
		o.Window = 20
	}
	if o.Backoff == 0 {
		o.Backoff = 100 * time.Millisecond
	}
	if o.BackoffMax == 0 {
		o.BackoffMax = 5 * time.Second
	}
	if o.SessionExpiry == 0 {
		o.SessionExpiry = time.Hour
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", o.Address)
		}
	}
	c := &Client{o: o, byID: map[uint16]*flight{}, pending: map[uint16]*subscription{}, incoming: map[uint16]bool{}}
	c.room, c.drained = make(chan struct{}), make(chan struct{})
	close(c.drained)
	return c
}

// Run keeps the client connected until ctx ends; then it says DISCONNECT and returns.
func (c *Client) Run(ctx context.Context) {
	wait := c.o.Backoff
	for ctx.Err() == nil {
		served, err := c.serve(ctx)
		if ctx.Err() != nil {
			break
		}
		c.state(false, false, err.Error())
		if served {
			wait = c.o.Backoff
		}
		select {
		case <-time.After(time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))):
		case <-ctx.Done():
		}
		wait = min(2*wait, c.o.BackoffMax)
	}
	c.state(false, false, "stopped")
}

func (c *Client) state(up, present bool, reason string) {
	if c.o.State != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.o.State(up, present, reason)
	}
}

// Publish sends m. A QoS 0 message is written at once or fails with ErrOffline. A QoS 1
// or 2 message waits for room in the window, until ctx ends; then it is the client's and is
// sent until the server has taken or refused it.
func (c *Client) Publish(ctx context.Context, m *Message) error {
	_, err := c.publish(ctx, m)
	return err
}

// PublishWait is Publish, and then waits until the exchange is complete.
func (c *Client) PublishWait(ctx context.Context, m *Message) error {
	f, err := c.publish(ctx, m)
	if err != nil || f == nil {
		return err
	}
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Client) publish(ctx context.Context, m *Message) (*flight, error) {
	if m.QoS == 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.conn == nil || c.conn.stalled() {
			return nil, ErrOffline
		}
		c.tellSent(m, false)
		c.conn.write(appendPublish(nil, c.o.Version, m, 0, false))
		return nil, nil
	}
	for {
		c.mu.Lock()
		if len(c.flights) < c.o.Window {
			break
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer c.mu.Unlock()
	f := &flight{m: m, id: c.nextID(), done: make(chan struct{})}
	if len(c.flights) == 0 {
		c.drained = make(chan struct{})
	}
	c.flights = append(c.flights, f)
	c.byID[f.id] = f
	c.fill()
	return f, nil
}

func (c *Client) tellSent(m *Message, dup bool) {
	if c.o.Sent != nil {
		c.o.Sent(m, dup)
	}
}

func (c *Client) nextID() uint16 {
	for {
		c.lastID++
		if c.lastID != 0 && c.byID[c.lastID] == nil && c.pending[c.lastID] == nil {
			return c.lastID
		}
	}
}

// fill sends, in order, what has not been sent on this connection, up to the server's
// receive maximum (§4.9). A message that was sent before goes with DUP (§3.3.1.1).
func (c *Client) fill() {
	if c.conn == nil {
		return
	}
	open := 0
	for _, f := range c.flights {
		if !f.sentHere {
			if open >= c.conn.receiveMaximum {
				return
			}
			c.tellSent(f.m, f.known)
			c.conn.write(appendPublish(nil, c.o.Version, f.m, f.id, f.known))
			f.sentHere, f.known = true, true
		}
		open++
	}
}

// Drain waits until the server has taken or refused everything published.
func (c *Client) Drain(ctx context.Context) error {
	for {
		c.mu.Lock()
		drained, left := c.drained, len(c.flights)
		c.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-drained:
		case <-ctx.Done():
			return fmt.Errorf("%d messages are not acknowledged: %w", left, ctx.Err())
		}
	}
}

// Subscribe subscribes now or with the next connection, and waits for the answer: the
// granted QoS or 0x80 and above, one for each. It is repeated whenever the server has lost
// the session.
func (c *Client) Subscribe(ctx context.Context, subs ...Sub) ([]byte, error) {
	c.mu.Lock()
	c.subs = append(c.subs, subs...)
	s := &subscription{subs, make(chan []byte, 1)}
	id := c.nextID()
	c.pending[id] = s
	if c.conn != nil {
		c.conn.write(appendSubscribe(nil, c.o.Version, id, subs))
	}
	c.mu.Unlock()
	select {
	case codes := <-s.codes:
		return codes, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Cut drops the connection without a DISCONNECT, as a firmware that resets does.
func (c *Client) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.close(errors.New("cut"))
	}
}

// InFlight is how many messages the server has not answered for.
func (c *Client) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.flights)
}
