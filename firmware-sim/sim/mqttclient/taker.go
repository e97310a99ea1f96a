package mqttclient

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Taker is the other end of a client that publishes: a server that takes what comes at QoS 0
// and 1, and hands it on before it acknowledges. It keeps no sessions, so that whoever comes back has to
// send again what was not acknowledged.
type Taker struct {
	// Take is called with each message, one at a time.
	Take func(*Message)
	// Address is where it listens, host:port; default a free port of loopback.
	Address string

	listener net.Listener
	work     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	last  error // why the last connection ended that did not end well

	taking sync.Mutex
}

// Start begins to take connections.
func (t *Taker) Start() error {
	at := t.Address
	if at == "" {
		at = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	t.listener, t.conns = l, map[net.Conn]bool{}
	t.work.Go(t.accept)
	return nil
}

// Addr is where it listens, host:port.
func (t *Taker) Addr() string { return t.listener.Addr().String() }

// Close ends every connection and returns when nothing is left.
func (t *Taker) Close() {
	t.listener.Close()
	t.mu.Lock()
	for c := range t.conns {
		c.Close()
	}
	t.conns = nil
	t.mu.Unlock()
	t.work.Wait()
}

// Problem is what a client said last that it may not say.
func (t *Taker) Problem() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

func (t *Taker) accept() {
	for {
		c, err := t.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files
			time.Sleep(10 * time.Millisecond)
			continue
		}
		t.mu.Lock()
		closed := t.conns == nil
		if !closed {
			t.conns[c] = true
		}
		t.mu.Unlock()
		if closed {
			c.Close()
			return
		}
		t.work.Go(func() {
			err := t.serve(c)
			c.Close()
			t.mu.Lock()
			defer t.mu.Unlock()
			delete(t.conns, c)
			if err != nil {
				t.last = err
			}
		})
	}
}

func (t *Taker) serve(c net.Conn) error {
	in := bufio.NewReader(c)
	p, err := readPacket(in, V5) // the part of a CONNECT that is read is the same in both
	if err != nil {
		return nil
	}
	if p.kind != connect {
		return fmt.Errorf("the first packet is of type %d", p.kind)
	}
	v, hello := p.level, []byte{0, 0}
	if v == V5 {
		hello = append(hello, 0)
	}
	out := appendPacket(nil, connack<<4, hello)
	for {
		if in.Buffered() == 0 { // what came together is answered together
			if _, err := c.Write(out); err != nil {
				return nil
			}
			out = out[:0]
		}
		p, err := readPacket(in, v)
		var broken net.Error
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &broken):
			return nil // it is gone
		case err != nil:
			return err
		}
		switch p.kind {
		case publish:
			if p.message.QoS > 1 {
				return errors.New("a publish at QoS 2")
			}
			t.taking.Lock()
			t.Take(&p.message)
			t.taking.Unlock()
			if p.message.QoS == 1 {
				out = appendAnswer(out, puback, p.id)
			}
		case pingreq:
			out = append(out, pingresp<<4, 0)
		case disconnect:
			return nil
		default:
			return fmt.Errorf("a packet of type %d", p.kind)
		}
	}
}
