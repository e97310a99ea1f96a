package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/gateway"
)

// MQTT control packet types, MQTT 5 §2.1.2.
const (
	typeConnect     = 1
	typeConnack     = 2
	typePublish     = 3
	typePuback      = 4
	typePubrec      = 5
	typePubrel      = 6
	typePubcomp     = 7
	typeSubscribe   = 8
	typeUnsubscribe = 10
	typePingreq     = 12
	typeDisconnect  = 14
	typeAuth        = 15
)

// Reason codes, MQTT 5 §2.4.
const (
	codeSuccess          = 0x00
	codeWithWill         = 0x04
	codeNoSubscription   = 0x11
	codeMalformed        = 0x81
	codeProtocol         = 0x82
	codeImplementation   = 0x83
	codeVersion          = 0x84
	codeClientID         = 0x85
	codeBadUser          = 0x86
	codeNotAuthorized    = 0x87
	codeUnavailable      = 0x88
	codeShuttingDown     = 0x8B
	codeAuthMethod       = 0x8C
	codeKeepAlive        = 0x8D
	codeTakenOver        = 0x8E
	codeFilterInvalid    = 0x8F
	codeTopicInvalid     = 0x90
	codeUnknownID        = 0x92
	codeReceiveMaximum   = 0x93
	codeAliasInvalid     = 0x94
	codePacketTooLarge   = 0x95
	codeQuota            = 0x97
	codePayloadInvalid   = 0x99
	codeSuccessV4        = 0
	codeVersionV4        = 1
	codeClientIDV4       = 2
	codeUnavailableV4    = 3
	codeBadUserV4        = 4
	codeNotAuthorizedV4  = 5
	codeSubscribeFailure = 0x80 // in a v3.1.1 SUBACK
)

const (
	v4 = 4 // MQTT 3.1.1
	v5 = 5
)

// refusal is an error with the reason code that the client is told before its
// connection ends.
type refusal struct {
	code byte
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code byte, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// decoder takes a packet's fields off the front of b. The first fault sticks; what is
// taken after it is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(code byte, format string, args ...any) {
	if d.err == nil {
		d.err = refuse(code, format, args...)
	}
	d.b = nil // loops over what is left end
}

func (d *decoder) take(n int) []byte {
	if len(d.b) < n {
		d.fail(codeMalformed, "packet ends inside a field")
		return nil
	}
	f := d.b[:n]
	d.b = d.b[n:]
	return f
}

func (d *decoder) u8() byte {
	if f := d.take(1); f != nil {
		return f[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if f := d.take(2); f != nil {
		return binary.BigEndian.Uint16(f)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if f := d.take(4); f != nil {
		return binary.BigEndian.Uint32(f)
	}
	return 0
}

// varint takes a variable byte integer, MQTT 5 §1.5.5: four bytes at most, and in the
// fewest that hold it.
func (d *decoder) varint() int {
	n := 0
	for i := range 4 {
		b := d.u8()
		n |= int(b&0x7F) << (7 * i)
		if b&0x80 == 0 {
			if i > 0 && b == 0 {
				d.fail(codeMalformed, "variable byte integer is longer than it need be")
			}
			return n
		}
	}
	d.fail(codeMalformed, "variable byte integer has more than four bytes")
	return 0
}

func (d *decoder) bytes() []byte { return d.take(int(d.u16())) }

// str takes a UTF-8 string, §1.5.4.
func (d *decoder) str() string {
	f := d.bytes()
	if !utf8.Valid(f) || bytes.IndexByte(f, 0) >= 0 {
		d.fail(codeMalformed, "string is not valid UTF-8 or has a NUL character")
		return ""
	}
	return string(f)
}

func (d *decoder) packetID() uint16 {
	id := d.u16()
	if id == 0 && d.err == nil {
		d.fail(codeProtocol, "packet identifier is 0")
	}
	return id
}

func (d *decoder) end() {
	if len(d.b) > 0 {
		d.fail(codeMalformed, "%d bytes follow the end of the packet", len(d.b))
	}
}

// Properties, MQTT 5 §2.2.2.2.
const (
	propFormat          = 0x01
	propExpiry          = 0x02
	propContentType     = 0x03
	propResponseTopic   = 0x08
	propCorrelation     = 0x09
	propSubscriptionID  = 0x0B
	propSessionExpiry   = 0x11
	propAuthMethod      = 0x15
	propAuthData        = 0x16
	propRequestProblem  = 0x17
	propWillDelay       = 0x18
	propRequestResponse = 0x19
	propReason          = 0x1F
	propReceiveMaximum  = 0x21
	propAliasMaximum    = 0x22
	propAlias           = 0x23
	propUser            = 0x26
	propMaxPacket       = 0x27
)

// propSet is a set of property identifiers, all of which are below 64.
type propSet uint64

func propsOf(ids ...byte) (s propSet) {
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

func (s propSet) has(id byte) bool { return id < 64 && s&(1<<id) != 0 }

type properties struct {
	set             propSet // those that are there
	format          byte
	expiry          uint32
	contentType     string
	responseTopic   string
	correlation     []byte
	subscriptionID  uint32
	sessionExpiry   uint32
	willDelay       uint32
	receiveMaximum  uint16
	alias           uint16
	maxPacket       uint32
	requestProblem  byte
	requestResponse byte
	user            []gateway.UserProperty
}

var (
	ackProps         = propsOf(propReason, propUser)
	unsubscribeProps = propsOf(propUser)
	subscribeProps   = propsOf(propSubscriptionID, propUser)
	disconnectProps  = propsOf(propSessionExpiry, propReason, propUser)
	publishProps     = propsOf(propFormat, propExpiry, propContentType, propResponseTopic, propCorrelation, propAlias, propUser)
	willProps        = propsOf(propFormat, propExpiry, propContentType, propResponseTopic, propCorrelation, propWillDelay, propUser)
	connectProps     = propsOf(propSessionExpiry, propAuthMethod, propAuthData, propRequestProblem, propRequestResponse,
		propReceiveMaximum, propAliasMaximum, propUser, propMaxPacket)
)

// properties takes a property list of which only those in allowed may be there.
func (d *decoder) properties(allowed propSet) (p properties) {
	in := decoder{b: d.take(d.varint())}
	for len(in.b) > 0 {
		id := in.u8()
		switch {
		case !allowed.has(id):
			in.fail(codeProtocol, "property 0x%02X does not belong in this packet", id)
		case p.set.has(id) && id != propUser:
			in.fail(codeProtocol, "property 0x%02X is there twice", id)
		}
		p.set |= propsOf(id & 63)
		in.property(id, &p)
	}
	if in.err != nil && d.err == nil {
		d.err, d.b = in.err, nil
	}
	return p
}

func (d *decoder) property(id byte, p *properties) {
	switch id {
	case propFormat:
		p.format = d.flag(id)
	case propExpiry:
		p.expiry = d.u32()
	case propContentType:
		p.contentType = d.str()
	case propResponseTopic:
		if p.responseTopic = d.str(); strings.ContainsAny(p.responseTopic, "+#") {
			d.fail(codeProtocol, "response topic has a wildcard")
		}
	case propCorrelation:
		p.correlation = d.bytes()
	case propSubscriptionID:
		if p.subscriptionID = uint32(d.varint()); p.subscriptionID == 0 {
			d.fail(codeProtocol, "subscription identifier is 0")
		}
	case propSessionExpiry:
		p.sessionExpiry = d.u32()
	case propAuthMethod, propReason:
		d.str()
	case propAuthData:
		d.bytes()
	case propRequestProblem:
		p.requestProblem = d.flag(id)
	case propRequestResponse:
		p.requestResponse = d.flag(id)
	case propWillDelay:
		p.willDelay = d.u32()
	case propReceiveMaximum:
		if p.receiveMaximum = d.u16(); p.receiveMaximum == 0 {
			d.fail(codeProtocol, "receive maximum is 0")
		}
	case propAliasMaximum:
		d.u16() // Weir sends no aliases
	case propAlias:
		if p.alias = d.u16(); p.alias == 0 {
			d.fail(codeAliasInvalid, "topic alias is 0")
		}
	case propUser:
		key := d.str()
		p.user = append(p.user, gateway.UserProperty{Key: key, Value: d.str()})
	case propMaxPacket:
		if p.maxPacket = d.u32(); p.maxPacket == 0 {
			d.fail(codeProtocol, "maximum packet size is 0")
		}
	}
}

func (d *decoder) flag(id byte) byte {
	f := d.u8()
	if f > 1 {
		d.fail(codeProtocol, "property 0x%02X is neither 0 nor 1", id)
	}
	return f
}

// connect is a CONNECT packet, §3.1.
type connect struct {
	version   byte
	clean     bool // clean session (v3.1.1), clean start (v5)
	keepAlive time.Duration
	clientID  string
	named     bool // there is a user name
	user      string
	password  string
	will      *will
	props     properties
}

// will is a will message: what to publish, and how long after the connection's end.
type will struct {
	event *gateway.Event
	delay time.Duration
}

// decodeConnect decodes the body of a CONNECT. The version is set even where the rest
// is wrong, because the answer's form depends on it.
func decodeConnect(body []byte) (c connect, err error) {
	d := decoder{b: body}
	name := d.str()
	c.version = d.u8()
	switch {
	case d.err != nil:
		return c, d.err
	case name == "MQIsdp": // 3.1; it understands a v3.1.1 answer
		c.version = v4
		return c, refuse(codeVersion, "protocol MQIsdp (MQTT 3.1) is not supported")
	case name != "MQTT":
		c.version = 0
		return c, refuse(codeProtocol, "protocol name is not MQTT")
	case c.version != v4 && c.version != v5:
		bad := c.version
		c.version = v4
		if bad > v5 {
			c.version = v5
		}
		return c, refuse(codeVersion, "protocol version %d is not supported", bad)
	}
	flags := d.u8()
	willFlag, willQoS, willRetain := flags&0x04 != 0, flags>>3&3, flags&0x20 != 0
	hasPassword := flags&0x40 != 0
	c.named = flags&0x80 != 0
	c.clean = flags&0x02 != 0
	switch {
	case flags&1 != 0:
		d.fail(codeMalformed, "reserved connect flag is set")
	case willQoS == 3:
		d.fail(codeMalformed, "will QoS is 3")
	case !willFlag && (willQoS != 0 || willRetain):
		d.fail(codeMalformed, "will QoS or retain without a will")
	case c.version == v4 && hasPassword && !c.named:
		d.fail(codeMalformed, "password without a user name")
	}
	c.keepAlive = time.Duration(d.u16()) * time.Second
	c.props.requestProblem = 1
	if c.version == v5 {
		c.props = d.properties(connectProps)
		if !c.props.set.has(propRequestProblem) {
			c.props.requestProblem = 1
		}
		if c.props.set.has(propAuthData) && !c.props.set.has(propAuthMethod) {
			d.fail(codeProtocol, "authentication data without a method")
		}
	}
	c.clientID = d.str()
	if willFlag {
		c.will = d.will(c.version, willQoS, willRetain)
	}
	if c.named {
		c.user = d.str()
	}
	if hasPassword {
		c.password = string(d.bytes())
	}
	d.end()
	switch {
	case d.err != nil:
	case c.props.set.has(propAuthMethod):
		d.fail(codeAuthMethod, "enhanced authentication is not supported")
	case len(c.clientID) > maxClientID:
		d.fail(codeClientID, "client identifier is longer than %d bytes", maxClientID)
	case c.clientID == "" && c.version == v4 && !c.clean:
		d.fail(codeClientID, "empty client identifier without clean session")
	}
	return c, d.err
}

func (d *decoder) will(version, qos byte, retain bool) *will {
	w := &will{event: &gateway.Event{QoS: qos, Retain: retain}}
	if version == v5 {
		p := d.properties(willProps)
		p.fill(w.event)
		w.delay = time.Duration(p.willDelay) * time.Second
	}
	w.event.Topic = d.str()
	w.event.Payload = bytes.Clone(d.bytes())
	if d.err == nil && (w.event.Topic == "" || strings.ContainsAny(w.event.Topic, "+#")) {
		d.fail(codeTopicInvalid, "will topic is empty or has a wildcard")
	}
	return w
}

// fill puts what a publish's properties say into e. The properties' bytes are e's
// from then on.
func (p *properties) fill(e *gateway.Event) {
	if p.set.has(propExpiry) {
		// An interval of 0 is worth delivering at this moment only; an event's 0 is for ever.
		e.Expiry = max(time.Duration(p.expiry)*time.Second, time.Second)
	}
	e.UTF8 = p.format == 1
	e.ContentType = p.contentType
	e.ResponseTopic = p.responseTopic
	e.CorrelationData = p.correlation
	e.UserProperties = p.user
}

// publish is a PUBLISH packet, §3.3.
type publish struct {
	event *gateway.Event
	id    uint16
	alias uint16
}

// decodePublish decodes a PUBLISH, whose event keeps body.
func decodePublish(version, header byte, body []byte) (publish, error) {
	d := decoder{b: body}
	e := &gateway.Event{QoS: header >> 1 & 3, Retain: header&1 != 0}
	p := publish{event: e}
	switch {
	case e.QoS == 3:
		d.fail(codeMalformed, "QoS is 3")
	case e.QoS == 0 && header&0x08 != 0:
		d.fail(codeMalformed, "DUP is set at QoS 0")
	}
	e.Topic = d.str()
	if e.QoS > 0 {
		p.id = d.packetID()
	}
	if version == v5 {
		props := d.properties(publishProps)
		props.fill(e)
		p.alias = props.alias
	}
	e.Payload = d.b
	switch {
	case d.err != nil:
	case strings.ContainsAny(e.Topic, "+#"):
		d.fail(codeTopicInvalid, "topic name has a wildcard")
	case e.Topic == "" && p.alias == 0:
		d.fail(codeProtocol, "topic name is empty")
	}
	return p, d.err
}

// decodeAck decodes PUBACK, PUBREC, PUBREL and PUBCOMP, §3.4 to §3.7.
func decodeAck(version byte, body []byte) (id uint16, code byte, err error) {
	d := decoder{b: body}
	id = d.packetID()
	if version == v5 && len(d.b) > 0 {
		code = d.u8()
		if len(d.b) > 0 {
			d.properties(ackProps)
		}
	}
	d.end()
	return id, code, d.err
}

// subscription is one entry of a SUBSCRIBE, §3.8.3.
type subscription struct {
	Filter            string `json:"filter"`
	QoS               byte   `json:"qos,omitempty"`
	NoLocal           bool   `json:"no_local,omitempty"`
	RetainAsPublished bool   `json:"retain_as_published,omitempty"`
	ID                uint32 `json:"id,omitempty"`

	retainHandling byte // decides about the moment of subscribing only
}

func decodeSubscribe(version byte, body []byte) (subs []subscription, err error) {
	d := decoder{b: body}
	d.packetID()
	var props properties
	if version == v5 {
		props = d.properties(subscribeProps)
	}
	for len(d.b) > 0 {
		s := subscription{Filter: d.str(), ID: props.subscriptionID}
		options := d.u8()
		s.QoS = options & 3
		s.NoLocal = options&0x04 != 0
		s.RetainAsPublished = options&0x08 != 0
		s.retainHandling = options >> 4 & 3
		switch {
		case s.QoS == 3:
			d.fail(codeMalformed, "QoS is 3")
		case version == v4 && options > 2, options&0xC0 != 0:
			d.fail(codeMalformed, "reserved bits of the subscription options are set")
		case s.retainHandling == 3:
			d.fail(codeProtocol, "retain handling is 3")
		case s.NoLocal && isShared(s.Filter):
			d.fail(codeProtocol, "no local on a shared subscription")
		}
		subs = append(subs, s)
	}
	if len(subs) == 0 {
		d.fail(codeProtocol, "no topic filter")
	}
	return subs, d.err
}

func decodeUnsubscribe(version byte, body []byte) (filters []string, err error) {
	d := decoder{b: body}
	d.packetID()
	if version == v5 {
		d.properties(unsubscribeProps)
	}
	for len(d.b) > 0 {
		filters = append(filters, d.str())
	}
	if len(filters) == 0 {
		d.fail(codeProtocol, "no topic filter")
	}
	return filters, d.err
}

// decodeDisconnect decodes a DISCONNECT, §3.14.
func decodeDisconnect(version byte, body []byte) (code byte, props properties, err error) {
	d := decoder{b: body}
	if version == v5 && len(d.b) > 0 {
		code = d.u8()
		if len(d.b) > 0 {
			props = d.properties(disconnectProps)
		}
	}
	d.end()
	return code, props, d.err
}

// flagsOK tells whether the low four bits of a fixed header are what §2.1.3 demands.
func flagsOK(header byte) bool {
	switch header >> 4 {
	case typePublish:
		return true
	case typePubrel, typeSubscribe, typeUnsubscribe:
		return header&0x0F == 2
	}
	return header&0x0F == 0
}
