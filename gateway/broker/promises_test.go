package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

func TestReconnectBeforeSync(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		c := r.client(v, "dev", persistent)
		r.j.hold(true)
		c.send(publishPacket("a/b", 2, 7, "once"), publishPacket("a/b", 1, 8, "q1"))
		r.j.awaitQueued(2)
		c.nothing() // no PUBREC, no PUBACK: neither is stored
		c.drop()
		r.ended("dev")

		c, ack := r.tryClient(v, "dev", persistent)
		if !ack.SessionPresent {
			t.Fatal("the session is gone")
		}
		c.send(dup(publishPacket("a/b", 2, 7, "once")))
		c.nothing() // it waits for the first copy
		r.j.hold(false)
		c.ack(packets.Pubrec, 7, 0)
		c.send(ackPacket(packets.Pubrel, 7))
		c.ack(packets.Pubcomp, 7, 0)
		if n := count(r.j.data(), "once"); n != 1 {
			t.Fatalf("%d events of one QoS 2 publish", n)
		}
	})
}

func count(events []*gateway.Event, payload string) (n int) {
	for _, e := range events {
		if string(e.Payload) == payload {
			n++
		}
	}
	return n
}

func TestAppendFailsThenDup(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{RefusalPause: time.Millisecond})
		c := r.client(v, "dev", persistent)
		r.j.set(func() {
			r.j.fail = func(e *gateway.Event) error {
				if e.Kind == gateway.Data {
					return gateway.Errorf(gateway.ErrTransient, "input/output error")
				}
				return nil
			}
		})
		c.send(publishPacket("a/b", 2, 7, "x"))
		if v == v5 {
			c.ack(packets.Pubrec, 7, codeImplementation)
			c.drop()
		} else {
			c.closed(0)
		}
		r.ended("dev")
		r.j.set(func() { r.j.fail = nil })

		c = r.client(v, "dev", persistent)
		c.send(dup(publishPacket("a/b", 2, 7, "x")))
		c.ack(packets.Pubrec, 7, 0)
		if n := count(r.j.data(), "x"); n != 1 {
			t.Fatalf("%d events; the id of a failed append has to be unknown again", n)
		}
		c.send(ackPacket(packets.Pubrel, 7))
		c.ack(packets.Pubcomp, 7, 0)
	})
}

func TestPubrelAfterLostPubrec(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("crash=%v", crash), func(t *testing.T) {
				r := newRig(t, Options{})
				c := r.client(v, "dev", persistent)
				c.send(publishPacket("a/b", 2, 7, "x"))
				r.j.awaitData(1)
				c.drop() // the PUBREC is lost with it
				r.ended("dev")
				if crash {
					r.crash()
				}
				c = r.client(v, "dev", persistent)
				c.send(dup(publishPacket("a/b", 2, 7, "x")))
				c.ack(packets.Pubrec, 7, 0)
				c.send(ackPacket(packets.Pubrel, 7))
				c.ack(packets.Pubcomp, 7, 0)
				c.drop() // the PUBCOMP is lost, too
				r.ended("dev")
				if crash {
					r.crash()
				}
				c = r.client(v, "dev", persistent)
				c.send(ackPacket(packets.Pubrel, 7))
				var unknown byte
				if v == v5 {
					unknown = codeUnknownID
				}
				c.ack(packets.Pubcomp, 7, unknown)
				if n := len(r.j.data()); n != 1 {
					t.Fatalf("%d events of one publish", n)
				}
			})
		}
	})
}

func TestPubcompAndReusedIdAroundCrash(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		c := r.client(v, "dev", persistent)
		c.send(publishPacket("a/b", 2, 7, "first"))
		c.ack(packets.Pubrec, 7, 0)

		// A release that is not stored has no PUBCOMP, and the id stays taken.
		r.j.hold(true)
		c.send(ackPacket(packets.Pubrel, 7))
		r.j.awaitQueued(1)
		c.nothing()
		r.crash()
		c = r.client(v, "dev", persistent)
		c.send(dup(publishPacket("a/b", 2, 7, "first")))
		c.ack(packets.Pubrec, 7, 0)
		if n := len(r.j.data()); n != 1 {
			t.Fatalf("%d events: the id was forgotten in the crash", n)
		}

		// With the PUBCOMP the id is free, also after a crash.
		c.send(ackPacket(packets.Pubrel, 7))
		c.ack(packets.Pubcomp, 7, 0)
		r.crash()
		c = r.client(v, "dev", persistent)
		c.send(publishPacket("a/b", 2, 7, "second"))
		c.ack(packets.Pubrec, 7, 0)
		if n := count(r.j.data(), "second"); n != 1 {
			t.Fatalf("%d events of the publish that reused the id; it was lost", n)
		}
	})
}

// An id that was published and released in one breath, before anything was stored.
func TestPubrelBeforePubrec(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		for _, durable := range []connectOption{persistent, func(*packets.Packet) {}} {
			r := newRig(t, Options{})
			c := r.client(v, "dev", durable)
			r.j.hold(true)
			c.send(publishPacket("a/b", 2, 7, "first"), ackPacket(packets.Pubrel, 7), publishPacket("a/b", 2, 7, "second"))
			r.j.awaitQueued(3)
			r.j.hold(false)
			c.ack(packets.Pubrec, 7, 0)
			c.ack(packets.Pubcomp, 7, 0)
			c.ack(packets.Pubrec, 7, 0)
			c.send(dup(publishPacket("a/b", 2, 7, "second")))
			c.ack(packets.Pubrec, 7, 0)
			if n := len(r.j.data()); n != 2 {
				t.Fatalf("%d events, want 2", n)
			}
		}
	})
}

func somebody(t *testing.T) *auth.Policy {
	t.Helper()
	hash, err := auth.Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	p, err := auth.New(
		map[string]auth.User{"dev": {PasswordHash: hash, Role: "sensor"}},
		map[string]auth.Role{"sensor": {Publish: []string{"own/#"}, Subscribe: []string{"own/#", "cmd/%c"}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAliasedTopicAgainstACL(t *testing.T) {
	r := newRig(t, Options{Auth: somebody(t), TopicAliasMaximum: 10})
	c := r.client(v5, "dev", withUser("dev", "secret"))
	alias := func(topic string, n, id uint16) packets.Packet {
		pk := publishPacket(topic, 1, id, "x")
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = n, true
		return pk
	}
	c.send(alias("own/a", 1, 1), alias("other", 2, 2), alias("", 1, 3), alias("", 2, 4), alias("own/b", 2, 5), alias("", 2, 6))
	c.ack(packets.Puback, 1, 0)
	c.ack(packets.Puback, 2, codeNotAuthorized)
	c.ack(packets.Puback, 3, 0)
	c.ack(packets.Puback, 4, codeNotAuthorized)
	c.ack(packets.Puback, 5, 0)
	c.ack(packets.Puback, 6, 0)
	var topics []string
	for _, e := range r.j.data() {
		topics = append(topics, e.Topic)
	}
	if got := fmt.Sprint(topics); got != "[own/a own/a own/b own/b]" {
		t.Fatalf("stored %s", got)
	}
	for _, test := range []struct {
		name  string
		alias uint16
		code  byte
	}{{"unknown", 9, codeProtocol}, {"above the maximum", 11, codeAliasInvalid}} {
		t.Run(test.name, func(t *testing.T) {
			c := r.client(v5, "dev", withUser("dev", "secret"))
			c.send(alias("", test.alias, 1))
			c.closed(test.code)
		})
	}
}

// v3.1.1 has no alias; its denial is the end of the connection, never an ack.
func TestDeniedV4(t *testing.T) {
	for qos := range byte(3) {
		t.Run(fmt.Sprint("QoS", qos), func(t *testing.T) {
			r := newRig(t, Options{Auth: somebody(t), RefusalPause: time.Millisecond})
			c := r.client(v4, "dev", withUser("dev", "secret"))
			c.send(publishPacket("own/a", 1, 1, "x"))
			c.ack(packets.Puback, 1, 0)
			c.send(publishPacket("other", qos, uint16(qos), "x"))
			if qos == 0 {
				c.nothing()
			} else {
				c.closed(0)
			}
			if n := len(r.j.data()); n != 1 {
				t.Fatalf("%d events, want 1", n)
			}
		})
	}
}

func TestReceiveMaximum1500(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		c, ack := r.tryClient(v, "dev")
		if v == v5 && ack.Properties.ReceiveMaximum != 1024 {
			t.Fatalf("CONNACK says Receive Maximum %d", ack.Properties.ReceiveMaximum)
		}
		r.j.hold(true)
		const n = 1500
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for i := range n {
				c.send(publishPacket("a/b", 1, uint16(i+1), "x"))
			}
		}()
		r.j.awaitQueued(1024)
		<-sent // into the socket's buffers; none but 1024 were read
		if w := r.j.waiting(); w != 1024 {
			t.Fatalf("%d publishes taken in, the maximum is 1024", w)
		}
		r.j.hold(false)
		for i := range n {
			c.ack(packets.Puback, uint16(i+1), 0)
		}
		if got := len(r.j.data()); got != n {
			t.Fatalf("%d events, want %d", got, n)
		}
	})
}

func TestUnreleasedAboveReceiveMaximum(t *testing.T) {
	r := newRig(t, Options{ReceiveMaximum: 10})
	c := r.client(v5, "dev")
	for i := range uint16(10) {
		c.send(publishPacket("a", 2, i+1, "x"))
		c.ack(packets.Pubrec, i+1, 0)
	}
	c.send(publishPacket("a", 2, 11, "x"))
	c.closed(codeReceiveMaximum)
}

func TestRetainedVisibleAfterPuback(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		p, s := r.client(v, "p"), r.client(v, "s")
		for i := range 50 {
			topic := fmt.Sprintf("r/%d", i)
			p.send(retain(publishPacket(topic, 1, 1, "here")))
			p.ack(packets.Puback, 1, 0)
			if codes := s.subscribe(packets.Subscription{Filter: topic, Qos: 1}); codes[0] != 1 {
				t.Fatal(codes)
			}
			pk := s.expect(packets.Publish)
			if pk.TopicName != topic || string(pk.Payload) != "here" || !pk.FixedHeader.Retain || pk.FixedHeader.Dup {
				t.Fatalf("got %q %q %+v", pk.TopicName, pk.Payload, pk.FixedHeader)
			}
			s.send(ackPacket(packets.Puback, pk.PacketID))
		}
		p.send(retain(publishPacket("r/0", 1, 1, "")))
		p.ack(packets.Puback, 1, 0)
		pk := s.expect(packets.Publish) // live, so not marked as retained
		if pk.FixedHeader.Retain || len(pk.Payload) != 0 {
			t.Fatalf("got %+v", pk)
		}
		r.crash()
		s = r.client(v, "s")
		s.subscribe(packets.Subscription{Filter: "r/#"})
		for range 49 {
			if pk := s.expect(packets.Publish); pk.TopicName == "r/0" {
				t.Fatal("a removed retained message is back after a crash")
			}
		}
		s.nothing()
	})
}

func TestFullJournal(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		for _, late := range []bool{false, true} { // refused at once, or by the writer
			t.Run(fmt.Sprintf("late=%v", late), func(t *testing.T) {
				r := newRig(t, Options{RefusalPause: time.Millisecond})
				c := r.client(v, "dev")
				c.send(publishPacket("a", 1, 1, "x"))
				c.ack(packets.Puback, 1, 0)
				full := gateway.Errorf(gateway.ErrFull, "journal has reached its bound")
				r.j.set(func() {
					if late {
						r.j.fail = func(*gateway.Event) error { return full }
					} else {
						r.j.refuse = full
					}
				})
				c.send(publishPacket("a", 0, 0, "x"), publishPacket("a", 1, 2, "x"))
				if v == v5 {
					c.ack(packets.Puback, 2, codeQuota)
					c.send(publishPacket("a", 2, 3, "x"))
					c.ack(packets.Pubrec, 3, codeQuota)
					c.nothing()
				} else {
					c.closed(0)
				}
				_, ack := r.tryClient(v, "durable", persistent)
				want := byte(codeQuota)
				if v == v4 {
					want = codeUnavailableV4
				}
				if ack.ReasonCode != want {
					t.Fatalf("a durable session on a full journal: CONNACK 0x%02X, want 0x%02X", ack.ReasonCode, want)
				}
				r.j.set(func() { r.j.fail, r.j.refuse = nil, nil })
				c = r.client(v, "dev")
				c.send(publishPacket("a", 1, 4, "x"))
				c.ack(packets.Puback, 4, 0)
				if n := len(r.j.data()); n != 2 {
					t.Fatalf("%d events, want 2", n)
				}
			})
		}
	})
}

// Answers leave in the order of the publishes, whatever the order they are known in.
func TestAnswersInOrder(t *testing.T) {
	r := newRig(t, Options{})
	c := r.client(v5, "dev")
	r.j.hold(true)
	c.send(publishPacket("a", 1, 1, "x"), publishPacket("$x", 1, 2, "x"), publishPacket("a", 2, 3, "x"), publishPacket("$x", 2, 4, "x"))
	r.j.awaitQueued(2)
	c.nothing()
	r.j.hold(false)
	c.ack(packets.Puback, 1, 0)
	c.ack(packets.Puback, 2, codeNotAuthorized)
	c.ack(packets.Pubrec, 3, 0)
	c.ack(packets.Pubrec, 4, codeNotAuthorized)
}

func TestReasons(t *testing.T) {
	r := newRig(t, Options{})
	for _, test := range []struct {
		name string
		pk   packets.Packet
		code byte
	}{
		{"too many levels", publishPacket(levels(200), 1, 1, "x"), codeTopicInvalid},
		{"payload too large", publishPacket("a", 1, 1, string(make([]byte, gateway.MaxPayload+1))), codePayloadInvalid},
		{"not UTF-8", func() packets.Packet {
			pk := publishPacket("a", 1, 1, "\xff")
			pk.Properties.PayloadFormat, pk.Properties.PayloadFormatFlag = 1, true
			return pk
		}(), codePayloadInvalid},
		{"$SYS", publishPacket("$SYS/x", 1, 1, "x"), codeNotAuthorized},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := r.client(v5, "dev")
			c.send(test.pk)
			c.ack(packets.Puback, 1, test.code)
			c.bye()
		})
	}
	if len(r.j.data()) != 0 {
		t.Fatal("something was stored")
	}
}

func levels(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = '/'
	}
	return string(b)
}
