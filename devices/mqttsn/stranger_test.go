package mqttsn_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/devices/mqttsn"
	"github.com/weir-iot/weir/devices/mqttsn/packet"
	"github.com/weir-iot/weir/firmware-sim/sim/snclient"
)

// Who has no connection is told to make one, and gets no answer to what is no client's.
func TestStrangers(t *testing.T) {
	bubble(t, mqttsn.Options{ID: 9}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		if a := w.ask(packet.Packet{Type: packet.SearchGW, Radius: 1}, packet.GWInfo); a.Gateway != 9 {
			t.Errorf("%+v", a)
		}
		for _, p := range []packet.Packet{
			{Type: packet.Publish, QoS: 1, TopicID: 5, MsgID: 1}, {Type: packet.Publish, TopicID: 5}, {Type: packet.Register, MsgID: 1, Text: "a"},
			{Type: packet.Subscribe, MsgID: 1, Text: "a"}, {Type: packet.Unsubscribe, MsgID: 1, Text: "a"}, {Type: packet.Pingreq},
			{Type: packet.Pingreq, Text: "node1"}, {Type: packet.Pubrel, MsgID: 1}, {Type: packet.WillTopicUpd}, {Type: packet.WillMsgUpd},
		} {
			w.ask(p, packet.Disconnect)
		}
		for _, p := range []packet.Packet{
			{Type: packet.Disconnect}, {Type: packet.Disconnect, Sleep: true, Duration: 9}, {Type: packet.Advertise}, {Type: packet.GWInfo}, {Type: packet.Connack},
			{Type: packet.Puback}, {Type: packet.Pubrec}, {Type: packet.Pubcomp}, {Type: packet.Regack}, {Type: packet.Suback}, {Type: packet.Pingresp},
			{Type: packet.WillTopicReq}, {Type: packet.WillMsg}, {Type: packet.Publish, QoS: -1, TopicType: packet.Predefined, TopicID: 1},
		} {
			w.send(p)
			w.nothing()
		}
		w.end.Write([]byte("hello"))
		w.end.Write(nil)
		w.nothing()
		if s := r.g.Stats(); s.Malformed != 2 || s.Denied != 1 || s.Clients != 0 {
			t.Errorf("%+v", s)
		}
		if got := r.data(); len(got) != 0 {
			t.Errorf("%q", got)
		}
	})
}

// The answer to a goodbye may be lost: it is given again, for a while.
func TestGoodbyeRepeats(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		w.connect("node1")
		w.ask(packet.Packet{Type: packet.Disconnect}, packet.Disconnect)
		w.ask(packet.Packet{Type: packet.Disconnect}, packet.Disconnect)
		w.connect("node1")
	})
}

// QoS -1 needs no connection, but somebody to be, and a topic that both have always known.
func TestConnectionless(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		r.stop()
		r.o.Connectionless = r.account("n")
		r.ether = newEther(2)
		r.start(nil)
		n := r.node(snclient.Options{ID: "stranger"})
		must(t, n.Publish(t.Context(), door, -1, true, []byte("open")))
		time.Sleep(time.Second)
		must(t, n.Publish(t.Context(), "ab", -1, false, []byte("x")))
		time.Sleep(time.Second)
		must(t, n.Publish(t.Context(), "xy", -1, false, []byte("denied")))
		n.Send(packet.Packet{Type: packet.Publish, QoS: -1, TopicID: 5})
		time.Sleep(time.Second)
		if got := r.data(); !slices.Equal(got, []string{door + " open", "ab x"}) {
			t.Errorf("%q", got)
		}
		c := r.broker.Clients()
		if len(c) != 1 || c[0].ID != mqttsn.ConnectionlessID || c[0].User != "n" {
			t.Errorf("%+v", c)
		}
	})
}

// However many strangers there seem to be, and whatever they say: nothing is kept of them, what is answered is no more
// than what was asked, and who is connected does not notice.
func TestFlood(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1", Clean: true})
		rng := rand.New(rand.NewPCG(1, 2))
		talk := []packet.Packet{
			{Type: packet.SearchGW}, {Type: packet.Connect, Protocol: 1, Text: "stranger1"}, {Type: packet.Connect, Protocol: 1, Will: true, Text: "stranger2"},
			{Type: packet.Publish, QoS: 1, TopicID: 1, MsgID: 1}, {Type: packet.Pingreq}, {Type: packet.Register, Text: "a"},
			{Type: packet.Publish, QoS: -1, TopicType: packet.Predefined, TopicID: 1},
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		r.ether.mu.Lock()
		r.ether.sent, r.ether.arrived = 0, 0
		r.ether.mu.Unlock()
		const many = 100_000
		for i := range many {
			p := talk[rng.IntN(len(talk))]
			b := p.Append(nil)
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(rng.Int()), byte(rng.Int()), byte(rng.Int())}), uint16(rng.IntN(65535)))
			r.ether.mu.Lock()
			r.ether.arrived += len(b)
			r.ether.mu.Unlock()
			r.ether.gateway <- datagram{b, from}
			if i%1000 == 0 {
				synctest.Wait()
				must(t, n.Publish(t.Context(), "plant1/t", 1, false, []byte("here")))
			}
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		s := r.g.Stats()
		if s.Clients != 1 || len(r.broker.Clients()) != 1 {
			t.Errorf("%+v", s)
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
			t.Errorf("the flood has left %d bytes", grown)
		}
		r.ether.mu.Lock()
		defer r.ether.mu.Unlock()
		if r.ether.sent > r.ether.arrived {
			t.Errorf("%d octets were answered with %d", r.ether.arrived, r.ether.sent)
		}
		if got := r.data(); len(got) != many/1000 {
			t.Errorf("%d of %d publishes", len(got), many/1000)
		}
		if s.Limited < many/2 {
			t.Errorf("only %d of %d were passed over", s.Limited, many)
		}
	})
}

// One address gets its share, and others theirs.
func TestLimitOfOneAddress(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		for range 100 {
			w.send(packet.Packet{Type: packet.SearchGW})
		}
		time.Sleep(100 * time.Millisecond)
		if n := len(w.end.in); n != 40 {
			t.Errorf("%d of 100 were answered", n)
		}
		other := r.raw("192.0.2.2:1000")
		other.ask(packet.Packet{Type: packet.SearchGW}, packet.GWInfo)
		time.Sleep(10 * time.Second)
		for len(w.end.in) > 0 {
			<-w.end.in
		}
		w.ask(packet.Packet{Type: packet.SearchGW}, packet.GWInfo)
	})
}

// Nodes behind a forwarder share its address.
func TestForwarder(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		e := r.ether.end("192.0.2.1:1000")
		say := func(node string, p packet.Packet) {
			e.Write(p.Append(packet.AppendEnvelope(nil, node)))
		}
		hear := func(node string, want packet.Type) packet.Packet {
			t.Helper()
			select {
			case b := <-e.in:
				from, forwarded, inner, err := packet.Open(b)
				must(t, err)
				p, err := packet.Decode(inner)
				must(t, err)
				if from != node || !forwarded || p.Type != want {
					t.Fatalf("%x: %v for %x, want %v for %x", b, p.Type, from, want, node)
				}
				return p
			case <-time.After(time.Second):
				t.Fatal("nothing came")
				return packet.Packet{}
			}
		}
		for i := range 3 {
			node := fmt.Sprint(i)
			say(node, packet.Packet{Type: packet.Connect, Clean: true, Protocol: 1, Duration: 60, Text: "node" + node})
			hear(node, packet.Connack)
		}
		for i := range 3 {
			node := fmt.Sprint(i)
			say(node, packet.Packet{Type: packet.Publish, QoS: 1, TopicType: packet.Predefined, TopicID: 1, MsgID: 1, Data: []byte(node)})
			hear(node, packet.Puback)
		}
		if got := r.data(); !slices.Equal(got, []string{door + " 0", door + " 1", door + " 2"}) {
			t.Errorf("%q", got)
		}
		if c := r.broker.Clients(); len(c) != 3 || c[1].Remote != "192.0.2.1:1000/31" {
			t.Errorf("%+v", c)
		}
	})
}

// Somebody else is at the address of a client: the one before is lost.
func TestSameAddress(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		w.connect("node1")
		w.connect("node2")
		w.nothing()
		if c := r.broker.Clients(); len(c) != 1 || c[0].ID != "node2" {
			t.Errorf("%+v", c)
		}
	})
}

// An MQTT client of the same name takes the place of an MQTT-SN client, as it would any other's.
func TestTakenOver(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1", Clean: true})
		other := r.connected(snclient.Options{ID: "node1", Clean: true})
		must(t, other.Ping(t.Context()))
		if err := n.Ping(t.Context()); !errors.Is(err, snclient.ErrDisconnected) {
			t.Errorf("%v", err)
		}
	})
}

// A gateway says that it is there where it is told to, and nowhere else.
func TestAdvertise(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.255:1884")
	bubble(t, mqttsn.Options{ID: 9, Advertise: to, AdvertiseInterval: 15 * time.Minute}, func(t *testing.T, r *rig) {
		w := r.raw(to.String())
		time.Sleep(31 * time.Minute)
		n := 0
		for ; len(w.end.in) > 0; n++ {
			if p := w.recv(); p.Type != packet.Advertise || p.Gateway != 9 || p.Duration != 900 {
				t.Errorf("%+v", p)
			}
		}
		if n < 2 || n > 3 { // the one at the start may have been before this socket
			t.Errorf("%d came", n)
		}
	})
}

// A datagram that is longer than the config allows is dropped, both ways.
func TestMaxPacket(t *testing.T) {
	bubble(t, mqttsn.Options{MaxPacket: 64}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1", Clean: true})
		must(t, n.Subscribe(t.Context(), "plant1/t", 1))
		must(t, n.Publish(t.Context(), "ab", 1, false, make([]byte, 57)))
		n.Send(packet.Packet{Type: packet.Publish, TopicType: packet.Short, TopicID: packet.ShortTopic("ab"), Data: make([]byte, 58)})
		r.tell("plant1/t", 1, string(make([]byte, 60)))
		r.tell("plant1/t", 1, "fits")
		time.Sleep(time.Second)
		if got := n.messages(); !slices.Equal(got, []string{"plant1/t fits 1"}) {
			t.Errorf("%q", got)
		}
		if d, s := r.drops("larger than an MQTT-SN datagram"), r.g.Stats(); d != 1 || s.Malformed != 1 || len(r.data()) != 3 {
			t.Errorf("%d dropped, %+v", d, s)
		}
	})
}
