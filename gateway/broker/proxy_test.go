package broker

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// behind connects a client for which somebody in this process speaks.
func (r *rig) behind(p Proxy, id string, options ...connectOption) *client {
	r.t.Helper()
	nc, server := net.Pipe()
	b := r.b
	r.conns.Go(func() { b.ConnectAs(context.Background(), server, p) })
	r.peers = append(r.peers, nc)
	c, ack := newClient(r.t, nc, v5, id, options...)
	if ack.ReasonCode != 0 {
		r.t.Fatalf("CONNACK says 0x%02X", ack.ReasonCode)
	}
	return c
}

func closedPolicy(t *testing.T) *auth.Policy {
	t.Helper()
	hash, err := auth.Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	p, err := auth.New(map[string]auth.User{"alice": {PasswordHash: hash, Role: "sensor"}},
		map[string]auth.Role{"sensor": {Publish: []string{"plant/%u/#"}, Subscribe: []string{"plant/#"}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A client behind a proxy needs no password, and may do what its account may.
func TestProxyAccount(t *testing.T) {
	policy := closedPolicy(t)
	r := newRig(t, Options{Auth: policy})
	alice, err := policy.Account("alice")
	if err != nil {
		t.Fatal(err)
	}
	c := r.behind(Proxy{Account: alice}, "node")
	for topic, code := range map[string]byte{"plant/alice/t": codeSuccess, "plant/bob/t": codeNotAuthorized} {
		c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, TopicName: topic, Payload: []byte("x")})
		if ack := c.expect(packets.Puback); ack.ReasonCode != code {
			t.Errorf("publish to %s: 0x%02X, want 0x%02X", topic, ack.ReasonCode, code)
		}
	}
	if got := r.b.Clients(); len(got) != 1 || got[0].User != "alice" {
		t.Errorf("%+v", got)
	}
}

// The will is the one there is when the connection ends, under the client's rights.
func TestProxyWill(t *testing.T) {
	policy := closedPolicy(t)
	r := newRig(t, Options{Auth: policy})
	alice, err := policy.Account("alice")
	if err != nil {
		t.Fatal(err)
	}
	watcher := r.behind(Proxy{Account: alice}, "watcher")
	watcher.subscribe(packets.Subscription{Filter: "plant/#", Qos: 1})
	var topic atomic.Value
	will := func() *gateway.Event { // asked each time for a new one: what is handed over is not the giver's any more
		if s, _ := topic.Load().(string); s != "" {
			return &gateway.Event{Topic: s, Payload: []byte("lost"), QoS: 1}
		}
		return nil
	}
	end := func(now string, clean bool) {
		topic.Store("plant/alice/first")
		c := r.behind(Proxy{Account: alice, Will: will}, "node")
		topic.Store(now)
		if clean {
			c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
		}
		c.drop()
		r.ended("node")
	}
	end("plant/alice/clean", true)
	end("", false)
	end("plant/bob/denied", false)
	end("plant/alice/second", false)
	m := watcher.expect(packets.Publish)
	if m.TopicName != "plant/alice/second" || string(m.Payload) != "lost" {
		t.Errorf("the first will to arrive is %s %q", m.TopicName, m.Payload)
	}
}

// A client behind a proxy that does not acknowledge stays, and what is too much for its queue is dropped.
func TestProxySleeps(t *testing.T) {
	r := newRig(t, Options{SessionQueue: 8})
	open, err := auth.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	anybody, err := open.Anonymous()
	if err != nil {
		t.Fatal(err)
	}
	c := r.behind(Proxy{Account: anybody}, "node", func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 1 })
	c.subscribe(packets.Subscription{Filter: "a", Qos: 1})
	p := r.client(v5, "publisher")
	for i := range 12 {
		p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: uint16(i + 1), TopicName: "a", Payload: fmt.Append(nil, i)})
		p.expect(packets.Puback)
	}
	for i := range 9 { // one in flight, and eight that wait
		m := c.expect(packets.Publish)
		if string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, m.Payload)
		}
		c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: m.PacketID})
	}
	c.nothing() // and it is still connected
	if n := r.drops("session queue full"); n != 3 {
		t.Errorf("%d were dropped and counted, want 3", n)
	}
}
