package mqttsn

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// link is a client's MQTT 5 connection to the broker, within this process.
type link struct {
	conn net.Conn
	in   chan received // closed when the broker has closed the connection
	quit chan struct{} // closed when nobody takes from in
	over chan struct{} // closed when the broker is done with the connection
}

// endpoint is the broker's end. It shows who is behind it.
type endpoint struct {
	net.Conn
	remote func() net.Addr
}

func (e endpoint) RemoteAddr() net.Addr { return e.remote() }

func (g *Gateway) open(ctx context.Context, remote func() net.Addr, account *auth.Account, will func() *gateway.Event) *link {
	ours, theirs := net.Pipe()
	l := &link{conn: ours, in: make(chan received), quit: make(chan struct{}), over: make(chan struct{})}
	go func() {
		defer close(l.over)
		g.o.Connect(ctx, endpoint{theirs, remote}, account, will)
	}()
	go l.read()
	return l
}

func (l *link) read() {
	defer close(l.in)
	r := bufio.NewReaderSize(l.conn, 512)
	for {
		p, err := readPacket(r)
		if err != nil {
			l.conn.Close()
			return
		}
		select {
		case l.in <- p:
		case <-l.quit: // until the broker closes: a message that nobody takes would hide the DISCONNECT from it
		}
	}
}

// write sends b. An error shows in what comes in: it ends.
func (l *link) write(b []byte) { l.conn.Write(b) }

// close ends the connection and returns when the broker is done with it. With goodbye no will is published.
func (l *link) close(goodbye bool) {
	close(l.quit)
	if goodbye {
		l.write([]byte{mqttDisconnect << 4, 0})
	} else {
		l.conn.Close()
	}
	<-l.over
	l.conn.Close()
	for range l.in {
	}
}

// Packet types, MQTT 5 §2.1.2.
const (
	mqttConnect     = 1
	mqttConnack     = 2
	mqttPublish     = 3
	mqttPuback      = 4
	mqttPubrec      = 5
	mqttPubrel      = 6
	mqttPubcomp     = 7
	mqttSubscribe   = 8
	mqttSuback      = 9
	mqttUnsubscribe = 10
	mqttUnsuback    = 11
	mqttPingreq     = 12
	mqttPingresp    = 13
	mqttDisconnect  = 14
)

// Reason codes that are told apart, MQTT 5 §2.4.
const (
	reasonUnspecified   = 0x80
	reasonNotAuthorized = 0x87
	reasonClientID      = 0x85
	reasonBadUser       = 0x86
	reasonTopicFilter   = 0x8F
	reasonTopicName     = 0x90
	reasonPayload       = 0x99
)

// received is a packet of the broker's.
type received struct {
	kind    byte
	id      uint16
	code    byte
	qos     int8
	dup     bool
	retain  bool
	topic   string
	payload []byte
}

var errPacket = errors.New("a packet of the broker's is not understood")

// readPacket reads one packet. Properties are passed over: MQTT-SN has no place for them.
func readPacket(r *bufio.Reader) (p received, err error) {
	header, err := r.ReadByte()
	if err != nil {
		return p, err
	}
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return p, err
	}
	if size > 1<<28-1 { // §1.5.5
		return p, errPacket
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return p, err
	}
	d := decoder{b: b}
	p.kind = header >> 4
	switch p.kind {
	case mqttConnack:
		d.take(1)
		p.code = d.octet()
	case mqttPublish:
		p.dup, p.qos, p.retain = header&8 != 0, int8(header>>1&3), header&1 != 0
		p.topic = string(d.take(int(d.u16())))
		if p.qos > 0 {
			p.id = d.u16()
		}
		d.take(d.varint())
		p.payload = d.b
	case mqttPuback, mqttPubrec, mqttPubrel, mqttPubcomp:
		p.id = d.u16()
		if len(d.b) > 0 {
			p.code = d.octet()
		}
	case mqttSuback, mqttUnsuback:
		p.id = d.u16()
		d.take(d.varint())
		p.code = d.octet()
	case mqttDisconnect:
		if len(d.b) > 0 {
			p.code = d.octet()
		}
	}
	if d.short {
		return p, errPacket
	}
	return p, nil
}

// decoder takes b apart. What is not there reads as zero, and short says so.
type decoder struct {
	b     []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.short = true
		return make([]byte, min(n, 2))
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) octet() byte { return d.take(1)[0] }
func (d *decoder) u16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }

func (d *decoder) varint() int {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > uint64(len(d.b)) {
		d.short = true
		return 0
	}
	d.take(n)
	return int(v)
}

func frame(header byte, body []byte) []byte {
	b := append(make([]byte, 0, 5+len(body)), header)
	return append(binary.AppendUvarint(b, uint64(len(body))), body...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// connectPacket asks for one message at a time, and for a session that lasts if it is not a clean one.
func connectPacket(id string, clean bool) []byte {
	b := appendString(nil, "MQTT")
	flags, properties := byte(0), []byte{0x21, 0, 1} // Receive Maximum
	if clean {
		flags |= 0x02
	} else {
		properties = append(properties, 0x11, 0xFF, 0xFF, 0xFF, 0xFF) // Session Expiry Interval: as long as there is
	}
	b = append(b, 5, flags, 0, 0, byte(len(properties))) // no keep alive: that is between the node and us
	return frame(mqttConnect<<4, appendString(append(b, properties...), id))
}

func publishPacket(topic string, qos int8, retain, dup bool, id uint16, payload []byte) []byte {
	header := byte(mqttPublish<<4) | byte(qos)<<1
	if retain {
		header |= 1
	}
	b := appendString(make([]byte, 0, 5+len(topic)+len(payload)), topic)
	if qos > 0 {
		if dup {
			header |= 8
		}
		b = binary.BigEndian.AppendUint16(b, id)
	}
	return frame(header, append(append(b, 0), payload...))
}

func ackPacket(kind byte, id uint16, code byte) []byte {
	header := kind << 4
	if kind == mqttPubrel {
		header |= 2
	}
	return []byte{header, 3, byte(id >> 8), byte(id), code}
}

// subscribePacket asks for retained messages, but only for new ones if it repeats another (§3.8.3.1).
func subscribePacket(id uint16, filter string, qos int8, again bool) []byte {
	options := byte(qos)
	if again {
		options |= 1 << 4
	}
	b := append(binary.BigEndian.AppendUint16(nil, id), 0)
	return frame(mqttSubscribe<<4|2, append(appendString(b, filter), options))
}

func unsubscribePacket(id uint16, filter string) []byte {
	b := append(binary.BigEndian.AppendUint16(nil, id), 0)
	return frame(mqttUnsubscribe<<4|2, appendString(b, filter))
}
