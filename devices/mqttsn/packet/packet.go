// Package packet is the wire format of MQTT-SN 1.2: one message to a datagram, in a forwarder's envelope or
// bare. It knows what a message looks like, and not when it may be sent. Numbers of sections and tables are
// those of "MQTT For Sensor Networks (MQTT-SN) Protocol Specification Version 1.2".
package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type is the MsgType of a message, table 3.
type Type byte

// The types there are.
const (
	Advertise     Type = 0x00
	SearchGW      Type = 0x01
	GWInfo        Type = 0x02
	Connect       Type = 0x04
	Connack       Type = 0x05
	WillTopicReq  Type = 0x06
	WillTopic     Type = 0x07
	WillMsgReq    Type = 0x08
	WillMsg       Type = 0x09
	Register      Type = 0x0A
	Regack        Type = 0x0B
	Publish       Type = 0x0C
	Puback        Type = 0x0D
	Pubcomp       Type = 0x0E
	Pubrec        Type = 0x0F
	Pubrel        Type = 0x10
	Subscribe     Type = 0x12
	Suback        Type = 0x13
	Unsubscribe   Type = 0x14
	Unsuback      Type = 0x15
	Pingreq       Type = 0x16
	Pingresp      Type = 0x17
	Disconnect    Type = 0x18
	WillTopicUpd  Type = 0x1A
	WillTopicResp Type = 0x1B
	WillMsgUpd    Type = 0x1C
	WillMsgResp   Type = 0x1D

	encapsulated Type = 0xFE
)

var names = map[Type]string{
	Advertise: "ADVERTISE", SearchGW: "SEARCHGW", GWInfo: "GWINFO", Connect: "CONNECT", Connack: "CONNACK",
	WillTopicReq: "WILLTOPICREQ", WillTopic: "WILLTOPIC", WillMsgReq: "WILLMSGREQ", WillMsg: "WILLMSG",
	Register: "REGISTER", Regack: "REGACK", Publish: "PUBLISH", Puback: "PUBACK", Pubcomp: "PUBCOMP", Pubrec: "PUBREC",
	Pubrel: "PUBREL", Subscribe: "SUBSCRIBE", Suback: "SUBACK", Unsubscribe: "UNSUBSCRIBE", Unsuback: "UNSUBACK",
	Pingreq: "PINGREQ", Pingresp: "PINGRESP", Disconnect: "DISCONNECT", WillTopicUpd: "WILLTOPICUPD",
	WillTopicResp: "WILLTOPICRESP", WillMsgUpd: "WILLMSGUPD", WillMsgResp: "WILLMSGRESP",
}

func (t Type) String() string {
	if name, ok := names[t]; ok {
		return name
	}
	return fmt.Sprintf("message type %#02x", byte(t))
}

// Code is a ReturnCode, table 5.
type Code byte

// The codes there are; the rest are reserved.
const (
	Accepted     Code = 0x00
	Congestion   Code = 0x01
	InvalidTopic Code = 0x02
	NotSupported Code = 0x03
)

var codes = [...]string{"accepted", "rejected: congestion", "rejected: invalid topic id", "rejected: not supported"}

func (c Code) String() string {
	if int(c) < len(codes) {
		return codes[c]
	}
	return fmt.Sprintf("return code %#02x", byte(c))
}

// TopicType says what a TopicID is, §5.3.4.
type TopicType byte

// The kinds of topic id. In a SUBSCRIBE or UNSUBSCRIBE, Normal stands for a name.
const (
	Normal     TopicType = 0 // one side has told the other which name it stands for
	Predefined TopicType = 1 // both have always known
	Short      TopicType = 2 // it is the name: two octets
)

// Protocol is the ProtocolId of this version, §5.3.8.
const Protocol = 0x01

// maxMessage is the longest message there can be, §5.2.1.
const maxMessage = 0xFFFF

// Packet is one message. Which fields it has depends on its type; the others are zero.
type Packet struct {
	Type Type

	// The flags, §5.3.4.
	Dup       bool
	QoS       int8 // -1 to 2
	Retain    bool
	Will      bool
	Clean     bool
	TopicType TopicType

	TopicID  uint16
	MsgID    uint16
	Code     Code
	Protocol byte
	Duration uint16 // seconds: keep alive, time until the next ADVERTISE, or sleep
	Sleep    bool   // DISCONNECT: Duration is there
	Gateway  byte   // GwId
	Radius   byte
	Text     string // ClientId, TopicName or WillTopic
	Data     []byte // Data, WillMsg or GwAdd
}

// ErrMalformed is in every error of this package: what came is no message.
var ErrMalformed = errors.New("malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// ShortTopic is the id of a topic name of two octets.
func ShortTopic(name string) uint16 { return uint16(name[0])<<8 | uint16(name[1]) }

// ShortName is the topic name that a short topic id is.
func ShortName(id uint16) string { return string([]byte{byte(id >> 8), byte(id)}) }

// flags is the octet of flags.
func (p *Packet) flags() byte {
	f := byte(p.QoS)&3<<5 | byte(p.TopicType)&3
	set := func(bit byte, on bool) {
		if on {
			f |= bit
		}
	}
	set(0x80, p.Dup)
	set(0x10, p.Retain)
	set(0x08, p.Will)
	set(0x04, p.Clean)
	return f
}

func (p *Packet) setFlags(f byte) {
	p.Dup, p.Retain, p.Will, p.Clean = f&0x80 != 0, f&0x10 != 0, f&0x08 != 0, f&0x04 != 0
	p.QoS, p.TopicType = int8(f>>5&3), TopicType(f&3)
	if p.QoS == 3 {
		p.QoS = -1
	}
}

// Append appends p as it goes over the wire. A message that is longer than 65535 octets is a mistake in the
// program: it panics.
func (p *Packet) Append(b []byte) []byte {
	body := p.body(make([]byte, 0, 16+len(p.Text)+len(p.Data)))
	n := len(body) + 2
	switch {
	case n <= 0xFF:
		b = append(b, byte(n), byte(p.Type))
	case n+2 <= maxMessage:
		b = append(b, 1, byte((n+2)>>8), byte(n+2), byte(p.Type))
	default:
		panic(fmt.Sprintf("packet: %v of %d octets", p.Type, n+2))
	}
	return append(b, body...)
}

func (p *Packet) body(b []byte) []byte {
	u16 := binary.BigEndian.AppendUint16
	switch p.Type {
	case Advertise:
		return u16(append(b, p.Gateway), p.Duration)
	case SearchGW:
		return append(b, p.Radius)
	case GWInfo:
		return append(append(b, p.Gateway), p.Data...)
	case Connect:
		return append(u16(append(b, p.flags(), p.Protocol), p.Duration), p.Text...)
	case Connack, WillTopicResp, WillMsgResp:
		return append(b, byte(p.Code))
	case WillTopic, WillTopicUpd:
		if p.Text == "" { // no will: no flags either
			return b
		}
		return append(append(b, p.flags()), p.Text...)
	case WillMsg, WillMsgUpd:
		return append(b, p.Data...)
	case Register:
		return append(u16(u16(b, p.TopicID), p.MsgID), p.Text...)
	case Regack, Puback:
		return append(u16(u16(b, p.TopicID), p.MsgID), byte(p.Code))
	case Publish:
		return append(u16(u16(append(b, p.flags()), p.TopicID), p.MsgID), p.Data...)
	case Pubrec, Pubrel, Pubcomp, Unsuback:
		return u16(b, p.MsgID)
	case Subscribe, Unsubscribe:
		b = u16(append(b, p.flags()), p.MsgID)
		if p.TopicType == Normal {
			return append(b, p.Text...)
		}
		return u16(b, p.TopicID)
	case Suback:
		return append(u16(u16(append(b, p.flags()), p.TopicID), p.MsgID), byte(p.Code))
	case Pingreq:
		return append(b, p.Text...)
	case Disconnect:
		if p.Sleep {
			return u16(b, p.Duration)
		}
	}
	return b
}

// shape is how long the part behind the type is, and whether more may follow it.
var shapes = map[Type]struct {
	fixed int
	more  bool
}{
	Advertise: {3, false}, SearchGW: {1, false}, GWInfo: {1, true}, Connect: {4, true}, Connack: {1, false},
	WillTopicReq: {0, false}, WillTopic: {0, true}, WillMsgReq: {0, false}, WillMsg: {0, true},
	Register: {4, true}, Regack: {5, false}, Publish: {5, true}, Puback: {5, false},
	Pubcomp: {2, false}, Pubrec: {2, false}, Pubrel: {2, false},
	Subscribe: {3, true}, Suback: {6, false}, Unsubscribe: {3, true}, Unsuback: {2, false},
	Pingreq: {0, true}, Pingresp: {0, false}, Disconnect: {0, true},
	WillTopicUpd: {0, true}, WillTopicResp: {1, false}, WillMsgUpd: {0, true}, WillMsgResp: {1, false},
}

// Decode reads the message that b is. Its Data is a part of b. The error is ErrMalformed.
func Decode(b []byte) (p Packet, err error) {
	n, size, err := length(b)
	switch {
	case err != nil:
		return p, err
	case n != len(b):
		return p, malformed("%d octets, of which it says %d", len(b), n)
	}
	p.Type, b = Type(b[size]), b[size+1:]
	s, known := shapes[p.Type]
	switch {
	case !known:
		return p, malformed("%v", p.Type)
	case len(b) < s.fixed || !s.more && len(b) > s.fixed:
		return p, malformed("%v with %d octets", p.Type, n)
	}
	u16 := binary.BigEndian.Uint16
	switch p.Type {
	case Advertise:
		p.Gateway, p.Duration = b[0], u16(b[1:])
	case SearchGW:
		p.Radius = b[0]
	case GWInfo:
		p.Gateway, p.Data = b[0], rest(b[1:])
	case Connect:
		p.setFlags(b[0])
		p.Protocol, p.Duration, p.Text = b[1], u16(b[2:]), string(b[4:])
	case Connack, WillTopicResp, WillMsgResp:
		p.Code = Code(b[0])
	case WillTopic, WillTopicUpd:
		if len(b) > 1 {
			p.setFlags(b[0])
			p.Text = string(b[1:])
		}
	case WillMsg, WillMsgUpd:
		p.Data = rest(b)
	case Register:
		p.TopicID, p.MsgID, p.Text = u16(b), u16(b[2:]), string(b[4:])
	case Regack, Puback:
		p.TopicID, p.MsgID, p.Code = u16(b), u16(b[2:]), Code(b[4])
	case Publish:
		p.setFlags(b[0])
		p.TopicID, p.MsgID, p.Data = u16(b[1:]), u16(b[3:]), rest(b[5:])
	case Pubrec, Pubrel, Pubcomp, Unsuback:
		p.MsgID = u16(b)
	case Subscribe, Unsubscribe:
		p.setFlags(b[0])
		p.MsgID, b = u16(b[1:]), b[3:]
		switch {
		case p.TopicType == Normal:
			p.Text = string(b)
		case len(b) != 2:
			return p, malformed("%v with a topic id of %d octets", p.Type, len(b))
		default:
			p.TopicID = u16(b)
		}
	case Suback:
		p.setFlags(b[0])
		p.TopicID, p.MsgID, p.Code = u16(b[1:]), u16(b[3:]), Code(b[5])
	case Pingreq:
		p.Text = string(b)
	case Disconnect:
		switch len(b) {
		case 0:
		case 2:
			p.Sleep, p.Duration = true, u16(b)
		default:
			return p, malformed("%v with %d octets", p.Type, n)
		}
	}
	if p.TopicType > Short {
		return p, malformed("%v with the reserved topic id type", p.Type)
	}
	return p, nil
}

// rest is b, or nil if there is nothing in it.
func rest(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// length reads the Length of a message, §5.2.1, and how many octets it takes itself.
func length(b []byte) (n, size int, err error) {
	switch {
	case len(b) >= 2 && b[0] > 1:
		return int(b[0]), 1, nil
	case len(b) >= 4 && b[0] == 1:
		if n = int(b[1])<<8 | int(b[2]); n >= 4 {
			return n, 3, nil
		}
	}
	return 0, 0, malformed("%d octets without a length", len(b))
}

// maxNode is the longest wireless node id that fits an envelope, whose Length is one octet.
const maxNode = 0xFF - 3

// Open takes a message out of the envelope of a forwarder, §5.5. A bare message is returned as it is. The
// error is ErrMalformed.
func Open(b []byte) (node string, forwarded bool, message []byte, err error) {
	if len(b) < 2 || b[0] == 1 || Type(b[1]) != encapsulated {
		return "", false, b, nil
	}
	n := int(b[0])
	if n < 3 || n > len(b) {
		return "", true, nil, malformed("an envelope of %d octets, of which it says %d", len(b), n)
	}
	return string(b[3:n]), true, b[n:], nil
}

// AppendEnvelope appends the envelope for a message to a node behind a forwarder; the message comes after it.
// The node's id is one that Open has returned.
func AppendEnvelope(b []byte, node string) []byte {
	if len(node) > maxNode {
		panic("packet: wireless node id of " + fmt.Sprint(len(node)) + " octets")
	}
	return append(append(b, byte(3+len(node)), byte(encapsulated), 0), node...)
}
