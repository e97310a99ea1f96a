package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/weir-iot/weir/gateway"
)

// PumpOptions are what a Pump needs. Count, Logger, Observer and the times are optional.
type PumpOptions struct {
	Uplink    string // its id
	GatewayID string
	Sink      Sink
	Hub       *gateway.Hub
	State     State
	StateLost bool            // cursors may be missing that were there
	Filters   gateway.Filters // the union of the uplink's routes
	Count     func(from uint64, f gateway.Filters) (uint64, error)
	Age       func() time.Duration // the clock that gateway.Event.Age is of
	Logger    *slog.Logger
	Observer  gateway.Observer

	// The pause after a lost connection grows from MinPause to MaxPause, each
	// half to one and a half times as long by chance, so that a thousand gateways do
	// not come back in step. Zero: 500 ms and 30 s.
	MinPause, MaxPause time.Duration
	// CommitEvery is how long a cursor may lag behind what the far end has
	// acknowledged: what is repeated, with the same ids, after a kill. Each commit is a
	// sync, and flash wears. Zero: 1 s.
	CommitEvery time.Duration
	// DrainTimeout is how long Run waits at its end for acknowledgements. Zero: 3 s.
	DrainTimeout time.Duration
}

// Pump moves events from a cursor to a sink:
//
//	Cursor.Next ─► window ─► Sink.Send ─► far end
//	                 │ ▲                     │
//	    low-water mark └──── done(e, nil) ◄──┘ acknowledgement
//	                 ▼
//	           Cursor.Commit
//
// It is the one layer that retries. Order and nothing lost come before progress.
type Pump struct {
	o      PumpOptions
	cursor Cursor
	dead   *graveyard // read and written by save only

	// Each has one waiter and room for one signal, so that none is missed.
	more, room, grave chan struct{}

	mu        sync.Mutex
	win       window
	committed gateway.Position
	refused   func(error) // ends the connection that there is; nil without one
	status    Status

	counting sync.Mutex // held by the one Status call that counts
	counted  time.Time
}

// NewPump opens the uplink's cursor, and stores it if it is new.
func NewPump(o PumpOptions) (*Pump, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("uplink", o.Uplink)
	o.Observer = o.Observer.OrNop()
	for _, d := range []struct {
		value *time.Duration
		unset time.Duration
	}{{&o.MinPause, 500 * time.Millisecond}, {&o.MaxPause, 30 * time.Second}, {&o.CommitEvery, time.Second}, {&o.DrainTimeout, 3 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.unset
		}
	}
	cursor, at, err := OpenCursor(o.Hub, o.State, o.StateLost, o.Uplink, o.Filters, o.Logger)
	if err != nil {
		return nil, err
	}
	dead, err := openGraveyard(o.State, o.Uplink)
	if err != nil {
		return nil, err
	}
	p := &Pump{
		o: o, cursor: cursor, dead: dead, committed: at, win: window{done: at},
		more: make(chan struct{}, 1), room: make(chan struct{}, 1), grave: make(chan struct{}, 1),
	}
	p.status = Status{Uplink: o.Uplink, Reason: "not started", Since: time.Now(), Dead: uint64(dead.count)}
	return p, nil
}

// Run sends until ctx ends. Then it takes no more events, waits up to DrainTimeout for what
// is in flight, and commits the cursor. Its error is that last commit's; the
// events in question are sent again at the next start.
func (p *Pump) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	saving, stop := context.WithCancel(context.WithoutCancel(ctx))
	parts.Go(func() { p.read(ctx) })
	parts.Go(func() { p.save(saving) })
	p.keepUp(ctx)
	stop()
	parts.Wait()
	p.bury()
	return p.commit()
}

// read fills the window from the cursor.
func (p *Pump) read(ctx context.Context) {
	pause := p.pauses()
	for {
		p.mu.Lock()
		full := p.win.full()
		p.mu.Unlock()
		if full {
			select {
			case <-p.room:
			case <-ctx.Done():
				return
			}
			continue
		}
		b, err := p.cursor.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.o.Logger.Error("cannot read the journal", "error", err)
			p.mu.Lock()
			p.status.ReadError = err.Error()
			p.mu.Unlock()
			if !wait(ctx, pause.NextBackOff()) {
				return
			}
			continue
		}
		pause.Reset()
		if b.Gap != nil {
			p.o.Logger.Error("events for this uplink may be missing", "gap", b.Gap.String(), "asked", b.Gap.Asked.String())
		}
		p.mu.Lock()
		p.status.ReadError = ""
		if b.Gap != nil {
			p.status.Gaps++
			p.status.LastGap = b.Gap.String()
		}
		p.win.add(b.Events, p.cursor.Position())
		p.pop() // places without events are settled at once
		p.mu.Unlock()
		signal(p.more)
	}
}

// keepUp makes one connection after the other.
func (p *Pump) keepUp(ctx context.Context) {
	pause := p.pauses()
	for ctx.Err() == nil {
		began, before := time.Now(), p.accepted()
		err := p.connect(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			err = errors.New("the far end ended the connection")
		}
		if p.accepted() != before || time.Since(began) > p.o.MaxPause {
			pause.Reset()
		}
		p.setState(false, err.Error())
		wait(ctx, pause.NextBackOff())
	}
	p.setState(false, "stopped")
}

// connect is one call of the sink and what goes with it. It returns when that has ended.
func (p *Pump) connect(ctx context.Context) error {
	run, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	feeding, halt := context.WithCancel(ctx)
	defer halt()
	refused := make(chan error, 1)
	p.mu.Lock()
	p.win.rewind()
	p.refused = func(err error) {
		select {
		case refused <- err:
		default: // the first is the one to tell of
		}
	}
	p.mu.Unlock()

	// The buffer lets a sink see whether there is more before it flushes.
	events := make(chan *gateway.Event, 64)
	ready := make(chan struct{})
	ended := make(chan error, 1)
	var fed sync.WaitGroup
	fed.Go(func() {
		defer close(events)
		select {
		case <-ready:
			p.feed(feeding, events)
		case <-feeding.Done():
		}
	})
	up := sync.OnceFunc(func() {
		p.setState(true, "")
		close(ready)
	})
	go func() { ended <- p.o.Sink.Send(run, events, up, p.settle) }()

	var err error
	over := false
	select {
	case err = <-ended:
		over = true
	case err = <-refused:
	case <-ctx.Done():
	}
	halt()
	fed.Wait()
	if !over {
		select {
		case <-ready:
			last := time.AfterFunc(p.o.DrainTimeout, kill)
			defer last.Stop()
		default: // it never came up, so nothing is in flight
			kill()
		}
		if e := <-ended; err == nil {
			err = e
		}
	}
	p.mu.Lock()
	p.refused = nil
	p.mu.Unlock()
	return err
}

// feed hands events to the sink until ctx ends.
func (p *Pump) feed(ctx context.Context, events chan<- *gateway.Event) {
	for {
		p.mu.Lock()
		e, again := p.win.take(p.o.Age())
		if again {
			p.status.Retried++
		}
		if e == nil {
			p.pop() // take may have found the oldest ones expired
		}
		p.mu.Unlock()
		if e == nil {
			select {
			case <-p.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		if again {
			p.o.Observer.Retried(p.o.Uplink, 1)
		}
		select {
		case events <- e:
		case <-ctx.Done():
			return
		}
	}
}

// settle is the sink's done.
func (p *Pump) settle(e *gateway.Event, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	entry := p.win.find(e)
	switch {
	case entry == nil || entry.outcome != waiting:
	case err == nil:
		entry.outcome = accepted
		p.pop()
	case errors.Is(err, gateway.ErrInvalid) || errors.Is(err, gateway.ErrDenied):
		entry.outcome, entry.reason = poison, err.Error()
		signal(p.grave)
	default:
		p.refuse(fmt.Errorf("the far end refused %s for now: %w", e.ID(p.o.GatewayID), err))
	}
}

// refuse ends the connection that there is. The caller holds mu.
func (p *Pump) refuse(err error) {
	if p.refused != nil {
		p.refused(err)
	}
}

// pop moves the low-water mark. The caller holds mu.
func (p *Pump) pop() {
	delivered := 0
	p.win.pop(func(o outcome) {
		switch o {
		case accepted:
			delivered++
		case expired:
			p.status.Expired++
		}
	})
	if delivered > 0 {
		p.status.Delivered += uint64(delivered)
		p.o.Observer.Delivered(p.o.Uplink, delivered)
	}
	if !p.win.full() {
		signal(p.room)
	}
}

// save commits the low-water mark now and then, and stores dead letters. It is the one place
// that writes State, so that a slow disk holds up no acknowledgement.
func (p *Pump) save(ctx context.Context) {
	tick := time.NewTicker(p.o.CommitEvery)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-tick.C:
			err := p.commit()
			if err != nil && !failed {
				p.o.Logger.Error("cannot store the cursor; a restart will repeat events", "error", err)
			}
			failed = err != nil
		case <-p.grave:
			p.bury()
		case <-ctx.Done():
			return
		}
	}
}

func (p *Pump) commit() error {
	p.mu.Lock()
	at, last := p.win.done, p.committed
	p.mu.Unlock()
	if at == last {
		return nil
	}
	if err := p.cursor.Commit(at); err != nil {
		return err
	}
	p.mu.Lock()
	p.committed = at
	p.mu.Unlock()
	return nil
}

// bury stores the dead letters that wait for it. When that fails the event counts as refused
// for now: the pump stops at it, shows why, and tries it again.
func (p *Pump) bury() {
	for {
		p.mu.Lock()
		entry := p.win.poisoned()
		if entry == nil {
			p.mu.Unlock()
			return
		}
		e, reason := entry.event, entry.reason
		p.mu.Unlock()

		id := e.ID(p.o.GatewayID)
		err := p.dead.bury(e, id, reason, time.Now())

		p.mu.Lock()
		entry = p.win.find(e)
		if err != nil {
			entry.outcome = waiting
			p.refuse(fmt.Errorf("stopped at %s, which the far end will not take (%s): %w", id, reason, err))
		} else {
			entry.outcome = dead
			p.status.Dead = uint64(p.dead.count)
			p.pop()
		}
		p.mu.Unlock()
		if err == nil {
			p.o.Logger.Warn("the far end will not take an event; kept as a dead letter", "id", id, "topic", e.Topic, "reason", reason)
		}
	}
}

func (p *Pump) accepted() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status.Delivered
}

func (p *Pump) setState(up bool, reason string) {
	p.mu.Lock()
	same := p.status.Up == up && p.status.Reason == reason
	if p.status.Up != up {
		p.status.Since = time.Now()
	}
	p.status.Up, p.status.Reason = up, reason
	p.mu.Unlock()
	if same {
		return
	}
	if up {
		p.o.Logger.Info("uplink is up")
	} else {
		p.o.Logger.Warn("uplink is down", "reason", reason)
	}
	p.o.Observer.UplinkState(p.o.Uplink, up, reason)
}

// pauses returns a backoff that never gives up.
func (p *Pump) pauses() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = p.o.MinPause, p.o.MaxPause
	b.RandomizationFactor, b.Multiplier = 0.5, 2
	b.Reset()
	return b
}

// wait pauses for d, or returns false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
