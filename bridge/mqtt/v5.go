package mqtt

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-iot/weir/gateway"
)

// The user properties that hold the event's id, and its topic where that was rewritten.
const (
	idProperty    = "weir-id"
	topicProperty = "weir-topic"
)

// v5 is MQTT 5.
type v5 struct{}

func (v5) connect(to *bytes.Buffer, c *Config, source bool) error {
	size := uint32(maxAnswer)
	p := packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5,
		CleanStart:   true, // the cursor is the session
		KeepAlive:    seconds(c.KeepAlive),
		ClientID:     c.ClientID,
		Username:     c.Username,
		UsernameFlag: c.Username != "",
		Password:     []byte(c.Password),
		PasswordFlag: c.Password != "",
		Properties:   &packets.Properties{MaximumPacketSize: &size},
	}
	if source {
		size, p.CleanStart = maxMessage, false
		window, expiry := uint16(c.Window), uint32(sessionExpiry/time.Second)
		p.Properties.ReceiveMaximum, p.Properties.SessionExpiryInterval = &window, &expiry
	}
	_, err := p.WriteTo(to)
	return err
}

func (v5) subscribe(to *bytes.Buffer, packetID uint16, filters []string) error {
	p := packets.Subscribe{PacketID: packetID, Properties: &packets.Properties{}}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, packets.SubOptions{Topic: f, QoS: 1, RetainHandling: packets.RetainSendOnSubscribeIfNew})
	}
	_, err := p.WriteTo(to)
	return err
}

func (v5) puback(to *bytes.Buffer, packetID uint16, why error) error {
	p := packets.Puback{PacketID: packetID, Properties: &packets.Properties{}}
	switch { // the text is for our own log: it tells what the account may do
	case errors.Is(why, gateway.ErrDenied):
		p.ReasonCode = packets.PubackNotAuthorized
	case why != nil:
		p.ReasonCode = packets.PubackImplementationSpecificError
	}
	_, err := p.WriteTo(to)
	return err
}

// event is a message as the far end sent it (§3.3.2.3).
func (v5) event(p *packets.Publish) *gateway.Event {
	props := p.Properties
	e := &gateway.Event{
		Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain, UTF8: props.PayloadFormat != nil && *props.PayloadFormat == 1,
		ContentType: props.ContentType, ResponseTopic: props.ResponseTopic, CorrelationData: props.CorrelationData,
	}
	if props.MessageExpiry != nil {
		e.Expiry = max(time.Duration(*props.MessageExpiry)*time.Second, time.Second) // 0 is none to an event
	}
	for _, u := range props.User {
		e.UserProperties = append(e.UserProperties, gateway.UserProperty{Key: u.Key, Value: u.Value})
	}
	return e
}

// publish writes the packet itself: it is what a link sends all day, and the codec makes a dozen objects of each.
func (v5) publish(to *bytes.Buffer, packetID uint16, m *message, age func() time.Duration) error {
	if err := checkProperties(m); err != nil {
		return err
	}
	e, b := m.event, m.props[:0] // the properties, §3.3.2.3
	if m.utf8 {
		b = append(b, packets.PropPayloadFormat, 1)
	}
	if e.Expiry > 0 {
		b = binary.BigEndian.AppendUint32(append(b, packets.PropMessageExpiry), remaining(e, age()))
	}
	if m.contentType != "" {
		b = appendText(append(b, packets.PropContentType), m.contentType)
	}
	if e.ResponseTopic != "" {
		b = appendText(append(b, packets.PropResponseTopic), e.ResponseTopic)
	}
	if len(e.CorrelationData) > 0 {
		b = appendText(append(b, packets.PropCorrelationData), e.CorrelationData)
	}
	for _, p := range m.properties() {
		if err := errors.Join(checkText(p.Key), checkText(p.Value)); err != nil {
			return gateway.Errorf(gateway.ErrInvalid, "user property: %w", err)
		}
		b = appendText(appendText(append(b, packets.PropUser), p.Key), p.Value)
	}
	m.props = b

	head := append(to.AvailableBuffer(), packets.PUBLISH<<4|1<<1)
	if m.retain {
		head[0] |= 1
	}
	// A variable byte integer (§1.5.5) is what Go calls a uvarint.
	length := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen32), uint64(len(b)))
	head = binary.AppendUvarint(head, uint64(2+len(m.topic)+2+len(length)+len(b)+len(m.payload)))
	head = append(binary.BigEndian.AppendUint16(appendText(head, m.topic), packetID), length...)
	to.Write(head)
	to.Write(b)
	to.Write(m.payload)
	return nil
}

// appendText appends a string or binary data (§1.5.4, §1.5.6).
func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// remaining is the message expiry interval that is left (§3.3.2.3.3), in seconds, rounded up.
func remaining(e *gateway.Event, age time.Duration) uint32 {
	left := e.Left(age)
	s := int64((left + time.Second - 1) / time.Second)
	return uint32(min(max(s, 1), math.MaxUint32))
}

// checkProperties refuses what a broker would answer by ending the connection, which would
// then happen again and again.
func checkProperties(m *message) error {
	if topic := m.event.ResponseTopic; topic != "" {
		if err := gateway.ValidateTopic(topic); err != nil {
			return gateway.Errorf(gateway.ErrInvalid, "response topic: %w", err)
		}
	}
	if err := checkText(m.contentType); err != nil {
		return gateway.Errorf(gateway.ErrInvalid, "content type: %w", err)
	}
	if n := len(m.event.CorrelationData); n > math.MaxUint16 {
		return gateway.Errorf(gateway.ErrInvalid, "correlation data of %d bytes", n)
	}
	return nil
}

// checkText checks a UTF-8 encoded string (§1.5.4).
func checkText(s string) error {
	switch {
	case len(s) > math.MaxUint16:
		return fmt.Errorf("text of %d bytes; 65535 is the most", len(s))
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return errors.New("text is not valid UTF-8")
	}
	return nil
}

func (v5) most() int { return maxMessage } // connect said so

func (v v5) read(from *bufio.Reader) (answer, error) {
	cp, err := packets.ReadPacket(from)
	if err != nil {
		return answer{}, err
	}
	switch p := cp.Content.(type) {
	case *packets.Connack:
		a := answer{kind: connack, limits: limitsOf(p.Properties)}
		if p.ReasonCode >= 0x80 {
			a.err = reason(p.ReasonCode, p.Properties)
		}
		return a, nil
	case *packets.Puback:
		return answer{kind: puback, packetID: p.PacketID, err: refusal(p)}, nil
	case *packets.Publish:
		return answer{kind: publish, packetID: p.PacketID, event: v.event(p)}, nil
	case *packets.Suback:
		return answer{kind: suback, packetID: p.PacketID, granted: p.Reasons}, nil
	case *packets.Pingresp:
		return answer{kind: pingresp}, nil
	case *packets.Disconnect:
		return answer{kind: disconnack, err: reason(p.ReasonCode, p.Properties)}, nil
	default:
		return answer{}, fmt.Errorf("the far end sent a packet that makes no sense here: %s", cp.PacketType())
	}
}

func limitsOf(p *packets.Properties) (l limits) {
	if p.ReceiveMaximum != nil {
		l.window = int(*p.ReceiveMaximum)
	}
	if p.MaximumPacketSize != nil {
		l.maxPacket = int(min(*p.MaximumPacketSize, math.MaxInt32))
	}
	if p.ServerKeepAlive != nil {
		l.keepAlive = time.Duration(*p.ServerKeepAlive) * time.Second
	}
	l.noRetain = p.RetainAvailable != nil && *p.RetainAvailable == 0
	l.noQoS1 = p.MaximumQOS != nil && *p.MaximumQOS == 0
	return l
}

// refusal turns a PUBACK (§3.4.2.1) into what the pump asks: nil for "it is with us", no
// matching subscribers included; invalid or denied for never; anything else for later.
func refusal(p *packets.Puback) error {
	if p.ReasonCode < 0x80 {
		return nil
	}
	err := reason(p.ReasonCode, p.Properties)
	switch p.ReasonCode {
	case packets.PubackNotAuthorized:
		return gateway.Errorf(gateway.ErrDenied, "%w", err)
	case packets.PubackTopicNameInvalid, packets.PubackPayloadFormatInvalid:
		return gateway.Errorf(gateway.ErrInvalid, "%w", err)
	case packets.PubackQuotaExceeded:
		return gateway.Errorf(gateway.ErrFull, "%w", err)
	}
	return gateway.Errorf(gateway.ErrTransient, "%w", err)
}

// reason is a reason code in words (§2.4), with what the far end adds. It is gateway.ErrFull where the far end
// only wants less, or later.
func reason(code byte, p *packets.Properties) error {
	err := inWords(code, p)
	switch code {
	case packets.DisconnectServerBusy, packets.DisconnectMessageRateTooHigh, packets.DisconnectQuotaExceeded, packets.DisconnectConnectionRateExceeded:
		return gateway.Errorf(gateway.ErrFull, "%w", err)
	}
	return err
}

func inWords(code byte, p *packets.Properties) error {
	words := reasons[code]
	if words == "" {
		words = "no reason known"
	}
	if p != nil && p.ReasonString != "" {
		return fmt.Errorf("%s (0x%02x: %q)", words, code, p.ReasonString)
	}
	return fmt.Errorf("%s (0x%02x)", words, code)
}

var reasons = map[byte]string{
	0x00: "it said goodbye",
	0x80: "no reason given",
	0x81: "it found a packet malformed",
	0x82: "it found a packet against the protocol",
	0x83: "its own reasons",
	0x84: "it does not speak MQTT 5",
	0x85: "it does not allow this client id",
	0x86: "bad user name or password",
	0x87: "not authorized",
	0x88: "it is unavailable",
	0x89: "it is busy",
	0x8A: "this client is banned",
	0x8B: "it is shutting down",
	0x8C: "bad authentication method",
	0x8D: "keep alive timeout",
	0x8E: "another client connected with the same client id",
	0x90: "it does not allow this topic",
	0x91: "packet identifier in use",
	0x93: "more publishes in flight than its receive maximum",
	0x94: "invalid topic alias",
	0x95: "packet too large",
	0x96: "message rate too high",
	0x97: "quota exceeded",
	0x98: "ended by its administrator",
	0x99: "the payload is not what its format indicator says",
	0x9A: "it does not retain messages",
	0x9B: "it does not support this QoS",
	0x9C: "use another server",
	0x9D: "the server has moved",
	0x9F: "connections come too fast",
}
