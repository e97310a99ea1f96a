package mqttclient

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is the far end of a client under test, moved by hand: a test reads what the client
// sends as text and answers with packets.
type server struct {
	t *testing.T
	l net.Listener
	v Version
	c net.Conn
	r *bufio.Reader
}

func newServer(t *testing.T, v Version) *server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, l: l, v: v}
	t.Cleanup(func() {
		l.Close()
		if s.c != nil {
			s.c.Close()
		}
	})
	return s
}

func (s *server) accept() {
	s.t.Helper()
	s.l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	c, err := s.l.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.c, s.r = c, bufio.NewReader(c)
}

// read returns the next packet, as text.
func (s *server) read() string {
	s.c.SetReadDeadline(time.Now().Add(10 * time.Second))
	first, err := s.r.ReadByte()
	if err != nil {
		return err.Error()
	}
	size, shift := 0, 0
	for {
		b, err := s.r.ReadByte()
		if err != nil {
			return err.Error()
		}
		size |= int(b&127) << shift
		shift += 7
		if b < 128 {
			break
		}
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(s.r, body); err != nil {
		return err.Error()
	}
	switch first >> 4 {
	case connect:
		return fmt.Sprintf("CONNECT %x", body)
	case subscribe:
		return fmt.Sprintf("SUBSCRIBE %x", body)
	case pingreq:
		return "PINGREQ"
	case disconnect:
		return "DISCONNECT"
	}
	p, err := parsePacket(first, body, s.v)
	if err != nil {
		return err.Error()
	}
	if p.kind == publish {
		dup := ""
		if p.message.Dup {
			dup = " dup"
		}
		return fmt.Sprintf("PUBLISH %d q%d %s %s%s", p.id, p.message.QoS, p.message.Topic, p.message.Payload, dup)
	}
	return fmt.Sprintf("%s %d", map[byte]string{puback: "PUBACK", pubrec: "PUBREC", pubrel: "PUBREL", pubcomp: "PUBCOMP"}[p.kind], p.id)
}

func (s *server) want(packets ...string) {
	s.t.Helper()
	for _, want := range packets {
		if got := s.read(); got != want && !(strings.HasSuffix(want, "…") && strings.HasPrefix(got, strings.TrimSuffix(want, "…"))) {
			s.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func (s *server) send(packets ...[]byte) {
	s.t.Helper()
	for _, p := range packets {
		if _, err := s.c.Write(p); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *server) connack(present bool, props ...byte) []byte {
	b := []byte{0, 0}
	if present {
		b[0] = 1
	}
	if s.v == V5 {
		b = append(append(b, byte(len(props))), props...)
	}
	return appendPacket(nil, connack<<4, b)
}

func answer(kind byte, id uint16) []byte { return appendAnswer(nil, kind, id) }

// log collects what the callbacks say.
type log struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
	l.more <- struct{}{}
}

func (l *log) want(t *testing.T, lines ...string) {
	t.Helper()
	for range lines {
		select {
		case <-l.more:
		case <-time.After(10 * time.Second):
			t.Fatalf("only %q", l.lines)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	got := strings.Join(l.lines[:len(lines)], "\n")
	l.lines = l.lines[len(lines):]
	if want := strings.Join(lines, "\n"); got != want {
		t.Fatalf("callbacks\n%s\nwant\n%s", got, want)
	}
}

// begin starts a client against s.
func begin(t *testing.T, s *server, o Options) (*Client, *log, context.CancelFunc) {
	l := &log{more: make(chan struct{}, 1000)}
	o.Address, o.ClientID, o.Version = s.l.Addr().String(), "c1", s.v
	o.Backoff, o.BackoffMax = time.Millisecond, 10*time.Millisecond
	o.Sent = func(m *Message, dup bool) { l.add("sent %s %t", m.Payload, dup) }
	o.Acked = func(m *Message, reason byte) { l.add("acked %s %02x", m.Payload, reason) }
	o.Received = func(m *Message) { l.add("received %s %s", m.Topic, m.Payload) }
	c := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return c, l, cancel
}

func pub(t *testing.T, c *Client, qos byte, payloads ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, p := range payloads {
		if err := c.Publish(ctx, &Message{Topic: "t", Payload: []byte(p), QoS: qos}); err != nil {
			t.Fatal(err)
		}
	}
}

func both(t *testing.T, test func(t *testing.T, v Version)) {
	t.Run("v3.1.1", func(t *testing.T) { test(t, V311) })
	t.Run("v5", func(t *testing.T) { test(t, V5) })
}

func TestConnectPacket(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		// MQTT 3.1.1 §3.1 and MQTT 5 §3.1: name, level, flags, keep alive, properties, payload.
		{Options{Version: V311, ClientID: "c", Clean: true, KeepAlive: 60 * time.Second}, "100d 0004 4d515454 04 02 003c 0001 63"},
		{Options{Version: V311, ClientID: "c", KeepAlive: time.Second, User: "u", Password: "p",
			Will: &Message{Topic: "w", Payload: []byte("x"), QoS: 1, Retain: true}},
			"1019 0004 4d515454 04 ec 0001 0001 63 0001 77 0001 78 0001 75 0001 70"},
		{Options{Version: V5, ClientID: "c", KeepAlive: time.Second, SessionExpiry: time.Hour},
			"1013 0004 4d515454 05 00 0001 05 1100000e10 0001 63"},
		{Options{Version: V5, ClientID: "c", KeepAlive: time.Second, Clean: true, Will: &Message{Topic: "w"}},
			"1014 0004 4d515454 05 06 0001 00 0001 63 00 0001 77 0000"},
	} {
		if got := fmt.Sprintf("%x", c.o.connectPacket()); got != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%+v\n got %s\nwant %s", c.o, got, c.want)
		}
	}
}

func TestPipelineAndResendInOrder(t *testing.T) {
	both(t, func(t *testing.T, v Version) {
		s := newServer(t, v)
		c, l, _ := begin(t, s, Options{Window: 3})
		s.accept()
		s.want("CONNECT …")
		s.send(s.connack(false))
		pub(t, c, 1, "a", "b", "c")
		s.want("PUBLISH 1 q1 t a", "PUBLISH 2 q1 t b", "PUBLISH 3 q1 t c")
		l.want(t, "sent a false", "sent b false", "sent c false")

		full, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := c.Publish(full, &Message{Topic: "t", QoS: 1}); err != context.DeadlineExceeded {
			t.Fatalf("a full window: %v", err)
		}
		s.send(answer(puback, 2))
		l.want(t, "acked b 00")
		pub(t, c, 1, "d")
		s.want("PUBLISH 4 q1 t d")
		l.want(t, "sent d false")

		s.c.Close()
		s.accept()
		s.want("CONNECT …")
		s.send(s.connack(true))
		s.want("PUBLISH 1 q1 t a dup", "PUBLISH 3 q1 t c dup", "PUBLISH 4 q1 t d dup")
		l.want(t, "sent a true", "sent c true", "sent d true")
		s.send(answer(puback, 1), answer(puback, 3), answer(puback, 4))
		l.want(t, "acked a 00", "acked c 00", "acked d 00")
		if err := c.Drain(t.Context()); err != nil || c.InFlight() != 0 {
			t.Fatal(err)
		}
	})
}

func TestQoS2IsResumedWhereItEnded(t *testing.T) {
	both(t, func(t *testing.T, v Version) {
		s := newServer(t, v)
		c, l, _ := begin(t, s, Options{})
		s.accept()
		s.want("CONNECT …")
		s.send(s.connack(false))
		pub(t, c, 2, "a", "b", "c")
		s.want("PUBLISH 1 q2 t a", "PUBLISH 2 q2 t b", "PUBLISH 3 q2 t c")
		s.send(answer(pubrec, 2), answer(pubrec, 1))
		s.want("PUBREL 2", "PUBREL 1")
		l.want(t, "sent a false", "sent b false", "sent c false", "acked b 00", "acked a 00")

		s.c.Close() // the PUBCOMPs are lost
		s.accept()
		s.want("CONNECT …")
		s.send(s.connack(true))
		s.want("PUBREL 2", "PUBREL 1", "PUBLISH 3 q2 t c dup")
		s.send(answer(pubcomp, 2), answer(pubrec, 1), answer(pubcomp, 1), answer(pubrec, 3))
		s.want("PUBREL 1", "PUBREL 3") // a repeated PUBREC is answered, and told only once
		s.send(answer(pubcomp, 3))
		l.want(t, "sent c true", "acked c 00")
		if err := c.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLostSession(t *testing.T) {
	both(t, func(t *testing.T, v Version) {
		s := newServer(t, v)
		c, l, _ := begin(t, s, Options{})
		s.accept()
		s.want("CONNECT …")
		s.send(s.connack(false))
		subscribed := make(chan []byte)
		go func() {
			codes, _ := c.Subscribe(t.Context(), Sub{"x/#", 1})
			subscribed <- codes
		}()
		s.want("SUBSCRIBE 0001…")
		props := []byte{0}[:int(v)-4]
		s.send(appendPacket(nil, suback<<4, append(append([]byte{0, 1}, props...), 1)))
		if codes := <-subscribed; string(codes) != "\x01" {
			t.Fatalf("codes %x", codes)
		}
		pub(t, c, 2, "a", "b")
		s.want("PUBLISH 2 q2 t a", "PUBLISH 3 q2 t b")
		s.send(answer(pubrec, 2))
		s.want("PUBREL 2")
		s.c.Close()

		s.accept()
		s.want("CONNECT …")
		s.send(s.connack(false))
		s.want("SUBSCRIBE …", "PUBLISH 3 q2 t b") // a new message, no repeat; a was taken
		l.want(t, "sent a false", "sent b false", "acked a 00", "sent b false")
	})
}

func TestReceiveMaximumIsKept(t *testing.T) {
	s := newServer(t, V5)
	c, l, _ := begin(t, s, Options{})
	s.accept()
	s.want("CONNECT …")
	s.send(s.connack(false, propReceiveMaximum, 0, 2))
	pub(t, c, 2, "a", "b", "c")
	s.want("PUBLISH 1 q2 t a", "PUBLISH 2 q2 t b")
	s.send(answer(pubrec, 1))
	s.want("PUBREL 1") // and no publish: its place is free only at PUBCOMP, §4.9
	s.send(answer(pubcomp, 1))
	s.want("PUBLISH 3 q2 t c")
	l.want(t, "sent a false", "sent b false", "acked a 00", "sent c false")
}

func TestRefusals(t *testing.T) {
	s := newServer(t, V5)
	c, l, _ := begin(t, s, Options{})
	s.accept()
	s.want("CONNECT …")
	s.send(s.connack(false))
	pub(t, c, 1, "a")
	pub(t, c, 2, "b")
	s.want("PUBLISH 1 q1 t a", "PUBLISH 2 q2 t b")
	s.send([]byte{puback << 4, 4, 0, 1, 0x97, 0}, []byte{pubrec << 4, 3, 0, 2, 0x87})
	l.want(t, "sent a false", "sent b false", "acked a 97", "acked b 87")
	if err := c.Drain(t.Context()); err != nil { // a refused QoS 2 needs no PUBREL, §4.3.3
		t.Fatal(err)
	}
}

func TestReceives(t *testing.T) {
	both(t, func(t *testing.T, v Version) {
		s := newServer(t, v)
		_, l, _ := begin(t, s, Options{})
		s.accept()
		s.want("CONNECT …")
		m := func(qos byte, payload string, id uint16, dup bool) []byte {
			return appendPublish(nil, v, &Message{Topic: "x", Payload: []byte(payload), QoS: qos,
				Properties: []UserProperty{{"weir-id", "g/e-1"}}}, id, dup)
		}
		s.send(s.connack(false), m(0, "a", 0, false), m(1, "b", 7, false), m(2, "c", 8, false), m(2, "c", 8, true))
		s.want("PUBACK 7", "PUBREC 8", "PUBREC 8")
		s.send(answer(pubrel, 8), m(2, "d", 8, false))
		s.want("PUBCOMP 8", "PUBREC 8")
		l.want(t, "received x a", "received x b", "received x c", "received x d")
	})
}

func TestHalfOpenConnectionIsLeft(t *testing.T) {
	s := newServer(t, V311)
	begin(t, s, Options{KeepAlive: 50 * time.Millisecond})
	s.accept()
	s.want("CONNECT …")
	s.send(s.connack(false))
	s.want("PINGREQ")
	first := s.c // says nothing and stays open
	defer first.Close()
	s.accept()
	s.want("CONNECT …")
}

func TestEndsWithDisconnect(t *testing.T) {
	s := newServer(t, V5)
	c, _, cancel := begin(t, s, Options{})
	s.accept()
	s.want("CONNECT …")
	s.send(s.connack(false))
	pub(t, c, 1, "a")
	s.want("PUBLISH 1 q1 t a")
	cancel()
	s.want("DISCONNECT", "EOF")
}

func TestQoS0IsNotKept(t *testing.T) {
	s := newServer(t, V311)
	c, l, _ := begin(t, s, Options{})
	s.accept()
	if err := c.Publish(t.Context(), &Message{Topic: "t"}); err != ErrOffline {
		t.Fatalf("offline: %v", err)
	}
	s.want("CONNECT …")
	s.send(s.connack(false))
	pub(t, c, 1, "a")
	s.want("PUBLISH 1 q1 t a")
	pub(t, c, 0, "b")
	s.want("PUBLISH 0 q0 t b")
	l.want(t, "sent a false", "sent b false")
}

// FuzzPacket: what a server may send by mistake is an error, not a panic.
func FuzzPacket(f *testing.F) {
	f.Add(byte(0x32), []byte("\x00\x01t\x00\x01\x00payload"))
	f.Add(byte(0x20), []byte{0, 0, 3, 0x21, 0, 5})
	f.Fuzz(func(t *testing.T, first byte, body []byte) {
		for _, v := range []Version{V311, V5} {
			parsePacket(first, body, v)
		}
	})
}
