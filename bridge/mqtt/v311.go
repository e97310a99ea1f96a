package mqtt

import (
	"bufio"
	"bytes"
	"fmt"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// v311 is MQTT 3.1.1.
type v311 struct{}

func (v311) connect(to *bytes.Buffer, c *Config) error {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4
	p.CleanSession = true // the cursor is the session
	p.Keepalive = seconds(c.KeepAlive)
	p.ClientIdentifier = c.ClientID
	p.Username, p.UsernameFlag = c.Username, c.Username != ""
	p.Password, p.PasswordFlag = []byte(c.Password), c.Password != ""
	return p.Write(to)
}

func (v311) publish(to *bytes.Buffer, packetID uint16, m *message, _ time.Duration) error {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.Retain = 1, m.retain
	p.MessageID = packetID
	p.TopicName, p.Payload = m.topic, m.payload
	return p.Write(to)
}

func (v311) read(from *bufio.Reader) (answer, error) {
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
