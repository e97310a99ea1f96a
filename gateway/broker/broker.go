package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// Broker is the MQTT side of the gateway.
type Broker struct {
	o      Options
	log    *slog.Logger
	engine engine

	background context.Context // of what the broker does on its own account
	quit       context.CancelFunc
	stopped    chan struct{} // closed when connections are to end
	early      chan struct{} // one token: a checkpoint is due before its time

	mu       sync.Mutex
	open     map[*conn]struct{}
	none     chan struct{} // closed when closing and no connection is open
	closing  bool
	byID     map[string]*conn
	sessions map[string]*session
	durable  int // of them
	index    index
	retained map[string]*gateway.Event
	next     uint64            // entries below this offset are applied
	saved    uint64            // and those below this are in State
	dirty    map[string]string // keys of State to write, and the names they are of

	// Of the fan-out.
	round   uint64
	targets []target
	enc     encoding
}

// target is one session's share of an event.
type target struct {
	s  *session
	it item
}

// New returns a broker with the sessions, subscriptions, QoS 2 identifiers and retained
// messages that State and the journal hold.
func New(o Options) (*Broker, error) {
	o.setDefaults()
	if o.Auth == nil || o.Ingest == nil || o.State == nil || o.Replay == nil || o.Age == nil {
		return nil, errors.New("broker: Auth, Ingest, State, Replay and Age are required")
	}
	m, err := newMochi(o)
	if err != nil {
		return nil, fmt.Errorf("set up the MQTT engine: %w", err)
	}
	b := &Broker{o: o, log: o.Logger, engine: m,
		stopped: make(chan struct{}), early: make(chan struct{}, 1), none: make(chan struct{}),
		open: map[*conn]struct{}{}, byID: map[string]*conn{}, sessions: map[string]*session{},
		retained: map[string]*gateway.Event{}, dirty: map[string]string{}}
	b.background, b.quit = context.WithCancel(context.Background())
	return b, b.load(time.Now())
}

// Run keeps State up to date, ends sessions whose time is over and sends delayed wills.
// When ctx ends it closes every connection (v5: DISCONNECT 0x8B), which takes
// CloseTimeout and a little more at the worst, sends the wills, writes a last checkpoint
// and returns. The journal has to run until then.
func (b *Broker) Run(ctx context.Context) error {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	checkpoint := time.NewTicker(b.o.CheckpointInterval)
	defer checkpoint.Stop()
	failed := false
	for ctx.Err() == nil {
		due := false
		early := b.early
		if failed { // the disk is full, say: once in a second will do
			early = nil
		}
		select {
		case <-ctx.Done():
		case now := <-second.C:
			b.tick(now)
			due = failed
		case <-checkpoint.C:
			b.sweep()
			due = true
		case <-early:
			due = true
		}
		if due {
			err := b.checkpoint()
			if err != nil && !failed {
				b.log.Error("checkpoint failed; it is tried every second", "error", err)
			}
			failed = err != nil
		}
	}
	b.shutdown()
	return b.checkpoint()
}

// Saved is the offset from which New would read the journal if it were made now.
func (b *Broker) Saved() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.saved
}

// Checkpoint asks for a checkpoint soon. It does not wait.
func (b *Broker) Checkpoint() {
	select {
	case b.early <- struct{}{}:
	default:
	}
}

// shutdown closes every connection and sends the wills that wait.
func (b *Broker) shutdown() {
	defer b.quit()
	b.mu.Lock()
	b.closing = true
	close(b.stopped)
	for c := range b.open {
		c.stop(cause{code: codeShuttingDown, reason: "shutting down"})
	}
	if len(b.open) == 0 {
		close(b.none)
	}
	b.mu.Unlock()
	late := time.NewTimer(2*b.o.CloseTimeout + lingerTime)
	defer late.Stop()
	select {
	case <-b.none:
	case <-late.C:
		b.log.Warn("connections did not end in time")
	}
	var wills []*gateway.Event
	b.mu.Lock()
	for _, s := range b.sessions {
		s.mu.Lock()
		if s.will != nil {
			wills = append(wills, s.will)
			s.will = nil
		}
		s.mu.Unlock()
	}
	b.mu.Unlock()
	for _, e := range wills {
		b.publishWill(e)
	}
}

// Serve accepts connections from l until ctx ends, and returns when they have ended
// too. It closes l.
func (b *Broker) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var conns sync.WaitGroup
	defer conns.Wait()
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			conns.Go(func() { b.Connect(ctx, nc) })
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept MQTT connections: %w", err)
		}
		// Out of file descriptors, most likely: others have to end first.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		b.log.Error("accept failed", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// Connect serves one MQTT connection, and returns when it has ended. It closes nc. When
// ctx ends, so does the connection.
func (b *Broker) Connect(ctx context.Context, nc net.Conn) { b.connect(ctx, nc, nil) }

// Proxy is what another part of this process knows of a client that it speaks for, such as an MQTT-SN node.
type Proxy struct {
	Account *auth.Account // who it is; the user name and password of CONNECT are not looked at
	// Will is asked when the connection ends without a DISCONNECT, in place of CONNECT's will, which such a
	// client may change while it is connected. It may be nil, and return nil: then there is none.
	Will func() *gateway.Event
}

func (p *Proxy) will() *will {
	if p.Will == nil {
		return nil
	}
	if e := p.Will(); e != nil {
		return &will{event: e}
	}
	return nil
}

// ConnectAs is Connect for a client behind p. Such a client may be slow, or sleep, for good reasons: at the
// bound of its queue what is new is dropped, as for one that is away, and it stays connected.
func (b *Broker) ConnectAs(ctx context.Context, nc net.Conn, p Proxy) { b.connect(ctx, nc, &p) }

func (b *Broker) connect(ctx context.Context, nc net.Conn, p *Proxy) {
	c := newConn(ctx, b, nc)
	c.proxy = p
	defer c.cancel()
	b.mu.Lock()
	full, closing := len(b.open) >= b.o.MaxConnections, b.closing
	if !full && !closing {
		b.open[c] = struct{}{}
	}
	b.mu.Unlock()
	if full || closing {
		if full {
			b.log.Warn("too many MQTT connections", "remote", nc.RemoteAddr(), "limit", b.o.MaxConnections)
			b.o.Observer.Dropped("too many connections")
		}
		nc.Close()
		return
	}
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.open, c)
		if b.closing && len(b.open) == 0 {
			close(b.none)
		}
	}()
	c.serve(ctx)
}

// Deliver takes released entries: it is a [gateway.Tap]. Each changes the view first
// (retained messages, sessions, QoS 2 identifiers) and then goes to its subscribers, so
// what a client does after its PUBACK finds what it published.
func (b *Broker) Deliver(batch []*gateway.Event) {
	for _, e := range batch {
		b.deliver(e)
	}
}

func (b *Broker) deliver(e *gateway.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		if r := recover(); r != nil {
			b.log.Error("panic in MQTT delivery", "topic", e.Topic, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		}
	}()
	b.apply(e)
	if len(b.dirty) >= checkpointAt {
		b.Checkpoint()
	}
	if e.Kind != gateway.Data || e.Expired(b.o.Age()) {
		return
	}
	b.round++
	b.index.match(e.Topic, func(s *session, sub subscription) { b.aim(e, s, sub) })
	b.enc.reset()
	for i := range b.targets {
		b.targets[i].s.push(b.targets[i].it, &b.enc)
	}
	clear(b.targets)
	b.targets = b.targets[:0]
}

// aim adds one matching subscription to the targets. A session gets one message for
// all its subscriptions, at the highest QoS of them, with all identifiers: MQTT 5 §3.3.4. A
// shared subscription's message is one of its own.
func (b *Broker) aim(e *gateway.Event, s *session, sub subscription) {
	if sub.NoLocal && e.Origin.Via == via && e.Origin.ID == s.id {
		return
	}
	var it *item
	if shared := isShared(sub.Filter); !shared && s.mark == b.round {
		it = &b.targets[s.target].it
	} else {
		b.targets = append(b.targets, target{s: s, it: item{event: e}})
		it = &b.targets[len(b.targets)-1].it
		if !shared {
			s.mark, s.target = b.round, len(b.targets)-1
		}
	}
	it.qos = max(it.qos, min(e.QoS, sub.QoS))
	it.retain = it.retain || e.Retain && sub.RetainAsPublished
	if sub.ID != 0 {
		it.subIDs = append(it.subIDs, sub.ID)
	}
}

// may tells whether a client may publish e: topics that begin with $ are the server's
// (MQTT 5 §4.7.2), all others the policy's.
func (b *Broker) may(a *auth.Account, e *gateway.Event) error {
	if strings.HasPrefix(e.Topic, "$") {
		return gateway.Errorf(gateway.ErrDenied, "topic %q: clients do not publish to topics that begin with $", e.Topic)
	}
	return a.CanPublish(e.Topic, e.Origin.ID)
}

// allowed tells whether e is to be taken in.
func (b *Broker) allowed(a *auth.Account, e *gateway.Event) error {
	if err := b.may(a, e); err != nil {
		return err
	}
	if e.UTF8 && !utf8.Valid(e.Payload) {
		return gateway.Errorf(gateway.ErrInvalid, "payload is said to be UTF-8 and is not")
	}
	if !e.Retain || len(e.Payload) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.retained[e.Topic]; !known && len(b.retained) >= b.o.MaxRetained {
		return gateway.Errorf(gateway.ErrFull, "%d topics have a retained message; no more are kept", len(b.retained))
	}
	return nil
}
