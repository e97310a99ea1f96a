package broker

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/gateway"
)

func TestNoLocal(t *testing.T) {
	r := newRig(t, Options{})
	c, other := r.client(v5, "dev"), r.client(v5, "other")
	c.subscribe(packets.Subscription{Filter: "a/#", NoLocal: true})
	c.send(publishPacket("a/b", 1, 1, "mine"))
	c.ack(packets.Puback, 1, 0)
	other.send(publishPacket("a/b", 1, 1, "theirs"))
	other.ack(packets.Puback, 1, 0)
	// A device of that name is not the client.
	r.b.o.Ingest(t.Context(), &gateway.Event{Topic: "a/b", Payload: []byte("device"), Origin: gateway.Origin{Via: "serial", ID: "dev"}}, nil)
	for _, want := range []string{"theirs", "device"} {
		if pk := c.expect(packets.Publish); string(pk.Payload) != want {
			t.Fatalf("got %q, want %q", pk.Payload, want)
		}
	}
	// An overlapping subscription without No Local gets what the other does not.
	c.subscribe(packets.Subscription{Filter: "a/+"})
	c.send(publishPacket("a/b", 1, 1, "mine"))
	if pk := c.expect(packets.Publish); string(pk.Payload) != "mine" {
		t.Fatalf("got %q", pk.Payload)
	}
	c.ack(packets.Puback, 1, 0)
}

func TestQoSOfDelivery(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		p, s := r.client(v, "p"), r.client(v, "s")
		for sub := range byte(3) {
			s.subscribe(packets.Subscription{Filter: "a", Qos: sub})
			for pub := range byte(3) {
				p.send(publishPacket("a", pub, uint16(pub), "x"))
				switch pub {
				case 1:
					p.ack(packets.Puback, 1, 0)
				case 2:
					p.ack(packets.Pubrec, 2, 0)
					p.send(ackPacket(packets.Pubrel, 2))
					p.ack(packets.Pubcomp, 2, 0)
				}
				pk := s.expect(packets.Publish)
				if pk.FixedHeader.Qos != min(pub, sub) {
					t.Fatalf("published at %d, subscribed at %d, delivered at %d", pub, sub, pk.FixedHeader.Qos)
				}
				switch pk.FixedHeader.Qos {
				case 1:
					s.send(ackPacket(packets.Puback, pk.PacketID))
				case 2:
					s.send(ackPacket(packets.Pubrec, pk.PacketID))
					s.ack(packets.Pubrel, pk.PacketID, 0)
					s.send(ackPacket(packets.Pubcomp, pk.PacketID))
				}
			}
		}
		s.nothing()
		for _, c := range r.b.Clients() {
			if c.InFlight != 0 || c.Queued != 0 {
				t.Fatalf("%+v", c)
			}
		}
	})
}

func TestPropertiesAreForwarded(t *testing.T) {
	r := newRig(t, Options{})
	p, s, old := r.client(v5, "p"), r.client(v5, "s"), r.client(v4, "old")
	s.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1,
		Properties: packets.Properties{SubscriptionIdentifier: []int{300}}, Filters: packets.Subscriptions{{Filter: "a/#", RetainAsPublished: true}}})
	s.expect(packets.Suback)
	s.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1,
		Properties: packets.Properties{SubscriptionIdentifier: []int{7}}, Filters: packets.Subscriptions{{Filter: "a/+"}}})
	s.expect(packets.Suback)
	old.subscribe(packets.Subscription{Filter: "a/#"})
	pk := retain(publishPacket("a/b", 1, 1, "text"))
	pk.Properties = packets.Properties{PayloadFormat: 1, PayloadFormatFlag: true, MessageExpiryInterval: 100, ContentType: "text/plain",
		ResponseTopic: "re/ply", CorrelationData: []byte{1, 2, 0}, User: []packets.UserProperty{{Key: "k", Val: "1"}, {Key: "k", Val: "2"}}}
	p.send(pk)
	p.ack(packets.Puback, 1, 0)
	got := s.expect(packets.Publish)
	ids := got.Properties.SubscriptionIdentifier
	slices.Sort(ids)
	if !slices.Equal(ids, []int{7, 300}) || !got.FixedHeader.Retain {
		t.Fatalf("subscription identifiers %v, %+v", ids, got.FixedHeader)
	}
	want := fmt.Sprintf("%+v", pk.Properties)
	got.Properties.SubscriptionIdentifier = nil
	if s := fmt.Sprintf("%+v", got.Properties); s != want && s != strings.Replace(want, "MessageExpiryInterval:100", "MessageExpiryInterval:99", 1) {
		t.Fatalf("got  %s\nwant %s", s, want)
	}
	if got := old.expect(packets.Publish); string(got.Payload) != "text" || got.FixedHeader.Retain {
		t.Fatalf("%+v", got)
	}
	// What has no expiry gets none, and what has is not delivered after it.
	p.send(publishPacket("a/b", 0, 0, "x"))
	if got := s.expect(packets.Publish); got.Properties.MessageExpiryInterval != 0 {
		t.Fatalf("expiry %d", got.Properties.MessageExpiryInterval)
	}
}

func TestExpiryCountsDown(t *testing.T) {
	e := &gateway.Event{Topic: "a", Expiry: 10 * time.Second, Age: time.Hour}
	for after, want := range map[time.Duration]byte{0: 10, 3 * time.Second: 7, 3500 * time.Millisecond: 7, 9999 * time.Millisecond: 1} {
		got := appendPublish(nil, v5, message{event: e}, time.Hour+after)
		if want := packet(0x30, 0, 1, 'a', 5, propExpiry, 0, 0, 0, want); !bytes.Equal(got, want) {
			t.Errorf("after %v: % X", after, got)
		}
	}
	r := newRig(t, Options{})
	r.b.mu.Lock()
	r.b.retained["old"] = &gateway.Event{Topic: "old", Payload: []byte("x"), Retain: true, Expiry: time.Second, Age: fakeAge() - time.Minute}
	r.b.mu.Unlock()
	c := r.client(v5, "s")
	c.subscribe(packets.Subscription{Filter: "#"})
	c.nothing()
	r.b.sweep()
	if len(r.b.retained) != 0 {
		t.Fatal("an expired retained message is kept")
	}
}

func TestRetainHandling(t *testing.T) {
	r := newRig(t, Options{})
	c := r.client(v5, "c")
	c.send(retain(publishPacket("a", 1, 1, "x")))
	c.ack(packets.Puback, 1, 0)
	for _, test := range []struct {
		filter   string
		handling byte
		gets     bool
	}{{"a", 2, false}, {"a", 1, false}, {"a", 0, true}, {"+", 1, true}, {"+", 1, false}, {"a/#", 0, true}, {"$share/g/a", 0, false}} {
		c.subscribe(packets.Subscription{Filter: test.filter, RetainHandling: test.handling})
		if test.gets {
			if pk := c.expect(packets.Publish); !pk.FixedHeader.Retain {
				t.Fatalf("%+v: not marked as retained", test)
			}
		}
		c.nothing()
	}
}

// A receiver with a small Receive Maximum gets everything, in order, and never more
// than it allows at once.
func TestReceiveMaximumOfTheClient(t *testing.T) {
	r := newRig(t, Options{})
	p := r.client(v5, "p")
	s := r.client(v5, "s", func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 10 })
	s.subscribe(packets.Subscription{Filter: "#", Qos: 2})
	const n = 500
	for i := range n {
		p.send(publishPacket("a", byte(1+i%2), uint16(i+1), fmt.Sprint(i)))
	}
	open, seen := 0, 0
	var acks []packets.Packet
	for seen < n || open > 0 {
		if open == 10 || seen == n {
			for _, a := range acks {
				s.send(a)
				if a.FixedHeader.Type == packets.Puback {
					open--
				}
			}
			acks = nil
			if seen == n && open == 0 {
				break
			}
		}
		pk, err := s.recv()
		switch {
		case err != nil:
			t.Fatalf("after %d of %d: %v", seen, n, err)
		case pk.FixedHeader.Type == packets.Pubrel:
			s.send(ackPacket(packets.Pubcomp, pk.PacketID)) // this opens the window, PUBREC does not
			open--
			continue
		case string(pk.Payload) != fmt.Sprint(seen):
			t.Fatalf("got %s, want %d", pk.Payload, seen)
		case pk.FixedHeader.Qos == 1:
			acks = append(acks, ackPacket(packets.Puback, pk.PacketID))
		default:
			acks = append(acks, ackPacket(packets.Pubrec, pk.PacketID))
		}
		seen++
		if open++; open > 10 {
			t.Fatal("more than the receive maximum in flight")
		}
	}
}

func TestOfflineQueueAndResend(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{SendWindow: 4, SessionQueue: 20})
		p, s := r.client(v, "p"), r.client(v, "s", persistent)
		s.subscribe(packets.Subscription{Filter: "a", Qos: 2})
		publish := func(from, to int) {
			for i := from; i < to; i++ {
				p.send(publishPacket("a", byte(1+i%2), uint16(i+1), fmt.Sprint(i)))
				if i%2 == 0 {
					p.ack(packets.Puback, uint16(i+1), 0)
				} else {
					p.ack(packets.Pubrec, uint16(i+1), 0)
				}
			}
		}
		publish(0, 6)
		var first []packets.Packet
		for range 4 {
			first = append(first, s.expect(packets.Publish))
		}
		s.nothing()
		s.send(ackPacket(packets.Pubrec, first[1].PacketID)) // half of QoS 2
		s.ack(packets.Pubrel, first[1].PacketID, 0)
		s.drop()
		r.ended("s")
		publish(6, 30)
		p.send(publishPacket("a", 0, 0, "QoS 0 is not kept"))
		p.nothing()

		s = r.client(v, "s", persistent)
		var got []string
		for i := range 4 { // as they were sent, marked; the released one as its PUBREL
			if i == 1 {
				s.ack(packets.Pubrel, first[1].PacketID, 0)
				continue
			}
			pk := s.expect(packets.Publish)
			if !pk.FixedHeader.Dup || pk.PacketID != first[i].PacketID || !bytes.Equal(pk.Payload, first[i].Payload) {
				t.Fatalf("resent %+v, first sent %+v", pk, first[i])
			}
		}
		s.nothing() // the window is full
		for i, pk := range first {
			switch {
			case i == 1:
				s.send(ackPacket(packets.Pubcomp, pk.PacketID))
			case pk.FixedHeader.Qos == 1:
				s.send(ackPacket(packets.Puback, pk.PacketID))
			default:
				s.send(ackPacket(packets.Pubrec, pk.PacketID))
				pk := s.expectPast(packets.Pubrel, &got)
				s.send(ackPacket(packets.Pubcomp, pk.PacketID))
			}
		}
		for len(got) < 20 {
			pk := s.expect(packets.Publish)
			got = append(got, s.take(pk, &got)...)
		}
		for i, g := range got {
			if g != fmt.Sprint(4+i) {
				t.Fatalf("got %v", got)
			}
		}
		s.nothing()
		if n := r.drops("session queue full"); n != 6 {
			t.Fatalf("%d drops counted, want 6", n)
		}
	})
}

// take acknowledges a delivery to its end.
func (c *client) take(pk packets.Packet, got *[]string) []string {
	c.t.Helper()
	if pk.FixedHeader.Dup {
		c.t.Fatalf("DUP on a first delivery: %+v", pk)
	}
	*got = append(*got, string(pk.Payload))
	switch pk.FixedHeader.Qos {
	case 1:
		c.send(ackPacket(packets.Puback, pk.PacketID))
	case 2:
		c.send(ackPacket(packets.Pubrec, pk.PacketID))
		c.expectPast(packets.Pubrel, got)
		c.send(ackPacket(packets.Pubcomp, pk.PacketID))
	}
	return nil
}

// expectPast expects a packet behind publishes, which it acknowledges.
func (c *client) expectPast(kind byte, got *[]string) packets.Packet {
	c.t.Helper()
	for {
		pk, err := c.recv()
		if err != nil {
			c.t.Fatal(err)
		}
		if pk.FixedHeader.Type == kind {
			return pk
		}
		c.take(pk, got)
	}
}

// One receiver that stops reading is closed; the others feel nothing.
func TestSlowReceiver(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{QueueBytes: 64 << 10})
		p, good, slow := r.client(v, "p"), r.client(v, "good"), r.client(v, "slow")
		good.subscribe(packets.Subscription{Filter: "#"})
		slow.subscribe(packets.Subscription{Filter: "#"})
		body := strings.Repeat("x", 16<<10)
		for closed := false; !closed; {
			p.send(publishPacket("a", 1, 1, body))
			if pk := good.expect(packets.Publish); len(pk.Payload) != len(body) {
				t.Fatal("wrong payload")
			}
			p.ack(packets.Puback, 1, 0)
			r.mu.Lock()
			closed = r.reasons["slow"] != ""
			r.mu.Unlock()
		}
		if why := r.ended("slow"); why != "slow receiver" {
			t.Fatal(why)
		}
		if r.drops("slow receiver") == 0 {
			t.Fatal("not counted")
		}
		good.nothing()
	})
}

// Many retained messages, more than the queue of a receiver holds, come all the same.
func TestManyRetained(t *testing.T) {
	r := newRig(t, Options{QueueBytes: 32 << 10, SessionQueue: 10})
	p := r.client(v5, "p")
	body := strings.Repeat("x", 1000)
	const n = 300
	for i := range n {
		p.send(retain(publishPacket(fmt.Sprint("r/", i), 1, 1, body)))
		p.ack(packets.Puback, 1, 0)
	}
	s := r.client(v5, "s")
	s.subscribe(packets.Subscription{Filter: "r/#", Qos: 1})
	seen := map[string]bool{}
	for range n {
		pk := s.expect(packets.Publish)
		seen[pk.TopicName] = true
		s.send(ackPacket(packets.Puback, pk.PacketID))
	}
	if len(seen) != n {
		t.Fatalf("%d topics of %d", len(seen), n)
	}
}

func TestPacketLargerThanTheClientTakes(t *testing.T) {
	r := newRig(t, Options{})
	p := r.client(v5, "p")
	s := r.client(v5, "s", func(pk *packets.Packet) { pk.Properties.MaximumPacketSize = 100 })
	s.subscribe(packets.Subscription{Filter: "#", Qos: 1})
	for _, n := range []int{200, 50} {
		p.send(publishPacket("a", 1, 1, strings.Repeat("x", n)))
		p.ack(packets.Puback, 1, 0)
	}
	if pk := s.expect(packets.Publish); len(pk.Payload) != 50 {
		t.Fatalf("%d bytes", len(pk.Payload))
	}
	if r.drops("larger than the client takes") != 1 {
		t.Fatal("not counted")
	}
}

func TestSharedSubscription(t *testing.T) {
	r := newRig(t, Options{})
	p := r.client(v5, "p")
	var members []*client
	for i := range 3 {
		m := r.client(v5, fmt.Sprint("m", i))
		m.subscribe(packets.Subscription{Filter: "$share/g/a/#"})
		members = append(members, m)
	}
	send := func(n int) {
		for i := range n {
			p.send(publishPacket("a/b", 1, uint16(i+1), fmt.Sprint(i)))
			p.ack(packets.Puback, uint16(i+1), 0)
		}
	}
	send(9)
	for _, m := range members {
		for range 3 {
			m.expect(packets.Publish)
		}
		m.nothing()
	}
	members[1].bye()
	r.ended("m1")
	send(4)
	for _, m := range []*client{members[0], members[2]} {
		for range 2 {
			m.expect(packets.Publish)
		}
		m.nothing()
	}
}

// The tree finds what Filter.Match says, for random filters and topics.
func TestIndexAgainstMatch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	names := []string{"", "a", "b", "$x", "c"}
	join := func(wild bool) string {
		var levels []string
		for range 1 + rnd.IntN(4) {
			n := names[rnd.IntN(len(names))]
			if wild && rnd.IntN(3) == 0 {
				n = "+"
			}
			levels = append(levels, n)
		}
		if wild && rnd.IntN(3) == 0 {
			levels = append(levels, "#")
			if rnd.IntN(4) == 0 {
				levels = levels[len(levels)-1:]
			}
		}
		return strings.Join(levels, "/")
	}
	var x index
	s := &session{}
	filters := map[string]bool{}
	for range 5000 {
		f := join(true)
		if _, err := gateway.ParseFilter(f); err != nil {
			continue
		}
		if rnd.IntN(2) == 0 {
			x.add(s, subscription{Filter: f})
			filters[f] = true
		} else {
			x.remove(f, s)
			delete(filters, f)
		}
		topic := join(false)
		if topic == "" {
			continue
		}
		var want, got []string
		for f := range filters {
			if gateway.MustFilter(f).Match(topic) {
				want = append(want, f)
			}
		}
		x.match(topic, func(_ *session, sub subscription) { got = append(got, sub.Filter) })
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("topic %q: got %q, want %q", topic, got, want)
		}
	}
	for f := range filters {
		x.remove(f, s)
	}
	if len(x.root.below) != 0 {
		t.Fatal("empty levels are kept")
	}
}

// BenchmarkPublish is one client that publishes at QoS 1 with 100 in flight, and one
// subscriber at QoS 0, on a journal that costs nothing.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{64, 1024} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := newRig(b, Options{})
			p, s := r.client(v5, "p"), r.client(v5, "s")
			s.subscribe(packets.Subscription{Filter: "#"})
			raw := encode(b, v5, publishPacket("bench/topic", 1, 1, strings.Repeat("x", size)))
			raw = bytes.Repeat(raw, 50)
			go func() {
				for range b.N {
					s.recv()
				}
			}()
			b.ReportAllocs()
			b.ResetTimer()
			sent, acked := 0, 0
			for acked < b.N {
				for sent < b.N && sent-acked <= 50 {
					p.raw(raw[:len(raw)/50*min(50, b.N-sent)])
					sent += min(50, b.N-sent)
				}
				p.expect(packets.Puback)
				acked++
			}
			b.StopTimer()
			p.drop()
			s.drop()
			r.stop()
		})
	}
}

// A client that comes back with a smaller Receive Maximum is not flooded by the resend.
func TestResendWithinTheWindow(t *testing.T) {
	r := newRig(t, Options{})
	p, s := r.client(v5, "p"), r.client(v5, "s", persistent)
	s.subscribe(packets.Subscription{Filter: "a", Qos: 1})
	for i := range 4 {
		p.send(publishPacket("a", 1, 1, fmt.Sprint(i)))
		p.ack(packets.Puback, 1, 0)
		s.expect(packets.Publish)
	}
	s.drop()
	r.ended("s")
	s = r.client(v5, "s", persistent, func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 2 })
	ids := []uint16{s.expect(packets.Publish).PacketID, s.expect(packets.Publish).PacketID}
	s.nothing()
	s.send(ackPacket(packets.Puback, ids[0]))
	if pk := s.expect(packets.Publish); string(pk.Payload) != "2" || !pk.FixedHeader.Dup {
		t.Fatalf("got %+v", pk)
	}
	s.nothing()
}
