// Package snclient is an MQTT-SN 1.2 client as a small node would have one: one request at a time, which it repeats
// until it is answered. It is for devices that are simulated and for tests, which also want to see what comes.
package snclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/weir-iot/weir/devices/mqttsn/packet"
)

// Options of a Client. Only ID must be given.
type Options struct {
	ID        string
	Clean     bool          // begin without what the gateway has of an earlier connection
	KeepAlive time.Duration // whole seconds; default 60 s
	Will      *Will
	// Predefined are the topics that the gateway has always known too, by id.
	Predefined map[uint16]string
	// Message is told of each message, by the goroutine that reads.
	Message func(Message)

	Retry   time.Duration // how long the gateway has to answer: T_retry; default 10 s
	Retries int           // how often it is asked again: N_retry; default 4
}

// Will is what the gateway publishes when it loses the client.
type Will struct {
	Topic   string
	Message []byte
	QoS     int8
	Retain  bool
}

// Message is one that was published to the client.
type Message struct {
	Topic   string
	Payload []byte
	QoS     int8
	Retain  bool
	Dup     bool
}

var (
	// ErrDisconnected: the gateway does not know the client (any more). It has to connect.
	ErrDisconnected = errors.New("disconnected by the gateway")
	// ErrNoAnswer: the gateway has not answered, however often it was asked.
	ErrNoAnswer = errors.New("the gateway does not answer")
)

// Refused is a return code that is not "accepted".
type Refused struct{ Code packet.Code }

func (e *Refused) Error() string { return e.Code.String() }

// Client is an MQTT-SN client. Its methods are for one goroutine.
type Client struct {
	o    Options
	conn net.Conn
	read sync.WaitGroup

	mu      sync.Mutex
	ids     map[string]uint16 // topics that both know
	names   map[uint16]string
	held    map[uint16]bool // QoS 2 messages that are not released
	done    []uint16        // and the ones released last
	expects func(packet.Packet) bool
	answer  chan packet.Packet
	alive   chan struct{} // something came
	down    chan struct{} // closed by a DISCONNECT that was not asked for
	dialing bool          // between CONNECT and CONNACK: a DISCONNECT is of what was before
	msgID   uint16
	asleep  bool
}

// Dial returns a client for the gateway at address.
func Dial(address string, o Options) (*Client, error) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return nil, err
	}
	return New(conn, o), nil
}

// New returns a client that sends and receives datagrams by conn, which Close closes.
func New(conn net.Conn, o Options) *Client {
	if o.KeepAlive == 0 {
		o.KeepAlive = time.Minute
	}
	if o.Retry == 0 {
		o.Retry = 10 * time.Second
	}
	if o.Retries == 0 {
		o.Retries = 4
	}
	if o.Message == nil {
		o.Message = func(Message) {}
	}
	c := &Client{o: o, conn: conn, answer: make(chan packet.Packet, 1), alive: make(chan struct{}, 1)}
	c.forget()
	c.read.Go(c.receive)
	return c
}

// forget is what a node that begins a connection knows: of an earlier one, at most what has to be once.
func (c *Client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ids, c.names = map[string]uint16{}, map[uint16]string{}
	if c.o.Clean || c.held == nil {
		c.held, c.done = map[uint16]bool{}, nil
	}
	c.down = make(chan struct{})
}

// Close ends the client without a word, as if it had lost its power.
func (c *Client) Close() error {
	err := c.conn.Close()
	c.read.Wait()
	return err
}

func (c *Client) send(p packet.Packet) { c.conn.Write(p.Append(nil)) }

// Send sends p as it is.
func (c *Client) Send(p packet.Packet) { c.send(p) }

func (c *Client) receive() {
	buf := make([]byte, 1<<16)
	for {
		n, err := c.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as a port that nobody listens on: it may be there later
			time.Sleep(time.Millisecond)
			continue
		}
		if p, err := packet.Decode(slices.Clone(buf[:n])); err == nil {
			c.handle(p)
		}
	}
}

// handle does what a client does by itself, and gives the rest to whoever waits for it.
func (c *Client) handle(p packet.Packet) {
	select {
	case c.alive <- struct{}{}:
	default:
	}
	switch p.Type {
	case packet.Publish:
		c.published(p)
	case packet.Pubrel:
		c.mu.Lock()
		if c.held[p.MsgID] {
			delete(c.held, p.MsgID)
			if c.done = append(c.done, p.MsgID); len(c.done) > 16 {
				c.done = c.done[1:]
			}
		}
		c.mu.Unlock()
		c.send(packet.Packet{Type: packet.Pubcomp, MsgID: p.MsgID})
	case packet.Register:
		c.learn(p.Text, p.TopicID)
		c.send(packet.Packet{Type: packet.Regack, TopicID: p.TopicID, MsgID: p.MsgID})
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.expects != nil && c.expects(p) {
			c.expects = nil
			c.answer <- p
		} else if p.Type == packet.Disconnect && !c.dialing {
			select {
			case <-c.down:
			default:
				close(c.down)
			}
		}
	}
}

func (c *Client) learn(name string, id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.names[id]; ok {
		delete(c.ids, old)
	}
	c.ids[name], c.names[id] = id, name
}

func (c *Client) published(p packet.Packet) {
	c.mu.Lock()
	name := c.names[p.TopicID]
	switch p.TopicType {
	case packet.Predefined:
		name = c.o.Predefined[p.TopicID]
	case packet.Short:
		name = packet.ShortName(p.TopicID)
	}
	again := p.QoS == 2 && (c.held[p.MsgID] || slices.Contains(c.done, p.MsgID))
	if p.QoS == 2 && name != "" && !again {
		c.held[p.MsgID] = true
	}
	c.mu.Unlock()
	if name == "" {
		c.send(packet.Packet{Type: packet.Puback, TopicID: p.TopicID, MsgID: p.MsgID, Code: packet.InvalidTopic})
		return
	}
	if !again {
		c.o.Message(Message{Topic: name, Payload: p.Data, QoS: p.QoS, Retain: p.Retain, Dup: p.Dup})
	}
	switch p.QoS {
	case 1:
		c.send(packet.Packet{Type: packet.Puback, TopicID: p.TopicID, MsgID: p.MsgID})
	case 2:
		c.send(packet.Packet{Type: packet.Pubrec, MsgID: p.MsgID})
	}
}

// request sends p until what is expected comes, §6.13. With patience whatever comes is a reason to wait longer.
func (c *Client) request(ctx context.Context, p packet.Packet, patience bool, expects func(packet.Packet) bool) (packet.Packet, error) {
	c.mu.Lock()
	c.expects = expects
	down := c.down
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.expects = nil
		select {
		case <-c.answer:
		default:
		}
	}()
	timer := time.NewTimer(c.o.Retry)
	defer timer.Stop()
	for try := 0; try <= c.o.Retries; try++ {
		c.send(p)
		p.Dup = p.Type == packet.Publish || p.Type == packet.Subscribe
		timer.Reset(c.o.Retry)
		for waiting := true; waiting; {
			select {
			case a := <-c.answer:
				return a, nil
			case <-down:
				return packet.Packet{}, ErrDisconnected
			case <-c.alive:
				if patience {
					timer.Reset(c.o.Retry)
				}
			case <-timer.C:
				waiting = false
			case <-ctx.Done():
				return packet.Packet{}, context.Cause(ctx)
			}
		}
	}
	return packet.Packet{}, fmt.Errorf("%v: %w", p.Type, ErrNoAnswer)
}

func coded(p packet.Packet, err error) error {
	if err == nil && p.Code != packet.Accepted {
		return &Refused{p.Code}
	}
	return err
}

func of(types ...packet.Type) func(packet.Packet) bool {
	return func(p packet.Packet) bool { return slices.Contains(types, p.Type) }
}

func answering(id uint16, types ...packet.Type) func(packet.Packet) bool {
	return func(p packet.Packet) bool { return slices.Contains(types, p.Type) && p.MsgID == id }
}

// Connect connects, or wakes up for good. The error is a *Refused, ErrNoAnswer, or ctx's.
func (c *Client) Connect(ctx context.Context) error {
	select {
	case <-c.down:
		c.forget()
	default:
		if !c.asleep {
			c.forget()
		}
	}
	dialing := func(now bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.dialing = now
	}
	dialing(true)
	defer dialing(false)
	w := c.o.Will
	p, err := c.request(ctx, packet.Packet{Type: packet.Connect, Will: w != nil, Clean: c.o.Clean, Protocol: packet.Protocol,
		Duration: uint16(c.o.KeepAlive / time.Second), Text: c.o.ID}, false, of(packet.Connack, packet.WillTopicReq))
	if err == nil && p.Type == packet.WillTopicReq {
		p, err = c.request(ctx, packet.Packet{Type: packet.WillTopic, QoS: w.QoS, Retain: w.Retain, Text: w.Topic}, false, of(packet.Connack, packet.WillMsgReq))
	}
	if err == nil && p.Type == packet.WillMsgReq {
		p, err = c.request(ctx, packet.Packet{Type: packet.WillMsg, Data: w.Message}, false, of(packet.Connack))
	}
	if err = coded(p, err); err == nil {
		c.asleep = false
	}
	return err
}

func (c *Client) next() uint16 {
	if c.msgID++; c.msgID == 0 {
		c.msgID = 1
	}
	return c.msgID
}

// Register asks for the id of a topic name. What is known already is not asked for again.
func (c *Client) Register(ctx context.Context, name string) (uint16, error) {
	c.mu.Lock()
	id, known := c.ids[name]
	c.mu.Unlock()
	if known {
		return id, nil
	}
	n := c.next()
	p, err := c.request(ctx, packet.Packet{Type: packet.Register, MsgID: n, Text: name}, false, answering(n, packet.Regack))
	if err = coded(p, err); err != nil {
		return 0, fmt.Errorf("register %s: %w", name, err)
	}
	c.learn(name, p.TopicID)
	return p.TopicID, nil
}

// topic is name as it goes into a PUBLISH.
func (c *Client) topic(ctx context.Context, name string) (packet.TopicType, uint16, error) {
	for id, known := range c.o.Predefined {
		if known == name {
			return packet.Predefined, id, nil
		}
	}
	if len(name) == 2 {
		return packet.Short, packet.ShortTopic(name), nil
	}
	id, err := c.Register(ctx, name)
	return packet.Normal, id, err
}

// Publish publishes, and returns when the gateway has said that it has taken the message in: at QoS 0 and -1 at once.
// QoS -1 needs no connection, and a topic that is predefined or has two octets.
func (c *Client) Publish(ctx context.Context, topic string, qos int8, retain bool, payload []byte) error {
	for attempt := 0; ; attempt++ {
		kind, id, err := c.topic(ctx, topic)
		if err != nil {
			return err
		}
		err = c.publish(ctx, packet.Packet{Type: packet.Publish, QoS: qos, Retain: retain, TopicType: kind, TopicID: id, Data: payload})
		var refused *Refused
		if attempt == 0 && kind == packet.Normal && errors.As(err, &refused) && refused.Code == packet.InvalidTopic {
			c.mu.Lock()
			delete(c.ids, topic) // §6.6: it has to be registered again
			c.mu.Unlock()
			continue
		}
		return err
	}
}

func (c *Client) publish(ctx context.Context, p packet.Packet) error {
	if p.QoS <= 0 {
		c.send(p)
		return nil
	}
	p.MsgID = c.next()
	n := p.MsgID
	a, err := c.request(ctx, p, false, answering(n, packet.Puback, packet.Pubrec))
	if err = coded(a, err); err != nil || p.QoS == 1 {
		return err
	}
	_, err = c.request(ctx, packet.Packet{Type: packet.Pubrel, MsgID: n}, false, answering(n, packet.Pubcomp))
	return err
}

// Subscribe subscribes to a filter. One that is the name of a predefined topic, or has two octets, goes by its id.
func (c *Client) Subscribe(ctx context.Context, filter string, qos int8) error {
	n := c.next()
	p := packet.Packet{Type: packet.Subscribe, QoS: qos, MsgID: n}
	c.name(&p, filter)
	a, err := c.request(ctx, p, false, answering(n, packet.Suback))
	if err = coded(a, err); err != nil {
		return fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	if p.TopicType == packet.Normal && a.TopicID != 0 {
		c.learn(filter, a.TopicID)
	}
	return nil
}

// Unsubscribe ends a subscription.
func (c *Client) Unsubscribe(ctx context.Context, filter string) error {
	n := c.next()
	p := packet.Packet{Type: packet.Unsubscribe, MsgID: n}
	c.name(&p, filter)
	_, err := c.request(ctx, p, false, answering(n, packet.Unsuback))
	return err
}

func (c *Client) name(p *packet.Packet, filter string) {
	for id, known := range c.o.Predefined {
		if known == filter {
			p.TopicType, p.TopicID = packet.Predefined, id
			return
		}
	}
	if len(filter) == 2 {
		p.TopicType, p.TopicID = packet.Short, packet.ShortTopic(filter)
		return
	}
	p.Text = filter
}

// Ping asks whether the gateway is there.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.request(ctx, packet.Packet{Type: packet.Pingreq}, false, of(packet.Pingresp))
	return err
}

// Sleep says that the client will be silent for d, in whole seconds, and returns when the gateway knows.
func (c *Client) Sleep(ctx context.Context, d time.Duration) error {
	_, err := c.request(ctx, packet.Packet{Type: packet.Disconnect, Sleep: true, Duration: uint16(d / time.Second)}, false, of(packet.Disconnect))
	c.asleep = err == nil
	return err
}

// Check wakes up, takes what the gateway has kept, and is asleep again when it returns.
func (c *Client) Check(ctx context.Context) error {
	_, err := c.request(ctx, packet.Packet{Type: packet.Pingreq, Text: c.o.ID}, true, of(packet.Pingresp))
	return err
}

// Disconnect says goodbye: no will is published.
func (c *Client) Disconnect(ctx context.Context) error {
	_, err := c.request(ctx, packet.Packet{Type: packet.Disconnect}, false, of(packet.Disconnect))
	c.asleep = false
	return err
}

// SetWill changes the will of a client that is connected; nil: it has none any more.
func (c *Client) SetWill(ctx context.Context, w *Will) error {
	p := packet.Packet{Type: packet.WillTopicUpd}
	if w != nil {
		p.QoS, p.Retain, p.Text = w.QoS, w.Retain, w.Topic
	}
	err := coded(c.request(ctx, p, false, of(packet.WillTopicResp)))
	if err != nil || w == nil {
		return err
	}
	return coded(c.request(ctx, packet.Packet{Type: packet.WillMsgUpd, Data: w.Message}, false, of(packet.WillMsgResp)))
}

// Search looks for a gateway, and returns its id.
func (c *Client) Search(ctx context.Context) (byte, error) {
	p, err := c.request(ctx, packet.Packet{Type: packet.SearchGW}, false, of(packet.GWInfo))
	return p.Gateway, err
}
