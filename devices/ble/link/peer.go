package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-ble/ble/linux/att"
)

// Fixed channels of L2CAP (Core Specification Vol 3 Part A §2.1), the codes of its signals (§4) and of the
// security manager (Part H §3.3).
const (
	channelATT      = 0x0004
	channelSignal   = 0x0005
	channelSecurity = 0x0006

	signalReject       = 0x01
	signalUpdate       = 0x12
	signalUpdateAnswer = 0x13
	pairingRequest     = 0x01
	pairingFailed      = 0x05
	securityRequest    = 0x0b
	pairingUnsupported = 0x05
)

// maxPeers is how many connections there are at most. Controllers have room for few.
const maxPeers = 8

// maxOwed is how many answers to a device may be under way; what it asks beyond that is ignored.
const maxOwed = 4

// maxPDU bounds an L2CAP PDU: the longest attribute and what goes before it.
const maxPDU = 1024

// Peer is a device that is connected.
type Peer struct {
	h      *Host
	handle uint16
	addr   Addr
	att    *bearer
	client *att.Client
	busy   chan struct{} // of one element: one call at a time
	owed   chan struct{} // an element for each answer that is being sent

	partial  []byte // of a PDU, with its header; of the goroutine that reads
	inFlight int    // ACL packets of it that the controller has; guarded by the host's mu

	mu   sync.Mutex
	err  error
	gone chan struct{}
}

// Connect connects to a device that advertises, until ctx ends. Scanning pauses meanwhile, because many controllers
// cannot do both.
func (h *Host) Connect(ctx context.Context, addr Addr) (*Peer, error) {
	select {
	case h.connecting <- struct{}{}:
		defer func() { <-h.connecting }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.done:
		return nil, h.Err()
	}
	done := make(chan connected, 1)
	h.mu.Lock()
	if len(h.peers) >= maxPeers {
		h.mu.Unlock()
		return nil, fmt.Errorf("%d devices are connected, which is the most", maxPeers)
	}
	h.attempt = done
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.attempt = nil
		h.mu.Unlock()
	}()
	h.scan(ctx, false)
	// Not with ctx: it may have ended, and scanning is what all the others wait for.
	defer h.scan(context.Background(), true)
	if err := h.initiate(ctx, addr); err != nil {
		return nil, err
	}
	select {
	case c := <-done:
		return h.peer(c, addr)
	case <-h.done:
		return nil, h.Err()
	case <-ctx.Done():
	}
	// The answer to the cancel is the event of the connection; it may have been made in the meantime.
	if _, err := h.command(context.Background(), leCreateCancel, nil); errors.Is(err, ErrMute) {
		return nil, err
	}
	select {
	case c := <-done:
		if c.status == 0 {
			h.hangUp(c.handle)
		}
	case <-time.After(answerTime / 2):
		// It will come to nobody: see connected.
	case <-h.done:
	}
	return nil, ctx.Err()
}

// initiate tells the controller to connect: scan for the device all the time; interval 30 to 50 ms, no latency, given up
// after 5 s of silence.
func (h *Host) initiate(ctx context.Context, addr Addr) error {
	var peer []byte
	peer = append(peer, addr.Kind&1) // an identity address is the kind it was made of
	for i := range addr.Bytes {
		peer = append(peer, addr.Bytes[5-i])
	}
	timing := []byte{24, 0, 40, 0, 0, 0, 0xf4, 1, 0, 0, 0, 0}
	op := uint16(leCreateConnection)
	params := append([]byte{0x60, 0, 0x60, 0, 0}, peer...)
	params = append(append(params, 0), timing...)
	if h.extended { // no list, own address public, peer, on 1M
		op = leExtCreate
		params = append([]byte{0, 0}, peer...)
		params = append(append(params, 1, 0x60, 0, 0x60, 0), timing...)
	}
	if _, err := h.command(ctx, op, params); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// Greet agrees on how long a packet may be. It is the first thing to be called; a device that knows nothing of it has 23 bytes.
func (p *Peer) Greet(ctx context.Context) error {
	_, err := call(ctx, p, func(c *att.Client) (int, error) { return c.ExchangeMTU(mtu) })
	if errors.As(err, new(Error)) {
		return nil
	}
	return err
}

// connected is called when the controller says so.
func (h *Host) connected(c connected) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attempt == nil {
		if c.status == 0 {
			go h.hangUp(c.handle) // of an attempt that was given up
		}
		return
	}
	h.attempt <- c // has room: there is one event for one attempt
	h.attempt = nil
}

func (h *Host) hangUp(handle uint16) {
	h.command(context.Background(), disconnect, []byte{byte(handle), byte(handle >> 8), reasonUserTerminated})
}

func (h *Host) peer(c connected, addr Addr) (*Peer, error) {
	if c.status != 0 {
		return nil, fmt.Errorf("connect: %w", c.status)
	}
	p := &Peer{h: h, handle: c.handle, addr: addr, busy: make(chan struct{}, 1), owed: make(chan struct{}, maxOwed), gone: make(chan struct{})}
	p.att = newBearer(p)
	h.mu.Lock()
	err, before := h.err, h.peers[c.handle]
	h.forget(before)
	if err == nil {
		h.peers[c.handle] = p
	}
	h.mu.Unlock()
	if before != nil { // its end was not told
		before.lost(errors.New("its connection was replaced"))
	}
	if err != nil {
		return nil, err
	}
	p.client = att.NewClient(p.att, noHandler{})
	go p.client.Loop() // until the connection ends
	return p, nil
}

func (h *Host) disconnected(handle uint16, why Status) {
	h.mu.Lock()
	p := h.peers[handle]
	h.forget(p)
	h.mu.Unlock()
	if p != nil {
		p.lost(why)
	}
}

// forget is called with mu held: the controller has no connection p any more, and none of its packets.
func (h *Host) forget(p *Peer) {
	if p != nil {
		delete(h.peers, p.handle)
		h.credits += p.inFlight
		p.inFlight = 0
	}
}

// delivered gives back room for packets (§4.1.1). Of a connection that is gone it was given back already.
func (h *Host) delivered(handle uint16, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.peers[handle]; p != nil {
		n = min(n, p.inFlight)
		p.inFlight -= n
		h.credits += n
		h.room.Broadcast()
	}
}

// lost ends the peer.
func (p *Peer) lost(why error) {
	p.mu.Lock()
	first := p.err == nil
	if first {
		p.err = why
		close(p.gone)
	}
	p.mu.Unlock()
	if !first {
		return
	}
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	p.h.room.Broadcast()
}

// Gone is closed when the connection has ended.
func (p *Peer) Gone() <-chan struct{} { return p.gone }

// Err is why the connection has ended.
func (p *Peer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close ends the connection. It waits for the controller to know, at most answerTime.
func (p *Peer) Close() error {
	if p.Err() == nil {
		p.lost(Status(0x16))
		p.h.hangUp(p.handle)
	}
	return nil
}

// data takes one ACL packet (Core Specification Vol 4 Part E §5.4.2): handle and flags, length.
func (h *Host) data(b []byte) error {
	if len(b) < 4 || int(binary.LittleEndian.Uint16(b[2:])) != len(b)-4 {
		return errCut
	}
	handle, first := binary.LittleEndian.Uint16(b)&0x0fff, b[1]>>4&3 != 1
	h.mu.Lock()
	p := h.peers[handle]
	h.mu.Unlock()
	if p == nil {
		return nil
	}
	return p.fragment(first, b[4:])
}

// fragment puts PDUs together again (Vol 3 Part A §7.2). It is called by one goroutine.
func (p *Peer) fragment(first bool, b []byte) error {
	if first {
		p.partial = nil
	} else if p.partial == nil {
		return errors.New("the middle of a PDU without its start")
	}
	p.partial = append(p.partial, b...)
	if len(p.partial) < 4 {
		return nil
	}
	switch n := int(binary.LittleEndian.Uint16(p.partial)) + 4; {
	case n > maxPDU || len(p.partial) > n:
		p.partial = nil
		return errors.New("a PDU is longer than it may be")
	case len(p.partial) == n:
		pdu := p.partial
		p.partial = nil
		p.take(binary.LittleEndian.Uint16(pdu[2:]), pdu[4:])
	}
	return nil
}

// take answers what the device asks of the lower layers, and hands on attributes.
func (p *Peer) take(channel uint16, b []byte) {
	switch {
	case channel == channelATT:
		p.att.receive(b)
	case channel == channelSignal && len(b) >= 4 && b[0] == signalUpdate && len(b) == 12:
		// The device asks for its own timing, to save its battery. It knows best.
		params := append([]byte{byte(p.handle), byte(p.handle >> 8)}, b[4:12]...)
		params = append(params, 0, 0, 0, 0)
		id := b[1]
		p.beside(func() {
			result := byte(0)
			if _, err := p.h.command(context.Background(), leConnectionUpdate, params); err != nil {
				result = 1
			}
			p.send(channelSignal, []byte{signalUpdateAnswer, id, 2, 0, result, 0})
		})
	case channel == channelSignal && len(b) >= 4 && b[0] > signalReject && b[0]&1 == 0: // a request
		reject := []byte{signalReject, b[1], 2, 0, 0, 0}
		p.beside(func() { p.send(channelSignal, reject) })
	case channel == channelSecurity && len(b) >= 1 && (b[0] == pairingRequest || b[0] == securityRequest):
		p.beside(func() { p.send(channelSecurity, []byte{pairingFailed, pairingUnsupported}) })
	}
}

// beside runs do, which answers the device, apart from the goroutine that reads.
func (p *Peer) beside(do func()) {
	select {
	case p.owed <- struct{}{}:
		go func() {
			defer func() { <-p.owed }()
			do()
		}()
	default:
	}
}

// send sends one PDU, in as many packets as it needs, and waits for the controller to have room.
func (p *Peer) send(channel uint16, b []byte) error {
	pdu := binary.LittleEndian.AppendUint16(nil, uint16(len(b)))
	pdu = append(binary.LittleEndian.AppendUint16(pdu, channel), b...)
	h := p.h
	// Fragments of two PDUs must not be mixed.
	p.att.sending.Lock()
	defer p.att.sending.Unlock()
	for flags := uint16(0); len(pdu) > 0; flags = 1 << 12 { // first, then going on
		h.mu.Lock()
		for h.credits == 0 && p.Err() == nil {
			h.room.Wait()
		}
		if err := p.Err(); err != nil {
			h.mu.Unlock()
			return err
		}
		h.credits--
		p.inFlight++
		n := min(len(pdu), h.size)
		h.mu.Unlock()
		packet := binary.LittleEndian.AppendUint16([]byte{packetData}, p.handle|flags)
		packet = binary.LittleEndian.AppendUint16(packet, uint16(n))
		if err := h.write(append(packet, pdu[:n]...)); err != nil {
			return err
		}
		pdu = pdu[n:]
	}
	return nil
}
