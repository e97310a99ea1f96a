package bridgetest

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
)

// Proxy is a TCP link that can be made to fail. Its methods may be called at any time.
type Proxy struct {
	target string
	l      net.Listener

	mu      sync.Mutex
	mode    mode
	changed chan struct{}
	conns   map[*pair]bool
	left    int64 // bytes towards the target until the link is cut; negative: no end
	closed  bool
	work    sync.WaitGroup
}

type pair struct{ client, target net.Conn }

// NewProxy listens on a free loopback port and forwards to target until the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, l: l, changed: make(chan struct{}), conns: map[*pair]bool{}, left: -1}
	p.work.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is where to connect.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// LoseAnswers discards what comes back from the target, until Heal.
func (p *Proxy) LoseAnswers() { p.set(deaf) }

// Stall moves nothing in either direction, and lets new connections hang, until Heal.
func (p *Proxy) Stall() { p.set(stalled) }

// Refuse resets all connections, new ones too, until Heal.
func (p *Proxy) Refuse() {
	p.set(refusing)
	p.Cut()
}

// Heal ends what LoseAnswers, Stall, Refuse and CutAfter began.
func (p *Proxy) Heal() {
	p.mu.Lock()
	p.left = -1
	p.mu.Unlock()
	p.set(healthy)
}

// Cut resets all connections; new ones work.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.reset()
	}
}

// CutAfter cuts as soon as n more bytes have gone to the target: mostly within a packet.
func (p *Proxy) CutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = n
}

func (p *Proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.l.Close()
	p.Heal()
	p.Cut()
	p.work.Wait()
}

func (c *pair) reset() {
	for _, conn := range []net.Conn{c.client, c.target} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // RST, not FIN
		}
		conn.Close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	c := &pair{client: client}
	p.wait()
	target, err := net.Dial("tcp", p.target)
	p.mu.Lock()
	if err != nil || p.mode == refusing || p.closed {
		p.mu.Unlock()
		c.target = target
		if err != nil {
			c.target = client
		}
		c.reset()
		return
	}
	c.target = target
	p.conns[c] = true
	p.mu.Unlock()

	var ways sync.WaitGroup
	ways.Go(func() { p.forward(c, c.client, c.target, true) })
	ways.Go(func() { p.forward(c, c.target, c.client, false) })
	ways.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	c.client.Close()
	c.target.Close()
}

// wait blocks while the link lies still, and returns the mode then.
func (p *Proxy) wait() mode {
	for {
		p.mu.Lock()
		m, changed := p.mode, p.changed
		p.mu.Unlock()
		if m != stalled {
			return m
		}
		<-changed
	}
}

func (p *Proxy) forward(c *pair, from, to net.Conn, up bool) {
	defer func() { // the other direction ends too
		from.Close()
		to.Close()
	}()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			m := p.wait()
			if m == deaf && !up {
				continue
			}
			b := buf[:n]
			cut := false
			if up {
				b, cut = p.spend(b)
			}
			if _, err := to.Write(b); err != nil {
				return
			}
			if cut {
				c.reset()
				return
			}
		}
		if errors.Is(err, syscall.ECONNRESET) {
			c.reset() // as a router would pass it on
		}
		if err != nil {
			return
		}
	}
}

// spend counts b towards CutAfter and returns what of it still goes through.
func (p *Proxy) spend(b []byte) ([]byte, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left < 0 {
		return b, false
	}
	if int64(len(b)) < p.left {
		p.left -= int64(len(b))
		return b, false
	}
	b = b[:p.left]
	p.left = -1
	return b, true
}
