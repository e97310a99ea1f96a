package broker

import (
	"encoding/binary"
	"time"

	"github.com/weir-iot/weir/gateway"
)

func appendVarint(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func varintLen(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendAck appends PUBACK, PUBREC, PUBREL or PUBCOMP. A v5 success has the short form
// too, §3.4.2.1.
func appendAck(b []byte, kind byte, id uint16, code byte) []byte {
	header := kind << 4
	if kind == typePubrel {
		header |= 2
	}
	if code == codeSuccess {
		return append(b, header, 2, byte(id>>8), byte(id))
	}
	return append(b, header, 3, byte(id>>8), byte(id), code)
}

// appendDisconnect appends a v5 DISCONNECT with a reason string.
func appendDisconnect(b []byte, code byte, reason string) []byte {
	if len(reason) > 120 { // so that all lengths take one byte
		reason = reason[:120]
	}
	if reason == "" {
		return append(b, typeDisconnect<<4, 2, code, 0)
	}
	b = append(b, typeDisconnect<<4, byte(5+len(reason)), code, byte(3+len(reason)), propReason)
	return appendString(b, reason)
}

// appendConnack appends a CONNACK that refuses a connection the engine has not seen.
func appendConnack(b []byte, version, code byte) []byte {
	if version == v5 {
		return append(b, typeConnack<<4, 3, 0, code, 0)
	}
	return append(b, typeConnack<<4, 2, 0, connackV4(code))
}

// connackV4 is the v3.1.1 return code (§3.2.2.3) that says what a v5 reason code says.
func connackV4(code byte) byte {
	switch code {
	case codeSuccess:
		return codeSuccessV4
	case codeVersion:
		return codeVersionV4
	case codeClientID:
		return codeClientIDV4
	case codeBadUser:
		return codeBadUserV4
	case codeNotAuthorized:
		return codeNotAuthorizedV4
	}
	return codeUnavailableV4
}

// message is one event as one receiver gets it.
type message struct {
	event  *gateway.Event
	qos    byte
	retain bool
	dup    bool
	id     uint16
	subIDs []uint32
}

// appendPublish appends m as a PUBLISH packet. The message expiry interval is what is
// left of it at now, MQTT 5 §3.3.2.3.3.
func appendPublish(b []byte, version byte, m message, age time.Duration) []byte {
	e := m.event
	size := 2 + len(e.Topic) + len(e.Payload)
	if m.qos > 0 {
		size += 2
	}
	props := 0
	if version == v5 {
		props = propertiesLen(e, m.subIDs)
		size += varintLen(props) + props
	}
	header := byte(typePublish<<4) | m.qos<<1
	if m.dup {
		header |= 0x08
	}
	if m.retain {
		header |= 0x01
	}
	b = append(b, header)
	b = appendVarint(b, size)
	b = appendString(b, e.Topic)
	if m.qos > 0 {
		b = binary.BigEndian.AppendUint16(b, m.id)
	}
	if version == v5 {
		b = appendVarint(b, props)
		b = appendProperties(b, e, m.subIDs, age)
	}
	return append(b, e.Payload...)
}

func propertiesLen(e *gateway.Event, subIDs []uint32) int {
	n := 0
	if e.UTF8 {
		n += 2
	}
	if e.Expiry > 0 {
		n += 5
	}
	for _, s := range []string{e.ContentType, e.ResponseTopic} {
		if s != "" {
			n += 3 + len(s)
		}
	}
	if e.CorrelationData != nil {
		n += 3 + len(e.CorrelationData)
	}
	for _, u := range e.UserProperties {
		n += 5 + len(u.Key) + len(u.Value)
	}
	for _, id := range subIDs {
		n += 1 + varintLen(int(id))
	}
	return n
}

func appendProperties(b []byte, e *gateway.Event, subIDs []uint32, age time.Duration) []byte {
	if e.UTF8 {
		b = append(b, propFormat, 1)
	}
	if e.Expiry > 0 {
		left := (e.Left(age) + time.Second - 1) / time.Second
		b = append(b, propExpiry)
		b = binary.BigEndian.AppendUint32(b, uint32(max(left, 1)))
	}
	if e.ContentType != "" {
		b = appendString(append(b, propContentType), e.ContentType)
	}
	if e.ResponseTopic != "" {
		b = appendString(append(b, propResponseTopic), e.ResponseTopic)
	}
	if e.CorrelationData != nil {
		b = appendString(append(b, propCorrelation), string(e.CorrelationData))
	}
	for _, u := range e.UserProperties {
		b = appendString(append(b, propUser), u.Key)
		b = appendString(b, u.Value)
	}
	for _, id := range subIDs {
		b = appendVarint(append(b, propSubscriptionID), int(id))
	}
	return b
}
