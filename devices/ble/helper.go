package ble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/gateway/child"
)

// How the gateway watches the radio's process. Time is counted in ticks, so that a gateway that was itself stopped for a
// while does not blame the process.
const (
	helperTick   = time.Second
	openSilence  = 10 // ticks: firmware is loaded then; the kernel waits as long
	silence      = 4  // ticks: it beats every second, and asks the controller for 2 s at most
	helperMemory = "24MiB"
	toldWaiting  = 64
	endTime      = 500 * time.Millisecond // to end by itself
)

// Helper is the Radio whose adapter is driven by a process of its own.
type Helper struct {
	adapter string
	command []string // starts a program that calls Serve with child.Conn
	present func() error
	log     *slog.Logger

	mu      sync.Mutex // guards what follows
	session *session   // nil while Run does not run
	beat    beat
}

// NewHelper returns the radio of an adapter such as hci0. Without a command, this program is started with radio and the
// adapter. Nothing is opened before Run.
func NewHelper(adapter string, command []string, log *slog.Logger) (*Helper, error) {
	h := &Helper{adapter: adapter, command: command, log: log, present: func() error { return nil }}
	if command == nil {
		var err error
		if h.command, err = child.Command("radio", adapter); err != nil {
			return nil, err
		}
		h.present = func() error { return present("/sys", adapter) }
	}
	return h, nil
}

// present looks for the adapter, so that no process is started every few seconds for one that is not there.
func present(sys, adapter string) error {
	class := filepath.Join(sys, "class", "bluetooth")
	if _, err := os.Stat(filepath.Join(class, adapter)); !errors.Is(err, os.ErrNotExist) {
		return nil // who cannot look lets the kernel say it
	}
	others, err := filepath.Glob(filepath.Join(class, "hci*"))
	switch {
	case err == nil && len(others) > 0:
		return fmt.Errorf("it is not there, but %s is", filepath.Base(others[0]))
	case errors.Is(statErr(class), os.ErrNotExist):
		return errors.New("it is not there: this machine has no Bluetooth, or its driver is not loaded (dmesg)")
	}
	return errors.New("it is not there: is it plugged in, and does the kernel have its driver (dmesg)?")
}

// statErr is why there is nothing at path.
func statErr(path string) error {
	_, err := os.Stat(path)
	return err
}

// session is one process.
type session struct {
	process *child.Process
	w       *wire
	heard   atomic.Bool // a frame has come since the last tick

	mu    sync.Mutex
	next  uint32
	calls map[uint32]*waiting // until they are answered
	peers map[uint32]*peer
	err   error
	done  chan struct{}
}

// waiting is a call.
type waiting struct {
	kind  kind
	reply chan message
	left  bool // nobody waits any more
}

// Run is Radio's.
func (h *Helper) Run(ctx context.Context, up func(Controller), heard func(adv.Report)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := h.present(); err != nil {
		return err
	}
	process, err := child.Start(h.command, []string{"GOMEMLIMIT=" + helperMemory, "GOTRACEBACK=single"}, "the radio's process", h.log)
	if err != nil {
		return fmt.Errorf("start the radio's process: %w", err)
	}
	s := &session{process: process, w: newWire(process.Conn), calls: map[uint32]*waiting{}, peers: map[uint32]*peer{}, done: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	stop := context.AfterFunc(ctx, func() { process.Conn.Close() })
	defer stop()

	var scanning atomic.Bool
	var hung atomic.Value
	gone := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		if why := s.watch(&scanning, gone); why != nil {
			hung.Store(why)
			process.Kill()
			process.Conn.Close()
		}
	})
	err = h.receive(s, func(c Controller) {
		scanning.Store(true)
		h.mu.Lock()
		h.session = s
		h.mu.Unlock()
		up(c)
	}, heard)
	close(gone)
	watching.Wait()
	h.mu.Lock()
	h.session = nil
	h.mu.Unlock()
	process.Conn.Close()
	late := time.AfterFunc(endTime, process.Kill)
	how := <-ended
	late.Stop()
	switch why, _ := hung.Load().(error); {
	case ctx.Err() != nil:
		err = ctx.Err()
	case why != nil:
		err = why
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("the radio's process ended: %w", orClean(how))
	}
	s.fail(err)
	return err
}

func orClean(how error) error {
	if how == nil {
		return errors.New("exit status 0")
	}
	return how
}

// watch returns why the process is to be killed, or nil when it has gone.
func (s *session) watch(scanning *atomic.Bool, gone <-chan struct{}) error {
	tick := time.NewTicker(helperTick)
	defer tick.Stop()
	for silent := 0; ; {
		select {
		case <-gone:
			return nil
		case <-tick.C:
		}
		if silent++; s.heard.Swap(false) {
			silent = 0
		}
		switch {
		case scanning.Load() && silent > silence:
			return errors.New("the radio's process hangs")
		case silent > openSilence:
			return errors.New("the adapter does not open: unplug it and plug it in again")
		}
	}
}

// failure is what the process says before it ends.
type failure string

func (f failure) Error() string { return string(f) }

// receive takes what the process says until it ends.
func (h *Helper) receive(s *session, up func(Controller), heard func(adv.Report)) error {
	var pieces adv.Assembler
	for {
		m, err := s.w.receive()
		if err != nil {
			if errors.Is(err, os.ErrClosed) || isReset(err) {
				err = io.EOF
			}
			return err
		}
		s.heard.Store(true)
		switch m.kind {
		case sayUp:
			if len(m.body) != 7 {
				return errBody
			}
			c := Controller{Extended: m.body[6] == 1}
			copy(c.Address[:], m.body)
			up(c)
		case sayBeat:
			b, err := decodeBeat(m.body)
			if err != nil {
				return err
			}
			h.mu.Lock()
			h.beat = b
			h.mu.Unlock()
		case sayHeard:
			reports, _ := adv.ParseEvent(m.body) // those that are whole are good
			for _, r := range reports {
				if whole, ok := pieces.Add(r); ok {
					heard(whole)
				}
			}
		case sayFailed:
			return failure(m.body)
		case sayOK, sayRefused:
			s.answered(m)
		case sayTold:
			id, told, err := decodeTold(m.body)
			if err != nil {
				return err
			}
			s.mu.Lock()
			p := s.peers[id]
			s.mu.Unlock()
			if p != nil {
				select {
				case p.told <- told:
				default:
				}
			}
		case sayGone:
			id, why, err := decodeGone(m.body)
			if err != nil {
				return err
			}
			s.mu.Lock()
			if p := s.peers[id]; p != nil {
				p.end(errors.New(why))
			}
			delete(s.peers, id)
			s.mu.Unlock()
		default:
			return errBody
		}
	}
}

// fail ends all that waits.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	close(s.done)
	for _, p := range s.peers {
		p.end(err)
	}
}

// call asks the process and waits for its answer until ctx ends; the process is told how long that is.
func (s *session) call(ctx context.Context, k kind, a ask) ([]byte, error) {
	a.wait = defaultCall
	if end, ok := ctx.Deadline(); ok {
		a.wait = max(min(a.wait, time.Until(end)), time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, a.wait+helperTick/2)
	defer cancel()
	c := &waiting{kind: k, reply: make(chan message, 1)}
	s.mu.Lock()
	s.next++
	id := s.next
	s.calls[id] = c
	s.mu.Unlock()
	// Not waited for: it blocks if the process hangs, until that is killed.
	sent := make(chan error, 1)
	go func() { sent <- s.w.send(k, id, a.encode()) }()
	for {
		select {
		case err := <-sent:
			if err != nil {
				return nil, err
			}
			sent = nil
		case m := <-c.reply:
			if m.kind == sayRefused {
				return nil, failure(m.body)
			}
			return m.body, nil
		case <-s.done:
			return nil, s.err
		case <-ctx.Done():
			s.mu.Lock()
			c.left = true
			s.mu.Unlock()
			return nil, ctx.Err()
		}
	}
}

// answered hands on the answer of a call. A new connection is known from here on, so that nothing it says is lost.
func (s *session) answered(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[m.call]
	if c == nil {
		return
	}
	delete(s.calls, m.call)
	if c.kind == askConnect && m.kind == sayOK && len(m.body) == 4 {
		id := binary.BigEndian.Uint32(m.body)
		if c.left {
			go s.w.send(askClose, 0, ask{peer: id, wait: helperTick}.encode())
			return
		}
		s.peers[id] = &peer{s: s, id: id, told: make(chan Told, toldWaiting), gone: make(chan struct{})}
	}
	c.reply <- m // has room
}

// defaultCall is how long a call may take whose context has no deadline.
const defaultCall = 30 * time.Second

var errNotScanning = errors.New("the radio is down")

// Connect is Radio's.
func (h *Helper) Connect(ctx context.Context, addr adv.Addr, addrKind byte) (Peer, error) {
	h.mu.Lock()
	s := h.session
	h.mu.Unlock()
	if s == nil {
		return nil, errNotScanning
	}
	body, err := s.call(ctx, askConnect, ask{addr: addr, random: addrKind&1 == 1})
	if err != nil {
		return nil, err
	}
	if len(body) != 4 {
		return nil, errBody
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[binary.BigEndian.Uint32(body)]; p != nil {
		return p, nil
	}
	return nil, errors.New("the connection ended as soon as it was made")
}

// Beat is what the radio's process said last of how it does: events of advertisements, packets that made no sense, events that
// were dropped because the gateway was busy.
func (h *Helper) Beat() (heard, broken, dropped uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.beat.heard, h.beat.broken, h.beat.dropped
}

// isReset tells whether the other end went without a word.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// peer is a connection that the process holds.
type peer struct {
	s    *session
	id   uint32
	told chan Told
	gone chan struct{}
	err  error // of gone; guarded by the session's mu
}

func (p *peer) Told() <-chan Told     { return p.told }
func (p *peer) Gone() <-chan struct{} { return p.gone }

func (p *peer) Err() error {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.err
}

// end is called with the session's mu held.
func (p *peer) end(why error) {
	if p.err == nil {
		p.err = why
		close(p.gone)
	}
}

func (p *peer) Close() {
	p.s.mu.Lock()
	known := p.s.peers[p.id] == p
	delete(p.s.peers, p.id)
	p.end(errors.New("closed"))
	p.s.mu.Unlock()
	if known {
		ctx, cancel := context.WithTimeout(context.Background(), endTime)
		defer cancel()
		p.s.call(ctx, askClose, ask{peer: p.id}) // for the device to know; if it fails the connection ends by itself
	}
}

func (p *peer) Discover(ctx context.Context) ([]Characteristic, error) {
	body, err := p.s.call(ctx, askDiscover, ask{peer: p.id})
	if err != nil {
		return nil, err
	}
	return decodeCharacteristics(body)
}

func (p *peer) Read(ctx context.Context, c Characteristic) ([]byte, error) {
	return p.s.call(ctx, askRead, ask{peer: p.id, handle: c.Handle})
}

func (p *peer) Write(ctx context.Context, c Characteristic, value []byte) error {
	command := c.Properties&canWrite == 0
	_, err := p.s.call(ctx, askWrite, ask{peer: p.id, handle: c.Handle, command: command, value: value})
	return err
}

func (p *peer) Subscribe(ctx context.Context, c Characteristic) error {
	_, err := p.s.call(ctx, askSubscribe, ask{peer: p.id, handle: c.Handle, last: c.Last, props: c.Properties})
	return err
}
