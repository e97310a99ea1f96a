package ble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/devices/ble/link"
)

// Open opens an adapter of the kernel, hci<index>, for Serve. It takes it from whoever has it, and says so.
func Open(index int, log *slog.Logger) func() (io.ReadWriteCloser, error) {
	return func() (io.ReadWriteCloser, error) {
		if link.InUse(index) {
			log.Warn("the adapter is taken from another program: is bluetoothd running?", "adapter", fmt.Sprintf("hci%d", index))
		}
		return link.Open(index)
	}
}

// How the radio's process watches its controller.
const (
	beatEvery  = time.Second
	startTime  = 8 * time.Second  // for all of what a controller is asked at the start
	deafAfter  = 10 * time.Second // without an advertisement, scanning is begun anew
	maxQueued  = 1024             // of what is told to a gateway that is busy; then the newest is dropped
	maxWorking = 32               // calls at once
)

// server is the radio's process.
type server struct {
	w       *wire
	host    *link.Host
	told    chan message // to the gateway, unasked
	dropped atomic.Uint64
	working chan struct{}

	mu    sync.Mutex
	peers map[uint32]*link.Peer
	next  uint32
}

// Serve is the main of the radio's process: it opens the controller, has it scan, tells over conn what it
// hears and does what it is asked, until conn ends or the controller is lost. Each Read and Write on what open
// returns is one HCI packet. Its caller ends the process when it returns, because open may hang for ever.
func Serve(conn io.ReadWriteCloser, open func() (io.ReadWriteCloser, error)) error {
	s := &server{
		w: newWire(conn), told: make(chan message, maxQueued), working: make(chan struct{}, maxWorking),
		peers: map[uint32]*link.Peer{},
	}
	type opened struct {
		rw  io.ReadWriteCloser
		err error
	}
	ready := make(chan opened, 1)
	go func() {
		rw, err := open()
		ready <- opened{rw, err}
	}()
	asks := make(chan message)
	over := make(chan struct{}) // the gateway has gone, or wants this to end
	go func() {
		defer close(over)
		for {
			m, err := s.w.receive()
			if err != nil {
				return
			}
			select {
			case asks <- m:
			case <-time.After(startTime): // the gateway asks only when it scans
				return
			}
		}
	}()
	var o opened
	select {
	case o = <-ready:
	case <-over:
		return nil
	}
	if o.err != nil {
		return s.failed(o.err)
	}
	s.host = link.New(o.rw, s.heard)
	defer s.close()
	if err := s.run(asks, over); err != nil {
		return s.failed(err)
	}
	return nil
}

func (s *server) failed(err error) error {
	s.w.send(sayFailed, 0, []byte(err.Error()))
	return err
}

// close gives the controller back. That waits for the controller, which may be mute.
func (s *server) close() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.host.Close()
	}()
	select {
	case <-closed:
	case <-time.After(beatEvery / 2):
	}
}

// run returns nil when the gateway has gone, or why the controller is lost.
func (s *server) run(asks <-chan message, over <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	starting, started := context.WithTimeout(ctx, startTime)
	err := s.host.Start(starting)
	started()
	if err != nil {
		return err
	}
	if err := s.w.send(sayUp, 0, append(s.host.Address[:], bit(s.host.Extended()))); err != nil {
		return nil
	}
	go s.tell(ctx)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	watched := make(chan error, 1)
	go func() { watched <- s.watch(ctx, tick.C) }() // beside, so that asks do not wait for a controller that is mute
	for {
		select {
		case m := <-asks:
			go s.answer(ctx, m)
		case err := <-watched:
			return err
		case <-s.host.Done():
			return s.host.Err()
		case <-over:
			return nil
		}
	}
}

// watch tells the gateway every second that this process and the controller live.
func (s *server) watch(ctx context.Context, tick <-chan time.Time) error {
	var lastPackets, lastReports uint64
	deaf := time.Now()
	for {
		select {
		case <-tick:
		case <-ctx.Done():
			return nil
		}
		packets, reports, broken := s.host.Heard()
		if packets == lastPackets {
			if err := s.host.Ask(ctx); err != nil {
				return err
			}
		}
		if reports != lastReports {
			deaf = time.Now()
		} else if time.Since(deaf) > deafAfter {
			if err := s.host.Rescan(ctx); err != nil {
				return err
			}
			deaf = time.Now()
		}
		lastPackets, lastReports = packets, reports
		if err := s.w.send(sayBeat, 0, beat{reports, broken, s.dropped.Load()}.encode()); err != nil {
			return nil // the gateway has gone, and run sees it
		}
	}
}

// heard is called by the goroutine that reads the controller.
func (s *server) heard(event []byte) {
	s.queue(message{sayHeard, 0, append([]byte(nil), event...)})
}

func (s *server) queue(m message) {
	select {
	case s.told <- m:
	default:
		s.dropped.Add(1)
	}
}

func (s *server) tell(ctx context.Context) {
	for {
		select {
		case m := <-s.told:
			s.w.send(m.kind, m.call, m.body)
		case <-ctx.Done():
			return
		}
	}
}

// answer does what the gateway asks.
func (s *server) answer(ctx context.Context, m message) {
	select {
	case s.working <- struct{}{}:
		defer func() { <-s.working }()
	default:
		s.w.send(sayRefused, m.call, []byte("too much is asked at once"))
		return
	}
	a, err := decodeAsk(m.body)
	var body []byte
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, a.wait)
		defer cancel()
		body, err = s.do(ctx, m.kind, a)
	}
	if err != nil {
		s.w.send(sayRefused, m.call, []byte(err.Error()))
		return
	}
	s.w.send(sayOK, m.call, body)
}

func (s *server) do(ctx context.Context, k kind, a ask) ([]byte, error) {
	if k == askConnect {
		return s.connect(ctx, link.Addr{Bytes: a.addr, Kind: bit(a.random)})
	}
	s.mu.Lock()
	p := s.peers[a.peer]
	s.mu.Unlock()
	if p == nil {
		return nil, errors.New("the connection has ended")
	}
	switch k {
	case askDiscover:
		found, err := p.Discover(ctx)
		list := make([]Characteristic, len(found))
		for i, c := range found {
			list[i] = Characteristic{c.Service, c.UUID, c.Properties, c.Handle, c.Last}
		}
		return encodeCharacteristics(list), err
	case askRead:
		return p.Read(ctx, a.handle)
	case askWrite:
		return nil, p.Write(ctx, a.handle, a.value, a.command)
	case askSubscribe:
		return nil, p.Subscribe(ctx, link.Characteristic{Properties: a.props, Handle: a.handle, Last: a.last})
	case askClose:
		return nil, p.Close()
	}
	return nil, errBody
}

func (s *server) connect(ctx context.Context, addr link.Addr) ([]byte, error) {
	p, err := s.host.Connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.next++
	id := s.next
	s.peers[id] = p
	s.mu.Unlock()
	p.Notify(func(handle uint16, value []byte) {
		s.queue(message{sayTold, 0, append(binary.BigEndian.AppendUint16(numbered(id), handle), value...)})
	})
	go func() {
		<-p.Gone()
		s.mu.Lock()
		delete(s.peers, id)
		s.mu.Unlock()
		s.w.send(sayGone, 0, numbered(id, []byte(p.Err().Error())...))
	}()
	if err := p.Greet(ctx); err != nil {
		p.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return numbered(id), nil
}
