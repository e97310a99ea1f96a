package mqttclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// conn is one connection. What is written is collected and sent by one goroutine, so that
// many small packets go in one write.
type conn struct {
	net.Conn
	receiveMaximum int

	writing sync.Mutex // held while out is written, so that it goes in order

	mu   sync.Mutex
	out  []byte
	more chan struct{}
	err  error // why it ended
	end  chan struct{}
}

// patience is how long a server may take for what it has to do at once.
const patience = 5 * time.Second

func newConn(n net.Conn) *conn {
	return &conn{Conn: n, receiveMaximum: 65535, more: make(chan struct{}, 1), end: make(chan struct{})}
}

func (n *conn) write(p []byte) {
	n.mu.Lock()
	n.out = append(n.out, p...)
	n.mu.Unlock()
	select {
	case n.more <- struct{}{}:
	default:
	}
}

// close ends the connection; the first reason is kept.
func (n *conn) close(reason error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.err = reason
		close(n.end)
		n.Conn.Close()
	}
}

func (n *conn) reason() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// stalled tells whether a lot is waiting to be written.
func (n *conn) stalled() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.out) > 1<<20
}

// writer sends what is collected, and a PINGREQ when nothing was sent for the keep alive.
func (n *conn) writer(keepAlive time.Duration) {
	ping := time.NewTicker(keepAlive)
	defer ping.Stop()
	for {
		select {
		case <-n.end:
			return
		case <-ping.C:
			n.write([]byte{pingreq << 4, 0})
		case <-n.more:
			if err := n.flush(keepAlive); err != nil {
				n.close(err)
				return
			}
		}
	}
}

func (n *conn) flush(limit time.Duration) error {
	n.writing.Lock()
	defer n.writing.Unlock()
	n.mu.Lock()
	out := n.out
	n.out = nil
	n.mu.Unlock()
	n.SetWriteDeadline(time.Now().Add(limit + patience))
	_, err := n.Write(out)
	return err
}

var errEnded = errors.New("connection was not made")

// serve makes one connection and serves it until it ends. It tells whether the server took it.
func (c *Client) serve(ctx context.Context) (served bool, err error) {
	raw, err := c.o.Dial(ctx)
	if err != nil {
		return false, err
	}
	n := newConn(raw)
	defer n.close(errEnded)
	stop := context.AfterFunc(ctx, func() { c.stop(n) })
	defer stop()

	in := bufio.NewReader(raw)
	raw.SetDeadline(time.Now().Add(patience))
	if _, err := raw.Write(c.o.connectPacket()); err != nil {
		return false, err
	}
	p, err := readPacket(in, c.o.Version)
	if err != nil {
		return false, fmt.Errorf("wait for CONNACK: %w", err)
	}
	if p.kind != connack || p.reason != 0 {
		return false, fmt.Errorf("server refuses: packet type %d, reason 0x%02x", p.kind, p.reason)
	}
	if p.receiveMaximum > 0 {
		n.receiveMaximum = p.receiveMaximum
	}
	raw.SetDeadline(time.Time{})

	var writing sync.WaitGroup
	writing.Go(func() { n.writer(c.o.KeepAlive) })
	defer writing.Wait()
	c.resume(n, p.present)
	err = c.read(n, in)
	c.mu.Lock()
	c.conn = nil
	c.mu.Unlock()
	n.close(err)
	return true, n.reason()
}

// stop says good-bye: what was written before goes first.
func (c *Client) stop(n *conn) {
	n.write([]byte{disconnect << 4, 0})
	n.flush(0)
	n.close(context.Canceled)
}

// resume makes n the connection, and goes on where the last one ended. If the server has
// lost the session everything unacknowledged is a new message (§3.2.2.1.1).
func (c *Client) resume(n *conn, present bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = n
	if c.o.State != nil {
		c.o.State(true, present, "")
	}
	if !present {
		clear(c.incoming)
		for _, f := range c.flights {
			f.known = false
		}
		for _, f := range c.rels { // it was taken; with the session, its id is free
			c.finish(f)
		}
		c.rels = nil
		if len(c.subs) > 0 && !c.awaiting() {
			id := c.nextID()
			c.pending[id] = &subscription{c.subs, make(chan []byte, 1)}
		}
	}
	for id, s := range c.pending {
		n.write(appendSubscribe(nil, c.o.Version, id, s.subs))
	}
	for _, f := range c.rels {
		n.write(appendAnswer(nil, pubrel, f.id))
	}
	for _, f := range c.flights {
		f.sentHere = f.released
	}
	c.fill()
}

// awaiting tells whether every subscription is waiting for its answer anyway.
func (c *Client) awaiting() bool {
	n := 0
	for _, s := range c.pending {
		n += len(s.subs)
	}
	return n >= len(c.subs)
}

// read handles what the server sends. A server that is silent for one and a half keep
// alives, and so owes us a PINGRESP, is gone.
func (c *Client) read(n *conn, in *bufio.Reader) error {
	for {
		n.SetReadDeadline(time.Now().Add(c.o.KeepAlive*3/2 + patience/5))
		p, err := readPacket(in, c.o.Version)
		if err != nil {
			return err
		}
		if p.kind == disconnect {
			return fmt.Errorf("server disconnects: reason 0x%02x", p.reason)
		}
		c.handle(n, p)
	}
}

func (c *Client) handle(n *conn, p *packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch p.kind {
	case puback, pubrec:
		f := c.byID[p.id]
		if f == nil || !f.sentHere || f.m.QoS != p.kind-puback+1 {
			if p.kind == pubrec { // §3.6.2.1: it waits for a PUBREL, known or not
				n.write(appendAnswer(nil, pubrel, p.id))
			}
			return
		}
		if !f.released && c.o.Acked != nil {
			c.o.Acked(f.m, p.reason)
		}
		if p.kind == puback || p.reason >= 0x80 {
			c.finish(f)
			c.fill()
			return
		}
		if !f.released {
			f.released = true
			c.rels = append(c.rels, f)
		}
		n.write(appendAnswer(nil, pubrel, p.id))
	case pubcomp:
		if f := c.byID[p.id]; f != nil && f.released {
			c.rels = slices.DeleteFunc(c.rels, func(r *flight) bool { return r == f })
			c.finish(f)
			c.fill()
		}
	case publish:
		c.receive(n, p)
	case pubrel:
		delete(c.incoming, p.id)
		n.write(appendAnswer(nil, pubcomp, p.id))
	case suback:
		if s := c.pending[p.id]; s != nil {
			delete(c.pending, p.id)
			s.codes <- p.codes
		}
	}
}

func (c *Client) receive(n *conn, p *packet) {
	again := p.message.QoS == 2 && c.incoming[p.id]
	if !again && c.o.Received != nil {
		c.o.Received(&p.message)
	}
	switch p.message.QoS {
	case 1:
		n.write(appendAnswer(nil, puback, p.id))
	case 2:
		c.incoming[p.id] = true
		n.write(appendAnswer(nil, pubrec, p.id))
	}
}

// finish ends a message's exchange and makes room for the next.
func (c *Client) finish(f *flight) {
	delete(c.byID, f.id)
	c.flights = slices.DeleteFunc(c.flights, func(o *flight) bool { return o == f })
	close(f.done)
	close(c.room)
	c.room = make(chan struct{})
	if len(c.flights) == 0 {
		close(c.drained)
	}
}
