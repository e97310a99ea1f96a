// Package fault makes connections fail on purpose: a Link stands between two programs and
// stalls, cuts, refuses or slows what passes, by method or by a script that a seed repeats.
package fault

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Link is a TCP proxy on loopback. It begins by passing everything.
//
// A stall is a half-open connection: it stays up, new ones are accepted, and bytes are held
// both ways; so is the news that an end has closed. A cut is a reset of every connection. While
// the link refuses, new connections are reset as soon as they are accepted (the port stays
// ours, so nobody else can take it); the ones there are pass. While it is deaf, what the target
// says is thrown away: so an acknowledgement is lost of what was accepted.
type Link struct {
	target   string
	listener net.Listener
	pairs    sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed when the mode changes
	closed  bool
	stall   bool
	refuse  bool
	deaf    bool
	left    int64 // bytes towards the target until a cut; negative: no end
	slow    int   // bytes per second each way; 0: as fast as it goes
	open    map[*pair]bool
}

// pair is a client's connection, and ours to the target once there is one.
type pair struct {
	mu    sync.Mutex
	ends  []*net.TCPConn
	ended chan struct{}

	missed atomic.Bool // something of the target's was thrown away
}

// Listen starts a link to target on a free port of loopback.
func Listen(target string) (*Link, error) {
	return ListenAt("127.0.0.1:0", target)
}

// ListenAt is Listen at an address.
func ListenAt(address, target string) (*Link, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("start link: %w", err)
	}
	k := &Link{target: target, listener: l, changed: make(chan struct{}), left: -1, open: map[*pair]bool{}}
	k.pairs.Go(k.accept)
	return k, nil
}

// Addr is where to connect, host:port.
func (k *Link) Addr() string { return k.listener.Addr().String() }

// Pass ends whatever was begun. What was held is delivered, unless a connection missed
// something meanwhile: that one is reset.
func (k *Link) Pass() {
	k.set(func() { k.stall, k.refuse, k.deaf, k.slow, k.left = false, false, false, 0, -1 })
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := range k.open {
		if p.missed.Load() {
			p.reset()
		}
	}
}

// Stall holds everything until Pass.
func (k *Link) Stall() { k.set(func() { k.stall = true }) }

// Refuse takes no new connections until Pass.
func (k *Link) Refuse() { k.set(func() { k.refuse = true }) }

// Deaf throws away what the target sends, until Pass.
func (k *Link) Deaf() { k.set(func() { k.deaf = true }) }

// CutAfter cuts a connection as soon as n more bytes have gone to the target: mostly
// within a packet.
func (k *Link) CutAfter(n int64) { k.set(func() { k.left = n }) }

// Slow lets so many bytes pass per second, in each direction of each connection.
func (k *Link) Slow(bytesPerSecond int) { k.set(func() { k.slow = bytesPerSecond }) }

// Cut resets every connection. New ones are taken as before.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := range k.open {
		p.reset()
	}
}

// Connections is how many there are now.
func (k *Link) Connections() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.open)
}

// Close resets every connection and returns when nothing of the link is left.
func (k *Link) Close() error {
	err := k.listener.Close()
	k.set(func() { k.closed = true })
	k.Cut()
	k.pairs.Wait()
	return err
}

// Verbs are what a script can do to the link: stall, refuse, deaf, cut, slow with bytes per
// second, and cut-after with bytes.
func (k *Link) Verbs() map[string]Verb {
	return map[string]Verb{
		"stall":  {Begin: func(string) error { k.Stall(); return nil }, End: k.Pass},
		"refuse": {Begin: func(string) error { k.Refuse(); return nil }, End: k.Pass},
		"deaf":   {Begin: func(string) error { k.Deaf(); return nil }, End: k.Pass},
		"cut":    {Begin: func(string) error { k.Cut(); return nil }},
		"cut-after": {Begin: func(arg string) error {
			n, err := strconv.Atoi(arg)
			if err != nil || n < 0 {
				return fmt.Errorf("cut-after needs bytes, not %q", arg)
			}
			k.CutAfter(int64(n))
			return nil
		}},
		"slow": {Begin: func(arg string) error {
			n, err := strconv.Atoi(arg)
			if err != nil || n < 1 {
				return fmt.Errorf("slow needs bytes per second, not %q", arg)
			}
			k.Slow(n)
			return nil
		}, End: k.Pass},
	}
}

func (k *Link) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *Link) accept() {
	for {
		c, err := k.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files
			time.Sleep(10 * time.Millisecond)
			continue
		}
		p := &pair{ends: []*net.TCPConn{c.(*net.TCPConn)}, ended: make(chan struct{})}
		k.mu.Lock()
		if k.refuse || k.closed {
			k.mu.Unlock()
			p.reset()
			continue
		}
		k.open[p] = true
		k.mu.Unlock()
		k.pairs.Go(func() { k.carry(p) })
	}
}

func (k *Link) carry(p *pair) {
	defer func() {
		p.reset()
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.open, p)
	}()
	if !k.gate(p) { // the connection to the target is made only when bytes could pass
		return
	}
	up, err := net.DialTimeout("tcp", k.target, 5*time.Second)
	if err != nil || !p.add(up.(*net.TCPConn)) {
		return
	}
	var ways sync.WaitGroup
	ways.Go(func() { k.copy(p, p.ends[1], p.ends[0], true) })
	ways.Go(func() { k.copy(p, p.ends[0], p.ends[1], false) })
	ways.Wait()
}

// copy carries one way. An end of file is passed on as one; anything else resets both ends.
func (k *Link) copy(p *pair, to, from *net.TCPConn, up bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf[:k.chunk(len(buf))])
		if !k.gate(p) || !k.pace(p, n) {
			return
		}
		b, cut := k.spend(buf[:n], up)
		if len(b) < n && !up {
			p.missed.Store(true)
		}
		if _, werr := to.Write(b); werr != nil || cut {
			p.reset()
			return
		}
		if err == io.EOF {
			to.CloseWrite()
			return
		}
		if err != nil {
			p.reset()
			return
		}
	}
}

// spend is what of b goes on, and whether the connection is cut behind it.
func (k *Link) spend(b []byte, up bool) ([]byte, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !up && k.deaf:
		return nil, false
	case !up || k.left < 0:
		return b, false
	case int64(len(b)) < k.left:
		k.left -= int64(len(b))
		return b, false
	}
	b, k.left = b[:k.left], -1
	return b, true
}

// gate waits while the link is stalled. It returns false if p or the link has ended.
func (k *Link) gate(p *pair) bool {
	for {
		k.mu.Lock()
		stalled, closed, changed := k.stall, k.closed, k.changed
		k.mu.Unlock()
		if closed {
			return false
		}
		select {
		case <-p.ended:
			return false
		default:
		}
		if !stalled {
			return true
		}
		select {
		case <-changed:
		case <-p.ended:
		}
	}
}

// chunk is how much to read at once: a tenth of a second's worth on a slow link.
func (k *Link) chunk(most int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.slow == 0 {
		return most
	}
	return min(most, max(1, k.slow/10))
}

// pace waits as long as n bytes take on a slow link, or until it is slow no more.
func (k *Link) pace(p *pair, n int) bool {
	k.mu.Lock()
	slow, changed := k.slow, k.changed
	k.mu.Unlock()
	if slow == 0 || n == 0 {
		return true
	}
	select {
	case <-time.After(time.Duration(n) * time.Second / time.Duration(slow)):
		return true
	case <-changed:
		return true
	case <-p.ended:
		return false
	}
}

// add returns false, and resets c, if p has ended meanwhile.
func (p *pair) add(c *net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		c.SetLinger(0)
		c.Close()
		return false
	default:
	}
	p.ends = append(p.ends, c)
	return true
}

func (p *pair) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.ended:
		return
	default:
	}
	close(p.ended)
	for _, c := range p.ends {
		c.SetLinger(0) // a reset, not an orderly end
		c.Close()
	}
}
