package broker

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// packet frames a body.
func packet(header byte, body ...byte) []byte {
	return append(appendVarint([]byte{header}, len(body)), body...)
}

func TestMalformed(t *testing.T) {
	const malformed, protocol = codeMalformed, codeProtocol
	for _, test := range []struct {
		name   string
		v4, v5 []byte // nil: not for this version
		code   byte
	}{
		{"remaining length of five bytes", []byte{0xC0, 0x80, 0x80, 0x80, 0x80, 0x01}, []byte{0xC0, 0x80, 0x80, 0x80, 0x80, 0x01}, malformed},
		{"remaining length padded", []byte{0xC0, 0x80, 0x00}, []byte{0xC0, 0x80, 0x00}, malformed},
		{"too large", []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, codePacketTooLarge},
		{"reserved type", packet(0x00), packet(0x00), malformed},
		{"a server's packet", packet(0x20, 0, 0), packet(0xD0), malformed},
		{"PINGREQ flags", packet(0xC1), packet(0xC8), malformed},
		{"PINGREQ with a body", packet(0xC0, 1), packet(0xC0, 1), malformed},
		{"second CONNECT", packet(0x10), packet(0x10), protocol},
		{"AUTH", packet(0xF0), nil, malformed},
		{"AUTH without a method", nil, packet(0xF0, 0x18, 0), protocol},

		{"PUBLISH QoS 3", packet(0x36, 0, 1, 'a', 0, 1), packet(0x36, 0, 1, 'a', 0, 1, 0), malformed},
		{"PUBLISH DUP at QoS 0", packet(0x38, 0, 1, 'a'), packet(0x38, 0, 1, 'a', 0), malformed},
		{"PUBLISH id 0", packet(0x32, 0, 1, 'a', 0, 0), packet(0x34, 0, 1, 'a', 0, 0, 0), protocol},
		{"PUBLISH without an id", packet(0x32, 0, 1, 'a'), packet(0x32, 0, 1, 'a', 0), malformed},
		{"PUBLISH empty topic", packet(0x30, 0, 0), packet(0x30, 0, 0, 0), protocol},
		{"PUBLISH wildcard", packet(0x30, 0, 1, '#'), packet(0x30, 0, 1, '+', 0), codeTopicInvalid},
		{"PUBLISH NUL", packet(0x30, 0, 1, 0), packet(0x30, 0, 1, 0, 0), malformed},
		{"PUBLISH surrogate", packet(0x30, 0, 3, 0xED, 0xA0, 0x80), packet(0x30, 0, 3, 0xED, 0xA0, 0x80, 0), malformed},
		{"PUBLISH topic beyond its end", packet(0x30, 0, 9, 'a'), packet(0x30, 0, 9, 'a'), malformed},
		{"PUBLISH subscription id", nil, packet(0x30, 0, 1, 'a', 2, propSubscriptionID, 1), protocol},
		{"PUBLISH property twice", nil, packet(0x30, 0, 1, 'a', 4, propFormat, 0, propFormat, 0), protocol},
		{"PUBLISH unknown property", nil, packet(0x30, 0, 1, 'a', 2, 0x7F, 0), protocol},
		{"PUBLISH format 2", nil, packet(0x30, 0, 1, 'a', 2, propFormat, 2), protocol},
		{"PUBLISH alias 0", nil, packet(0x30, 0, 1, 'a', 3, propAlias, 0, 0), codeAliasInvalid},
		{"PUBLISH wildcard in the response topic", nil, packet(0x30, 0, 1, 'a', 4, propResponseTopic, 0, 1, '#'), protocol},
		{"PUBLISH properties beyond its end", nil, packet(0x30, 0, 1, 'a', 9, propFormat), malformed},

		{"SUBSCRIBE flags", packet(0x80, 0, 1, 0, 1, 'a', 0), packet(0x80, 0, 1, 0, 0, 1, 'a', 0), malformed},
		{"SUBSCRIBE id 0", packet(0x82, 0, 0, 0, 1, 'a', 0), packet(0x82, 0, 0, 0, 0, 1, 'a', 0), protocol},
		{"SUBSCRIBE nothing", packet(0x82, 0, 1), packet(0x82, 0, 1, 0), protocol},
		{"SUBSCRIBE without options", packet(0x82, 0, 1, 0, 1, 'a'), packet(0x82, 0, 1, 0, 0, 1, 'a'), malformed},
		{"SUBSCRIBE QoS 3", packet(0x82, 0, 1, 0, 1, 'a', 3), packet(0x82, 0, 1, 0, 0, 1, 'a', 3), malformed},
		{"SUBSCRIBE reserved option", packet(0x82, 0, 1, 0, 1, 'a', 4), packet(0x82, 0, 1, 0, 0, 1, 'a', 0x40), malformed},
		{"SUBSCRIBE retain handling 3", nil, packet(0x82, 0, 1, 0, 0, 1, 'a', 0x30), protocol},
		{"SUBSCRIBE id property 0", nil, packet(0x82, 0, 1, 2, propSubscriptionID, 0, 0, 1, 'a', 0), protocol},
		{"SUBSCRIBE shared and no local", nil, packet(0x82, append([]byte{0, 1, 0, 0, 10}, "$share/g/a\x04"...)...), protocol},
		{"UNSUBSCRIBE nothing", packet(0xA2, 0, 1), packet(0xA2, 0, 1, 0), protocol},
		{"UNSUBSCRIBE bad property and one byte", nil, packet(0xA2, 0, 1, 2, 0, 0, 'a'), protocol},
		{"SUBSCRIBE bad property and one byte", nil, packet(0x82, 0, 1, 2, 0, 0, 'a'), protocol},
		{"UNSUBSCRIBE id 0", packet(0xA2, 0, 0, 0, 1, 'a'), packet(0xA2, 0, 0, 0, 0, 1, 'a'), protocol},

		{"PUBREL flags", packet(0x60, 0, 1), packet(0x60, 0, 1), malformed},
		{"PUBREL id 0", packet(0x62, 0, 0), packet(0x62, 0, 0), protocol},
		{"PUBACK too short", packet(0x40, 1), packet(0x40, 1), malformed},
		{"PUBACK too long", packet(0x40, 0, 1, 0), packet(0x40, 0, 1, 0, 0, 0), malformed},
		{"DISCONNECT with a body", packet(0xE0, 0), packet(0xE0, 0, 0, 0), malformed},
		{"DISCONNECT expiry of a session that has none", nil, packet(0xE0, 0, 5, propSessionExpiry, 0, 0, 0, 9), protocol},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, Options{})
			for v, raw := range map[byte][]byte{v4: test.v4, v5: test.v5} {
				if raw == nil {
					continue
				}
				c := r.client(v, "dev")
				c.raw(raw)
				c.closed(test.code)
			}
			r.client(v5, "dev").bye() // and the next one is served
			if n := len(r.j.data()); n != 0 {
				t.Errorf("%d events", n)
			}
		})
	}
}

func TestMalformedConnect(t *testing.T) {
	str := func(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	for _, test := range []struct {
		name string
		body string
		ack  []byte // CONNACK; nil: none
	}{
		{"not MQTT", str("HTTP") + "\x04\x02\x00\x00" + str("a"), nil},
		{"MQTT 3.1", str("MQIsdp") + "\x03\x02\x00\x00" + str("a"), []byte{0x20, 2, 0, 1}},
		{"version 3", str("MQTT") + "\x03\x02\x00\x00" + str("a"), []byte{0x20, 2, 0, 1}},
		{"version 6", str("MQTT") + "\x06\x02\x00\x00\x00" + str("a"), []byte{0x20, 3, 0, codeVersion, 0}},
		{"reserved flag", str("MQTT") + "\x05\x03\x00\x00\x00" + str("a"), []byte{0x20, 3, 0, codeMalformed, 0}},
		{"will QoS 3", str("MQTT") + "\x05\x1E\x00\x00\x00" + str("a") + "\x00" + str("w") + str(""), []byte{0x20, 3, 0, codeMalformed, 0}},
		{"will retain without a will", str("MQTT") + "\x05\x22\x00\x00\x00" + str("a"), []byte{0x20, 3, 0, codeMalformed, 0}},
		{"will topic with a wildcard", str("MQTT") + "\x05\x06\x00\x00\x00" + str("a") + "\x00" + str("#") + str(""), []byte{0x20, 3, 0, codeTopicInvalid, 0}},
		{"no identifier, not clean", str("MQTT") + "\x04\x00\x00\x00" + str(""), []byte{0x20, 2, 0, codeClientIDV4}},
		{"long identifier", str("MQTT") + "\x05\x02\x00\x00\x00" + str(strings.Repeat("x", maxClientID+1)), []byte{0x20, 3, 0, codeClientID, 0}},
		{"receive maximum 0", str("MQTT") + "\x05\x02\x00\x00\x03\x21\x00\x00" + str("a"), []byte{0x20, 3, 0, codeProtocol, 0}},
		{"authentication method", str("MQTT") + "\x05\x02\x00\x00\x04\x15" + str("x") + str("a"), []byte{0x20, 3, 0, codeAuthMethod, 0}},
		{"trailing bytes", str("MQTT") + "\x05\x02\x00\x00\x00" + str("a") + "x", []byte{0x20, 3, 0, codeMalformed, 0}},
		{"identifier not UTF-8", str("MQTT") + "\x05\x02\x00\x00\x00" + str("\xff"), []byte{0x20, 3, 0, codeMalformed, 0}},
		{"empty", "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, Options{})
			nc := r.dial()
			nc.Write(packet(0x10, []byte(test.body)...))
			nc.SetReadDeadline(time.Now().Add(10 * time.Second))
			got, err := io.ReadAll(nc)
			if err != nil || !bytes.Equal(got, test.ack) {
				t.Fatalf("got % X, %v; want % X", got, err, test.ack)
			}
		})
	}
}

// What is not a CONNECT, or too much of one, is never read: the close comes at once.
func TestBeforeConnect(t *testing.T) {
	r := newRig(t, Options{})
	for name, raw := range map[string][]byte{
		"PUBLISH first": packet(0x30, 0, 1, 'a'),
		"256 MB":        {0x10, 0xFF, 0xFF, 0xFF, 0x7F},
		"64 KiB + 1":    {0x10, 0x81, 0x80, 0x04},
		"HTTP":          []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		nc := r.dial()
		nc.Write(raw)
		nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		if got, err := io.ReadAll(nc); err != nil || len(got) != 0 {
			t.Errorf("%s: % X, %v", name, got, err)
		}
	}
}

func TestConnectTimeout(t *testing.T) {
	for name, raw := range map[string][]byte{"silent": {}, "slow": {0x10}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Options{})
				defer r.stop()
				nc := r.pipe()
				start := time.Now()
				if len(raw) > 0 {
					nc.Write(raw)
				}
				if _, err := nc.Read(make([]byte, 1)); err == nil {
					t.Fatal("an answer")
				}
				if took := time.Since(start); took != 10*time.Second {
					t.Fatal("closed after", took)
				}
			})
		})
	}
}

func TestKeepAlive(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		for _, seconds := range []uint16{2, 50000} { // 1.5 x 50000 does not fit in 16 bits
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Options{})
				defer r.stop()
				c, _ := newClient(t, r.pipe(), v, "dev", func(pk *packets.Packet) { pk.Connect.Keepalive = seconds })
				alive := time.Duration(seconds) * time.Second
				for range 5 {
					time.Sleep(alive)
					c.nothing()
				}
				start := time.Now()
				c.nc.SetReadDeadline(time.Time{})
				if v == v5 {
					one := make([]byte, 1)
					if _, err := io.ReadFull(c.nc, one); err != nil || one[0] != 0xE0 {
						t.Fatal(err)
					}
				} else if _, err := c.nc.Read(make([]byte, 1)); err == nil {
					t.Fatal("an answer")
				}
				if took := time.Since(start); took != alive*3/2 {
					t.Fatalf("closed after %v", took)
				}
				c.drop()
				if why := r.ended("dev"); why != "keep alive timeout" {
					t.Fatal(why)
				}
			})
		}
	})
}

// Without keep alive a silent client stays.
func TestNoKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		defer r.stop()
		c, _ := newClient(t, r.pipe(), v4, "dev", func(pk *packets.Packet) { pk.Connect.Keepalive = 0 })
		time.Sleep(100 * time.Hour)
		c.nothing()
	})
}

func TestAuthentication(t *testing.T) {
	r := newRig(t, Options{Auth: somebody(t)})
	for _, test := range []struct {
		name   string
		as     []connectOption
		v4, v5 byte
	}{
		{"right", []connectOption{withUser("dev", "secret")}, 0, 0},
		{"wrong password", []connectOption{withUser("dev", "guess")}, codeBadUserV4, codeBadUser},
		{"unknown user", []connectOption{withUser("root", "secret")}, codeBadUserV4, codeBadUser},
		{"nobody", nil, codeNotAuthorizedV4, codeNotAuthorized},
	} {
		t.Run(test.name, func(t *testing.T) {
			for v, want := range map[byte]byte{v4: test.v4, v5: test.v5} {
				c, ack := r.tryClient(v, "dev", test.as...)
				if ack.ReasonCode != want {
					t.Errorf("version %d: 0x%02X, want 0x%02X", v, ack.ReasonCode, want)
				}
				if want == 0 {
					c.bye()
				} else {
					c.closed(0)
				}
			}
		})
	}
}

func TestSubscribeACL(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		r := newRig(t, Options{Auth: somebody(t)})
		c := r.client(v, "dev", withUser("dev", "secret"))
		codes := c.subscribe(packets.Subscription{Filter: "own/#", Qos: 2}, packets.Subscription{Filter: "#"}, packets.Subscription{Filter: "cmd/dev", Qos: 1},
			packets.Subscription{Filter: "cmd/+"}, packets.Subscription{Filter: "$share/g/own/x", Qos: 1}, packets.Subscription{Filter: "$share/g/#"},
			packets.Subscription{Filter: "a#"}, packets.Subscription{Filter: "$share/+/own/x"}, packets.Subscription{Filter: "$share/g"})
		want := "028701870187" + "8f8f8f"
		if v == v4 {
			want = "028001800180" + "808080"
		}
		if got := fmt.Sprintf("%x", codes); got != want {
			t.Fatalf("SUBACK %s, want %s", got, want)
		}
		c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 3, Filters: packets.Subscriptions{{Filter: "own/#"}, {Filter: "own/#x"}}})
		ack := c.expect(packets.Unsuback)
		if v == v5 && fmt.Sprintf("%x", ack.ReasonCodes) != "0011" {
			t.Fatalf("UNSUBACK %x", ack.ReasonCodes)
		}
	})
}

// A panic costs one connection, and says so.
func TestPanicIsContained(t *testing.T) {
	r := newRig(t, Options{})
	r.j.panics = "boom"
	good, bad := r.client(v5, "good"), r.client(v5, "bad")
	bad.send(publishPacket("a", 1, 1, "boom"))
	bad.closed(codeImplementation)
	if why := r.ended("bad"); why != "internal error" {
		t.Fatal(why)
	}
	good.send(publishPacket("a", 1, 1, "x"))
	good.ack(packets.Puback, 1, 0)
	r.mu.Lock()
	logs := r.logs.String()
	r.mu.Unlock()
	if !strings.Contains(logs, "panic in an MQTT connection") || !strings.Contains(logs, "client=bad") {
		t.Fatal("no log line:", logs)
	}
}

func TestTooManyConnections(t *testing.T) {
	r := newRig(t, Options{MaxConnections: 1})
	c := r.client(v4, "one")
	if got, _ := io.ReadAll(r.dial()); len(got) != 0 {
		t.Fatalf("% X", got)
	}
	c.nothing()
	if r.drops("too many connections") != 1 {
		t.Fatal("not counted")
	}
}

// A packet that is announced and not sent takes no memory that was announced.
func TestAnnouncedIsNotAllocated(t *testing.T) {
	r := newRig(t, Options{MaxPacket: 256 << 20})
	conns := make([]*client, 8)
	for i := range conns {
		conns[i] = r.client(v4, fmt.Sprint("dev", i))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, c := range conns {
		c.raw([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}) // 256 MB - 1
		c.raw(make([]byte, 1000))
	}
	for _, c := range conns {
		c.drop()
	}
	for i := range conns {
		r.ended(fmt.Sprint("dev", i))
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Fatalf("%d bytes allocated", n)
	}
}

// FuzzFront feeds bytes to a connection after a good CONNECT (and, with a first byte of 0,
// instead of one). Whatever they are, the connection ends when its client does, nobody
// else is disturbed, and nothing is left running. Run it with -fuzzminimizetime 10x: what
// goroutines cover differs from run to run, and Go's default tries to minimise that for a
// minute each time.
func FuzzFront(f *testing.F) {
	f.Add(byte(4), packet(0x30, 0, 1, 'a', 'x'))
	f.Add(byte(5), packet(0x34, 0, 1, 'a', 0, 1, 0, 'x'))
	f.Add(byte(5), packet(0x62, 0, 1))
	f.Add(byte(5), packet(0x82, 0, 1, 0, 0, 1, '#', 2))
	f.Add(byte(4), packet(0x82, 0, 1, 0, 1, '#', 2))
	f.Add(byte(5), packet(0xA2, 0, 1, 0, 0, 1, 'a'))
	f.Add(byte(5), packet(0xE0, 4))
	f.Add(byte(5), packet(0xA2, 0, 1, 2, 0, 0, 'a')) // once looped for ever
	f.Add(byte(4), packet(0x50, 0, 1))
	f.Add(byte(0), packet(0x10, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 0, 0, 0, 1, 'a'))
	f.Add(byte(0), packet(0x10, 0, 4, 'M', 'Q', 'T', 'T', 4, 0xC6, 0, 0, 0, 1, 'a', 0, 1, 'w', 0, 0, 0, 1, 'u', 0, 1, 'p'))
	f.Fuzz(func(t *testing.T, v byte, raw []byte) {
		stuck := time.AfterFunc(20*time.Second, func() { panic("a connection does not end") })
		defer stuck.Stop()
		r := newRig(t, Options{MaxPacket: 64 << 10, RefusalPause: time.Millisecond})
		other, _ := newClient(t, r.pipe(), v5, "other") // pipes: a fuzzer uses up all ports
		nc := r.pipe()
		read := make(chan struct{})
		go func() {
			defer close(read)
			io.Copy(io.Discard, nc)
		}()
		if v == v4 || v == v5 {
			nc.Write(encode(t, v, connectPacket(v, "fuzz", persistent)))
		}
		nc.Write(raw) // returns when the broker has read it, or closed
		nc.Close()
		<-read
		other.nothing()
		r.stop()
		if strings.Contains(r.logs.String(), "panic") {
			t.Fatal(r.logs.String())
		}
	})
}
