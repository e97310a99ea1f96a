package packet_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-iot/weir/devices/mqttsn/packet"
)

// Octet by octet from the tables of the specification, sections 5.4.1 to 5.4.25.
var wire = []struct {
	name  string
	bytes string
	p     packet.Packet
}{
	{"ADVERTISE, table 6", "\x05\x00\x07\x03\x84", packet.Packet{Type: packet.Advertise, Gateway: 7, Duration: 900}},
	{"SEARCHGW, table 7", "\x03\x01\x02", packet.Packet{Type: packet.SearchGW, Radius: 2}},
	{"GWINFO of a gateway, table 8", "\x03\x02\x07", packet.Packet{Type: packet.GWInfo, Gateway: 7}},
	{"GWINFO of a client", "\x07\x02\x07\x0a\x00\x00\x01", packet.Packet{Type: packet.GWInfo, Gateway: 7, Data: []byte{10, 0, 0, 1}}},
	{"CONNECT, table 9", "\x0b\x04\x0c\x01\x00\x3cnode1", packet.Packet{Type: packet.Connect, Will: true, Clean: true, Protocol: 1, Duration: 60, Text: "node1"}},
	{"CONNACK, table 10", "\x03\x05\x01", packet.Packet{Type: packet.Connack, Code: packet.Congestion}},
	{"WILLTOPICREQ, table 11", "\x02\x06", packet.Packet{Type: packet.WillTopicReq}},
	{"WILLTOPIC, table 12", "\x08\x07\x30a/sta", packet.Packet{Type: packet.WillTopic, QoS: 1, Retain: true, Text: "a/sta"}},
	{"WILLTOPIC, empty", "\x02\x07", packet.Packet{Type: packet.WillTopic}},
	{"WILLMSGREQ, table 11", "\x02\x08", packet.Packet{Type: packet.WillMsgReq}},
	{"WILLMSG, table 13", "\x06\x09lost", packet.Packet{Type: packet.WillMsg, Data: []byte("lost")}},
	{"REGISTER, table 14", "\x09\x0a\x00\x00\x12\x34a/b", packet.Packet{Type: packet.Register, MsgID: 0x1234, Text: "a/b"}},
	{"REGACK, table 15", "\x07\x0b\x00\x05\x12\x34\x00", packet.Packet{Type: packet.Regack, TopicID: 5, MsgID: 0x1234}},
	{"PUBLISH, table 16", "\x09\x0c\xb0\x00\x05\x12\x34on", packet.Packet{Type: packet.Publish, Dup: true, QoS: 1, Retain: true, TopicID: 5, MsgID: 0x1234, Data: []byte("on")}},
	{"PUBLISH at QoS 2, predefined, empty", "\x07\x0c\x41\x00\x01\x00\x01", packet.Packet{Type: packet.Publish, QoS: 2, TopicType: packet.Predefined, TopicID: 1, MsgID: 1}},
	{"PUBLISH at QoS -1, short", "\x08\x0c\x62ab\x00\x00x", packet.Packet{Type: packet.Publish, QoS: -1, TopicType: packet.Short, TopicID: 0x6162, Data: []byte("x")}},
	{"PUBACK, table 17", "\x07\x0d\x00\x05\x12\x34\x02", packet.Packet{Type: packet.Puback, TopicID: 5, MsgID: 0x1234, Code: packet.InvalidTopic}},
	{"PUBREC, table 18", "\x04\x0f\x12\x34", packet.Packet{Type: packet.Pubrec, MsgID: 0x1234}},
	{"PUBREL", "\x04\x10\x12\x34", packet.Packet{Type: packet.Pubrel, MsgID: 0x1234}},
	{"PUBCOMP", "\x04\x0e\x12\x34", packet.Packet{Type: packet.Pubcomp, MsgID: 0x1234}},
	{"SUBSCRIBE to a name, table 19", "\x08\x12\x40\x12\x34a/+", packet.Packet{Type: packet.Subscribe, QoS: 2, MsgID: 0x1234, Text: "a/+"}},
	{"SUBSCRIBE, predefined", "\x07\x12\x21\x12\x34\x00\x09", packet.Packet{Type: packet.Subscribe, QoS: 1, TopicType: packet.Predefined, MsgID: 0x1234, TopicID: 9}},
	{"SUBSCRIBE, short", "\x07\x12\x82\x12\x34ab", packet.Packet{Type: packet.Subscribe, Dup: true, TopicType: packet.Short, MsgID: 0x1234, TopicID: 0x6162}},
	{"SUBACK, table 20", "\x08\x13\x20\x00\x05\x12\x34\x00", packet.Packet{Type: packet.Suback, QoS: 1, TopicID: 5, MsgID: 0x1234}},
	{"UNSUBSCRIBE, table 21", "\x08\x14\x00\x12\x34a/+", packet.Packet{Type: packet.Unsubscribe, MsgID: 0x1234, Text: "a/+"}},
	{"UNSUBACK, table 22", "\x04\x15\x12\x34", packet.Packet{Type: packet.Unsuback, MsgID: 0x1234}},
	{"PINGREQ, table 23", "\x02\x16", packet.Packet{Type: packet.Pingreq}},
	{"PINGREQ of a sleeper", "\x07\x16node1", packet.Packet{Type: packet.Pingreq, Text: "node1"}},
	{"PINGRESP, table 24", "\x02\x17", packet.Packet{Type: packet.Pingresp}},
	{"DISCONNECT, table 25", "\x02\x18", packet.Packet{Type: packet.Disconnect}},
	{"DISCONNECT of a sleeper", "\x04\x18\x0e\x10", packet.Packet{Type: packet.Disconnect, Sleep: true, Duration: 3600}},
	{"WILLTOPICUPD, table 26", "\x06\x1a\x40a/b", packet.Packet{Type: packet.WillTopicUpd, QoS: 2, Text: "a/b"}},
	{"WILLTOPICUPD, empty", "\x02\x1a", packet.Packet{Type: packet.WillTopicUpd}},
	{"WILLTOPICRESP, table 28", "\x03\x1b\x00", packet.Packet{Type: packet.WillTopicResp}},
	{"WILLMSGUPD, table 27", "\x06\x1clost", packet.Packet{Type: packet.WillMsgUpd, Data: []byte("lost")}},
	{"WILLMSGRESP", "\x03\x1d\x03", packet.Packet{Type: packet.WillMsgResp, Code: packet.NotSupported}},
	{"three octets of length, section 5.2.1", "\x01\x01\x00\x09" + strings.Repeat("x", 252), packet.Packet{Type: packet.WillMsg, Data: bytes.Repeat([]byte("x"), 252)}},
	{"the longest with one octet", "\xff\x09" + strings.Repeat("x", 253), packet.Packet{Type: packet.WillMsg, Data: bytes.Repeat([]byte("x"), 253)}},
	{"the longest there is", "\x01\xff\xff\x09" + strings.Repeat("x", 65531), packet.Packet{Type: packet.WillMsg, Data: bytes.Repeat([]byte("x"), 65531)}},
}

func TestWire(t *testing.T) {
	for _, c := range wire {
		t.Run(c.name, func(t *testing.T) {
			p, err := packet.Decode([]byte(c.bytes))
			if err != nil || !reflect.DeepEqual(p, c.p) {
				t.Errorf("decoded %+v, %v; want %+v", p, err, c.p)
			}
			if len(c.p.Data) == 252 { // 254 octets: two more than they need be, which is allowed to others
				return
			}
			if b := c.p.Append(nil); string(b) != c.bytes {
				t.Errorf("encoded %x, want %x", b, c.bytes)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	for name, b := range map[string]string{
		"empty": "", "one octet": "\x02", "length 0": "\x00\x16", "length 1 and nothing": "\x01\x16",
		"three octets of length and no type": "\x01\x00\x03", "a length in itself too short": "\x01\x00\x03\x16",
		"shorter than it says": "\x05\x0cab", "longer than it says": "\x02\x16x",
		"reserved type 03": "\x02\x03", "reserved type 11": "\x02\x11", "reserved type 19": "\x02\x19", "reserved type 1e": "\x02\x1e",
		"reserved type ff": "\x02\xff", "an envelope in an envelope": "\x03\xfe\x00",
		"PUBLISH without a message id": "\x06\x0c\x00\x00\x01\x00", "CONNACK without a code": "\x02\x05", "CONNACK and more": "\x04\x05\x00\x00",
		"PUBREL of one octet": "\x03\x10\x00", "DISCONNECT with one octet": "\x03\x18\x00", "DISCONNECT with three": "\x05\x18\x00\x00\x00",
		"PUBLISH with the reserved topic type": "\x07\x0c\x03\x00\x01\x00\x01", "SUBSCRIBE with it": "\x07\x12\x03\x00\x01ab",
		"SUBSCRIBE to a predefined topic of one octet": "\x06\x12\x01\x00\x01a", "to a short one of three": "\x08\x12\x02\x00\x01abc",
		"UNSUBSCRIBE from nothing predefined": "\x05\x14\x01\x00\x01",
	} {
		if p, err := packet.Decode([]byte(b)); !errors.Is(err, packet.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestEnvelope(t *testing.T) {
	// Section 5.5: Length is that of the envelope alone; Ctrl is 0 for a single receiver.
	b := packet.AppendEnvelope(nil, "\x12\x34")
	b = append(b, "\x02\x17"...)
	if want := "\x05\xfe\x00\x12\x34\x02\x17"; string(b) != want {
		t.Errorf("%x, want %x", b, want)
	}
	node, forwarded, inner, err := packet.Open([]byte("\x05\xfe\x03\x12\x34\x02\x16"))
	if node != "\x12\x34" || !forwarded || string(inner) != "\x02\x16" || err != nil {
		t.Errorf("%x %v %x %v", node, forwarded, inner, err)
	}
	node, forwarded, inner, err = packet.Open([]byte("\x02\x16"))
	if node != "" || forwarded || string(inner) != "\x02\x16" || err != nil {
		t.Errorf("bare: %x %v %x %v", node, forwarded, inner, err)
	}
	for _, b := range []string{"\x02\xfe", "\x09\xfe\x00a"} {
		if _, _, _, err := packet.Open([]byte(b)); !errors.Is(err, packet.ErrMalformed) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// Whatever comes is refused, or means the same when it is written and read again.
func FuzzDecode(f *testing.F) {
	for _, c := range wire {
		f.Add([]byte(c.bytes))
	}
	f.Add([]byte("\x05\xfe\x03\x12\x34\x02\x16"))
	f.Fuzz(func(t *testing.T, b []byte) {
		node, forwarded, inner, err := packet.Open(b)
		if err != nil {
			return
		}
		if forwarded {
			again, _, rest, err := packet.Open(append(packet.AppendEnvelope(nil, node), inner...))
			if again != node || !bytes.Equal(rest, inner) || err != nil {
				t.Fatalf("%x: node %x and %x become %x and %x, %v", b, node, inner, again, rest, err)
			}
		}
		p, err := packet.Decode(inner)
		if err != nil {
			if !errors.Is(err, packet.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		wrote := p.Append(nil)
		if len(wrote) > len(inner) {
			t.Fatalf("%x became longer: %x", inner, wrote)
		}
		if again, err := packet.Decode(wrote); err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("%x: %+v becomes %x: %+v, %v", inner, p, wrote, again, err)
		}
	})
}
