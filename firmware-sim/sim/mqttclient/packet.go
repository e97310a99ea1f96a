package mqttclient

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Control packet types, MQTT 5 §2.1.2.
const (
	connect     = 1
	connack     = 2
	publish     = 3
	puback      = 4
	pubrec      = 5
	pubrel      = 6
	pubcomp     = 7
	subscribe   = 8
	suback      = 9
	pingreq     = 12
	pingresp    = 13
	disconnect  = 14
	maxIncoming = 16 << 20 // bytes of the largest packet taken
)

// Version is an MQTT protocol level.
type Version byte

const (
	V311 Version = 4
	V5   Version = 5
)

// UserProperty is an MQTT 5 user property.
type UserProperty struct{ Key, Value string }

// Message is a publish.
type Message struct {
	Topic      string
	Payload    []byte
	QoS        byte
	Retain     bool
	Properties []UserProperty // MQTT 5 only

	Dup bool // received: the sender says it may have been here before
	Tag any  // the caller's own; it comes back in the callbacks
}

// Property reads the first user property of that key.
func (m *Message) Property(key string) (string, bool) {
	for _, p := range m.Properties {
		if p.Key == key {
			return p.Value, true
		}
	}
	return "", false
}

// MQTT 5 property identifiers that are used here, §2.2.2.2.
const (
	propSessionExpiry  = 0x11
	propReceiveMaximum = 0x21
	propUser           = 0x26
)

// propertySize is the size of a property's value; 0 stands for a string or binary data, -1 for
// a pair of strings, -2 for a variable byte integer.
func propertySize(id byte) (int, error) {
	switch id {
	case 0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2a:
		return 1, nil
	case 0x13, 0x21, 0x22, 0x23:
		return 2, nil
	case 0x02, 0x11, 0x18, 0x27:
		return 4, nil
	case 0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1a, 0x1c, 0x1f:
		return 0, nil
	case 0x26:
		return -1, nil
	case 0x0b:
		return -2, nil
	}
	return 0, fmt.Errorf("unknown property 0x%02x", id)
}

func appendVarint(b []byte, n int) []byte {
	for n >= 128 {
		b = append(b, byte(n)|128)
		n >>= 7
	}
	return append(b, byte(n))
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendPacket adds the fixed header to body.
func appendPacket(b []byte, first byte, body []byte) []byte {
	return append(appendVarint(append(b, first), len(body)), body...)
}

func (o *Options) connectPacket() []byte {
	flags := byte(0)
	if o.Clean {
		flags |= 0x02
	}
	if w := o.Will; w != nil {
		flags |= 0x04 | w.QoS<<3
		if w.Retain {
			flags |= 0x20
		}
	}
	if o.User != "" {
		flags |= 0x80
	}
	if o.Password != "" {
		flags |= 0x40
	}
	b := appendString(nil, "MQTT")
	b = append(b, byte(o.Version), flags)
	b = binary.BigEndian.AppendUint16(b, uint16(o.KeepAlive.Seconds()))
	if o.Version == V5 {
		if o.Clean {
			b = append(b, 0)
		} else {
			b = append(b, 5, propSessionExpiry)
			b = binary.BigEndian.AppendUint32(b, uint32(o.SessionExpiry.Seconds()))
		}
	}
	b = appendString(b, o.ClientID)
	if w := o.Will; w != nil {
		if o.Version == V5 {
			b = appendUserProperties(b, w.Properties)
		}
		b = appendString(b, w.Topic)
		b = appendString(b, string(w.Payload))
	}
	if o.User != "" {
		b = appendString(b, o.User)
	}
	if o.Password != "" {
		b = appendString(b, o.Password)
	}
	return appendPacket(nil, connect<<4, b)
}

func appendUserProperties(b []byte, props []UserProperty) []byte {
	var p []byte
	for _, u := range props {
		p = append(p, propUser)
		p = appendString(appendString(p, u.Key), u.Value)
	}
	return append(appendVarint(b, len(p)), p...)
}

func appendPublish(b []byte, v Version, m *Message, id uint16, dup bool) []byte {
	first := byte(publish<<4) | m.QoS<<1
	if m.Retain {
		first |= 1
	}
	if dup {
		first |= 8
	}
	body := appendString(nil, m.Topic)
	if m.QoS > 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	if v == V5 {
		body = appendUserProperties(body, m.Properties)
	}
	return appendPacket(b, first, append(body, m.Payload...))
}

// appendAnswer is PUBACK, PUBREC, PUBREL or PUBCOMP with reason 0.
func appendAnswer(b []byte, kind byte, id uint16) []byte {
	first := kind << 4
	if kind == pubrel {
		first |= 2
	}
	return append(b, first, 2, byte(id>>8), byte(id))
}

// Sub is a subscription.
type Sub struct {
	Filter string
	QoS    byte
}

func appendSubscribe(b []byte, v Version, id uint16, subs []Sub) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if v == V5 {
		body = append(body, 0)
	}
	for _, s := range subs {
		body = append(appendString(body, s.Filter), s.QoS)
	}
	return appendPacket(b, subscribe<<4|2, body)
}

// packet is one that was received.
type packet struct {
	kind   byte
	flags  byte
	id     uint16
	reason byte   // CONNACK and answers
	codes  []byte // SUBACK

	present        bool // CONNACK: session present
	receiveMaximum int
	message        Message
	level          Version // CONNECT
}

var errShort = errors.New("packet is shorter than it says")

// reader takes values off a packet's body; err is the first thing that went wrong.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.err = errShort
		r.b = nil
		return make([]byte, min(n, 4))
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) string() string {
	n := int(r.uint16())
	if n > len(r.b) {
		r.err = errShort
		return ""
	}
	return string(r.take(n))
}

func (r *reader) varint() int {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		c := r.byte()
		n |= int(c&127) << shift
		if c < 128 {
			return n
		}
	}
	r.err = errors.New("variable byte integer is too long")
	return 0
}

// properties reads a property list into p.
func (r *reader) properties(p *packet) {
	n := r.varint()
	if r.err != nil || n > len(r.b) {
		r.err = errShort
		return
	}
	list := reader{b: r.take(n)}
	for len(list.b) > 0 && list.err == nil {
		id := list.byte()
		size, err := propertySize(id)
		if err != nil {
			r.err = err
			return
		}
		switch {
		case id == propReceiveMaximum:
			p.receiveMaximum = int(list.uint16())
		case size == -1:
			u := UserProperty{list.string(), list.string()}
			p.message.Properties = append(p.message.Properties, u)
		case size == -2:
			list.varint()
		case size == 0:
			list.string()
		default:
			list.take(size)
		}
	}
	if list.err != nil {
		r.err = list.err
	}
}

func readPacket(in *bufio.Reader, v Version) (*packet, error) {
	first, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	size := 0
	for shift := 0; ; shift += 7 {
		c, err := in.ReadByte()
		if err != nil {
			return nil, err
		}
		size |= int(c&127) << shift
		if c < 128 {
			break
		}
		if shift == 21 {
			return nil, errors.New("remaining length is too long")
		}
	}
	if size > maxIncoming {
		return nil, fmt.Errorf("packet of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(in, body); err != nil {
		return nil, err
	}
	return parsePacket(first, body, v)
}

func parsePacket(first byte, body []byte, v Version) (*packet, error) {
	p := &packet{kind: first >> 4, flags: first & 15}
	r := &reader{b: body}
	switch p.kind {
	case connect:
		r.string()
		p.level = Version(r.byte())
	case connack:
		p.present = r.byte()&1 != 0
		p.reason = r.byte()
		if v == V5 && len(r.b) > 0 {
			r.properties(p)
		}
	case publish:
		m := &p.message
		m.QoS, m.Retain, m.Dup = p.flags>>1&3, p.flags&1 != 0, p.flags&8 != 0
		m.Topic = r.string()
		if m.QoS > 0 {
			p.id = r.uint16()
		}
		if v == V5 {
			r.properties(p)
		}
		m.Payload = r.b
	case puback, pubrec, pubrel, pubcomp:
		p.id = r.uint16()
		if v == V5 && len(r.b) > 0 { // §3.4.2.1: absent means success
			p.reason = r.byte()
		}
	case suback:
		p.id = r.uint16()
		if v == V5 {
			r.properties(p)
		}
		p.codes = r.b
	case pingreq, pingresp:
	case disconnect:
		if v == V5 && len(r.b) > 0 {
			p.reason = r.byte()
		}
	default:
		return nil, fmt.Errorf("packet of type %d, which nobody sends here", p.kind)
	}
	if r.err != nil {
		return nil, r.err
	}
	return p, nil
}
