package mqtt

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/weir-iot/weir/gateway"
)

// v311 is MQTT 3.1.1.
type v311 struct{}

func (v311) connect(to *bytes.Buffer, c *Config, source bool) error {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4
	p.CleanSession = !source // a sink's cursor is its session
	p.Keepalive = seconds(c.KeepAlive)
	p.ClientIdentifier = c.ClientID
	p.Username, p.UsernameFlag = c.Username, c.Username != ""
	p.Password, p.PasswordFlag = []byte(c.Password), c.Password != ""
	return p.Write(to)
}

func (v311) subscribe(to *bytes.Buffer, packetID uint16, filters []string) error {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID = packetID
	for _, f := range filters {
		p.Topics, p.Qoss = append(p.Topics, f), append(p.Qoss, 1)
	}
	return p.Write(to)
}

// puback has no word for a refusal in this version.
func (v311) puback(to *bytes.Buffer, packetID uint16, _ error) error {
	p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	p.MessageID = packetID
	return p.Write(to)
}

func (v311) publish(to *bytes.Buffer, packetID uint16, m *message, _ func() time.Duration) error {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.Retain = 1, m.retain
	p.MessageID = packetID
	p.TopicName, p.Payload = m.topic, m.payload
	return p.Write(to)
}

func (v311) read(from *bufio.Reader) (answer, error) {
	if a, large, err := readLarge(from); large || err != nil {
		return a, err
	}
	p, err := packets.ReadPacket(from)
	if err != nil {
		return answer{}, err
	}
	switch p := p.(type) {
	case *packets.ConnackPacket:
		a := answer{kind: connack}
		if p.ReturnCode != packets.Accepted {
			a.err = refusal311(p.ReturnCode)
		}
		return a, nil
	case *packets.PubackPacket:
		return answer{kind: puback, packetID: p.MessageID}, nil
	case *packets.PublishPacket:
		return answer{kind: publish, packetID: p.MessageID, event: &gateway.Event{Topic: p.TopicName, Payload: p.Payload, QoS: p.Qos, Retain: p.Retain}}, nil
	case *packets.SubackPacket:
		return answer{kind: suback, packetID: p.MessageID, granted: p.ReturnCodes}, nil
	case *packets.PingrespPacket:
		return answer{kind: pingresp}, nil
	default:
		return answer{}, fmt.Errorf("the far end sent a packet that makes no sense here: %T", p)
	}
}

// refusal311 is a CONNACK return code in words (3.1.1 §3.2.2.3).
func refusal311(code byte) error {
	words := map[byte]string{
		1: "it does not speak MQTT 3.1.1",
		2: "it does not allow this client id",
		3: "its MQTT service is unavailable",
		4: "bad user name or password",
		5: "not authorized",
	}[code]
	if words == "" {
		words = "no reason given"
	}
	return fmt.Errorf("%s (code %d)", words, code)
}

// seconds rounds a keep alive up.
func seconds(d time.Duration) uint16 {
	return uint16((d + time.Second - 1) / time.Second)
}

// most is all there is: version 3.1.1 has no way to say that less is wanted, and a message that ends the
// connection would come again by the next one.
func (v311) most() int { return maxPacket }

// readLarge reads a PUBLISH whose payload is more than a gateway takes, up to the byte that is too much, and
// leaves out the rest.
func readLarge(from *bufio.Reader) (a answer, large bool, err error) {
	head, err := from.Peek(1)
	if err != nil || head[0]>>4 != publish {
		return a, false, err
	}
	if head, err = from.Peek(5); err != nil { // no PUBLISH is shorter
		return a, false, err
	}
	size, n := 0, 1
	for ; ; n++ {
		size |= int(head[n]&0x7f) << (7 * (n - 1))
		if head[n] < 0x80 {
			break
		}
	}
	if size <= maxMessage {
		return a, false, nil
	}
	body := io.LimitReader(from, int64(n+1+size))
	fixed := make([]byte, n+3)
	if _, err := io.ReadFull(body, fixed); err != nil {
		return a, true, err
	}
	qos, retain := fixed[0]>>1&3, fixed[0]&1 != 0
	topic := make([]byte, binary.BigEndian.Uint16(fixed[n+1:]))
	if _, err := io.ReadFull(body, topic); err != nil {
		return a, true, err
	}
	if qos > 0 {
		var id [2]byte
		if _, err := io.ReadFull(body, id[:]); err != nil {
			return a, true, err
		}
		a.packetID = binary.BigEndian.Uint16(id[:])
	}
	payload := make([]byte, gateway.MaxPayload+1)
	if _, err := io.ReadFull(body, payload); err != nil {
		return a, true, err
	}
	_, err = io.Copy(io.Discard, body)
	a.kind = publish
	a.event = &gateway.Event{Topic: string(topic), Payload: payload, QoS: qos, Retain: retain}
	return a, true, err
}
