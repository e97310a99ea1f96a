package bridgetest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A small MQTT codec of its own: what is tested must not be judged by itself.

// packet is one control packet: the first byte, and what follows the length.
type packet struct {
	first byte
	body  []byte
}

func (p packet) kind() byte { return p.first >> 4 }

func readPacket(r *bufio.Reader) (packet, error) {
	first, err := r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	size, err := binary.ReadUvarint(r) // the same coding as MQTT's, §1.5.5
	if err != nil {
		return packet{}, err
	}
	if size > 4<<20 {
		return packet{}, fmt.Errorf("packet of %d bytes", size)
	}
	p := packet{first, make([]byte, size)}
	_, err = io.ReadFull(r, p.body)
	return p, err
}

func appendPacket(to []byte, first byte, body []byte) []byte {
	to = append(to, first)
	to = binary.AppendUvarint(to, uint64(len(body)))
	return append(to, body...)
}

func appendText(to []byte, s string) []byte {
	to = binary.BigEndian.AppendUint16(to, uint16(len(s)))
	return append(to, s...)
}

// fields takes a body apart; the first mistake sticks.
type fields struct {
	b   []byte
	err error
}

func (f *fields) take(n int) []byte {
	if n > len(f.b) {
		f.err = errors.New("packet ends early")
		f.b = nil
		return make([]byte, n)
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) u8() byte     { return f.take(1)[0] }
func (f *fields) u16() uint16  { return binary.BigEndian.Uint16(f.take(2)) }
func (f *fields) u32() uint32  { return binary.BigEndian.Uint32(f.take(4)) }
func (f *fields) text() string { return string(f.take(int(f.u16()))) }
func (f *fields) varint() int {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.err = errors.New("bad length")
		return 0
	}
	f.b = f.b[n:]
	return int(v)
}

// Publish is a PUBLISH as it was on the wire.
type Publish struct {
	Topic      string
	Payload    []byte
	QoS        byte
	Retain     bool
	Dup        bool
	PacketID   uint16
	Properties Properties // version 5
}

// Properties are those a PUBLISH may have (MQTT 5 §3.3.2.3). Nil and empty mean not there.
type Properties struct {
	UTF8            bool
	Expiry          *uint32
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	User            [][2]string
}

// ID is the user property weir-id.
func (p Properties) ID() string {
	for _, u := range p.User {
		if u[0] == "weir-id" {
			return u[1]
		}
	}
	return ""
}

func parsePublish(p packet, v5 bool) (Publish, error) {
	f := &fields{b: p.body}
	pub := Publish{Dup: p.first&8 != 0, QoS: p.first >> 1 & 3, Retain: p.first&1 != 0}
	pub.Topic = f.text()
	if pub.QoS > 0 {
		pub.PacketID = f.u16()
	}
	if v5 {
		props := &fields{b: f.take(f.varint())}
		for len(props.b) > 0 {
			switch id := props.u8(); id {
			case 1:
				pub.Properties.UTF8 = props.u8() == 1
			case 2:
				v := props.u32()
				pub.Properties.Expiry = &v
			case 3:
				pub.Properties.ContentType = props.text()
			case 8:
				pub.Properties.ResponseTopic = props.text()
			case 9:
				pub.Properties.CorrelationData = []byte(props.text())
			case 11:
				props.varint()
			case 38:
				pub.Properties.User = append(pub.Properties.User, [2]string{props.text(), props.text()})
			default:
				return pub, fmt.Errorf("property %d in a PUBLISH", id)
			}
		}
		if props.err != nil {
			return pub, props.err
		}
	}
	pub.Payload = f.b
	return pub, f.err
}
