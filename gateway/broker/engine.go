package broker

import (
	"io"
	"log/slog"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// engine is what Weir uses of an MQTT library: the dialogue of one connection. It reads
// packets from c and writes to c until c says io.EOF, and asks c what to decide:
// authenticate before CONNACK, established after it, handleSubscribe before
// SUBACK, subscribed after it, handleUnsubscribe before UNSUBACK.
type engine interface {
	attach(c *conn)
}

// mochi is the engine: mochi-mqtt, which here decodes and answers CONNECT, SUBSCRIBE, UNSUBSCRIBE
// and PINGREQ. Its server is never started: no listener, no $SYS ticker, no expiry of its own.
// It sees sessions that end with their connection and have no will; ours are in session.go.
type mochi struct {
	mqtt.HookBase
	server *mqtt.Server
}

func newMochi(o Options) (*mochi, error) {
	limits := mqtt.NewDefaultServerCapabilities()
	limits.MaximumMessageExpiryInterval = 0 // or it adds an expiry to what has none
	limits.MaximumClientWritesPending = 1   // its queue, which we do not use
	limits.MaximumPacketSize = 0            // the front's
	limits.ReceiveMaximum = o.ReceiveMaximum
	limits.TopicAliasMaximum = o.TopicAliasMaximum
	m := &mochi{server: mqtt.New(&mqtt.Options{
		Capabilities:            limits,
		ClientNetReadBufferSize: 512,
		Logger:                  slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1})),
	})}
	return m, m.server.AddHook(m, nil)
}

func (m *mochi) attach(c *conn) { m.server.EstablishConnection("weir", c) }

// ID names the hook.
func (m *mochi) ID() string { return "weir" }

// Provides tells which hooks are ours.
func (m *mochi) Provides(hook byte) bool {
	switch hook {
	case mqtt.OnConnectAuthenticate, mqtt.OnSessionEstablished, mqtt.OnSubscribe, mqtt.OnUnsubscribe,
		mqtt.OnPacketProcessed, mqtt.OnPacketEncode:
		return true
	}
	return false
}

func front(cl *mqtt.Client) *conn { return cl.Net.Conn.(*conn) }

// OnConnectAuthenticate decides whether CONNACK says yes.
func (m *mochi) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	return front(cl).authenticate()
}

// OnSessionEstablished comes after CONNACK.
func (m *mochi) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) { front(cl).established() }

// OnSubscribe does what the packet asks, and leaves mochi nothing but the SUBACK.
func (m *mochi) OnSubscribe(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	front(cl).handleSubscribe()
	pk.Filters, pk.Properties.User = nil, nil
	return pk
}

// OnUnsubscribe does what the packet asks, and leaves mochi nothing but the UNSUBACK.
func (m *mochi) OnUnsubscribe(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	front(cl).handleUnsubscribe()
	pk.Filters, pk.Properties.User = nil, nil
	return pk
}

// OnPacketProcessed comes after the answer.
func (m *mochi) OnPacketProcessed(cl *mqtt.Client, pk packets.Packet, _ error) {
	if pk.FixedHeader.Type == packets.Subscribe {
		front(cl).subscribed()
	}
}

// OnPacketEncode puts our decisions into mochi's answers.
func (m *mochi) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	c := front(cl)
	switch pk.FixedHeader.Type {
	case packets.Suback, packets.Unsuback:
		pk.ReasonCodes = c.codes
		pk.Properties = packets.Properties{}
	case packets.Connack:
		pk = c.connack(pk)
	}
	return pk
}

// connack is pk with our reason and limits: MQTT 5 §3.2.2.3.
func (c *conn) connack(pk packets.Packet) packets.Packet {
	pk.SessionPresent = c.present && c.refused == codeSuccess
	pk.ReasonCode = c.refused
	if c.connect.version == v4 {
		pk.ReasonCode = connackV4(c.refused)
	}
	pk.Properties = packets.Properties{}
	if c.refused != codeSuccess {
		return pk
	}
	o, asked := &c.b.o, &c.connect.props
	pk.Properties.ReceiveMaximum = o.ReceiveMaximum
	pk.Properties.TopicAliasMaximum = o.TopicAliasMaximum
	pk.Properties.MaximumPacketSize = uint32(o.MaxPacket)
	if c.assigned {
		pk.Properties.AssignedClientID = c.id
	}
	if asked.sessionExpiry > uint32(o.MaxSessionExpiry/time.Second) {
		pk.Properties.SessionExpiryInterval = c.expiry
		pk.Properties.SessionExpiryIntervalFlag = true
	}
	return pk
}
