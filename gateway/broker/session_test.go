package broker

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

func expiring(seconds uint32) connectOption {
	return func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = seconds, true
	}
}

func TestSessionSurvives(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		for _, how := range []string{"crash", "crash after a checkpoint", "clean stop"} {
			t.Run(how, func(t *testing.T) {
				r := newRig(t, Options{})
				c, ack := r.tryClient(v, "dev", persistent)
				if ack.SessionPresent {
					t.Fatal("a new session is said to be present")
				}
				c.subscribe(packets.Subscription{Filter: "a/#", Qos: 1}, packets.Subscription{Filter: "b", Qos: 2}, packets.Subscription{Filter: "c"})
				c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: "c"}}})
				c.expect(packets.Unsuback)
				c.send(publishPacket("q", 2, 7, "x"), publishPacket("q", 2, 8, "y"))
				c.ack(packets.Pubrec, 7, 0)
				c.ack(packets.Pubrec, 8, 0)
				c.send(ackPacket(packets.Pubrel, 8))
				c.ack(packets.Pubcomp, 8, 0)
				switch how {
				case "crash":
					r.crash()
				case "crash after a checkpoint":
					if err := r.b.checkpoint(); err != nil {
						t.Fatal(err)
					}
					r.crash()
				default:
					r.restart()
				}
				clients := r.b.Clients()
				if len(clients) != 1 || !clients[0].Persistent || clients[0].Connected || clients[0].Unreleased != 1 ||
					!slices.Equal(clients[0].Subscriptions, []string{"a/#", "b"}) {
					t.Fatalf("after the start: %+v", clients)
				}
				c, ack = r.tryClient(v, "dev", persistent)
				if !ack.SessionPresent {
					t.Fatal("the session is gone")
				}
				c.send(publishPacket("a", 1, 1, "live"))
				// Fan-out comes before the answer.
				if pk := c.expect(packets.Publish); string(pk.Payload) != "live" || pk.FixedHeader.Qos != 1 {
					t.Fatalf("got %+v", pk)
				}
				c.ack(packets.Puback, 1, 0)
			})
		}
	})
}

func TestCleanStartEndsTheSession(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		c := r.client(v, "dev", persistent)
		c.subscribe(packets.Subscription{Filter: "a"})
		c.send(publishPacket("q", 2, 7, "x"))
		c.ack(packets.Pubrec, 7, 0)
		c.bye()
		c, ack := r.tryClient(v, "dev")
		if ack.SessionPresent {
			t.Fatal("clean start found a session")
		}
		c.send(publishPacket("q", 2, 7, "y"))
		c.ack(packets.Pubrec, 7, 0)
		if n := count(r.j.data(), "y"); n != 1 {
			t.Fatalf("%d events: the ended session's id was taken for this one's", n)
		}
		c.bye()
		r.crash()
		if _, ack := r.tryClient(v, "dev", persistent); ack.SessionPresent {
			t.Fatal("the ended session is back after a crash")
		}
	})
}

func TestTakeover(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		first := r.client(v, "dev", persistent)
		first.subscribe(packets.Subscription{Filter: "a"})
		r.j.hold(true)
		first.send(publishPacket("q", 2, 7, "x"))
		r.j.awaitQueued(1)
		second, ack := r.tryClient(v, "dev", persistent)
		first.closed(codeTakenOver)
		if !ack.SessionPresent {
			t.Fatal("no session present")
		}
		second.send(dup(publishPacket("q", 2, 7, "x")))
		second.nothing()
		r.j.hold(false)
		second.ack(packets.Pubrec, 7, 0)
		if n := len(r.j.data()); n != 1 {
			t.Fatalf("%d events", n)
		}
		if why := r.ended("dev"); why != "taken over" {
			t.Fatal(why)
		}
	})
}

// Many connections with one client identifier at once: one stays.
func TestTakeoverStorm(t *testing.T) {
	r := newRig(t, Options{})
	const n = 20
	over, alive := make(chan int, n), make(chan struct{}, n)
	var all sync.WaitGroup
	var conns []*client
	for i := range n {
		nc := r.dial()
		c := &client{t: t, nc: nc, r: bufio.NewReader(nc), v: v4}
		conns = append(conns, c)
		all.Go(func() {
			c.send(connectPacket(v4, "same", persistent))
			for {
				switch pk, err := c.recv(); {
				case err != nil:
					over <- i
					return
				case pk.FixedHeader.Type == packets.Pingresp:
					alive <- struct{}{}
				}
			}
		})
	}
	left := (n - 1) * n / 2
	for range n - 1 {
		left -= <-over
	}
	conns[left].send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	<-alive
	if clients := r.b.Clients(); len(clients) != 1 || !clients[0].Connected {
		t.Errorf("%+v", clients)
	}
	r.stop()
	all.Wait()
}

func TestSessionExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		defer r.stop()
		connect := func(seconds uint32) bool {
			c, ack := newClient(t, r.pipe(), v5, "dev", expiring(seconds))
			c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
			c.recv()
			synctest.Wait()
			return ack.SessionPresent
		}
		connect(10)
		time.Sleep(8 * time.Second)
		if !connect(10) {
			t.Fatal("gone before its time")
		}
		time.Sleep(12 * time.Second)
		if n := len(r.b.Clients()); n != 0 {
			t.Fatalf("%d sessions after the expiry", n)
		}
		if connect(20) {
			t.Fatal("there after its time")
		}
		// The time counts while Weir is down.
		time.Sleep(5 * time.Second)
		r.crash()
		time.Sleep(10 * time.Second)
		if !connect(20) {
			t.Fatal("gone before its time, after a crash")
		}
		time.Sleep(19 * time.Second)
		r.crash()
		time.Sleep(3 * time.Second)
		if connect(20) {
			t.Fatal("there after its time, after a crash")
		}
	})
}

func TestExpiryIsCutAndTold(t *testing.T) {
	r := newRig(t, Options{MaxSessionExpiry: time.Minute})
	_, ack := r.tryClient(v5, "", expiring(0xFFFFFFFF))
	p := ack.Properties
	if p.SessionExpiryInterval != 60 || p.AssignedClientID == "" || p.MaximumPacketSize == 0 || p.TopicAliasMaximum != 64 || p.ReceiveMaximum != 1024 {
		t.Fatalf("CONNACK says %+v", p)
	}
}

func TestSessionLimits(t *testing.T) {
	r := newRig(t, Options{MaxSessions: 1, MaxSubscriptions: 2, MaxRetained: 1})
	c := r.client(v5, "one", persistent)
	if _, ack := r.tryClient(v5, "two", persistent); ack.ReasonCode != codeQuota {
		t.Fatalf("second session: 0x%02X", ack.ReasonCode)
	}
	codes := c.subscribe(packets.Subscription{Filter: "a"}, packets.Subscription{Filter: "b"}, packets.Subscription{Filter: "c"}, packets.Subscription{Filter: "a"})
	if fmt.Sprintf("%x", codes) != "00009700" {
		t.Fatalf("SUBACK %x", codes)
	}
	c.send(retain(publishPacket("x", 1, 1, "1")))
	c.ack(packets.Puback, 1, 0)
	c.send(retain(publishPacket("y", 1, 2, "1")))
	c.ack(packets.Puback, 2, codeQuota)
	if got := r.b.Retained(gateway.Filters{gateway.MustFilter("#"), gateway.MustFilter("x"), gateway.MustFilter("y"), gateway.MustFilter("$SYS/#")}); len(got) != 1 || got[0].Topic != "x" || string(got[0].Payload) != "1" {
		t.Errorf("retained: %+v", got)
	}
	c.send(retain(publishPacket("x", 1, 3, "2")))
	c.ack(packets.Puback, 3, 0)
	c.bye()
}

func TestWills(t *testing.T) {
	will := packets.ConnectParams{WillTopic: "state/dev", WillPayload: []byte("offline"), WillQos: 1, WillRetain: true,
		WillProperties: packets.Properties{ContentType: "text/plain", User: []packets.UserProperty{{Key: "k", Val: "v"}}}}
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{Auth: nil})
		watcher := r.client(v5, "watcher")
		watcher.subscribe(packets.Subscription{Filter: "state/#", Qos: 1, RetainAsPublished: true})
		c := r.client(v, "dev", withWill(will))
		c.bye()
		watcher.nothing() // a goodbye needs no will
		c = r.client(v, "dev", withWill(will))
		c.drop()
		pk := watcher.expect(packets.Publish)
		if pk.TopicName != "state/dev" || string(pk.Payload) != "offline" || pk.FixedHeader.Qos != 1 || !pk.FixedHeader.Retain {
			t.Fatalf("got %+v", pk)
		}
		if v == v5 && (pk.Properties.ContentType != "text/plain" || len(pk.Properties.User) != 1) {
			t.Fatalf("properties %+v", pk.Properties)
		}
		if e := r.j.data()[0]; e.Origin.ID != "dev" || e.Origin.Via != "mqtt" {
			t.Fatalf("origin %+v", e.Origin)
		}

		// An empty payload is a will, too: it clears the retained one.
		empty := will
		empty.WillPayload = nil
		r.client(v, "dev", withWill(empty)).drop()
		watcher.send(ackPacket(packets.Puback, pk.PacketID))
		if pk := watcher.expect(packets.Publish); len(pk.Payload) != 0 {
			t.Fatalf("got %+v", pk)
		}
		if v == v5 { // DISCONNECT with will, §3.14.2.1
			c = r.client(v, "dev", withWill(will))
			c.raw([]byte{0xE0, 1, codeWithWill})
			watcher.expect(packets.Publish)
		}
	})
}

func TestWillsAreAuthorised(t *testing.T) {
	r := newRig(t, Options{Auth: somebody(t)})
	for topic, stored := range map[string]int{"other": 0, "$SYS/x": 0, "own/x": 1} {
		w := packets.ConnectParams{WillTopic: topic, WillPayload: []byte("x"), WillQos: 1}
		before := len(r.j.data())
		r.client(v5, "dev", withUser("dev", "secret"), withWill(w)).drop()
		r.ended("dev")
		if stored > 0 {
			r.j.awaitData(before + 1)
		} else if n := len(r.j.data()) - before; n != 0 {
			t.Errorf("will to %s: %d events", topic, n)
		}
	}
}

func TestDelayedWill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		defer r.stop()
		connect := func(expiry uint32, options ...connectOption) *client {
			will := withWill(packets.ConnectParams{WillTopic: "w", WillPayload: []byte("x"),
				WillProperties: packets.Properties{WillDelayInterval: 10}})
			c, _ := newClient(t, r.pipe(), v5, "dev", append([]connectOption{expiring(expiry), will}, options...)...)
			return c
		}
		wills := func() int {
			synctest.Wait()
			return len(r.j.data())
		}
		connect(100).drop()
		time.Sleep(9 * time.Second)
		if wills() != 0 {
			t.Fatal("sent before its delay")
		}
		c, _ := newClient(t, r.pipe(), v5, "dev", expiring(100)) // back in time, without a will
		time.Sleep(20 * time.Second)
		c.drop()
		time.Sleep(20 * time.Second)
		if wills() != 0 {
			t.Fatal("sent though the session went on")
		}
		connect(100).drop()
		time.Sleep(12 * time.Second)
		if wills() != 1 {
			t.Fatal("not sent after its delay")
		}
		connect(5).drop() // the session ends first
		time.Sleep(7 * time.Second)
		if wills() != 2 {
			t.Fatal("not sent when the session ended")
		}
		connect(0).drop()
		if wills() != 3 {
			t.Fatal("not sent at once by a session that ends with its connection")
		}
		connect(100).drop()
		synctest.Wait()
		c = connect(100, func(pk *packets.Packet) { pk.Connect.Clean = true })
		if wills() != 4 {
			t.Fatal("not sent by a clean start")
		}
		c.drop()
		synctest.Wait()
		r.stop()
		if wills() != 5 {
			t.Fatal("not sent at the shutdown")
		}
	})
}

func TestShutdown(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		c := r.client(v, "dev")
		go r.cancel()
		c.closed(codeShuttingDown)
		r.stop()
	})
}

// A checkpoint that fails loses nothing: the next one writes the same, and more.
func TestCheckpointFails(t *testing.T) {
	r := newRig(t, Options{})
	c := r.client(v4, "dev", persistent)
	c.subscribe(packets.Subscription{Filter: "a"})
	c.send(retain(publishPacket(strings.Repeat("long/", 60), 1, 1, "x")))
	c.ack(packets.Puback, 1, 0)
	r.state.refuse = gateway.Errorf(gateway.ErrFull, "disk full")
	if err := r.b.checkpoint(); err == nil {
		t.Fatal("no error")
	}
	r.state.refuse = nil
	if err := r.b.checkpoint(); err != nil {
		t.Fatal(err)
	}
	r.j.set(func() { r.j.kept = nil }) // State alone has to do
	r.crash()
	if clients := r.b.Clients(); len(clients) != 1 || len(clients[0].Subscriptions) != 1 || len(r.b.retained) != 1 {
		t.Fatalf("%+v", clients)
	}
}

// One history at random, checked against a model: at every crash the view that is
// rolled forward from a checkpoint is the view that was.
func TestViewRollsForward(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	r := newRig(t, Options{CheckpointInterval: time.Hour})
	ids := []string{"a", "b", "c"}
	clients := map[string]*client{}
	for step := range 300 {
		id := ids[rnd.IntN(len(ids))]
		c := clients[id]
		switch {
		case c == nil && rnd.IntN(4) > 0:
			clients[id] = r.client(v5, id, persistent)
		case c == nil:
			clients[id] = r.client(v5, id, expiring(3600), func(pk *packets.Packet) { pk.Connect.Clean = true })
		default:
			switch rnd.IntN(7) {
			case 0:
				c.subscribe(packets.Subscription{Filter: fmt.Sprint("f/", rnd.IntN(5), "/#"), Qos: byte(rnd.IntN(3)), NoLocal: true})
			case 1:
				c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: fmt.Sprint("f/", rnd.IntN(5), "/#")}}})
				c.expect(packets.Unsuback)
			case 2:
				n := uint16(rnd.IntN(10) + 1)
				c.send(publishPacket("q", 2, n, "x"))
				c.ack(packets.Pubrec, n, 0)
			case 3:
				c.send(ackPacket(packets.Pubrel, uint16(rnd.IntN(10)+1)))
				c.expect(packets.Pubcomp)
			case 4:
				c.send(retain(publishPacket(fmt.Sprint("r/", rnd.IntN(8)), 1, 1, strings.Repeat("x", rnd.IntN(2)))))
				c.ack(packets.Puback, 1, 0)
			case 5:
				c.bye()
				r.ended(id)
				clients[id] = nil
			case 6:
				if err := r.b.checkpoint(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if step%50 == 49 {
			before := view(r)
			r.crash()
			if after := view(r); after != before {
				t.Fatalf("step %d: before the crash\n%s\nafter\n%s", step, before, after)
			}
			clear(clients)
		}
	}
}

// view is the durable state in words.
func view(r *rig) string {
	var lines []string
	for _, c := range r.b.Clients() {
		lines = append(lines, fmt.Sprint(c.ID, c.Subscriptions, c.Unreleased))
	}
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	for topic, e := range r.b.retained {
		lines = append(lines, fmt.Sprint(topic, e.Offset))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// The end of a session may come late; it ends no other of the same name.
func TestLateEnd(t *testing.T) {
	r := newRig(t, Options{})
	for i, ch := range []change{{Op: opOpen, Version: v5, Expiry: 9}, {Op: opOpen, Version: v5, Expiry: 9}, {Op: opEnd, Session: 1}} {
		e := changeEvent("dev", ch.encode())
		e.Offset = uint64(i + 1)
		r.b.Deliver([]*gateway.Event{e})
	}
	if n := len(r.b.Clients()); n != 1 {
		t.Fatalf("%d sessions", n)
	}
}

// SUBACK comes before what the subscription brings.
func TestSubackFirst(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{})
		p, c := r.client(v, "p"), r.client(v, "dev", persistent)
		r.j.hold(true)
		c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "a"}}})
		r.j.awaitQueued(1)
		p.send(publishPacket("a", 0, 0, "x"))
		r.j.awaitQueued(2)
		r.j.hold(false)
		c.expect(packets.Suback)
		c.expect(packets.Publish)
	})
}

// A session is its user's, and keeps no more rights than the user has.
func TestSessionAndRights(t *testing.T) {
	hash, err := auth.Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	users := map[string]auth.User{"one": {PasswordHash: hash, Role: "r"}, "two": {PasswordHash: hash, Role: "r"}}
	policy := func(subscribe ...string) *auth.Policy {
		p, err := auth.New(users, map[string]auth.Role{"r": {Publish: []string{"#"}, Subscribe: subscribe}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	r := newRig(t, Options{Auth: policy("a/#", "b/#")})
	one, two := withUser("one", "secret"), withUser("two", "secret")
	c := r.client(v5, "dev", one, persistent)
	c.subscribe(packets.Subscription{Filter: "a/x", Qos: 1}, packets.Subscription{Filter: "b/x", Qos: 1})
	if _, ack := r.tryClient(v5, "dev", two, persistent); ack.ReasonCode != codeClientID {
		t.Fatalf("another user took the connection: 0x%02X", ack.ReasonCode)
	}
	c.nothing()
	c.bye()

	r.o.Auth = policy("b/#") // a/# is taken away
	r.restart()
	p := r.client(v5, "p", one)
	for i, topic := range []string{"a/x", "b/x", "a/x", "b/x"} {
		p.send(publishPacket(topic, 1, uint16(i+1), topic))
		p.ack(packets.Puback, uint16(i+1), 0)
	}
	c, ack := r.tryClient(v5, "dev", one, persistent)
	if !ack.SessionPresent {
		t.Fatal("the session is gone")
	}
	for range 2 {
		if pk := c.expect(packets.Publish); pk.TopicName != "b/x" {
			t.Fatalf("got %s", pk.TopicName)
		}
	}
	p.send(publishPacket("a/x", 1, 9, "x"))
	p.ack(packets.Puback, 9, 0)
	c.nothing()
	c.bye()
	if c, ack := r.tryClient(v5, "dev", two, persistent); ack.ReasonCode != 0 || ack.SessionPresent {
		t.Fatalf("another user got the session: %+v", ack)
	} else {
		c.nothing()
	}
}
