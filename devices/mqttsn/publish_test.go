package mqttsn_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/devices/mqttsn"
	"github.com/weir-iot/weir/devices/mqttsn/packet"
	"github.com/weir-iot/weir/firmware-sim/sim/snclient"
	"github.com/weir-iot/weir/gateway"
)

// Every kind of topic id and every QoS, from the node.
func TestPublish(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1", Clean: true})
		for _, topic := range []string{"plant1/t", door, "ab"} {
			for qos := range int8(3) {
				must(t, n.Publish(t.Context(), topic, qos, qos == 1, []byte{'0' + byte(qos)}))
				synctest.Wait()
				time.Sleep(10 * time.Millisecond) // QoS 0 takes its time on the wire
			}
		}
		must(t, n.Publish(t.Context(), "ab", -1, false, []byte("-1")))
		time.Sleep(10 * time.Millisecond)
		want := []string{"plant1/t 0", "plant1/t 1", "plant1/t 2", door + " 0", door + " 1", door + " 2", "ab 0", "ab 1", "ab 2", "ab -1"}
		if got := r.data(); !slices.Equal(got, want) {
			t.Errorf("stored %q, want %q", got, want)
		}
		for _, e := range r.j.events {
			if e.Kind == gateway.Data && (e.Origin.ID != "node1" || e.Origin.User != "n" || e.Retain != (string(e.Payload) == "1")) {
				t.Errorf("%+v", e)
			}
		}
		if c := r.broker.Clients(); len(c) != 1 || c[0].ID != "node1" || c[0].Remote != n.end.at.String() {
			t.Errorf("%+v", c)
		}
	})
}

// Every kind of topic id and every QoS, to the node.
func TestSubscribe(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		for _, c := range []struct{ filter, topic string }{
			{"plant1/t", "plant1/t"}, {"plant1/+/w", "plant1/a/w"}, {"plant1/#", "plant1"}, {door, door}, {"ab", "ab"},
		} {
			n := r.connected(snclient.Options{ID: "node1", Clean: true})
			must(t, n.Subscribe(t.Context(), c.filter, 2))
			for _, p := range []struct {
				qos  byte
				text string
			}{{0, "zero"}, {1, "one"}, {2, "two"}, {0, "last"}} {
				r.tell(c.topic, p.qos, p.text)
			}
			time.Sleep(100 * time.Millisecond)
			if got, want := n.messages(), []string{c.topic + " zero 0", c.topic + " one 1", c.topic + " two 2", c.topic + " last 0"}; !slices.Equal(got, want) {
				t.Errorf("%s: got %q, want %q", c.filter, got, want)
			}
			must(t, n.Unsubscribe(t.Context(), c.filter))
			r.tell(c.topic, 1, "after")
			time.Sleep(100 * time.Millisecond)
			if got := n.messages(); len(got) != 4 {
				t.Errorf("%s: after UNSUBSCRIBE: %q", c.filter, got)
			}
			must(t, n.Disconnect(t.Context()))
		}
	})
}

// A PUBACK leaves only when the event is stored, and a publish that is repeated meanwhile is one event.
func TestAcceptedMeansStored(t *testing.T) {
	for _, qos := range []int8{1, 2} {
		bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
			w := r.raw("192.0.2.1:1000")
			w.connect("node1")
			r.j.hold(true)
			p := packet.Packet{Type: packet.Publish, QoS: qos, TopicType: packet.Predefined, TopicID: 1, MsgID: 7, Data: []byte("open")}
			w.send(p)
			w.nothing()
			p.Dup = true
			w.send(p)
			w.nothing()
			r.j.hold(false)
			if a := w.recv(); a.MsgID != 7 || a.Code != 0 || a.Type != map[int8]packet.Type{1: packet.Puback, 2: packet.Pubrec}[qos] {
				t.Errorf("%+v", a)
			}
			w.nothing()
			w.send(p) // the answer was lost
			w.recv()
			w.nothing()
			if qos == 2 {
				w.ask(packet.Packet{Type: packet.Pubrel, MsgID: 7}, packet.Pubcomp)
				w.ask(packet.Packet{Type: packet.Pubrel, MsgID: 7}, packet.Pubcomp) // that answer was lost too
				w.ask(p, packet.Pubrec)                                             // and this came late
			}
			if got := r.data(); len(got) != 1 {
				t.Errorf("QoS %d: stored %q", qos, got)
			}
		})
	}
}

// A copy of a QoS 2 publish that comes while its release is on its way to storage is not a new one.
func TestCopyBehindRelease(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		w.connect("node1")
		p := packet.Packet{Type: packet.Publish, QoS: 2, TopicType: packet.Predefined, TopicID: 1, MsgID: 7, Data: []byte("open")}
		w.ask(p, packet.Pubrec)
		r.j.all = true
		r.j.hold(true)
		w.send(packet.Packet{Type: packet.Pubrel, MsgID: 7})
		w.nothing()
		w.ask(p, packet.Pubrec)
		r.j.hold(false)
		if a := w.recv(); a.Type != packet.Pubcomp {
			t.Errorf("%+v", a)
		}
		w.nothing()
		if got := r.data(); len(got) != 1 {
			t.Errorf("stored %q", got)
		}
	})
}

// A client that gives everything the same MsgId, and says the same again, means it again.
func TestSameAgain(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		w.connect("node1")
		for range 3 {
			w.ask(packet.Packet{Type: packet.Publish, QoS: 1, TopicType: packet.Predefined, TopicID: 1, MsgID: 1, Data: []byte("on")}, packet.Puback)
		}
		if got := r.data(); len(got) != 3 {
			t.Errorf("stored %q", got)
		}
	})
}

func TestReturnCodes(t *testing.T) {
	connect := func(id string) packet.Packet {
		return packet.Packet{Type: packet.Connect, Clean: true, Protocol: 1, Duration: 600, Text: id}
	}
	publish := packet.Packet{Type: packet.Publish, QoS: 1, TopicType: packet.Predefined, TopicID: 1, MsgID: 9}
	change := func(p packet.Packet, f func(*packet.Packet)) packet.Packet { f(&p); return p }
	subscribe := packet.Packet{Type: packet.Subscribe, MsgID: 9, Text: "plant1/#"}
	for name, c := range map[string]struct {
		connected string // as
		journal   error
		send      packet.Packet
		want      packet.Type
		code      packet.Code
	}{
		"a client that is not named":        {"", nil, connect("stranger"), packet.Connack, packet.NotSupported},
		"a client without an id":            {"", nil, connect(""), packet.Connack, packet.NotSupported},
		"our own id":                        {"", nil, connect(mqttsn.ConnectionlessID), packet.Connack, packet.NotSupported},
		"another protocol":                  {"", nil, change(connect("node1"), func(p *packet.Packet) { p.Protocol = 2 }), packet.Connack, packet.NotSupported},
		"one too many":                      {"node1", nil, connect("node2"), packet.Connack, packet.Congestion},
		"accepted":                          {"node1", nil, publish, packet.Puback, packet.Accepted},
		"the journal is full":               {"node1", gateway.Errorf(gateway.ErrFull, "full"), publish, packet.Puback, packet.Congestion},
		"at QoS 2":                          {"node1", gateway.Errorf(gateway.ErrFull, "full"), change(publish, func(p *packet.Packet) { p.QoS = 2 }), packet.Puback, packet.Congestion},
		"not this time":                     {"node1", gateway.Errorf(gateway.ErrTransient, "stopped"), publish, packet.Puback, packet.Congestion},
		"not allowed":                       {"mute", nil, publish, packet.Puback, packet.NotSupported},
		"topic id nobody knows":             {"node1", nil, change(publish, func(p *packet.Packet) { p.TopicType, p.TopicID = packet.Normal, 77 }), packet.Puback, packet.InvalidTopic},
		"at QoS 0":                          {"node1", nil, change(publish, func(p *packet.Packet) { p.QoS, p.TopicType, p.TopicID = 0, packet.Normal, 77 }), packet.Puback, packet.InvalidTopic},
		"predefined id nobody knows":        {"node1", nil, change(publish, func(p *packet.Packet) { p.TopicID = 77 }), packet.Puback, packet.InvalidTopic},
		"short name that is a wildcard":     {"node1", nil, change(publish, func(p *packet.Packet) { p.TopicType, p.TopicID = packet.Short, packet.ShortTopic("a#") }), packet.Puback, packet.InvalidTopic},
		"without a MsgId":                   {"node1", nil, change(publish, func(p *packet.Packet) { p.MsgID = 0 }), packet.Puback, packet.NotSupported},
		"register a wildcard":               {"node1", nil, packet.Packet{Type: packet.Register, MsgID: 9, Text: "a/+"}, packet.Regack, packet.NotSupported},
		"register":                          {"node1", nil, packet.Packet{Type: packet.Register, MsgID: 9, Text: "a/b"}, packet.Regack, packet.Accepted},
		"subscribe":                         {"node1", nil, subscribe, packet.Suback, packet.Accepted},
		"subscribe to what is not allowed":  {"mute", nil, subscribe, packet.Suback, packet.NotSupported},
		"to what is no filter":              {"node1", nil, change(subscribe, func(p *packet.Packet) { p.Text = "a/#/b" }), packet.Suback, packet.NotSupported},
		"at QoS -1":                         {"node1", nil, change(subscribe, func(p *packet.Packet) { p.QoS = -1 }), packet.Suback, packet.NotSupported},
		"to a predefined id nobody knows":   {"node1", nil, change(subscribe, func(p *packet.Packet) { p.TopicType, p.TopicID, p.Text = packet.Predefined, 77, "" }), packet.Suback, packet.InvalidTopic},
		"will that is a wildcard":           {"node1", nil, packet.Packet{Type: packet.WillTopicUpd, Text: "a/#"}, packet.WillTopicResp, packet.NotSupported},
		"will at QoS -1":                    {"node1", nil, packet.Packet{Type: packet.WillTopicUpd, QoS: -1, Text: "a/b"}, packet.WillTopicResp, packet.NotSupported},
		"will":                              {"node1", nil, packet.Packet{Type: packet.WillTopicUpd, QoS: 2, Text: "a/b"}, packet.WillTopicResp, packet.Accepted},
		"will's message":                    {"node1", nil, packet.Packet{Type: packet.WillMsgUpd, Data: []byte("x")}, packet.WillMsgResp, packet.Accepted},
		"ping":                              {"node1", nil, packet.Packet{Type: packet.Pingreq}, packet.Pingresp, 0},
		"release of what was never sent":    {"node1", nil, packet.Packet{Type: packet.Pubrel, MsgID: 9}, packet.Pubcomp, 0},
		"receipt of what was never sent":    {"node1", nil, packet.Packet{Type: packet.Pubrec, MsgID: 9}, packet.Pubrel, 0},
		"unsubscribe from what is no topic": {"node1", nil, packet.Packet{Type: packet.Unsubscribe, MsgID: 9, Text: "a/#/b"}, packet.Unsuback, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, mqttsn.Options{MaxClients: 1}, func(t *testing.T, r *rig) {
				w := r.raw("192.0.2.1:1000")
				if c.connected != "" {
					w.connect(c.connected)
				}
				r.j.fail(c.journal)
				if c.send.Type == packet.Connect {
					w = r.raw("192.0.2.2:1000")
				}
				a := w.ask(c.send, c.want)
				if a.Code != c.code || c.send.MsgID != a.MsgID {
					t.Errorf("%+v, want %v", a, c.code)
				}
				w.nothing()
			})
		})
	}
}

// Who does not answer is asked again with DUP, and given up after N_retry.
func TestRetransmission(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
			w := r.raw("192.0.2.1:1000")
			w.connect("node1")
			w.ask(packet.Packet{Type: packet.WillTopicUpd, Text: "plant1/will"}, packet.WillTopicResp)
			sub := w.ask(packet.Packet{Type: packet.Subscribe, QoS: 2, MsgID: 1, Text: "plant1/t"}, packet.Suback)
			r.tell("plant1/t", qos, "x")
			first := w.recv()
			if first.Type != packet.Publish || first.Dup || first.TopicID != sub.TopicID || first.QoS != int8(qos) || first.MsgID == 0 {
				t.Fatalf("%+v", first)
			}
			from := time.Now()
			for i := range 4 {
				again := w.within(retry + time.Second)
				want := first
				want.Dup = true
				if again.Type != packet.Publish || !again.Dup || again.MsgID != first.MsgID {
					t.Fatalf("%d: %+v, want %+v", i, again, want)
				}
			}
			if end := w.within(retry + time.Second); end.Type != packet.Disconnect {
				t.Errorf("%+v", end)
			}
			if took := time.Since(from).Round(time.Second); took != 5*retry {
				t.Errorf("given up after %v", took)
			}
			if got := r.data(); !slices.Contains(got, "plant1/will ") {
				t.Errorf("the will was not published: %q", got)
			}
			w.ask(packet.Packet{Type: packet.Pingreq}, packet.Disconnect)
		})
	}
}

// Each step of what the gateway begins is repeated, and ends when it is answered.
func TestRetransmittedSteps(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		w.connect("node1")
		w.ask(packet.Packet{Type: packet.Subscribe, QoS: 2, MsgID: 1, Text: "plant1/#"}, packet.Suback)
		r.tell("plant1/t", 2, "x")
		r.tell("plant1/t", 1, "y")
		twice := func(want packet.Type) packet.Packet {
			t.Helper()
			first := w.recv()
			again := w.within(retry + time.Second)
			if first.Type != want || again.Type != want || first.MsgID != again.MsgID {
				t.Fatalf("%+v and %+v, want two %v", first, again, want)
			}
			return first
		}
		reg := twice(packet.Register)
		if reg.Text != "plant1/t" || reg.TopicID == 0 {
			t.Fatalf("%+v", reg)
		}
		w.send(packet.Packet{Type: packet.Regack, TopicID: reg.TopicID, MsgID: reg.MsgID})
		pub := twice(packet.Publish)
		w.send(packet.Packet{Type: packet.Pubrec, MsgID: pub.MsgID})
		twice(packet.Pubrel)
		w.send(packet.Packet{Type: packet.Pubcomp, MsgID: pub.MsgID})
		next := w.recv() // one at a time, §6.10
		if string(next.Data) != "y" || next.MsgID == pub.MsgID {
			t.Errorf("%+v", next)
		}
		// It has forgotten what the topic id means.
		w.send(packet.Packet{Type: packet.Puback, TopicID: next.TopicID, MsgID: next.MsgID, Code: packet.InvalidTopic})
		reg = w.recv()
		if reg.Type != packet.Register || reg.Text != "plant1/t" {
			t.Errorf("%+v", reg)
		}
		w.send(packet.Packet{Type: packet.Regack, TopicID: reg.TopicID, MsgID: reg.MsgID})
		again := w.recv()
		w.send(packet.Packet{Type: packet.Puback, TopicID: again.TopicID, MsgID: again.MsgID, Code: packet.Congestion})
		again = w.within(retry + time.Second) // later
		w.send(packet.Packet{Type: packet.Puback, TopicID: again.TopicID, MsgID: again.MsgID, Code: packet.NotSupported})
		w.nothing()
		if n := r.drops("refused by the MQTT-SN client"); n != 1 {
			t.Errorf("%d dropped", n)
		}
	})
}

// After a restart a node that believes it is connected hears that it is not, and finds its way back.
func TestRestart(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1"})
		must(t, n.Publish(t.Context(), "plant1/t", 1, false, []byte("a")))
		must(t, n.Subscribe(t.Context(), "plant1/cmd/#", 1))
		r.restart()
		if err := n.Publish(t.Context(), "plant1/t", 1, false, []byte("b")); !errors.Is(err, snclient.ErrDisconnected) {
			t.Fatalf("%v", err)
		}
		must(t, n.Connect(t.Context()))
		must(t, n.Publish(t.Context(), "plant1/t", 1, false, []byte("b")))
		r.tell("plant1/cmd/x", 1, "do") // the subscription is still there
		time.Sleep(100 * time.Millisecond)
		if got := n.messages(); !slices.Equal(got, []string{"plant1/cmd/x do 1"}) {
			t.Errorf("%q", got)
		}
		if got := r.data(); !slices.Equal(got, []string{"plant1/t a", "plant1/t b", "plant1/cmd/x do"}) {
			t.Errorf("%q", got)
		}
	})
}

// QoS 2 is once, also when the gateway restarts between PUBREC and PUBREL: the MsgId is the broker's packet identifier.
func TestExactlyOnceAcrossRestart(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		connect := packet.Packet{Type: packet.Connect, Protocol: 1, Duration: 600, Text: "node1"}
		publish := packet.Packet{Type: packet.Publish, QoS: 2, TopicType: packet.Predefined, TopicID: 1, MsgID: 7, Data: []byte("open")}
		w := r.raw("192.0.2.1:1000")
		w.ask(connect, packet.Connack)
		w.ask(publish, packet.Pubrec)
		r.restart()
		w.recv() // DISCONNECT, of the one that stopped
		w.ask(connect, packet.Connack)
		publish.Dup = true
		w.ask(publish, packet.Pubrec)
		w.ask(packet.Packet{Type: packet.Pubrel, MsgID: 7}, packet.Pubcomp)
		if got := r.data(); len(got) != 1 {
			t.Errorf("stored %q", got)
		}
	})
}
