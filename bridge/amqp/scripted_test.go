package amqp_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// scripted is a far end that does what no RabbitMQ does on request. It shakes hands as AMQP
// 0-9-1 wants it, counts publishes, and says what it is told to.
type scripted struct {
	addr      string
	conns     atomic.Int64
	published atomic.Int64
	said      chan []byte // goes out on the connection that there is
	queue     *queueInMemory
}

// frame is a method frame (§4.2.4).
func frame(channel uint16, class, method uint16, arguments ...byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{1}, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(arguments)))
	b = binary.BigEndian.AppendUint16(b, class)
	b = binary.BigEndian.AppendUint16(b, method)
	return append(append(b, arguments...), 0xCE)
}

func tag(n uint64, bits byte) []byte { return append(binary.BigEndian.AppendUint64(nil, n), bits) }

func ack(n uint64, multiple byte) []byte  { return frame(1, 60, 80, tag(n, multiple)...) }
func nack(n uint64, multiple byte) []byte { return frame(1, 60, 120, tag(n, multiple)...) }

func script(t *testing.T) *scripted { return scriptWith(t, nil) }

func scriptWith(t *testing.T, queue *queueInMemory) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &scripted{addr: l.Addr().String(), said: make(chan []byte, 100), queue: queue}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.conns.Add(1)
			f.serve(conn)
		}
	}()
	t.Cleanup(func() { l.Close(); <-over })
	return f
}

func (f *scripted) serve(conn net.Conn) {
	quit, ended := make(chan struct{}), make(chan struct{})
	out := make(chan []byte, 10)
	go func() {
		defer close(ended)
		for {
			select {
			case b := <-out:
				conn.Write(b)
			case b := <-f.said:
				conn.Write(b)
			case <-quit:
				return
			}
		}
	}()
	f.read(bufio.NewReader(conn), out)
	close(quit)
	conn.Close()
	<-ended
}

func (f *scripted) read(r *bufio.Reader, out chan<- []byte) {
	if _, err := io.ReadFull(r, make([]byte, 8)); err != nil { // the protocol header
		return
	}
	text := func(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
	start := append(append([]byte{0, 9, 0, 0, 0, 0}, text("PLAIN")...), text("en_US")...)
	out <- frame(0, 10, 10, start...)
	var c *consumer
	if f.queue != nil {
		c = f.queue.connect(out)
		defer c.end()
	}
	for {
		head := make([]byte, 7)
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		body := make([]byte, int(binary.BigEndian.Uint32(head[3:]))+1)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		if head[0] == 2 { // a content header: one publish
			f.published.Add(1)
		}
		if head[0] != 1 {
			continue
		}
		if c != nil {
			c.method(body[1], body[3], body[4:])
		}
		switch [2]byte{body[1], body[3]} { // class and method
		case [2]byte{10, 11}: // start-ok: tune, with no heartbeat of its own wish
			out <- frame(0, 10, 30, 0, 10, 0, 2, 0, 0, 0, 0)
		case [2]byte{10, 40}: // open
			out <- frame(0, 10, 41, 0)
		case [2]byte{10, 50}: // close
			out <- frame(0, 10, 51)
		case [2]byte{20, 10}: // channel.open
			out <- frame(1, 20, 11, 0, 0, 0, 0)
		case [2]byte{20, 40}: // channel.close
			out <- frame(1, 20, 41)
		case [2]byte{85, 10}: // confirm.select
			out <- frame(1, 85, 11)
		case [2]byte{40, 10}: // exchange.declare
			out <- frame(1, 40, 11)
		}
	}
}

// A negative confirm stays one when a later confirm covers its number too, as RabbitMQ's do.
func TestNackThenMultipleAck(t *testing.T) {
	f := script(t)
	c := bridgetest.Send(t, newSink(t, f.addr))
	for range 3 {
		c.Event(gateway.Event{Topic: "a"})
	}
	bridgetest.Until(t, "three are published", func() bool { return f.published.Load() == 3 })
	f.said <- nack(2, 0)
	f.said <- ack(3, 1)
	for i, want := range []error{nil, gateway.ErrFull, nil} {
		if err := c.Outcome(); !errors.Is(err, want) {
			t.Errorf("event %d: %v, not %v", i+1, err, want)
		}
	}
	close(c.Events)
	if err := c.End(); err != nil {
		t.Error(err)
	}
}

// A link without confirms is given up, and the next one begins with one event, not with a window.
func TestNeverConfirms(t *testing.T) {
	f := script(t)
	s := newSink(t, f.addr, impatient)
	for i, want := range []int64{10, 11} {
		c := bridgetest.Send(t, s)
		for range 10 {
			c.Event(gateway.Event{Topic: "a"})
		}
		began := time.Now()
		err := c.End()
		if err == nil || err.Error() != "no confirm for 400ms" || time.Since(began) > 3*time.Second {
			t.Errorf("%d: %v after %v", i, err, time.Since(began))
		}
		if n := f.published.Load(); n != want {
			t.Errorf("%d: %d publishes in all, not %d", i, n, want)
		}
	}
	// Where it confirms again, the window opens.
	c := bridgetest.Send(t, s)
	for range 10 {
		c.Event(gateway.Event{Topic: "a"})
	}
	bridgetest.Until(t, "one is published", func() bool { return f.published.Load() == 12 })
	f.said <- ack(1, 0)
	if err := c.Outcome(); err != nil {
		t.Error(err)
	}
	bridgetest.Until(t, "all are published", func() bool { return f.published.Load() == 21 })
}

// An idle link whose far end is silent is noticed by its heartbeats.
func TestNoHeartbeats(t *testing.T) {
	f := script(t)
	c := bridgetest.Send(t, newSink(t, f.addr, func(c *amqp.Config) { c.Heartbeat = time.Second }))
	<-c.Up
	began := time.Now()
	err := c.End()
	if err == nil || err.Error() != "the far end is silent; its heartbeats are missing" || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// Answers to questions that nobody asked hold the library's reader up for ever; Send ends all the same.
func TestFarEndIsConfused(t *testing.T) {
	for name, b := range map[string][]byte{
		"channel":    frame(1, 20, 11, 0, 0, 0, 0),
		"connection": frame(0, 10, 41, 0),
	} {
		f := script(t)
		c := bridgetest.Send(t, newSink(t, f.addr, func(c *amqp.Config) { c.Heartbeat = time.Hour })) // a failed one would free it too
		<-c.Up
		for range 3 {
			f.said <- b
		}
		bridgetest.Until(t, "it is said", func() bool { return len(f.said) == 0 })
		c.Event(gateway.Event{Topic: "a"})
		bridgetest.Until(t, "one is published", func() bool { return f.published.Load() == 1 })
		c.Cancel()
		began := time.Now()
		if err := c.End(); err == nil || time.Since(began) > 2*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(began))
		}
	}
}

func TestFarEndSpeaks(t *testing.T) {
	reply := func(code uint16, text string) []byte {
		b := binary.BigEndian.AppendUint16(nil, code)
		return append(append(append(b, byte(len(text))), text...), 0, 0, 0, 0)
	}
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"shutdown":      {frame(0, 10, 50, reply(320, "CONNECTION_FORCED - shutdown")...), "the far end says 320 CONNECTION_FORCED - shutdown"},
		"channel error": {frame(1, 20, 40, reply(506, "RESOURCE_ERROR - out of disk")...), "the far end says 506 RESOURCE_ERROR - out of disk"},
		"garbage":       {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "frame size exceeds"},
	} {
		f := script(t)
		s := bridgetest.Send(t, newSink(t, f.addr))
		<-s.Up
		f.said <- c.raw
		if err := s.End(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %s", name, err, c.want)
		}
	}
}

// A far end that accepts and says nothing is given up after connect_timeout, or with the context.
func TestSilentHello(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = bridgetest.Send(t, newSink(t, l.Addr().String(), impatient)).End()
	if err == nil || !strings.HasSuffix(err.Error(), "no answer within 400ms") {
		t.Error(err)
	}
	c := bridgetest.Send(t, newSink(t, l.Addr().String()))
	c.Cancel()
	if err := c.End(); err == nil || err.Error() != "context canceled" {
		t.Error(err)
	}
}
