package mqttsn

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/devices/mqttsn/packet"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// state is where a client is in figure 4 of §6.14. One that is disconnected or lost is no more.
type state byte

const (
	greeting   state = iota // its CONNECT is not complete: the will is asked for
	connecting              // the broker has yet to answer
	active
	asleep
	awake // it looks whether there is something for it
)

// client is one MQTT-SN client, from its CONNECT until it says goodbye or is lost. One goroutine does everything:
// run. Only peer is read by others, under Gateway.mu.
type client struct {
	g       *Gateway
	id      string
	account *auth.Account
	log     *slog.Logger
	ctx     context.Context

	inbox    chan message
	replaced chan struct{} // has something when another client has this one's address

	peer  peer                 // where it is
	shown atomic.Pointer[peer] // the same for the broker
	state state
	over  bool
	gone  bool // it said goodbye

	dialog dialog // the CONNECT that is not complete

	// Of the connection.
	link      *link
	connect   []byte    // the CONNECT that made it
	since     time.Time // of the last CONNACK
	heard     bool      // something has come since
	keepAlive time.Duration
	sleep     time.Duration
	deadline  time.Time // by when something has to come; zero: no time
	keepsWill bool

	topics     *topics
	predefined map[string]uint16 // topics subscribed to by their predefined id

	publishing map[uint16]publish      // by MsgId: what the broker has yet to answer
	stored     map[uint16]publish      // at QoS 2, from PUBREC to PUBCOMP
	releasing  map[uint16]bool         // PUBREL
	asking     map[uint16]subscription // SUBSCRIBE and UNSUBSCRIBE
	done       recent

	down

	willMu sync.Mutex
	will   will
}

// dialog is a CONNECT whose will is asked for, §6.2.
type dialog struct {
	from    peer
	connect message
	will    will
	topical bool      // the topic is here, the message is not
	until   time.Time // zero: there is none
}

// publish is one of a client's, known again by what is in it.
type publish struct {
	msgID, topicID uint16
	sum            uint64
}

// recent are the publishes that were dealt with last. UDP may bring a datagram twice, and late: what comes again
// after its answer must not become a second event, also when the client has connected again meanwhile.
type recent struct {
	last [16]struct {
		publish
		at   time.Time
		from int // which connection
	}
	n          int
	connection int
	msgID      uint16
	varies     bool // the client does not give everything the same MsgId
}

// copies is how long a network may take to bring the same datagram again.
const copies = time.Second

func (r *recent) add(p publish) {
	l := &r.last[r.n%len(r.last)]
	l.publish, l.at, l.from = p, time.Now(), r.connection
	r.n++
}

// note takes down a MsgId that the client used.
func (r *recent) note(id uint16) {
	r.varies = r.varies || r.msgID != 0 && r.msgID != id
	r.msgID = id
}

// has tells whether p is one of them again: it says so itself (DUP), or it is so soon and so much the same that the
// network made two of one. What a client says with DUP is of this connection: a node that was switched off begins with
// the same MsgIds.
func (r *recent) has(p publish, dup bool) bool {
	for _, l := range r.last {
		if l.publish == p && (dup && l.from == r.connection || r.varies && time.Since(l.at) < copies) {
			return true
		}
	}
	return false
}

type subscription struct {
	topicType packet.TopicType
	topicID   uint16
	name      string
}

func newClient(g *Gateway, id string, account *auth.Account) *client {
	return &client{g: g, id: id, account: account, log: g.log.With("client", id),
		inbox: make(chan message, maxInbox), replaced: make(chan struct{}, 1)}
}

// replace tells c that its address is another client's. It does not wait.
func (c *client) replace() {
	select {
	case c.replaced <- struct{}{}:
	default:
	}
}

func (c *client) run(ctx context.Context) {
	c.ctx = ctx
	defer c.g.forget(ctx, c)
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("panic in an MQTT-SN client", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			c.drop(false)
		}
		c.enter(greeting)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !c.over {
		var in <-chan received
		if c.link != nil {
			in = c.link.in
		}
		if due := c.due(); due.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(due))
		}
		select {
		case m := <-c.inbox:
			c.receive(m)
		case p, open := <-in:
			if open {
				c.fromBroker(p)
			} else {
				c.cut()
			}
		case <-c.replaced:
			c.lose("another client is at its address")
		case <-timer.C:
			c.tick(time.Now())
		case <-ctx.Done():
			c.farewell()
		}
		c.pump()
	}
}

// due is when something is to be done though nothing comes.
func (c *client) due() (due time.Time) {
	for _, t := range []time.Time{c.deadline, c.dialog.until, c.down.due()} {
		if !t.IsZero() && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	return due
}

func (c *client) tick(now time.Time) {
	if t := c.dialog.until; !t.IsZero() && !now.Before(t) {
		c.endDialog()
		c.over = c.link == nil
	}
	if t := c.deadline; !t.IsZero() && !now.Before(t) {
		switch c.state {
		case connecting:
			c.refuse(packet.Congestion)
		case active:
			c.lose("keep alive timeout")
		default:
			c.lose("did not wake up")
		}
	}
	if t := c.down.due(); !c.over && !t.IsZero() && !now.Before(t) {
		c.repeat()
	}
}

func (c *client) send(p packet.Packet) { c.g.send(c.peer, p) }

// enter changes the state, and counts.
func (c *client) enter(s state) {
	if c.state == asleep {
		c.g.stats.asleep.Add(-1)
	}
	if c.state = s; s == asleep {
		c.g.stats.asleep.Add(1)
	}
}

func (c *client) resting() bool { return c.state == asleep || c.state == awake }

// renew puts off the time at which the client counts as lost. What it says it will do may be late: by a tenth, or by
// half of less than a minute, §7.2.
func (c *client) renew() {
	d := c.keepAlive
	if c.resting() {
		d = c.sleep
	}
	switch {
	case d == 0:
		c.deadline = time.Time{}
		return
	case d > time.Minute:
		d += d / 10
	default:
		d += d / 2
	}
	c.deadline = time.Now().Add(d)
}

// move makes p the client's address.
func (c *client) move(p peer) {
	if p != c.peer {
		c.g.unbind(c, c.peer)
		c.g.mu.Lock()
		c.peer = p
		c.g.mu.Unlock()
		c.shown.Store(&p)
	}
	c.g.bind(c, p)
}

// remote is the client's address for the broker.
func (c *client) remote() net.Addr { return c.shown.Load() }

// receive takes a message of the client's.
func (c *client) receive(m message) {
	switch {
	case m.Type == packet.Connect:
		c.greet(m)
		return
	case !c.dialog.until.IsZero() && m.from == c.dialog.from && (m.Type == packet.WillTopic || m.Type == packet.WillMsg):
		c.prompted(m)
		return
	case m.Type == packet.Pingreq && m.Text == c.id && c.resting():
		c.move(m.from) // behind a router its address may not have lived as long as it slept
	}
	if c.state < active || m.from != c.peer {
		if m.Type == packet.Pingreq && c.state >= active {
			c.g.send(m.from, packet.Packet{Type: packet.Disconnect}) // it has moved, and should connect again
		}
		return
	}
	c.renew()
	if m.Type == packet.WillTopic || m.Type == packet.WillMsg { // again, so the answer was lost
		c.accept()
		return
	}
	c.heard = true
	switch m.Type {
	case packet.Register:
		c.register(m)
	case packet.Publish:
		c.publish(m)
	case packet.Pubrel:
		if len(c.releasing) < maxInFlight && !c.releasing[m.MsgID] && m.MsgID != 0 {
			c.releasing[m.MsgID] = true
			c.link.write(ackPacket(mqttPubrel, m.MsgID, 0))
		}
	case packet.Subscribe, packet.Unsubscribe:
		c.ask(m)
	case packet.Regack:
		c.regack(m)
	case packet.Puback:
		c.puback(m)
	case packet.Pubrec:
		c.pubrec(m)
	case packet.Pubcomp:
		c.pubcomp(m)
	case packet.Pingreq:
		c.ping()
	case packet.WillTopicUpd:
		c.send(packet.Packet{Type: packet.WillTopicResp, Code: c.updateWill(m)})
	case packet.WillMsgUpd:
		c.send(packet.Packet{Type: packet.WillMsgResp, Code: c.updateWill(m)})
	case packet.Disconnect:
		if m.Sleep && m.Duration > 0 {
			c.rest(time.Duration(m.Duration) * time.Second)
			c.send(packet.Packet{Type: packet.Disconnect})
			return
		}
		c.drop(true)
		c.gone = true
		c.send(packet.Packet{Type: packet.Disconnect})
	}
}

// greet takes a CONNECT. One that repeats the connection's own, octet for octet, wakes a sleeper, as figure 4 has it;
// and as long as nothing else has come, or for a second, it is the same datagram again, because the answer was lost or
// the network made two of it. Any other is a new connection in place of the old one, as in MQTT.
func (c *client) greet(m message) {
	again := c.link != nil && bytes.Equal(m.raw, c.connect)
	switch {
	case again && c.state == connecting && m.from == c.peer: // the answer is on its way
	case again && c.resting():
		c.move(m.from)
		c.enter(active)
		c.heard = false
		c.renew()
		c.accept()
	case again && c.state == active && m.from == c.peer && (!c.heard || time.Since(c.since) < copies):
		c.accept()
	case m.Will:
		c.endDialog()
		c.dialog = dialog{from: m.from, connect: m, until: time.Now().Add(time.Duration(c.g.o.Retries+1) * c.g.o.RetryInterval)}
		c.g.bind(c, m.from)
		c.g.send(m.from, packet.Packet{Type: packet.WillTopicReq})
	case m.Clean:
		c.establish(m, will{})
	default: // §6.3: what there is of a will stays
		c.g.mu.Lock()
		w := c.g.wills[c.id]
		c.g.mu.Unlock()
		c.establish(m, w)
	}
}

// prompted takes the two parts of a will. The client repeats what is not answered, and so do we.
func (c *client) prompted(m message) {
	d := &c.dialog
	switch {
	case m.Type == packet.WillMsg && d.topical:
		d.will.message = m.Data
		c.establish(d.connect, d.will)
	case m.Type == packet.WillMsg:
	case m.Text == "": // it has none after all
		c.establish(d.connect, will{})
	default:
		w, ok := willOf(m)
		if !ok {
			c.g.send(m.from, packet.Packet{Type: packet.Connack, Code: packet.NotSupported})
			d.until = time.Now()
			return
		}
		d.will, d.topical = w, true
		c.g.send(m.from, packet.Packet{Type: packet.WillMsgReq})
	}
}

func willOf(m message) (will, bool) {
	return will{topic: m.Text, qos: m.QoS, retain: m.Retain}, m.QoS >= 0 && gateway.ValidateTopic(m.Text) == nil
}

// endDialog forgets a CONNECT that is not complete.
func (c *client) endDialog() {
	if c.link == nil || c.dialog.from != c.peer {
		c.g.unbind(c, c.dialog.from)
	}
	c.dialog = dialog{}
}

// establish makes the connection to the broker that the CONNECT asks for.
func (c *client) establish(m message, w will) {
	if c.link != nil {
		c.link.close(false)
	}
	c.endDialog()
	c.topics = newTopics(func(id uint16) bool { return c.g.o.Predefined[id] != "" })
	c.predefined = map[string]uint16{}
	c.publishing, c.stored = map[uint16]publish{}, map[uint16]publish{}
	c.releasing, c.asking = map[uint16]bool{}, map[uint16]subscription{}
	c.done.connection++
	c.down = down{}
	c.move(m.from)
	c.connect, c.keepAlive, c.keepsWill = m.raw, time.Duration(m.Duration)*time.Second, !m.Clean
	c.setWill(w)
	c.enter(connecting)
	c.deadline = time.Now().Add(connectTimeout)
	c.link = c.g.open(c.ctx, c.remote, c.account, c.lastWill)
	c.link.write(connectPacket(c.id, m.Clean))
}

func (c *client) accept() {
	c.since = time.Now()
	c.send(packet.Packet{Type: packet.Connack, Code: packet.Accepted})
}

// refuse ends a connection that has not become one.
func (c *client) refuse(code packet.Code) {
	c.drop(true)
	c.send(packet.Packet{Type: packet.Connack, Code: code})
}

// drop ends the connection to the broker. With goodbye no will is published.
func (c *client) drop(goodbye bool) {
	c.over = true
	if c.link != nil {
		c.link.close(goodbye)
		c.link = nil
	}
}

// lose gives the client up: its will is published. Should it be there after all, it hears of it.
func (c *client) lose(reason string) {
	c.g.stats.givenUp.Add(1)
	c.log.Info("MQTT-SN client lost", "remote", c.peer.String(), "reason", reason)
	asleep := c.resting()
	c.drop(false)
	if !asleep && c.g.bound(c) {
		c.send(packet.Packet{Type: packet.Disconnect})
	}
}

// cut is the end of the connection from the broker's side: somebody else has the client id, say.
func (c *client) cut() {
	if c.state == connecting {
		c.refuse(packet.Congestion)
		return
	}
	c.drop(false)
	if c.state == active || c.state == awake {
		c.send(packet.Packet{Type: packet.Disconnect})
	}
}

// farewell ends with the gateway.
func (c *client) farewell() {
	c.drop(false)
	if c.state == active || c.state == awake {
		c.send(packet.Packet{Type: packet.Disconnect})
	}
}

// fromBroker takes a packet of the broker's.
func (c *client) fromBroker(p received) {
	switch p.kind {
	case mqttConnack:
		if p.code != 0 {
			c.log.Info("MQTT-SN client refused", "remote", c.peer.String(), "reason", fmt.Sprintf("%#02x", p.code))
			c.refuse(codeOf(p.code))
			return
		}
		c.enter(active)
		c.heard = false
		c.renew()
		c.accept()
	case mqttPublish, mqttPubrel:
		c.take(p)
	case mqttPuback, mqttPubrec:
		pub, ok := c.publishing[p.id]
		if !ok {
			return
		}
		delete(c.publishing, p.id)
		code := codeOf(p.code)
		if code == packet.Accepted && p.kind == mqttPubrec {
			c.stored[p.id] = pub
			c.send(packet.Packet{Type: packet.Pubrec, MsgID: p.id})
			return
		}
		if code == packet.Accepted {
			c.done.add(pub)
		}
		c.send(packet.Packet{Type: packet.Puback, TopicID: pub.topicID, MsgID: p.id, Code: code})
	case mqttPubcomp:
		delete(c.releasing, p.id)
		if pub, ok := c.stored[p.id]; ok {
			delete(c.stored, p.id)
			c.done.add(pub)
		}
		c.send(packet.Packet{Type: packet.Pubcomp, MsgID: p.id})
	case mqttSuback:
		c.subscribed(p)
	case mqttUnsuback:
		delete(c.asking, p.id)
		c.send(packet.Packet{Type: packet.Unsuback, MsgID: p.id})
	case mqttPingresp:
		c.drained()
	}
}

// codeOf is the return code for a reason code of MQTT 5. What may work later is congestion, to which a client answers by
// waiting (§6.5).
func codeOf(reason byte) packet.Code {
	switch {
	case reason < reasonUnspecified:
		return packet.Accepted
	case reason == reasonTopicName:
		return packet.InvalidTopic
	case reason >= reasonClientID && reason <= reasonNotAuthorized, reason == reasonTopicFilter, reason == reasonPayload:
		return packet.NotSupported
	}
	return packet.Congestion
}

// register gives the client an id for a topic name, §6.5.
func (c *client) register(m message) {
	c.done.note(m.MsgID)
	answer := packet.Packet{Type: packet.Regack, MsgID: m.MsgID}
	if gateway.ValidateTopic(m.Text) != nil {
		answer.Code = packet.NotSupported
	} else if p := c.topics.ask(m.Text); p != nil {
		answer.TopicID = p.id
	} else {
		answer.Code = packet.Congestion
	}
	c.send(answer)
}

// publish takes a PUBLISH, §6.6. At QoS 1 and 2 the answer is the broker's; what comes again meanwhile waits for the
// same one.
func (c *client) publish(m message) {
	answer := func(code packet.Code) {
		if m.QoS >= 0 {
			c.send(packet.Packet{Type: packet.Puback, TopicID: m.TopicID, MsgID: m.MsgID, Code: code})
		}
	}
	topic, code := c.g.topic(m, c.topics)
	switch {
	case code != packet.Accepted:
		if m.TopicType == packet.Normal {
			c.topics.refuse(m.TopicID)
		}
		answer(code)
		return
	case m.QoS <= 0:
		c.link.write(publishPacket(topic, 0, m.Retain, false, 0, m.Data))
		return
	case m.MsgID == 0:
		answer(packet.NotSupported)
		return
	}
	h := fnv.New64a()
	h.Write([]byte{byte(m.QoS), byte(m.TopicType)})
	h.Write(m.Data)
	pub := publish{m.MsgID, m.TopicID, h.Sum64()}
	c.done.note(m.MsgID)
	flying, pending := c.publishing[m.MsgID]
	switch {
	case pending && flying == pub:
	case m.QoS == 1 && c.done.has(pub, m.Dup):
		answer(packet.Accepted)
	case m.QoS == 2 && (c.stored[m.MsgID] == pub || c.done.has(pub, m.Dup)):
		c.send(packet.Packet{Type: packet.Pubrec, MsgID: m.MsgID})
	case pending, len(c.publishing) >= maxInFlight, len(c.stored) >= maxUnreleased:
		answer(packet.Congestion)
	default:
		c.publishing[m.MsgID] = pub
		c.link.write(publishPacket(topic, m.QoS, m.Retain, m.Dup, m.MsgID, m.Data))
	}
}

// ask passes a SUBSCRIBE or UNSUBSCRIBE on, §6.9.
func (c *client) ask(m message) {
	s := subscription{m.TopicType, m.TopicID, m.Text}
	switch m.TopicType {
	case packet.Predefined:
		s.name = c.g.o.Predefined[m.TopicID]
	case packet.Short:
		s.name = packet.ShortName(m.TopicID)
	}
	c.done.note(m.MsgID)
	code := packet.Accepted
	_, err := gateway.ParseFilter(s.name)
	switch _, pending := c.asking[m.MsgID]; {
	case pending:
		return
	case m.TopicType == packet.Predefined && s.name == "":
		code = packet.InvalidTopic
	case m.MsgID == 0 || m.QoS < 0 || err != nil:
		code = packet.NotSupported
	case len(c.asking) >= maxInFlight:
		code = packet.Congestion
	}
	switch {
	case code != packet.Accepted && m.Type == packet.Unsubscribe: // UNSUBACK has no code; there is no such subscription
		c.send(packet.Packet{Type: packet.Unsuback, MsgID: m.MsgID})
	case code != packet.Accepted:
		c.send(packet.Packet{Type: packet.Suback, TopicID: m.TopicID, MsgID: m.MsgID, Code: code})
	case m.Type == packet.Unsubscribe:
		c.asking[m.MsgID] = s
		delete(c.predefined, s.name)
		c.link.write(unsubscribePacket(m.MsgID, s.name))
	default:
		c.asking[m.MsgID] = s
		c.link.write(subscribePacket(m.MsgID, s.name, m.QoS, m.Dup))
	}
}

// subscribed answers a SUBSCRIBE. A name without wildcards gets its id with the answer.
func (c *client) subscribed(p received) {
	s := c.asking[p.id]
	delete(c.asking, p.id)
	answer := packet.Packet{Type: packet.Suback, MsgID: p.id, Code: codeOf(p.code)}
	if answer.Code == packet.Accepted {
		answer.QoS = int8(p.code)
		switch {
		case s.topicType == packet.Predefined:
			answer.TopicID = s.topicID
			c.predefined[s.name] = s.topicID
		case s.topicType == packet.Normal && gateway.ValidateTopic(s.name) == nil:
			if t := c.topics.ask(s.name); t != nil { // else the message that comes will be registered
				answer.TopicID = t.id
			}
		}
	}
	c.send(answer)
}

// updateWill changes the will of a client that is connected, §6.4.
func (c *client) updateWill(m message) packet.Code {
	c.willMu.Lock()
	w := c.will
	c.willMu.Unlock()
	switch {
	case m.Type == packet.WillMsgUpd:
		w.message = m.Data
	case m.Text == "":
		w = will{}
	default:
		topic, ok := willOf(m)
		if !ok {
			return packet.NotSupported
		}
		topic.message = w.message
		w = topic
	}
	c.setWill(w)
	return packet.Accepted
}

// setWill makes w the client's will. It stays for the next connection that leaves it as it is, unless this one is
// clean.
func (c *client) setWill(w will) {
	c.willMu.Lock()
	c.will = w
	c.willMu.Unlock()
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if _, kept := c.g.wills[c.id]; !c.keepsWill || w.topic == "" {
		delete(c.g.wills, c.id)
	} else if kept || len(c.g.wills) < c.g.o.MaxClients {
		c.g.wills[c.id] = w
	}
}

// lastWill is the will as the broker publishes it.
func (c *client) lastWill() *gateway.Event {
	c.willMu.Lock()
	defer c.willMu.Unlock()
	if c.will.topic == "" {
		return nil
	}
	return &gateway.Event{Topic: c.will.topic, Payload: bytes.Clone(c.will.message), QoS: byte(c.will.qos), Retain: c.will.retain}
}
