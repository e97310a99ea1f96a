package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/gateway"
)

// BusConfig is one section under buses.
type BusConfig struct {
	port.Config `yaml:",inline"` // of a serial line
	// Address is host:port of a Modbus TCP device or gateway, in place of a port. The usual
	// port is 502, and may be left out.
	Address string `yaml:"address"`
	// Framing is rtu or tcp. Default: rtu on a port; tcp at an address, where rtu is what
	// transparent serial servers speak.
	Framing string `yaml:"framing"`
	// Timeout is how long an answer may take to begin; default 1 s.
	Timeout time.Duration `yaml:"timeout"`
	// Retries is how often a request is repeated that got no answer; default 2.
	Retries *int `yaml:"retries"`
	// Pause is the silence before each request, for devices that need time to listen again.
	// Default: 3.5 characters on a line, none over TCP.
	Pause time.Duration `yaml:"pause"`
}

// The defaults of a bus.
const (
	defaultTimeout = time.Second
	defaultRetries = 2
)

// Bus is a line or a connection that any number of devices share, each of which asks one thing
// at a time and then goes to the end of the queue. It is open while somebody uses it.
type Bus struct {
	name    string
	what    string // for people: the port and how it is set, or the address
	timing  timing
	retries int
	framing func() framing
	open    func(ctx context.Context) (stream, error)
	port    *port.Port // nil: over TCP

	turn queue

	mu      sync.Mutex
	link    *link
	opening chan struct{} // closed when an attempt to open is over
	failed  error         // how the last one ended
	units   map[byte]*unit
	taps    sync.Map // of *codec.Taps, by unit
}

// tap is what listens to the exchanges with a slave.
func (b *Bus) tap(unit byte) *codec.Taps {
	t, _ := b.taps.LoadOrStore(unit, new(codec.Taps))
	return t.(*codec.Taps)
}

// overheard tells who listens to a slave. It is called by a link, which holds its lock.
func (b *Bus) overheard(unit byte, sent bool, p []byte) {
	if t, ok := b.taps.Load(unit); ok {
		t.(*codec.Taps).Tell(sent, p)
	}
}

// unit is what a bus knows about one slave.
type unit struct {
	// Its answer to this may still come, until then, and would pass for the answer to the next
	// request. Nil: it owes nothing.
	owes  request
	until time.Time
	mute  bool // it does not answer echo requests

	err    error // why it is not asked for a while; nil: it is
	wait   time.Duration
	next   time.Time // when it is asked again
	failed int       // requests in a row without an answer
	ever   bool      // it has answered since the bus was made
}

// How long a slave that does not answer is left alone: from first on, doubled up to last.
const (
	firstWait = time.Second
	lastWait  = time.Minute
)

// owedFor is how many timeouts after its request an answer can still come.
const owedFor = 5

// NewBus returns the bus that cfg describes. Errors are gateway.KeyErrors. Nothing is opened
// before a device or a probe uses it.
func NewBus(name string, cfg BusConfig) (*Bus, error) {
	b := &Bus{name: name, timing: timing{timeout: defaultTimeout, pause: cfg.Pause}, retries: defaultRetries, units: map[byte]*unit{}}
	switch {
	case cfg.Port == "" && cfg.Address == "":
		return nil, gateway.BadKey("port", "missing; a bus has a port, such as /dev/serial/by-id/… or usb:VID:PID, or an address, host:port")
	case cfg.Port != "" && cfg.Address != "":
		return nil, gateway.BadKey("address", "a bus has a port or an address, not both")
	case cfg.Timeout < 0 || cfg.Timeout > time.Minute:
		return nil, gateway.BadKey("timeout", "%v is not between 1ms and 1m", cfg.Timeout)
	case cfg.Pause < 0 || cfg.Pause > time.Minute:
		return nil, gateway.BadKey("pause", "%v is not between 0 and 1m", cfg.Pause)
	case cfg.Retries != nil && (*cfg.Retries < 0 || *cfg.Retries > 10):
		return nil, gateway.BadKey("retries", "%d is not between 0 and 10", *cfg.Retries)
	}
	if cfg.Timeout > 0 {
		b.timing.timeout = cfg.Timeout
	}
	if cfg.Retries != nil {
		b.retries = *cfg.Retries
	}
	b.framing = func() framing { return rtu{} }
	if cfg.Port != "" {
		if cfg.Framing != "" && cfg.Framing != "rtu" {
			return nil, gateway.BadKey("framing", "%q: on a port it is rtu", cfg.Framing)
		}
		return b, b.onPort(cfg.Config)
	}
	switch cfg.Framing {
	case "", "tcp":
		b.framing = func() framing { return &mbap{} }
	case "rtu":
	default:
		return nil, gateway.BadKey("framing", "%q is neither tcp nor rtu", cfg.Framing)
	}
	return b, b.onTCP(cfg)
}

// Port is the serial port that the bus is on; nil if it is not.
func (b *Bus) Port() *port.Port { return b.port }

func (b *Bus) onPort(cfg port.Config) error {
	p, err := port.New(cfg)
	b.port = p
	if err != nil {
		return err
	}
	// A character is 11 bits (§2.5.1); above 19200 baud the silence is fixed (§2.5.1.1).
	b.timing.char = 11 * time.Second / time.Duration(p.Baud())
	if b.timing.pause == 0 {
		b.timing.pause = max(1750*time.Microsecond, 7*b.timing.char/2)
	}
	b.what = fmt.Sprintf("port %s at %s", p, p.Line())
	b.open = func(context.Context) (stream, error) {
		f, err := p.Open()
		if err != nil {
			return nil, fmt.Errorf("port %s: %w", p, err)
		}
		return f, nil
	}
	return nil
}

func (b *Bus) onTCP(cfg BusConfig) error {
	if cfg.Config != (port.Config{}) {
		return gateway.BadKey("address", "baud, parity and the like are for a port; at an address the far end sets its own line")
	}
	address := cfg.Address
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, "502")
	}
	if host, number, err := net.SplitHostPort(address); err != nil || host == "" || number == "" {
		return gateway.BadKey("address", "%q is not host or host:port, such as 192.168.1.20:502", cfg.Address)
	}
	b.what = address
	if cfg.Framing == "rtu" {
		b.what += " (rtu)"
	}
	b.open = func(ctx context.Context) (stream, error) {
		// Devices on a network answer in time or not at all.
		d := net.Dialer{Timeout: max(3*time.Second, b.timing.timeout)}
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		return c, nil
	}
	return nil
}

// queue lets one in at a time, in the order they came.
type queue struct {
	mu      sync.Mutex
	busy    bool
	waiting []chan struct{}
}

func (q *queue) enter(ctx context.Context) error {
	q.mu.Lock()
	if !q.busy {
		q.busy = true
		q.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	q.waiting = append(q.waiting, mine)
	q.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, w := range q.waiting {
		if w == mine {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	q.next() // it was our turn already
	return ctx.Err()
}

func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next()
}

func (q *queue) next() {
	if len(q.waiting) == 0 {
		q.busy = false
		return
	}
	close(q.waiting[0])
	q.waiting = q.waiting[1:]
}

// session is one user's share in an open bus.
type session struct {
	bus  *Bus
	link *link
}

// use opens the bus if it is not, and returns a share in it.
func (b *Bus) use(ctx context.Context) (*session, error) {
	for {
		b.mu.Lock()
		if b.link != nil && b.link.reason() == nil {
			defer b.mu.Unlock()
			b.link.users++
			return &session{b, b.link}, nil
		}
		if opening := b.opening; opening != nil { // one attempt is enough for all
			b.mu.Unlock()
			select {
			case <-opening:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			b.mu.Lock()
			err := b.failed
			b.mu.Unlock()
			if err != nil && !errors.Is(err, context.Canceled) {
				return nil, err
			}
			continue
		}
		b.opening = make(chan struct{})
		gone := b.link
		b.link = nil
		b.mu.Unlock()
		if gone != nil { // its users may not have noticed, and it still has the port
			gone.close()
		}
		s, err := b.open(ctx)
		if err != nil && ctx.Err() != nil {
			err = context.Canceled
		} else if err != nil {
			err = fmt.Errorf("bus %s: %w", b.name, err)
		}
		b.mu.Lock()
		if b.failed = err; err == nil {
			b.link = newLink(s, b.framing(), b.timing)
			b.link.late, b.link.tell = b.paid, b.overheard
		}
		close(b.opening)
		b.opening = nil
		b.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// close gives the share back. The last one closes the bus, and nothing of it is left.
func (s *session) close() {
	s.bus.mu.Lock()
	s.link.users--
	last := s.link.users == 0
	if last && s.bus.link == s.link {
		s.bus.link = nil
	}
	s.bus.mu.Unlock()
	if last {
		s.link.close()
	}
}

// ask sends r to the slave id when its turn comes, once. Garbage is what came that was no answer.
// Errors are an Exception, ctx's, a silence (the slave does not answer, and why that may
// be), or that the bus is gone.
func (s *session) ask(ctx context.Context, id byte, r request) (pdu, garbage []byte, err error) {
	b := s.bus
	for {
		if err := b.turn.enter(ctx); err != nil {
			return nil, nil, err
		}
		wait, echo := b.debt(id)
		if wait > 0 && !echo { // others go first
			b.turn.leave()
			select {
			case <-time.After(wait):
			case <-s.link.lost:
				return nil, nil, s.gone()
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
			continue
		}
		defer b.turn.leave()
		if wait > 0 {
			if garbage, err := s.exchange(ctx, id, echoRequest(uint16(rand.Uint32()))); err != nil {
				return nil, garbage, err
			}
		}
		pdu, garbage, err = s.link.exchange(ctx, id, r)
		return pdu, garbage, s.account(ctx, id, r, err)
	}
}

// exchange has the slave send something back that can be told from everything it may still owe.
// It answers in order, so when this has come, nothing older comes. That it does not know this
// kind of request is as good an answer.
func (s *session) exchange(ctx context.Context, id byte, r request) (garbage []byte, err error) {
	_, garbage, err = s.link.exchange(ctx, id, r)
	err = s.account(ctx, id, r, err)
	var refused Exception
	if errors.As(err, &refused) && !refused.unreachable() {
		err = nil
	}
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	switch u := b.unit(id); {
	case err == nil:
		u.owes = nil
	case errors.Is(err, errSilence):
		u.mute = true
	}
	return garbage, err
}

// unit is called with mu held.
func (b *Bus) unit(id byte) *unit {
	u := b.units[id]
	if u == nil {
		u = &unit{}
		b.units[id] = u
	}
	return u
}

// debt tells how long an answer of the slave may still come, and whether an echo can find out.
func (b *Bus) debt(id byte) (wait time.Duration, echo bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.unit(id)
	if u.owes == nil || !time.Now().Before(u.until) {
		u.owes = nil
		return 0, false
	}
	return time.Until(u.until), !u.mute
}

// paid looks for answers that came too late.
func (b *Bus) paid(in []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, u := range b.units {
		if u.owes == nil {
			continue
		}
		if pdu, _, _ := (rtu{}).find(in, id, u.owes); pdu != nil {
			u.owes = nil
		}
	}
}

// errSilence is what a slave that does not answer is told by.
var errSilence = errors.New("no answer")

type silence struct {
	text  string
	cause error
}

func (e *silence) Error() string        { return e.text }
func (e *silence) Is(target error) bool { return target == errSilence }
func (e *silence) Unwrap() error        { return e.cause }

// account keeps count of how the slave answers, and words err.
func (s *session) account(ctx context.Context, id byte, r request, err error) error {
	b := s.bus
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.unit(id)
	var refused Exception
	var none *noAnswer
	switch isException := errors.As(err, &refused); {
	case err == nil, isException && !refused.unreachable():
		if u.err != nil {
			u.mute = false
		}
		u.err, u.wait, u.failed, u.ever = nil, 0, 0, true
		return err
	case isException:
		err = &silence{fmt.Sprintf("unit %d does not answer on %s: %v", id, b.what, refused), refused}
	case errors.As(err, &none):
		err = &silence{fmt.Sprintf("unit %d does not answer on %s: %s", id, b.what, b.likely(id, u, none)), none}
		s.owe(u, r)
	case ctx.Err() != nil:
		s.owe(u, r)
		return ctx.Err()
	case s.link.reason() != nil:
		return s.goneLocked()
	default:
		err = &silence{fmt.Sprintf("%s: %v", b.what, err), err}
	}
	if u.failed++; u.failed > b.retries || u.wait > 0 {
		u.err = err
		u.wait = min(max(2*u.wait, firstWait), lastWait)
		u.next = time.Now().Add(u.wait)
	}
	return err
}

// owe notes that the answer to r may still come. Over TCP it can be told from others.
func (s *session) owe(u *unit, r request) {
	if _, tcp := s.link.framing.(*mbap); tcp || r[0] == diagnostics {
		return
	}
	u.owes = r
	u.until = time.Now().Add((owedFor - 1) * s.bus.timing.timeout)
}

// likely says what is most likely wrong, from what came in place of an answer and from how
// the rest of the bus does.
func (b *Bus) likely(id byte, u *unit, e *noAnswer) string {
	others := false
	for _, other := range b.units {
		others = others || other != u && other.ever
	}
	if text := guess(e.seen, e.sent, b.framing()); text != "" {
		return fmt.Sprintf("%d bytes came that are no answer: %s", len(e.seen), text)
	}
	switch {
	case u.ever:
		return "it did before: is it on, and its cable in order?"
	case others:
		return fmt.Sprintf("others do, so the line is right: is it on, and is %d its unit id?", id)
	case b.timing.char == 0:
		return fmt.Sprintf("the connection stands: is %d its unit id (many devices have 1 or 255), is framing right (tcp or rtu), and is there another master?", id)
	}
	return fmt.Sprintf("nothing comes at all: is it on, are A and B the right way round, is %d its unit id, and do baud rate and parity fit?", id)
}

// down returns why the slave is not asked just now, or nil if it may be.
func (b *Bus) down(id byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.unit(id); u.err != nil && time.Now().Before(u.next) {
		return u.err
	}
	return nil
}

// gone words why the bus is lost.
func (s *session) gone() error {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return s.goneLocked()
}

func (s *session) goneLocked() error {
	err := s.link.reason()
	switch closed := errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed); {
	case closed && s.bus.timing.char > 0:
		err = errors.New("unplugged")
	case closed:
		err = errors.New("the far end closed the connection: does it take one master only, or speak another framing?")
	}
	return fmt.Errorf("bus %s: %s: %w", s.bus.name, s.bus.what, err)
}
