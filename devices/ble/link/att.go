package link

import (
	"context"
	"encoding/binary"
	"net"
	"sync"

	"github.com/go-ble/ble"
)

// The PDUs of the attribute protocol that are looked at (Core Specification Vol 3 Part F §3.4).
const (
	attError        = 0x01
	attMTURequest   = 0x02
	attFindRequest  = 0x04
	attTypeRequest  = 0x08
	attReadRequest  = 0x0a
	attBlobRequest  = 0x0c
	attGroupRequest = 0x10
	attWriteRequest = 0x12
	attNotification = 0x1b
	attIndication   = 0x1d
	attConfirmation = 0x1e

	attInvalidPDU   = 0x04
	attNotSupported = 0x06
	attCommand      = 0x40 // bit of PDUs that have no answer
)

// bearer is the channel of attributes as go-ble sees it. What the device sends comes through only if it is an answer
// to what was asked and has the shape of one, so that it can neither crash the client, nor have it loop for ever over
// handles that do not grow, nor fill it. What is misshapen becomes the error "invalid PDU". Notifications go past the
// client, which loses some.
type bearer struct {
	p       *Peer
	sending sync.Mutex
	in      chan []byte // answers; one to each request

	mu     sync.Mutex
	asked  []byte // the request that waits for its answer
	notify func(handle uint16, value []byte)
	rx, tx int
}

func newBearer(p *Peer) *bearer {
	return &bearer{p: p, in: make(chan []byte, 1), rx: ble.DefaultMTU, tx: ble.DefaultMTU}
}

// receive takes a PDU from the device. It does not block.
func (b *bearer) receive(pdu []byte) {
	if len(pdu) == 0 {
		return
	}
	switch op := pdu[0]; {
	case op == attNotification || op == attIndication:
		if op == attIndication {
			b.p.beside(func() { b.p.send(channelATT, []byte{attConfirmation}) })
		}
		b.mu.Lock()
		notify := b.notify
		b.mu.Unlock()
		if len(pdu) >= 3 && notify != nil {
			notify(binary.LittleEndian.Uint16(pdu[1:]), append([]byte(nil), pdu[3:]...))
		}
	case op == attError || op&1 == 1:
		b.mu.Lock()
		asked := b.asked
		b.asked = nil
		b.mu.Unlock()
		switch {
		case asked == nil || op != attError && op != asked[0]+1 || op == attError && len(pdu) == 5 && pdu[1] != asked[0]:
			b.mu.Lock()
			b.asked = asked // nobody asked for this
			b.mu.Unlock()
		case answers(asked, pdu):
			b.in <- append([]byte(nil), pdu...)
		default:
			b.in <- []byte{attError, asked[0], 0, 0, attInvalidPDU}
		}
	case op&attCommand == 0: // the device asks: there is nothing here
		answer := []byte{attError, op, 0, 0, attNotSupported}
		if op == attMTURequest {
			answer = []byte{op + 1, byte(b.RxMTU()), byte(b.RxMTU() >> 8)}
		}
		b.p.beside(func() { b.p.send(channelATT, answer) })
	}
}

// answers tells whether pdu has the shape of an answer to asked, with handles that lead on.
func answers(asked, pdu []byte) bool {
	if pdu[0] == attError {
		return len(pdu) == 5 && pdu[4] != 0
	}
	u16 := binary.LittleEndian.Uint16
	item := 0
	var list []byte
	switch asked[0] {
	case attMTURequest:
		return len(pdu) == 3 && u16(pdu[1:]) >= ble.DefaultMTU
	case attReadRequest, attBlobRequest:
		return true
	case attWriteRequest:
		return len(pdu) == 1
	case attFindRequest:
		if len(pdu) < 2 {
			return false
		}
		item, list = map[byte]int{1: 4, 2: 18}[pdu[1]], pdu[2:]
	case attTypeRequest: // declarations of characteristics: handle, properties, handle, UUID
		if len(pdu) < 2 || pdu[1] != 7 && pdu[1] != 21 {
			return false
		}
		item, list = int(pdu[1]), pdu[2:]
	case attGroupRequest: // services: handle, last handle, UUID
		if len(pdu) < 2 || pdu[1] != 6 && pdu[1] != 20 {
			return false
		}
		item, list = int(pdu[1]), pdu[2:]
	default:
		return false
	}
	if item == 0 || len(list) == 0 || len(list)%item != 0 {
		return false
	}
	next, last := u16(asked[1:]), u16(asked[3:])
	for ; len(list) > 0; list = list[item:] {
		handle := u16(list)
		if handle < next || handle > last || handle == 0 {
			return false
		}
		end := handle
		switch asked[0] {
		case attTypeRequest:
			end = u16(list[3:])
		case attGroupRequest:
			end = u16(list[2:])
		}
		if end < handle || end > last || end == 0xffff && len(list) > item {
			return false
		}
		next = end + 1
	}
	return true
}

// Read and Write are what go-ble calls.
func (b *bearer) Read(into []byte) (int, error) {
	select {
	case pdu := <-b.in:
		return copy(into, pdu), nil
	case <-b.p.gone:
		return 0, b.p.Err()
	}
}

func (b *bearer) Write(pdu []byte) (int, error) {
	if len(pdu) > 0 && pdu[0]&(attCommand|1) == 0 {
		b.mu.Lock()
		b.asked = append([]byte(nil), pdu...)
		b.mu.Unlock()
	}
	if err := b.p.send(channelATT, pdu); err != nil {
		return 0, err
	}
	return len(pdu), nil
}

func (b *bearer) Close() error                  { return b.p.Close() }
func (b *bearer) Context() context.Context      { return context.Background() }
func (b *bearer) SetContext(context.Context)    {}
func (b *bearer) LocalAddr() ble.Addr           { return net.HardwareAddr(b.p.h.Address[:]) }
func (b *bearer) RemoteAddr() ble.Addr          { return net.HardwareAddr(b.p.addr.Bytes[:]) }
func (b *bearer) ReadRSSI() int                 { return 0 }
func (b *bearer) Disconnected() <-chan struct{} { return b.p.gone }

func (b *bearer) RxMTU() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rx
}

func (b *bearer) SetRxMTU(mtu int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rx = mtu
}

func (b *bearer) TxMTU() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tx
}

// SetTxMTU sets what the device says it takes; both sides then use the smaller one (§3.4.2.2).
func (b *bearer) SetTxMTU(mtu int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tx = min(mtu, b.rx)
}
