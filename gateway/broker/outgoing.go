package broker

import (
	"time"

	"github.com/weir-iot/weir/gateway"
)

// outgoing is the way of messages to one session's client. What can be sent at once
// is; the rest waits in queue, in order, for room on the wire, for the client's
// acknowledgements, or for the client. It is in memory: see the package comment.
// Guarded by the session's mu.
type outgoing struct {
	conn   *conn // nil while the client is away
	window int   // how many may be in flight
	held   bool  // nothing is to be sent: CONNACK or SUBACK has to be first

	queue []item
	live  int // of queue, those that count against the limits
	bytes int // of those

	inflight []sent // QoS 1 and 2, in the order they were first sent
	resend   int    // of inflight, those to be sent again to this connection
	lastID   uint16
	buf      []byte
}

// item is a message that waits.
type item struct {
	event    *gateway.Event
	qos      byte
	retain   bool
	retained bool // sent because of a new subscription; not counted
	subIDs   []uint32
}

// sent is a message that waits for its acknowledgement.
type sent struct {
	item
	id       uint16
	received bool // PUBREC is here, PUBREL was sent
	again    bool // to be sent again
}

// attach makes c the session's connection; it begins held.
func (s *session) attach(c *conn) {
	s.conn = c
	s.held = true
	s.window = c.b.o.SendWindow
	if m := c.connect.props.receiveMaximum; m > 0 {
		s.window = min(s.window, int(m))
	}
	for i := range s.inflight {
		s.inflight[i].again = true
	}
	s.resend = len(s.inflight)
}

// detach takes the connection away. QoS 0 messages that wait go with it.
func (s *session) detach() {
	s.conn = nil
	s.filter(func(it item) bool { return it.qos > 0 })
}

// filter drops from the queue what is not to be kept. All that stays counts.
func (s *session) filter(keep func(item) bool) {
	queue := s.queue
	s.queue, s.live, s.bytes = nil, 0, 0
	for _, it := range queue {
		if keep(it) {
			it.retained = false
			s.queue = append(s.queue, it)
			s.live++
			s.bytes += it.event.Size()
		}
	}
}

// hold keeps everything in the queue until it is called with false.
func (s *session) hold(held bool) {
	s.mu.Lock()
	s.held = held
	s.mu.Unlock()
	if !held {
		s.drain()
	}
}

// room tells whether the connection's socket keeps up. The rest of the queue's bound
// is for acknowledgements and what the engine says.
func (s *session) room() bool { return s.conn.w.queued() < s.b.o.QueueBytes/4 }

// push sends it or queues it. It never blocks. enc is shared by all receivers of one
// event.
func (s *session) push(it item, enc *encoding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil && it.qos == 0 {
		return
	}
	if s.conn != nil && len(s.queue) == 0 && !s.held && s.open(it.qos) && s.room() && s.send(it, enc) {
		return
	}
	size := it.event.Size()
	if s.live >= s.b.o.SessionQueue || s.live > 0 && s.bytes+size > s.b.o.QueueBytes {
		reason := "session queue full"
		if s.conn != nil && s.conn.proxy == nil {
			reason = "slow receiver"
			s.conn.slow()
		}
		s.b.o.Observer.Dropped(reason)
		return
	}
	s.queue = append(s.queue, it)
	s.live++
	s.bytes += size
}

// pushRetained queues what a new subscription is to get. It is not counted, because
// it takes no memory that the retained messages do not; their number is its bound.
func (s *session) pushRetained(it item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || len(s.queue)-s.live > s.b.o.MaxRetained {
		s.b.o.Observer.Dropped("retained queue full")
		return
	}
	it.retain, it.retained = true, true
	s.queue = append(s.queue, it)
}

// open tells whether one more message of this QoS may be in flight.
func (s *session) open(qos byte) bool {
	return qos == 0 || s.resend == 0 && len(s.inflight) < s.window
}

// send puts it on the wire. It returns false when the wire has no room.
func (s *session) send(it item, enc *encoding) bool {
	age := s.b.o.Age()
	if it.event.Expired(age) {
		return true
	}
	m := message{event: it.event, qos: it.qos, retain: it.retain, subIDs: it.subIDs}
	if m.qos > 0 {
		m.id = s.freeID()
	}
	packet := enc.encode(&s.buf, s.version, m, age)
	switch ok, fits := s.transmit(packet); {
	case !fits:
		return true // as if it had been sent: MQTT 5 §3.1.2.11.4
	case !ok:
		return false
	}
	if m.qos > 0 {
		s.lastID = m.id
		s.inflight = append(s.inflight, sent{item: it, id: m.id})
	}
	return true
}

func (s *session) transmit(packet []byte) (ok, fits bool) {
	if longest := s.conn.connect.props.maxPacket; longest > 0 && len(packet) > int(longest) {
		s.b.o.Observer.Dropped("larger than the client takes")
		return false, false
	}
	ok, full := s.conn.w.send(packet)
	return ok || !full, true // a closed wire takes everything: the client gets it again
}

// freeID returns a packet identifier that is not in flight.
func (s *session) freeID() uint16 {
	id := s.lastID
next:
	for {
		if id++; id == 0 {
			id = 1
		}
		for i := range s.inflight {
			if s.inflight[i].id == id {
				continue next
			}
		}
		return id
	}
}

// drain sends what may be sent by now: first, again, what an earlier connection did
// not acknowledge, in its order (MQTT 5 §4.4, §4.6).
func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.held {
		return
	}
	for i := 0; s.resend > 0 && i < len(s.inflight); i++ {
		f := &s.inflight[i]
		if !f.again {
			continue
		}
		if len(s.inflight)-s.resend >= s.window || !s.room() || !s.sendAgain(f) {
			return
		}
		f.again = false
		s.resend--
	}
	for len(s.queue) > 0 {
		it := s.queue[0]
		if !s.open(it.qos) || !s.room() || !s.send(it, nil) {
			return
		}
		if !it.retained {
			s.live--
			s.bytes -= it.event.Size()
		}
		s.queue[0] = item{}
		if s.queue = s.queue[1:]; len(s.queue) == 0 {
			s.queue = nil
		}
	}
	if cap(s.buf) > keepBuffer {
		s.buf = nil
	}
}

func (s *session) sendAgain(f *sent) bool {
	if f.received {
		ok, _ := s.transmit(appendAck(nil, typePubrel, f.id, codeSuccess))
		return ok
	}
	m := message{event: f.event, qos: f.qos, retain: f.retain, dup: true, id: f.id, subIDs: f.subIDs}
	s.buf = appendPublish(s.buf[:0], s.version, m, s.b.o.Age())
	ok, fits := s.transmit(s.buf)
	return ok || !fits
}

// acked handles PUBACK, PUBREC and PUBCOMP from c.
func (s *session) acked(c *conn, kind byte, id uint16, code byte) {
	s.mu.Lock()
	f := -1
	for i := range s.inflight {
		if s.inflight[i].id == id {
			f = i
			break
		}
	}
	var answer []byte
	switch {
	case kind == typePubrec && f < 0: // of a message we no longer know; let the client finish
		code = codeSuccess
		if c.connect.version == v5 {
			code = codeUnknownID
		}
		answer = appendAck(nil, typePubrel, id, code)
	case f < 0:
	case kind == typePubrec && code < 0x80:
		if s.inflight[f].qos == 2 {
			s.inflight[f].received = true
			s.inflight[f].event = nil
			answer = appendAck(nil, typePubrel, id, codeSuccess)
		}
	default:
		if s.inflight[f].again {
			s.resend--
		}
		s.inflight = append(s.inflight[:f], s.inflight[f+1:]...)
	}
	s.mu.Unlock()
	if answer != nil {
		c.write(answer)
	}
	s.drain()
}

// encoding keeps the two forms that most receivers of one event get, so that they
// are made once: QoS 0, no subscription identifier, not retained, v3.1.1 and v5.
type encoding struct{ v4, v5 []byte }

func (enc *encoding) encode(buf *[]byte, version byte, m message, age time.Duration) []byte {
	if enc != nil && m.qos == 0 && !m.retain && m.subIDs == nil {
		form := &enc.v4
		if version == v5 {
			form = &enc.v5
		}
		if len(*form) == 0 {
			*form = appendPublish(*form, version, m, age)
		}
		return *form
	}
	*buf = appendPublish((*buf)[:0], version, m, age)
	return *buf
}

// reset makes enc ready for the next event.
func (enc *encoding) reset() {
	for _, form := range []*[]byte{&enc.v4, &enc.v5} {
		if *form = (*form)[:0]; cap(*form) > keepBuffer {
			*form = nil
		}
	}
}
