package mqttsn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/devices/mqttsn/packet"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// Options are what a Gateway needs, and its limits. Zero means the default.
type Options struct {
	// Connect serves an MQTT 5 connection to the broker for the account, and returns when it has ended; required.
	// It closes nc. When the connection ends without a DISCONNECT, will says what is to be published: nil for nothing.
	Connect func(ctx context.Context, nc net.Conn, account *auth.Account, will func() *gateway.Event)
	// Account tells who a client is, by its client id; nil for one that may not connect. Required.
	Account func(clientID string) *auth.Account
	// Connectionless is who publishes at QoS -1 without a connection; nil: nobody may.
	Connectionless *auth.Account
	// Predefined are the topics that clients and this gateway have always known, by id.
	Predefined map[uint16]string

	// ID is the gateway id in GWINFO and ADVERTISE.
	ID byte
	// Advertise is where the gateway says that it is there, AdvertiseInterval how often. The zero address:
	// nowhere.
	Advertise         netip.AddrPort
	AdvertiseInterval time.Duration

	// MaxClients bounds clients that are connected or asleep; one more gets "congestion". Default 1000.
	MaxClients int
	// MaxPacket bounds datagrams in octets, both ways. What is longer is dropped and counted. Default 1472, which an
	// Ethernet carries in one piece.
	MaxPacket int
	// RetryInterval is how long a client has to answer before it is asked again, and Retries how often it is:
	// T_retry and N_retry of §7.2. Default 10 s and 4.
	RetryInterval time.Duration
	Retries       int

	Logger   *slog.Logger     // nil discards
	Observer gateway.Observer // told of what is dropped
}

// Limits of one client.
const (
	maxInbox    = 32 // datagrams that wait to be looked at
	maxInFlight = 16 // publishes, releases and subscriptions, each, that wait for the broker
	maxWaiting  = 64 // messages at QoS 0 that wait to be sent
	maxClientID = 255

	maxUnreleased = 64 // QoS 2 publishes that it has not released
)

// connectTimeout is how long the broker may take to answer CONNECT.
const connectTimeout = 10 * time.Second

// ConnectionlessID is the client id under which the broker knows what is published without a connection. No client
// may have it.
const ConnectionlessID = "mqtt-sn"

// Gateway is an MQTT-SN gateway.
type Gateway struct {
	o     Options
	log   *slog.Logger
	ids   map[string]uint16 // of predefined topics
	conn  Conn
	limit *limit
	loose chan message // at QoS -1 without a connection

	work  sync.WaitGroup
	stats counters

	mu       sync.Mutex
	closing  bool
	clients  map[string]*client // by client id
	peers    map[peer]*client
	wills    map[string]will // of clients that keep theirs, by client id
	departed [64]departed    // clients that were here lately
	next     int             // of departed
}

// departed is what is kept for a while of a client that is gone, because datagrams of its may still be on their way.
type departed struct {
	id   string
	peer peer // if it said goodbye: it may not have heard the answer
	done recent
}

// Conn is a UDP socket, as far as it is needed: *net.UDPConn.
type Conn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	Close() error
}

// peer is where a client is: an address, and behind a forwarder the wireless node id there (§5.5).
type peer struct {
	addr      netip.AddrPort
	node      string
	forwarded bool
}

// Network is "udp".
func (p peer) Network() string { return "udp" }

func (p peer) String() string {
	s := netip.AddrPortFrom(p.addr.Addr().Unmap(), p.addr.Port()).String()
	if p.forwarded {
		s += fmt.Sprintf("/%x", p.node)
	}
	return s
}

// message is a datagram that was understood.
type message struct {
	packet.Packet
	from peer
	raw  []byte
}

// will is what becomes of a client's last will: §6.4. It may come in two parts.
type will struct {
	topic   string // empty: there is none
	qos     int8
	retain  bool
	message []byte
}

// Stats count what happens.
type Stats struct {
	Clients   int    // connected, asleep ones included
	Asleep    int    // of those
	Received  uint64 // datagrams
	Malformed uint64 // of those, the ones that are no message
	Limited   uint64 // and those of strangers, or of one client, that came too fast
	Denied    uint64 // and those that asked for what is not allowed: CONNECT of an unknown client, QoS -1
	Repeated  uint64 // messages sent again to a client that did not answer
	Lost      uint64 // clients that were given up
}

type counters struct {
	asleep                                                  atomic.Int64
	received, malformed, limited, denied, repeated, givenUp atomic.Uint64
}

// New returns a gateway. Connect and Account are required.
func New(o Options) (*Gateway, error) {
	if o.Connect == nil || o.Account == nil {
		return nil, errors.New("mqttsn: Connect and Account are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Observer = o.Observer.OrNop()
	setDefault(&o.MaxClients, 1000)
	setDefault(&o.MaxPacket, 1472)
	setDefault(&o.RetryInterval, 10*time.Second)
	setDefault(&o.Retries, 4)
	setDefault(&o.AdvertiseInterval, 15*time.Minute)
	g := &Gateway{o: o, log: o.Logger, ids: map[string]uint16{}, limit: newLimit(), loose: make(chan message, maxInbox),
		clients: map[string]*client{}, peers: map[peer]*client{}, wills: map[string]will{}}
	for id, topic := range o.Predefined {
		if err := gateway.ValidateTopic(topic); err != nil {
			return nil, err
		}
		g.ids[topic] = id
	}
	return g, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Stats returns the counts.
func (g *Gateway) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{
		Clients: len(g.clients), Asleep: int(g.stats.asleep.Load()),
		Received: g.stats.received.Load(), Malformed: g.stats.malformed.Load(), Limited: g.stats.limited.Load(),
		Denied: g.stats.denied.Load(), Repeated: g.stats.repeated.Load(), Lost: g.stats.givenUp.Load(),
	}
}

// Serve takes datagrams from conn until ctx ends, and returns when every client's connection to the broker has
// ended too; their wills are published. It closes conn.
func (g *Gateway) Serve(ctx context.Context, conn Conn) error {
	g.conn = conn
	defer g.work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.work.Go(func() { g.connectionless(ctx) })
	if g.o.Advertise.IsValid() {
		g.work.Go(func() { g.advertise(ctx) })
	}
	defer g.shut()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	buf := make([]byte, g.o.MaxPacket+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil:
			g.receive(ctx, buf[:n], from)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("read MQTT-SN datagrams: %w", err)
		default: // of memory, say; the next may work
			g.log.Warn("read failed", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

// shut lets no new client in.
func (g *Gateway) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing = true
}

// receive looks at one datagram, which it does not keep.
func (g *Gateway) receive(ctx context.Context, b []byte, from netip.AddrPort) {
	g.stats.received.Add(1)
	node, forwarded, inner, err := packet.Open(b)
	m := message{from: peer{from, node, forwarded}}
	if !g.known(m.from) && !g.limit.allow(from.Addr(), time.Now()) {
		g.stats.limited.Add(1)
		return
	}
	if err == nil && len(b) > g.o.MaxPacket {
		err = packet.ErrMalformed
	}
	if err == nil {
		m.raw = bytes.Clone(inner)
		m.Packet, err = packet.Decode(m.raw)
	}
	if err != nil {
		g.stats.malformed.Add(1)
		g.log.Debug("datagram is no message", "remote", m.from.String(), "error", err)
		return
	}
	g.dispatch(ctx, m)
}

func (g *Gateway) known(p peer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.peers[p] != nil
}

// dispatch hands m to the client it is of.
func (g *Gateway) dispatch(ctx context.Context, m message) {
	switch {
	case m.Type == packet.Connect:
		g.admit(ctx, m)
	case m.Type == packet.Pingreq && m.Text != "": // of a sleeper, which may have another address by now
		if !g.deliver(m, func() *client { return g.clients[m.Text] }) {
			g.stranger(m)
		}
	default:
		if !g.deliver(m, func() *client { return g.peers[m.from] }) {
			g.stranger(m)
		}
	}
}

// deliver puts m into the inbox of the client that find finds. A full one loses it, as a network would.
func (g *Gateway) deliver(m message, find func() *client) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := find()
	if c == nil {
		return false
	}
	select {
	case c.inbox <- m:
	default:
		g.stats.limited.Add(1)
	}
	return true
}

// admit takes a CONNECT: it is for the client that it names, which is made if it is not there.
func (g *Gateway) admit(ctx context.Context, m message) {
	refuse := func(code packet.Code) { g.send(m.from, packet.Packet{Type: packet.Connack, Code: code}) }
	id := m.Text
	if m.Protocol != packet.Protocol || id == "" || len(id) > maxClientID || id == ConnectionlessID {
		refuse(packet.NotSupported)
		return
	}
	account := g.o.Account(id)
	if account == nil {
		g.stats.denied.Add(1)
		g.log.Warn("MQTT-SN client is not allowed", "client", id, "remote", m.from.String())
		refuse(packet.NotSupported)
		return
	}
	full := false
	g.deliver(m, func() *client {
		c := g.clients[id]
		if full = c == nil && len(g.clients) >= g.o.MaxClients; c == nil && !full && !g.closing {
			c = newClient(g, id, account)
			for _, d := range g.departed {
				if d.id == id && d.done.connection >= c.done.connection { // the last one
					c.done = d.done
				}
			}
			g.clients[id] = c
			g.work.Go(func() { c.run(ctx) })
		}
		return c
	})
	if full {
		g.log.Warn("too many MQTT-SN clients", "client", id, "limit", g.o.MaxClients)
		refuse(packet.Congestion)
	}
}

// stranger answers who has no connection: with a DISCONNECT to whatever needs one, so that a client that believes it
// has one connects again (§6.12). A DISCONNECT is answered only to who has just had one, or two gateways could answer
// each other for ever; so it is with what only gateways send.
func (g *Gateway) stranger(m message) {
	switch m.Type {
	case packet.SearchGW:
		g.send(m.from, packet.Packet{Type: packet.GWInfo, Gateway: g.o.ID})
	case packet.Publish:
		if m.QoS >= 0 {
			g.send(m.from, packet.Packet{Type: packet.Disconnect})
			return
		}
		select {
		case g.loose <- m:
		default:
			g.stats.limited.Add(1)
		}
	case packet.Register, packet.Pubrel, packet.Subscribe, packet.Unsubscribe, packet.Pingreq, packet.WillTopicUpd, packet.WillMsgUpd:
		g.send(m.from, packet.Packet{Type: packet.Disconnect})
	case packet.Disconnect:
		g.mu.Lock()
		recent := false
		for _, d := range g.departed {
			recent = recent || d.peer == m.from
		}
		g.mu.Unlock()
		if recent {
			g.send(m.from, packet.Packet{Type: packet.Disconnect})
		}
	}
}

// send sends p. Whether it arrives nobody knows; that it could not be sent is no news either.
func (g *Gateway) send(to peer, p packet.Packet) {
	var b []byte
	if to.forwarded {
		b = packet.AppendEnvelope(b, to.node)
	}
	if _, err := g.conn.WriteToUDPAddrPort(p.Append(b), to.addr); err != nil && !errors.Is(err, net.ErrClosed) {
		g.log.Debug("datagram not sent", "remote", to.String(), "type", p.Type.String(), "error", err)
	}
}

// bind makes p an address of c. Who had it before has changed its name, and is lost.
func (g *Gateway) bind(c *client, p peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old := g.peers[p]; old != nil && old != c {
		old.replace()
	}
	g.peers[p] = c
}

// unbind takes p from c.
func (g *Gateway) unbind(c *client, p peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.peers[p] == c {
		delete(g.peers, p)
	}
}

// bound tells whether c's address is still its own.
func (g *Gateway) bound(c *client) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.peers[c.peer] == c
}

// forget takes c out, and hands on what came for it meanwhile: it may be the CONNECT of what follows.
func (g *Gateway) forget(ctx context.Context, c *client) {
	g.mu.Lock()
	delete(g.clients, c.id)
	for _, p := range []peer{c.peer, c.dialog.from} {
		if g.peers[p] == c {
			delete(g.peers, p)
		}
	}
	d := departed{id: c.id, done: c.done}
	if c.gone {
		d.peer = c.peer
	}
	g.departed[g.next] = d
	g.next = (g.next + 1) % len(g.departed)
	closing := g.closing
	g.mu.Unlock()
	if closing {
		return
	}
	for {
		select {
		case m := <-c.inbox:
			g.dispatch(ctx, m)
		default:
			return
		}
	}
}

// topic is what a client means by the topic of a PUBLISH, and otherwise the code that says why it means nothing.
func (g *Gateway) topic(m message, known *topics) (string, packet.Code) {
	name := ""
	switch m.TopicType {
	case packet.Predefined:
		name = g.o.Predefined[m.TopicID]
	case packet.Short:
		name = packet.ShortName(m.TopicID)
	default:
		if p := known.get(m.TopicID); p != nil {
			name = p.name
		}
	}
	if name == "" || gateway.ValidateTopic(name) != nil {
		return "", packet.InvalidTopic
	}
	return name, packet.Accepted
}

// connectionless publishes what comes at QoS -1 without a connection, §6.8, by a connection of its own to the broker,
// which is there when it is needed.
func (g *Gateway) connectionless(ctx context.Context) {
	var l *link
	var in chan received
	nobody := newTopics(nil)
	for {
		select {
		case <-ctx.Done():
			if l != nil {
				l.close(true)
			}
			return
		case _, open := <-in:
			if !open {
				l.close(false)
				l, in = nil, nil
			}
		case m := <-g.loose:
			topic, code := g.topic(m, nobody)
			if g.o.Connectionless == nil || code != packet.Accepted {
				g.stats.denied.Add(1)
				g.log.Debug("publish without a connection refused", "remote", m.from.String(), "topic_id", m.TopicID)
				continue
			}
			if l == nil {
				l = g.open(ctx, func() net.Addr { return m.from }, g.o.Connectionless, nil)
				in = l.in
				l.write(connectPacket(ConnectionlessID, true))
			}
			l.write(publishPacket(topic, 0, m.Retain, false, 0, m.Data))
		}
	}
}

// advertise says now and then that there is a gateway here, §6.1.
func (g *Gateway) advertise(ctx context.Context) {
	tick := time.NewTicker(g.o.AdvertiseInterval)
	defer tick.Stop()
	for {
		g.send(peer{addr: g.o.Advertise}, packet.Packet{Type: packet.Advertise, Gateway: g.o.ID, Duration: uint16(g.o.AdvertiseInterval / time.Second)})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
