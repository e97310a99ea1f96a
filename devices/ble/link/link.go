// Package link is the host's side of a Bluetooth controller: it has it scan, connects to peripherals, and reads
// and writes their attributes. It is what runs in the radio's process (see devices/ble), because what
// it speaks to breaks in ways that no deadline reaches: drivers that hang in the kernel, controllers that go mute.
//
//	Open ─► HCI user channel ─► Host ─► events of advertisements, as they came
//	 (go-ble's socket)            └───► Peer ─► go-ble's GATT client
//
// Of go-ble it uses the socket and the GATT client. Its HCI layer is left out: a short event ends the
// process there, a lost answer stops it for good, reports come out of order, and a pulled adapter is not
// told. Its GATT client trusts the peripheral, so Peer shows it only answers that are what was asked for.
package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// Addr is a device address, most significant byte first, and what kind it is: adv.Public or adv.Random.
type Addr struct {
	Bytes [6]byte
	Kind  byte
}

// The packets of HCI (Core Specification Vol 4 Part A §2).
const (
	packetCommand = 0x01
	packetData    = 0x02
	packetEvent   = 0x04
	maxPacket     = 1 + 4 + 4096
)

// Commands (Core Specification Vol 4 Part E §7): the group in the high six bits.
const (
	disconnect           = 0x0406
	setEventMask         = 0x0c01
	reset                = 0x0c03
	readFeatures         = 0x1003
	readBufferSize       = 0x1005
	readAddress          = 0x1009
	leSetEventMask       = 0x2001
	leReadBufferSize     = 0x2002
	leReadFeatures       = 0x2003
	leSetScanParameters  = 0x200b
	leSetScanEnable      = 0x200c
	leCreateConnection   = 0x200d
	leCreateCancel       = 0x200e
	leConnectionUpdate   = 0x2013
	leKeyNegative        = 0x201b
	leSetExtScanParams   = 0x2041
	leSetExtScanEnable   = 0x2042
	leExtCreate          = 0x2043
	featureExtended      = 1 << 12
	reasonUserTerminated = 0x13
)

// Events (§7.7).
const (
	eventDisconnected = 0x05
	eventComplete     = 0x0e
	eventStatus       = 0x0f
	eventHardware     = 0x10
	eventDelivered    = 0x13
	eventLE           = 0x3e
	leConnected       = 0x01
	leReport          = 0x02
	leKeyRequest      = 0x05
	leConnectedFull   = 0x0a
	leExtReport       = 0x0d
)

// The limits of a controller's patience with its host and the other way round.
const (
	answerTime = 2 * time.Second // a controller answers a command in milliseconds
	maxGarbage = 100             // so many broken packets without a good one, and the controller is reset
)

// ErrMute: the controller does not answer.
var ErrMute = errors.New("the controller does not answer")

// Status is an error code of the controller (Core Specification Vol 1 Part F).
type Status byte

func (s Status) Error() string {
	if text, ok := map[Status]string{
		0x02: "no such connection", 0x05: "authentication failed", 0x07: "the controller is out of memory", 0x08: "the connection timed out",
		0x09: "the controller has no room for another connection", 0x0c: "the controller does not allow it now", 0x13: "the device closed the connection",
		0x14: "the device is low on power", 0x15: "the device is being switched off", 0x16: "closed from here", 0x22: "the device does not answer the link layer",
		0x3b: "the device refuses the connection's timing", 0x3d: "the link failed its integrity check", 0x3e: "the connection could not be established",
	}[s]; ok {
		return text
	}
	return fmt.Sprintf("HCI error %#02x", byte(s))
}

// Host drives one controller. It is made by Start, and when the link ends so does it.
type Host struct {
	rw    io.ReadWriteCloser
	heard func(event []byte)

	Address  [6]byte // the controller's own, most significant byte first
	extended bool    // of Bluetooth 5: other commands to scan and connect

	commanding chan struct{} // of one element: one command at a time
	connecting chan struct{} // of one element: one attempt at a time
	writing    sync.Mutex

	mu      sync.Mutex // guards what follows
	waits   uint16     // the command that waits
	reply   chan []byte
	attempt chan connected // who waits for a connection
	peers   map[uint16]*Peer
	credits int // ACL packets that the controller still takes
	room    *sync.Cond
	packets uint64 // that came
	reports uint64 // of advertisements
	garbage int    // broken packets since the last good one
	bad     uint64 // broken packets ever
	err     error
	done    chan struct{}
	size    int // of ACL data, in bytes
}

type connected struct {
	status Status
	handle uint16
}

// New returns a host for the controller at the other end of rw, of which each Read and Write is one packet. It
// calls heard with every event of advertisements, in order, until Done; heard must not block and not keep event.
func New(rw io.ReadWriteCloser, heard func(event []byte)) *Host {
	h := &Host{
		rw: rw, heard: heard, peers: map[uint16]*Peer{}, done: make(chan struct{}),
		commanding: make(chan struct{}, 1), connecting: make(chan struct{}, 1), size: 27, credits: 1,
	}
	h.room = sync.NewCond(&h.mu)
	go h.read()
	return h
}

// Done is closed when the link has ended, for the reason Err.
func (h *Host) Done() <-chan struct{} { return h.done }

// Err is why the link ended, and nil before.
func (h *Host) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Extended tells whether the controller hears the long advertisements of Bluetooth 5.
func (h *Host) Extended() bool { return h.extended }

// Close ends the link.
func (h *Host) Close() error { return h.fail(errors.New("closed")) }

func (h *Host) fail(err error) error {
	h.mu.Lock()
	if h.err != nil {
		h.mu.Unlock()
		return nil
	}
	h.err = err
	peers := slices.Collect(maps.Values(h.peers))
	close(h.done)
	h.mu.Unlock()
	for _, p := range peers {
		p.lost(err)
	}
	return h.rw.Close()
}

// Start brings the controller into a known state and has it scan.
func (h *Host) Start(ctx context.Context) error {
	if _, err := h.command(ctx, reset, nil); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	address, err := h.command(ctx, readAddress, nil)
	if err != nil {
		return fmt.Errorf("read its address: %w", err)
	}
	for i := range min(len(address), 6) {
		h.Address[5-i] = address[i]
	}
	if lmp, err := h.command(ctx, readFeatures, nil); err == nil && len(lmp) >= 8 && lmp[4]&(1<<6) == 0 {
		return errors.New("the adapter has no Bluetooth Low Energy")
	}
	if le, err := h.command(ctx, leReadFeatures, nil); err == nil && len(le) >= 8 {
		h.extended = binary.LittleEndian.Uint64(le)&featureExtended != 0
	}
	if err := h.buffers(ctx); err != nil {
		return err
	}
	// All events of version 1.1 of this command, and LE meta events; of those, what is read here.
	if _, err := h.command(ctx, setEventMask, binary.LittleEndian.AppendUint64(nil, 0x3dbff807fffbffff)); err != nil {
		return fmt.Errorf("set the event mask: %w", err)
	}
	mask := uint64(1<<(leConnected-1) | 1<<(leReport-1) | 1<<(leKeyRequest-1))
	if h.extended {
		mask |= 1<<(leConnectedFull-1) | 1<<(leExtReport-1)
	}
	if _, err := h.command(ctx, leSetEventMask, binary.LittleEndian.AppendUint64(nil, mask)); err != nil {
		return fmt.Errorf("set the LE event mask: %w", err)
	}
	return h.rescan(ctx)
}

// buffers asks how much data the controller takes.
func (h *Host) buffers(ctx context.Context) error {
	size, count := 0, 0
	if b, err := h.command(ctx, leReadBufferSize, nil); err == nil && len(b) >= 3 {
		size, count = int(binary.LittleEndian.Uint16(b)), int(b[2])
	} else if errors.Is(err, ErrMute) {
		return err
	}
	if size == 0 || count == 0 { // it shares those of BR/EDR
		b, err := h.command(ctx, readBufferSize, nil)
		if err != nil || len(b) < 5 {
			return fmt.Errorf("read the size of its buffers: %w", errors.Join(err, errors.New("no answer of use")))
		}
		size, count = int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[3:]))
	}
	if size < 27 || count == 0 {
		return fmt.Errorf("the controller says it takes %d packets of %d bytes", count, size)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size, h.credits = size, count
	return nil
}

// Rescan has the controller scan, from the beginning: those that are silent after hours are often cured by it. While
// a connection is being made it does nothing, because that is why it does not scan.
func (h *Host) Rescan(ctx context.Context) error {
	select {
	case h.connecting <- struct{}{}:
		defer func() { <-h.connecting }()
		return h.rescan(ctx)
	default:
		return nil
	}
}

// rescan scans actively, for scan responses; all the time, for sensors send seldom; and tells everything that it hears, repeats too.
func (h *Host) rescan(ctx context.Context) error {
	h.scan(ctx, false)                          // it may not be scanning
	params := []byte{1, 0xa0, 0, 0xa0, 0, 0, 0} // active; interval and window 100 ms; public address; everybody
	op := uint16(leSetScanParameters)
	if h.extended {
		params, op = []byte{0, 0, 1, 1, 0xa0, 0, 0xa0, 0}, leSetExtScanParams // the same, on 1M
	}
	if _, err := h.command(ctx, op, params); err != nil {
		return fmt.Errorf("set how to scan: %w", err)
	}
	return h.scan(ctx, true)
}

func (h *Host) scan(ctx context.Context, on bool) error {
	enable := byte(0)
	if on {
		enable = 1
	}
	op, params := uint16(leSetScanEnable), []byte{enable, 0}
	if h.extended {
		op, params = leSetExtScanEnable, []byte{enable, 0, 0, 0, 0, 0}
	}
	if _, err := h.command(ctx, op, params); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	return nil
}

// Heard tells how many packets and how many events of advertisements have come, and how many were broken.
func (h *Host) Heard() (packets, reports, garbage uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.packets, h.reports, h.bad
}

// Ask asks the controller something harmless, to see whether it lives.
func (h *Host) Ask(ctx context.Context) error {
	_, err := h.command(ctx, readAddress, nil)
	return err
}

// command sends a command and waits for its answer, without the status. Without one in answerTime it is ErrMute.
func (h *Host) command(ctx context.Context, op uint16, params []byte) ([]byte, error) {
	select {
	case h.commanding <- struct{}{}:
		defer func() { <-h.commanding }()
	case <-h.done:
		return nil, h.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	reply := make(chan []byte, 1)
	h.mu.Lock()
	if h.err != nil {
		defer h.mu.Unlock()
		return nil, h.err
	}
	h.waits, h.reply = op, reply
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.waits, h.reply = 0, nil
		h.mu.Unlock()
	}()
	b := append([]byte{packetCommand, byte(op), byte(op >> 8), byte(len(params))}, params...)
	if err := h.write(b); err != nil {
		return nil, err
	}
	late := time.NewTimer(answerTime)
	defer late.Stop()
	select {
	case b := <-reply:
		if len(b) == 0 {
			return nil, errors.New("an answer without a status")
		}
		if b[0] != 0 {
			return nil, Status(b[0])
		}
		return b[1:], nil
	case <-late.C:
		return nil, ErrMute
	case <-h.done:
		return nil, h.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// write writes one packet. It can block as long as the kernel likes, which the watchdog in the other process ends.
func (h *Host) write(b []byte) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	if _, err := h.rw.Write(b); err != nil {
		h.fail(fmt.Errorf("the adapter is gone, unplugged or taken by another program: %w", err))
		return h.Err()
	}
	return nil
}

// read takes apart what comes. It waits for nothing but the link.
func (h *Host) read() {
	b := make([]byte, maxPacket)
	for {
		n, err := h.rw.Read(b)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			h.fail(fmt.Errorf("the adapter is gone, unplugged or taken by another program: %w", err))
			return
		}
		err = h.packet(b[:n])
		h.mu.Lock()
		h.packets++
		if err == nil {
			h.garbage = 0
		} else {
			h.garbage++
			h.bad++
		}
		tooMuch := h.garbage >= maxGarbage
		h.mu.Unlock()
		if tooMuch {
			h.fail(fmt.Errorf("the controller sends garbage: %w", err))
			return
		}
		if errors.Is(err, errHardware) {
			h.fail(err)
			return
		}
	}
}

var (
	errCut      = errors.New("a packet is cut short")
	errHardware = errors.New("the controller reports a fault of its hardware")
)

// packet takes one packet. An error says that it was broken.
func (h *Host) packet(b []byte) error {
	switch {
	case len(b) < 3:
		return errCut
	case b[0] == packetData:
		return h.data(b[1:])
	case b[0] != packetEvent:
		return fmt.Errorf("a packet of type %#02x", b[0])
	case int(b[2]) != len(b)-3:
		return errCut
	}
	p := b[3:]
	switch b[1] {
	case eventComplete: // number of commands allowed, opcode, return parameters
		if len(p) < 3 {
			return errCut
		}
		h.answer(binary.LittleEndian.Uint16(p[1:]), p[3:])
	case eventStatus: // status, number of commands allowed, opcode
		if len(p) < 4 {
			return errCut
		}
		h.answer(binary.LittleEndian.Uint16(p[2:]), p[:1])
	case eventDisconnected: // status, handle, reason
		if len(p) < 4 {
			return errCut
		}
		if p[0] == 0 {
			h.disconnected(binary.LittleEndian.Uint16(p[1:]), Status(p[3]))
		}
	case eventHardware:
		return errHardware
	case eventDelivered: // count, then handle by handle (§5.2)
		if len(p) < 1 || len(p) < 1+4*int(p[0]) {
			return errCut
		}
		for i := range int(p[0]) {
			at := 1 + 4*i
			h.delivered(binary.LittleEndian.Uint16(p[at:]), int(binary.LittleEndian.Uint16(p[at+2:])))
		}
	case eventLE:
		return h.le(p, b)
	}
	return nil // others are of no interest
}

func (h *Host) le(p, event []byte) error {
	if len(p) < 1 {
		return errCut
	}
	switch p[0] {
	case leConnected, leConnectedFull: // status, handle, role, …
		if len(p) < 5 {
			return errCut
		}
		h.connected(connected{Status(p[1]), binary.LittleEndian.Uint16(p[2:])})
	case leKeyRequest:
		if len(p) < 3 {
			return errCut
		}
		handle := append([]byte(nil), p[1:3]...)
		go h.command(context.Background(), leKeyNegative, handle) // not from here, where its answer is read
	case leReport, leExtReport:
		h.mu.Lock()
		h.reports++
		h.mu.Unlock()
		h.heard(event)
	}
	return nil
}

func (h *Host) answer(op uint16, params []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reply == nil || op != h.waits {
		return // of one that was given up
	}
	h.reply <- append([]byte(nil), params...)
	h.reply = nil
}
