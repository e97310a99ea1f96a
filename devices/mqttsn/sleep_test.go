package mqttsn_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/mqttsn"
	"github.com/weir-iot/weir/devices/mqttsn/packet"
	"github.com/weir-iot/weir/firmware-sim/sim/snclient"
)

// What comes for a sleeper waits, in order, until it looks; it is told when that was all.
func TestSleep(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1", Clean: true})
		must(t, n.Subscribe(t.Context(), "plant1/#", 2))
		must(t, n.Sleep(t.Context(), time.Hour))
		if s := r.g.Stats(); s.Clients != 1 || s.Asleep != 1 {
			t.Errorf("%+v", s)
		}
		var want []string
		for round := range 3 {
			for i := range 10 {
				payload := fmt.Sprintf("%d.%d", round, i)
				r.tell("plant1/t", byte(i%3), payload)
				want = append(want, fmt.Sprintf("plant1/t %s %d", payload, i%3))
			}
			time.Sleep(50 * time.Minute)
			if got := n.messages(); len(got) != 10*round {
				t.Fatalf("asleep it got %q", got)
			}
			must(t, n.Check(t.Context()))
			if got := n.messages(); !slices.Equal(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		must(t, n.Check(t.Context())) // nothing
		r.tell("plant1/t", 1, "last")
		time.Sleep(time.Second)
		must(t, n.Connect(t.Context())) // and awake for good
		time.Sleep(time.Second)
		if got := n.messages(); len(got) != len(want)+1 {
			t.Errorf("got %q", got)
		}
		if s := r.g.Stats(); s.Clients != 1 || s.Asleep != 0 {
			t.Errorf("%+v", s)
		}
		must(t, n.Publish(t.Context(), "plant1/u", 1, false, nil))
	})
}

// At QoS 0 the newest wait, as many as there is room for; at QoS 1 and 2 as many as in any session.
func TestSleepIsBounded(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1", Clean: true})
		must(t, n.Subscribe(t.Context(), "plant1/t", 1))
		must(t, n.Sleep(t.Context(), time.Hour))
		for i := range 70 {
			r.tell("plant1/t", 0, fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		must(t, n.Check(t.Context()))
		if got := n.messages(); len(got) != 64 || got[0] != "plant1/t 6 0" {
			t.Errorf("got %d, from %q", len(got), got[0])
		}
		if d := r.drops("MQTT-SN queue full"); d != 6 {
			t.Errorf("%d dropped", d)
		}
		for i := range 9000 {
			r.tell("plant1/t", 1, fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		if d := r.drops("session queue full"); d != 9000-8192-1 {
			t.Errorf("%d dropped", d)
		}
		must(t, n.Check(t.Context()))
		if got := n.messages(); len(got) != 64+8193 || got[len(got)-1] != "plant1/t 8192 1" {
			t.Errorf("got %d, to %q", len(got), got[len(got)-1])
		}
	})
}

// A sleeper that does not wake up in time is lost: its will is published, and not before.
func TestSleepsTooLong(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1", Clean: true, Will: &snclient.Will{Topic: "plant1/lost", Message: []byte("x"), QoS: 1}})
		must(t, n.Sleep(t.Context(), time.Hour))
		time.Sleep(time.Hour)
		must(t, n.Sleep(t.Context(), 2*time.Hour)) // another duration, from now on
		time.Sleep(2*time.Hour + 11*time.Minute)
		if got := r.data(); len(got) != 0 {
			t.Fatalf("%q", got)
		}
		time.Sleep(2 * time.Minute)
		if got := r.data(); !slices.Equal(got, []string{"plant1/lost x"}) {
			t.Fatalf("%q", got)
		}
		if err := n.Check(t.Context()); !errors.Is(err, snclient.ErrDisconnected) {
			t.Errorf("%v", err)
		}
		must(t, n.Connect(t.Context()))
		must(t, n.Sleep(t.Context(), 10*time.Second)) // less than a minute: half of it more
		time.Sleep(14 * time.Second)
		must(t, n.Check(t.Context()))
		must(t, n.Disconnect(t.Context()))
		time.Sleep(time.Minute)
		if got := r.data(); len(got) != 1 {
			t.Errorf("%q", got)
		}
	})
}

// A router has given the node another address while it slept.
func TestWakesElsewhere(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1", Clean: true})
		must(t, n.Subscribe(t.Context(), "plant1/t", 1))
		must(t, n.Sleep(t.Context(), time.Hour))
		r.tell("plant1/t", 1, "a")
		n.end.move("198.51.100.7:4711")
		must(t, n.Check(t.Context()))
		if got := n.messages(); !slices.Equal(got, []string{"plant1/t a 1"}) {
			t.Errorf("%q", got)
		}
		if c := r.broker.Clients(); c[0].Remote != "198.51.100.7:4711" {
			t.Errorf("the broker has it at %s", c[0].Remote)
		}
		n.end.move("198.51.100.7:4712")
		must(t, n.Connect(t.Context()))
		n.end.move("198.51.100.7:4713") // and now while it is awake: nobody knows who that is
		if err := n.Ping(t.Context()); !errors.Is(err, snclient.ErrDisconnected) {
			t.Errorf("%v", err)
		}
		must(t, n.Connect(t.Context()))
		must(t, n.Ping(t.Context()))
	})
}

// Who wakes up, and sleeps again without having taken everything, gets it the next time.
func TestFallsAsleepAgain(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		w.connect("node1")
		w.ask(packet.Packet{Type: packet.Subscribe, QoS: 1, MsgID: 1, Text: "plant1/t"}, packet.Suback)
		w.ask(packet.Packet{Type: packet.Disconnect, Sleep: true, Duration: 3600}, packet.Disconnect)
		r.tell("plant1/t", 1, "a")
		w.nothing()
		wake := packet.Packet{Type: packet.Pingreq, Text: "node1"}
		first := w.ask(wake, packet.Publish)
		for range 4 {
			w.within(retry + time.Second)
		}
		time.Sleep(retry)
		w.nothing()
		again := w.ask(wake, packet.Publish)
		if !again.Dup || again.MsgID != first.MsgID || string(again.Data) != "a" {
			t.Errorf("%+v", again)
		}
		w.ask(wake, packet.Publish) // it asks, because that was lost
		a := w.ask(packet.Packet{Type: packet.Puback, TopicID: again.TopicID, MsgID: again.MsgID}, packet.Pingresp)
		_ = a
		if s := r.g.Stats(); s.Asleep != 1 || s.Lost != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A session that is not clean outlives the connection, and what comes meanwhile waits in it.
func TestSessionLasts(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		n := r.connected(snclient.Options{ID: "node1"})
		must(t, n.Subscribe(t.Context(), "plant1/#", 1))
		must(t, n.Disconnect(t.Context()))
		r.tell("plant1/t", 1, "a")
		r.tell(door, 1, "open")
		time.Sleep(time.Second)
		must(t, n.Connect(t.Context()))
		time.Sleep(time.Second)
		if got := n.messages(); !slices.Equal(got, []string{"plant1/t a 1", door + " open 1"}) {
			t.Errorf("%q", got)
		}
		must(t, n.Disconnect(t.Context()))
		c := r.connected(snclient.Options{ID: "node1", Clean: true})
		r.tell("plant1/t", 1, "b")
		time.Sleep(time.Second)
		if got := c.messages(); len(got) != 0 {
			t.Errorf("%q", got)
		}
	})
}

func TestWills(t *testing.T) {
	will := func(message string) *snclient.Will {
		return &snclient.Will{Topic: "plant1/lost", Message: []byte(message), QoS: 1}
	}
	die := func(t *testing.T, n *node) {
		t.Helper()
		n.Close()
		time.Sleep(2 * time.Minute)
	}
	for name, c := range map[string]struct {
		do   func(t *testing.T, r *rig)
		want []string
	}{
		"of a client that is silent": {func(t *testing.T, r *rig) {
			die(t, r.connected(snclient.Options{ID: "node1", Clean: true, Will: will("a")}))
		}, []string{"plant1/lost a"}},
		"not of one that says goodbye": {func(t *testing.T, r *rig) {
			n := r.connected(snclient.Options{ID: "node1", Clean: true, Will: will("a")})
			must(t, n.Disconnect(t.Context()))
			die(t, n)
		}, nil},
		"not of one that pings": {func(t *testing.T, r *rig) {
			n := r.connected(snclient.Options{ID: "node1", Clean: true, Will: will("a")})
			for range 10 {
				time.Sleep(time.Minute)
				must(t, n.Ping(t.Context()))
			}
		}, []string{"plant1/lost a"}}, // when the gateway stops
		"changed": {func(t *testing.T, r *rig) {
			n := r.connected(snclient.Options{ID: "node1", Clean: true, Will: will("a")})
			must(t, n.SetWill(t.Context(), &snclient.Will{Topic: "plant1/other", Message: []byte("b")}))
			die(t, n)
		}, []string{"plant1/other b"}},
		"taken back": {func(t *testing.T, r *rig) {
			n := r.connected(snclient.Options{ID: "node1", Clean: true, Will: will("a")})
			must(t, n.SetWill(t.Context(), nil))
			die(t, n)
		}, nil},
		"kept for the next connection": {func(t *testing.T, r *rig) {
			n := r.connected(snclient.Options{ID: "node1", Will: will("a")})
			must(t, n.Disconnect(t.Context()))
			die(t, r.connected(snclient.Options{ID: "node1"}))
		}, []string{"plant1/lost a"}},
		"not after a clean one": {func(t *testing.T, r *rig) {
			n := r.connected(snclient.Options{ID: "node1", Will: will("a")})
			must(t, n.Disconnect(t.Context()))
			c := r.connected(snclient.Options{ID: "node1", Clean: true})
			must(t, c.Disconnect(t.Context()))
			die(t, r.connected(snclient.Options{ID: "node1"}))
		}, nil},
		"of one whose place is taken": {func(t *testing.T, r *rig) {
			r.connected(snclient.Options{ID: "node1", Clean: true, Will: will("a")})
			n := r.connected(snclient.Options{ID: "node1", Clean: true})
			must(t, n.Disconnect(t.Context()))
		}, []string{"plant1/lost a"}},
		"without a topic after all": {func(t *testing.T, r *rig) {
			die(t, r.connected(snclient.Options{ID: "node1", Clean: true, Will: &snclient.Will{}}))
		}, nil},
		"where it may not publish": {func(t *testing.T, r *rig) {
			die(t, r.connected(snclient.Options{ID: "node1", Clean: true, Will: &snclient.Will{Topic: "elsewhere"}}))
		}, nil},
		"that is no topic": {func(t *testing.T, r *rig) {
			n := r.node(snclient.Options{ID: "node1", Clean: true, Will: &snclient.Will{Topic: "a/#"}})
			var refused *snclient.Refused
			if err := n.Connect(t.Context()); !errors.As(err, &refused) || refused.Code != packet.NotSupported {
				t.Errorf("%v", err)
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var last *rig
			bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
				last = r
				c.do(t, r)
			})
			if got := last.data(); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// Each answer of the dialogue may be lost, and is given again.
func TestWillDialogueRepeats(t *testing.T) {
	bubble(t, mqttsn.Options{}, func(t *testing.T, r *rig) {
		w := r.raw("192.0.2.1:1000")
		for range 2 {
			w.ask(packet.Packet{Type: packet.Connect, Will: true, Clean: true, Protocol: 1, Duration: 60, Text: "node1"}, packet.WillTopicReq)
		}
		for range 2 {
			w.ask(packet.Packet{Type: packet.WillTopic, Text: "plant1/lost"}, packet.WillMsgReq)
		}
		for range 2 {
			w.ask(packet.Packet{Type: packet.WillMsg, Data: []byte("x")}, packet.Connack)
		}
		w.ask(packet.Packet{Type: packet.Connect, Will: true, Clean: true, Protocol: 1, Duration: 60, Text: "node1"}, packet.Connack)
		if c := r.broker.Clients(); len(c) != 1 || r.g.Stats().Clients != 1 {
			t.Errorf("%+v", c)
		}
		half := r.raw("192.0.2.2:1000")
		half.ask(packet.Packet{Type: packet.Connect, Will: true, Clean: true, Protocol: 1, Duration: 60, Text: "node2"}, packet.WillTopicReq)
		time.Sleep(time.Minute) // it does not go on
		if n := r.g.Stats().Clients; n != 1 {
			t.Errorf("%d clients", n)
		}
	})
}
