package mqttsn

import (
	"slices"
	"time"

	"github.com/weir-iot/weir/devices/mqttsn/packet"
)

// down is the way of messages to a client: what waits, and the one that is being dealt with.
type down struct {
	queue   []received // PUBLISH, and the PUBREL of a session that was resumed
	waiting int        // of those, the ones at QoS 0
	now     *exchange
	probing bool // an MQTT PINGREQ is on its way: what the broker has comes before its answer
	msgID   uint16
}

// phase is what an exchange waits for.
type phase byte

const (
	registering phase = iota // REGACK
	publishing               // PUBACK or PUBREC
	relaying                 // the broker's PUBREL
	releasing                // PUBCOMP
)

// exchange is a message on its way to the client.
type exchange struct {
	received
	phase
	topicType packet.TopicType
	topicID   uint16
	msgID     uint16 // of REGISTER
	tries     int
	until     time.Time
}

// due is when the client has to have answered.
func (d *down) due() time.Time {
	if d.now == nil || d.now.phase == relaying {
		return time.Time{}
	}
	return d.now.until
}

// take takes what the broker has for the client.
func (c *client) take(p received) {
	if e := c.now; p.kind == mqttPubrel && e != nil && e.phase == relaying && e.id == p.id {
		e.phase, e.tries = releasing, 0
		c.transmit()
		return
	}
	if most := c.g.o.MaxPacket - 9 - c.envelope(); len(p.payload) > most || len(p.topic) > most {
		c.abandon(p, "larger than an MQTT-SN datagram")
		return
	}
	if p.kind == mqttPublish && p.qos == 0 {
		if c.waiting++; c.waiting > maxWaiting {
			oldest := slices.IndexFunc(c.queue, func(p received) bool { return p.kind == mqttPublish && p.qos == 0 })
			c.queue = slices.Delete(c.queue, oldest, oldest+1)
			c.waiting--
			c.g.o.Observer.Dropped("MQTT-SN queue full")
		}
	}
	c.queue = append(c.queue, p)
}

// envelope is how many octets a forwarder's envelope takes.
func (c *client) envelope() int {
	if !c.peer.forwarded {
		return 0
	}
	return 3 + len(c.peer.node)
}

// abandon tells the broker to be done with a message that the client does not get.
func (c *client) abandon(p received, reason string) {
	c.g.o.Observer.Dropped(reason)
	switch p.qos {
	case 1:
		c.link.write(ackPacket(mqttPuback, p.id, 0))
	case 2:
		c.link.write(ackPacket(mqttPubrec, p.id, reasonUnspecified))
	}
}

// pump sends what can be sent. A client that had woken up to look and has everything goes to sleep again: when the
// broker has nothing more either.
func (c *client) pump() {
	for c.now == nil && len(c.queue) > 0 && (c.state == active || c.state == awake) && !c.over {
		p := c.queue[0]
		c.queue[0] = received{}
		if c.queue = c.queue[1:]; len(c.queue) == 0 {
			c.queue = nil
		}
		if p.kind == mqttPublish && p.qos == 0 {
			c.waiting--
		}
		c.begin(p)
	}
	if c.state == awake && c.now == nil && !c.probing && !c.over {
		c.probing = true
		c.link.write([]byte{mqttPingreq << 4, 0})
	}
}

// begin begins the exchange that brings p to the client.
func (c *client) begin(p received) {
	e := &exchange{received: p, phase: publishing}
	id, predefined := c.predefined[p.topic]
	t := c.topics.find(p.topic)
	switch {
	case p.kind == mqttPubrel:
		e.phase = releasing
	case predefined:
		e.topicType, e.topicID = packet.Predefined, id
	case t != nil && t.known:
		e.topicID = t.id
	case len(p.topic) == 2:
		e.topicType, e.topicID = packet.Short, packet.ShortTopic(p.topic)
	default:
		if t = c.topics.add(p.topic); t == nil {
			c.abandon(p, "MQTT-SN client has no topic id left")
			return
		}
		c.announce(e, t.id)
	}
	c.now = e
	c.transmit()
}

// announce makes e begin with the REGISTER of its topic.
func (c *client) announce(e *exchange, id uint16) {
	if c.msgID++; c.msgID == 0 {
		c.msgID = 1
	}
	e.phase, e.topicType, e.topicID, e.msgID = registering, packet.Normal, id, c.msgID
}

// transmit sends what the exchange is at. Sent again it has DUP.
func (c *client) transmit() {
	e := c.now
	e.until = time.Now().Add(c.g.o.RetryInterval)
	switch e.phase {
	case registering:
		c.send(packet.Packet{Type: packet.Register, TopicID: e.topicID, MsgID: e.msgID, Text: e.topic})
	case publishing:
		c.send(packet.Packet{Type: packet.Publish, Dup: e.dup, QoS: e.qos, Retain: e.retain, TopicType: e.topicType, TopicID: e.topicID, MsgID: e.id, Data: e.payload})
		if e.qos == 0 {
			c.now = nil
		}
		e.dup = true
	case releasing:
		c.send(packet.Packet{Type: packet.Pubrel, MsgID: e.id})
	}
}

// repeat sends again what was not answered, §6.13. Who has not answered for too long is lost, or fell asleep again.
func (c *client) repeat() {
	if c.now.tries++; c.now.tries <= c.g.o.Retries {
		c.g.stats.repeated.Add(1)
		c.transmit()
	} else if c.state == awake {
		c.rest(c.sleep)
	} else {
		c.lose("does not answer")
	}
}

// rest puts the client to sleep, for d until it is lost. What it has not acknowledged it gets again.
func (c *client) rest(d time.Duration) {
	if e := c.now; e != nil {
		c.now = nil
		again := e.received
		switch e.phase {
		case releasing:
			again = received{kind: mqttPubrel, id: e.id}
		case publishing, registering:
			if e.qos == 0 {
				c.waiting++
			}
		}
		if e.phase != relaying { // then it comes from the broker
			c.queue = slices.Insert(c.queue, 0, again)
		}
	}
	c.sleep = d
	c.enter(asleep)
	c.renew()
}

// ping answers a client that is there, or wakes it.
func (c *client) ping() {
	switch {
	case c.state == active:
		c.send(packet.Packet{Type: packet.Pingresp})
	case c.state == asleep:
		c.enter(awake)
		c.renew()
	case c.now != nil && c.now.phase != relaying: // it asks again, so it is listening
		c.transmit()
	}
}

// drained is the answer to the probe: the broker had nothing more behind what has come.
func (c *client) drained() {
	c.probing = false
	if c.state == awake && c.now == nil && len(c.queue) == 0 {
		c.rest(c.sleep)
		c.send(packet.Packet{Type: packet.Pingresp})
	}
}

func (c *client) regack(m message) {
	e := c.now
	if e == nil || e.phase != registering || e.msgID != m.MsgID {
		return
	}
	switch m.Code {
	case packet.Accepted:
		if t := c.topics.get(e.topicID); t != nil {
			t.known = true
		}
		e.phase, e.tries = publishing, 0
		c.transmit()
	case packet.Congestion: // it is asked again when it is due
	default:
		c.now = nil
		c.abandon(e.received, "refused by the MQTT-SN client")
	}
}

func (c *client) puback(m message) {
	if m.Code == packet.InvalidTopic {
		if t := c.topics.get(m.TopicID); t != nil {
			t.known = false
		}
	}
	e := c.now
	if e == nil || e.phase != publishing || e.id != m.MsgID {
		return
	}
	switch {
	case m.Code == packet.Accepted && e.qos == 1:
		c.now = nil
		c.link.write(ackPacket(mqttPuback, e.id, 0))
	case m.Code == packet.Accepted, m.Code == packet.Congestion: // no answer to QoS 2; and it is asked again when it is due
	case m.Code == packet.InvalidTopic && e.topicType == packet.Normal && e.tries < c.g.o.Retries: // it has forgotten the id
		e.tries++
		c.announce(e, e.topicID)
		c.transmit()
	default:
		c.now = nil
		c.abandon(e.received, "refused by the MQTT-SN client")
	}
}

func (c *client) pubrec(m message) {
	e := c.now
	switch {
	case e != nil && e.id == m.MsgID && e.phase == publishing && e.qos == 2:
		e.phase = relaying
		c.link.write(ackPacket(mqttPubrec, e.id, 0))
	case e != nil && e.id == m.MsgID && e.phase == relaying:
	default: // of a message that we are done with, or of one before a restart: let the client finish
		c.send(packet.Packet{Type: packet.Pubrel, MsgID: m.MsgID})
	}
}

func (c *client) pubcomp(m message) {
	if e := c.now; e != nil && e.phase == releasing && e.id == m.MsgID {
		c.now = nil
		c.link.write(ackPacket(mqttPubcomp, e.id, 0))
	}
}
