// Package hci is a virtual Bluetooth LE controller with peripherals around it: what is at the other end of HCI, for
// tests. It speaks to whatever takes and gives one HCI packet with each Read and Write: a pair of sockets, or the
// kernel behind /dev/vhci. It can also do what controllers should not: go mute or deaf, send garbage, vanish.
package hci

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
)

// Controller is one. Its methods may be called at any time.
type Controller struct {
	Address  [6]byte // most significant byte first
	Extended bool    // it is of Bluetooth 5

	mu          sync.Mutex
	rw          io.ReadWriteCloser // nil while nobody is connected
	scanning    bool
	peripherals []*Peripheral
	target      *connecting
	links       map[uint16]*bond
	nextHandle  uint16
	mute, deaf  bool
	dead        bool // mute, also when it is reset
	garbled     bool
	noAnswer    map[uint16]bool // commands whose answers get lost
	commands    map[uint16]int  // how often each was given
}

// connecting is an attempt to connect.
type connecting struct {
	addr     [6]byte
	random   bool
	extended bool
}

// bond is a connection.
type bond struct {
	handle  uint16
	p       *Peripheral
	partial []byte
	att     server
}

// Peripheral is a device in range.
type Peripheral struct {
	Addr     [6]byte // most significant byte first
	Random   bool
	RSSI     int8
	Every    time.Duration // between advertisements; 0: only when Say is called
	Data     []byte        // AD structures
	Response []byte        // to scans; nil: it is not scannable
	Services []Service     // with any, it can be connected to

	// Faults:
	Unreachable bool // it does not take connections
	Silent      bool // it does not answer requests
	Nonsense    func(request []byte) []byte

	next time.Time
}

// Add brings a device into range.
func (c *Controller) Add(p *Peripheral) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peripherals = append(c.peripherals, p)
}

// Remove takes a device out of range; its connection ends.
func (c *Controller) Remove(p *Peripheral) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peripherals = slices.DeleteFunc(c.peripherals, func(o *Peripheral) bool { return o == p })
	for _, b := range c.links {
		if b.p == p {
			c.drop(b, 0x08)
		}
	}
}

// Say has p advertise data from now on, at once.
func (c *Controller) Say(p *Peripheral, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.Data = data
	c.advertise(p)
}

// Change runs f, which may change peripherals.
func (c *Controller) Change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// Mute has the controller neither answer nor tell anything, until it is reset.
func (c *Controller) Mute() { c.Change(func() { c.mute = true }) }

// Dead has the controller not even answer to a reset.
func (c *Controller) Dead(dead bool) { c.Change(func() { c.dead, c.mute = dead, dead }) }

// Deaf has the controller hear no advertisement until the host begins a new scan.
func (c *Controller) Deaf() { c.Change(func() { c.deaf = true }) }

// Garble has all that the controller sends be cut short, until it is reset.
func (c *Controller) Garble() { c.Change(func() { c.garbled = true }) }

// LoseAnswers has the answers to a command get lost.
func (c *Controller) LoseAnswers(op uint16, lose bool) {
	c.Change(func() {
		if c.noAnswer == nil {
			c.noAnswer = map[uint16]bool{}
		}
		c.noAnswer[op] = lose
	})
}

// Inject sends the host a packet, whatever it is.
func (c *Controller) Inject(packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send(packet)
}

// Vanish pulls the controller out.
func (c *Controller) Vanish() {
	c.mu.Lock()
	rw := c.rw
	c.mu.Unlock()
	if rw != nil {
		rw.Close()
	}
}

// Scanning tells whether a host has it scan.
func (c *Controller) Scanning() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rw != nil && c.scanning && !c.mute
}

// Connections is how many there are.
func (c *Controller) Connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.links)
}

// Commands is how often the host gave a command.
func (c *Controller) Commands(op uint16) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commands[op]
}

// Serve is the controller of the host at the other end of rw, until that ends or ctx does.
func (c *Controller) Serve(ctx context.Context, rw io.ReadWriteCloser) error {
	c.mu.Lock()
	c.rw, c.deaf = rw, false
	c.reset()
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	var advertising sync.WaitGroup
	advertising.Go(func() { c.radiate(ctx) })
	defer func() {
		cancel()
		stop()
		advertising.Wait()
		rw.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.rw == rw {
			c.rw = nil
			c.reset()
		}
	}()
	buf := make([]byte, 4096)
	for {
		n, err := rw.Read(buf)
		if err != nil || n == 0 {
			return errors.Join(err, ctx.Err())
		}
		c.mu.Lock()
		c.take(slices.Clone(buf[:n]))
		c.mu.Unlock()
	}
}

// What follows is called with mu held.

func (c *Controller) reset() {
	c.scanning, c.target, c.links, c.nextHandle = false, nil, map[uint16]*bond{}, 0x40
	if c.commands == nil {
		c.commands = map[uint16]int{}
	}
}

func (c *Controller) send(packet []byte) {
	if c.rw == nil || c.mute {
		return
	}
	if c.garbled {
		// Too short for what it is, but with the length it says: the kernel lets it through.
		packet = []byte{0x04, 0x3e, 1, 1}
	}
	c.rw.Write(packet)
}

func (c *Controller) event(code byte, params ...byte) {
	c.send(append([]byte{0x04, code, byte(len(params))}, params...))
}

// take takes a packet of the host.
func (c *Controller) take(b []byte) {
	switch {
	case len(b) >= 4 && b[0] == 0x01 && int(b[3]) == len(b)-4:
		op := binary.LittleEndian.Uint16(b[1:])
		c.commands[op]++
		if op == 0x0c03 {
			c.mute, c.garbled = c.dead, false
		}
		if !c.noAnswer[op] {
			c.command(op, b[4:])
		}
	case len(b) >= 5 && b[0] == 0x02:
		c.data(binary.LittleEndian.Uint16(b[1:]), b[5:])
	}
}

func (c *Controller) complete(op uint16, params ...byte) {
	c.event(0x0e, append([]byte{1, byte(op), byte(op >> 8)}, params...)...)
}

func (c *Controller) status(op uint16, status byte) {
	c.event(0x0f, status, 1, byte(op), byte(op>>8))
}

func (c *Controller) command(op uint16, p []byte) {
	u16 := binary.LittleEndian.Uint16
	switch op {
	case 0x0c03: // reset
		c.reset()
		c.complete(op, 0)
	case 0x1001: // version: 5.0, a company that is for tests
		c.complete(op, 0, 9, 0, 0, 9, 0xff, 0xff, 0, 0)
	case 0x1002: // supported commands: LE ones, and what the kernel asks for with them
		c.complete(op, append([]byte{0}, make([]byte, 64)...)...)
	case 0x1003: // features: LE, no BR/EDR
		c.complete(op, 0, 0, 0, 0, 0, 0x60, 0, 0, 0)
	case 0x1005: // buffers of its own for ACL: none, they are those of LE
		c.complete(op, 0, 0, 0, 0, 0, 0, 0, 0)
	case 0x1009:
		c.complete(op, append([]byte{0}, reversed(c.Address)...)...)
	case 0x2002: // 8 packets of 64 bytes, so that longer PDUs are cut
		c.complete(op, 0, 64, 0, 8)
	case 0x2003:
		features := make([]byte, 9)
		if c.Extended {
			features[2] = 1 << 4
		}
		c.complete(op, features...)
	case 0x2007: // power of advertising
		c.complete(op, 0, 0)
	case 0x200f: // size of the filter list
		c.complete(op, 0, 8)
	case 0x203a: // the longest data to advertise
		c.complete(op, 0, 31, 0)
	case 0x203b: // sets of advertisements
		c.complete(op, 0, 1)
	case 0x201c: // states
		c.complete(op, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 3, 0, 0)
	case 0x200c, 0x2042:
		if len(p) < 1 {
			c.complete(op, 0x12)
			return
		}
		if p[0] == 1 && c.target != nil { // like one that cannot do both
			c.complete(op, 0x0c)
			return
		}
		if p[0] == 1 && !c.scanning {
			c.deaf = false
		}
		c.scanning = p[0] == 1
		c.complete(op, 0)
	case 0x200d, 0x2043:
		c.connect(op, p)
	case 0x200e:
		if c.target == nil {
			c.complete(op, 0x0c)
			return
		}
		c.complete(op, 0)
		c.established(0x02, 0)
	case 0x0406:
		b := c.links[u16(p)]
		if b == nil {
			c.status(op, 0x02)
			return
		}
		c.status(op, 0)
		c.drop(b, 0x16)
	case 0x2013: // connection update
		c.status(op, 0)
	default:
		if known[op] {
			c.complete(op, 0)
			return
		}
		c.complete(op, 0x01) // unknown command
	}
}

// known are commands that need no more than to be acknowledged.
var known = map[uint16]bool{
	0x0c01: true, 0x0c05: true, 0x0c16: true, 0x0c63: true, 0x0c6d: true, 0x2001: true, 0x2005: true, 0x2006: true, 0x2008: true, 0x2009: true, 0x200b: true,
	0x2010: true, 0x201b: true, 0x2024: true, 0x2029: true, 0x202e: true, 0x2031: true, 0x2041: true, 0x204c: true,
}

func (c *Controller) connect(op uint16, p []byte) {
	t := &connecting{extended: op == 0x2043}
	at := 5 // interval, window, policy
	if t.extended {
		at = 2 // policy, own kind
	}
	if len(p) < at+7 {
		c.status(op, 0x12)
		return
	}
	if c.target != nil || c.scanning { // like one that cannot do both
		c.status(op, 0x0c)
		return
	}
	t.random = p[at] == 1
	for i := range t.addr {
		t.addr[5-i] = p[at+1+i]
	}
	c.target = t
	c.status(op, 0)
}

// established answers an attempt.
func (c *Controller) established(status byte, handle uint16) {
	t := c.target
	c.target = nil
	random := byte(0)
	if t.random {
		random = 1
	}
	params := []byte{0x01, status, byte(handle), byte(handle >> 8), 0, random}
	params = append(params, reversed(t.addr)...)
	if t.extended {
		params[0] = 0x0a
		params = append(params, make([]byte, 12)...) // resolvable addresses: none
	}
	c.event(0x3e, append(params, 24, 0, 0, 0, 0xf4, 1, 0)...)
}

func (c *Controller) drop(b *bond, reason byte) {
	delete(c.links, b.handle)
	c.event(0x05, 0, byte(b.handle), byte(b.handle>>8), reason)
}

// radiate has the peripherals advertise.
func (c *Controller) radiate(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		for _, p := range c.peripherals {
			if p.Every > 0 && time.Now().After(p.next) {
				p.next = time.Now().Add(p.Every)
				c.advertise(p)
			}
		}
		for _, b := range c.links {
			c.indicate(b)
		}
		c.mu.Unlock()
	}
}

// advertise is one advertisement of p: it is heard, or answered with a connection.
func (c *Controller) advertise(p *Peripheral) {
	for _, b := range c.links {
		if b.p == p {
			return // connected devices do not
		}
	}
	if t := c.target; t != nil && t.addr == p.Addr && t.random == p.Random && len(p.Services) > 0 && !p.Unreachable {
		b := &bond{handle: c.nextHandle, p: p, att: server{services: p.Services, mtu: 23}}
		c.nextHandle++
		c.links[b.handle] = b
		c.established(0, b.handle)
		return
	}
	if !c.scanning || c.deaf {
		return
	}
	kind := byte(3) // neither scannable nor connectable
	switch {
	case len(p.Services) > 0:
		kind = 0
	case p.Response != nil:
		kind = 2
	}
	c.report(p, kind, p.Data)
	if p.Response != nil {
		c.report(p, 4, p.Response)
	}
}

func (c *Controller) report(p *Peripheral, kind byte, data []byte) {
	random := byte(0)
	if p.Random {
		random = 1
	}
	addr := reversed(p.Addr)
	if !c.Extended {
		params := append([]byte{0x02, 1, kind, random}, addr...)
		params = append(append(params, byte(min(len(data), 31))), data[:min(len(data), 31)]...)
		c.event(0x3e, append(params, byte(p.RSSI))...)
		return
	}
	types := map[byte]uint16{0: 0x13, 2: 0x12, 3: 0x10, 4: 0x1a}[kind] // as legacy PDUs
	if len(data) > 31 {
		types = map[byte]uint16{0: 0x01, 2: 0x02, 3: 0, 4: 0x08}[kind]
	}
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), 200)
		part := types
		if len(data) > n {
			part |= 1 << 5 // more comes
		}
		params := binary.LittleEndian.AppendUint16([]byte{0x0d, 1}, part)
		params = append(append(params, random), addr...)
		params = append(params, 1, 0, 0, 0x7f, byte(p.RSSI), 0, 0, 0, 0, 0, 0, 0, 0, 0, byte(n))
		c.event(0x3e, append(params, data[:n]...)...)
		data = data[n:]
	}
}

// data takes an ACL packet.
func (c *Controller) data(head uint16, b []byte) {
	l := c.links[head&0x0fff]
	if l == nil {
		return
	}
	c.event(0x13, 1, byte(l.handle), byte(l.handle>>8), 1, 0) // the packet has left
	if head>>12&3 != 1 {
		l.partial = nil
	}
	l.partial = append(l.partial, b...)
	if len(l.partial) < 4 || len(l.partial) < 4+int(binary.LittleEndian.Uint16(l.partial)) {
		return
	}
	pdu := l.partial
	l.partial = nil
	if binary.LittleEndian.Uint16(pdu[2:]) != 4 {
		return
	}
	switch request := pdu[4:]; {
	case l.p.Silent:
	case l.p.Nonsense != nil:
		if answer := l.p.Nonsense(request); answer != nil {
			c.pdu(l, answer)
		}
	default:
		if answer := l.att.answer(request); answer != nil {
			c.pdu(l, answer)
		}
	}
}

// pdu sends an attribute PDU, in packets of at most 27 bytes.
func (c *Controller) pdu(l *bond, b []byte) {
	pdu := binary.LittleEndian.AppendUint16(nil, uint16(len(b)))
	pdu = append(append(pdu, 4, 0), b...)
	for flags := uint16(2) << 12; len(pdu) > 0; flags = 1 << 12 {
		n := min(len(pdu), 27)
		packet := binary.LittleEndian.AppendUint16([]byte{0x02}, l.handle|flags)
		packet = binary.LittleEndian.AppendUint16(packet, uint16(n))
		c.send(append(packet, pdu[:n]...))
		pdu = pdu[n:]
	}
}

// indicate sends what has changed to who subscribed.
func (c *Controller) indicate(l *bond) {
	for _, pdu := range l.att.changes() {
		c.pdu(l, pdu)
	}
}

func reversed(a [6]byte) []byte {
	b := a[:]
	b = slices.Clone(b)
	slices.Reverse(b)
	return b
}
