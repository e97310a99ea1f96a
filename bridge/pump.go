package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/weir-iot/weir/gateway"
)

// PumpOptions are what a Pump needs. Backlog, Count, Logger, Observer and the times are optional.
type PumpOptions struct {
	Uplink    string // its id
	GatewayID string
	Sinks     []Sink  // a connection each: as many as the route with most lanes has
	Routes    []Route // each event goes by the first that matches
	Hub       *gateway.Hub
	State     State
	Backlog   Backlog
	StateLost bool // cursors may be missing that were there
	Count     func(from, to uint64, m gateway.Matcher) (uint64, error)
	Missing   func(from, to uint64, m gateway.Matcher) (n uint64, sure bool) // store.Journal.Missing
	Age       func() time.Duration                                           // the clock that gateway.Event.Age is of
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

// Pump moves the events of an uplink's routes to its far end:
//
//	Cursor.Next ─► window ─┐                 ┌─► lane: Sink.Send ─► far end
//	Cursor.Next ─► window ─┼─► by share ─────┤                         │
//	                 │ ▲   │   and lane      └─► lane: Sink.Send       │
//	    low-water mark └───┴──────────── done(e, nil) ◄────────────────┘ acknowledgement
//	                 ▼
//	           Cursor.Commit
//
// It is the one layer that retries. Order and nothing lost come before progress.
type Pump struct {
	o     PumpOptions
	lanes []*lane
	grave chan struct{} // one waiter, one signal

	// Held while cursors are stored, while their queues are counted, and while the keeper moves what a route
	// needs from the journal to its backlog.
	committing sync.Mutex

	mu       sync.Mutex
	sources  []*source         // the routes, in order, and replays behind them
	replays  []*replay         // and those of late that are over
	begun    int               // replays ever
	replayed map[string]uint64 // events of replays that the far end took, by route, of all time
	paused   time.Time         // a drill: no connection until then
	woken    chan struct{}
	status   Status
	reading  func(*source) // starts to read a source; nil while Run does not run

	counting sync.Mutex // held by the one Status call that counts
	counted  time.Time
	queued   map[string]uint64 // in the journal, by route
}

// NewPump opens the routes' cursors, and stores those that are new.
func NewPump(o PumpOptions) (*Pump, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("uplink", o.Uplink)
	o.Observer = o.Observer.OrNop()
	if o.Backlog == nil {
		o.Backlog = noBacklog{}
	}
	for _, d := range []struct {
		value *time.Duration
		unset time.Duration
	}{{&o.MinPause, minPause}, {&o.MaxPause, maxPause}, {&o.CommitEvery, time.Second}, {&o.DrainTimeout, 3 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.unset
		}
	}
	p := &Pump{o: o, grave: make(chan struct{}, 1), woken: make(chan struct{}), queued: map[string]uint64{}}
	p.status = Status{Uplink: o.Uplink, Reason: "not started", Since: time.Now(), Circuit: Circuit{State: LinkStopped}}
	for n, sink := range o.Sinks {
		p.lanes = append(p.lanes, &lane{p: p, n: n, sink: sink, more: make(chan struct{}, 1), reason: "not started", circuit: p.status.Circuit})
	}
	var err error
	if p.replayed, err = readReplayed(o.State, o.Uplink); err != nil {
		return nil, err
	}
	var before []gateway.Matcher
	for _, r := range o.Routes {
		r = r.withDefaults()
		r.Lanes = min(r.Lanes, len(p.lanes))
		match := r.Match
		if len(before) > 0 {
			r.Match = except{match, before[:len(before):len(before)]}
		}
		before = append(before, match)
		holder := holderName(o.Uplink, r.ID)
		cursor, at, err := openCursor(o.Hub, o.State, o.Backlog, o.StateLost, holder, r.Match, o.Logger)
		if err != nil {
			return nil, err
		}
		s := newSource(r, cursor, at)
		s.holder = holder
		if s.dead, err = openGraveyard(o.State, holder); err != nil {
			return nil, err
		}
		p.sources = append(p.sources, s)
	}
	return p, nil
}

// Run sends until ctx ends. Then it takes no more events, waits up to DrainTimeout for what
// is in flight, and commits the cursors. Its error is that last commit's; the
// events in question are sent again at the next start.
func (p *Pump) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	saving, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.mu.Lock()
	p.reading = func(s *source) {
		reading, stop := context.WithCancel(ctx)
		s.stop = stop
		parts.Go(func() {
			defer stop()
			p.read(reading, s)
		})
	}
	for _, s := range p.sources {
		p.reading(s)
	}
	p.mu.Unlock()
	parts.Go(func() { p.save(saving) })
	var lanes sync.WaitGroup
	for _, l := range p.lanes {
		lanes.Go(func() { l.keepUp(ctx) })
	}
	<-ctx.Done()
	p.mu.Lock()
	p.reading = nil
	p.mu.Unlock()
	lanes.Wait()
	stop()
	parts.Wait()
	p.bury()
	return p.commit()
}

// next returns what lane n is to send now, or how long the limits hold it back; 0 says until
// there is more. Who has had least of the link for its weight goes first.
func (p *Pump) next(n int) (e *gateway.Event, again bool, held time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var best *source
	least := -1.0 // of those that have something to send
	for _, s := range p.sources {
		peeked := s.win.peek(n, p.o.Age)
		if peeked == nil {
			p.pop(s) // peek may have found the oldest ones expired
			continue
		}
		if least < 0 || s.served < least {
			least = s.served
		}
		if h := s.held(now); h > 0 {
			if held == 0 || h < held {
				held = h
			}
			continue
		}
		if best == nil || s.served < best.served {
			best, e = s, peeked
		}
	}
	if best == nil {
		return nil, false, held
	}
	again = best.win.take(n)
	if again {
		p.status.Retried++
	}
	best.spend(e, now)
	best.served += float64(e.Size()) / float64(best.route.Weight)
	for _, s := range p.sources { // who was idle does not catch up on what it did not ask for
		s.served = max(s.served, least)
	}
	return e, again, 0
}

// settle is the sinks' done.
func (p *Pump) settle(l *lane, e *gateway.Event, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sources {
		entry := s.win.find(e)
		switch {
		case entry == nil || entry.outcome != waiting:
			continue
		case err == nil:
			entry.outcome = accepted
			p.pop(s)
		case !errors.Is(err, gateway.ErrInvalid) && !errors.Is(err, gateway.ErrDenied):
			l.refuse(fmt.Errorf("the far end refused %s for now: %w", e.ID(p.o.GatewayID), err))
		case s.replay != nil: // it was kept before, and still is
			entry.outcome, entry.reason = dead, err.Error()
			p.pop(s)
		default:
			if entry.refused++; entry.refused < s.route.DeadAfter {
				l.refuse(fmt.Errorf("the far end will not take %s (%d of %d times): %w", e.ID(p.o.GatewayID), entry.refused, s.route.DeadAfter, err))
				return
			}
			entry.outcome, entry.reason = poison, err.Error()
			signal(p.grave)
		}
		return
	}
}

// pop moves the low-water mark of s. The caller holds mu.
func (p *Pump) pop(s *source) {
	if delivered := s.pop(); delivered > 0 {
		p.status.Delivered += uint64(delivered)
		p.o.Observer.Delivered(p.o.Uplink, delivered)
	}
}

// save commits the low-water marks now and then, and stores dead letters. It is the one place
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
				p.o.Logger.Error("cannot store a cursor; a restart will repeat events", "error", err)
			}
			failed = err != nil
		case <-p.grave:
			p.bury()
		case <-ctx.Done():
			return
		}
	}
}

// all returns the sources there are now.
func (p *Pump) all() []*source {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sources)
}

// routes returns the sources that are no replays.
func (p *Pump) routes() []*source {
	return slices.DeleteFunc(p.all(), func(s *source) bool { return s.replay != nil })
}

func (p *Pump) commit() error {
	p.committing.Lock()
	defer p.committing.Unlock()
	var errs []error
	for _, s := range p.all() {
		p.mu.Lock()
		p.book(s)
		at, last := s.tally, s.stored.Position
		p.mu.Unlock()
		if at.Position != last {
			if err := s.cursor.Commit(at); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		p.mu.Lock()
		s.stored = at
		if s.replay != nil && s.over() && s.win.done == at.Position {
			p.finish(s, false)
		}
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}

// bury stores the dead letters that wait for it. When that fails the event counts as refused
// for now: its lane stops at it, shows why, and tries it again.
func (p *Pump) bury() {
	for _, s := range p.routes() {
		for p.buryOne(s) {
		}
	}
}

// buryOne tells whether there was one.
func (p *Pump) buryOne(s *source) bool {
	p.mu.Lock()
	entry := s.win.poisoned()
	if entry == nil {
		p.mu.Unlock()
		return false
	}
	e, reason, lane := entry.event, entry.reason, p.lanes[entry.lane]
	p.mu.Unlock()

	id := e.ID(p.o.GatewayID)
	err := s.dead.bury(e, id, reason, time.Now())

	p.mu.Lock()
	entry = s.win.find(e)
	if err != nil {
		entry.outcome = waiting
		lane.refuse(fmt.Errorf("stopped at %s, which the far end will not take (%s): %v", id, reason, err)) // it is not the far end that is full
	} else {
		entry.outcome = dead
		p.pop(s)
	}
	p.mu.Unlock()
	if err == nil {
		p.o.Logger.Warn("the far end will not take an event; kept as a dead letter", "id", id, "topic", e.Topic, "reason", reason)
	}
	return true
}

func (p *Pump) pauses() *backoff.ExponentialBackOff { return pauses(p.o.MinPause, p.o.MaxPause) }

// The pauses between connections unless the options say otherwise.
const (
	minPause = 500 * time.Millisecond
	maxPause = 30 * time.Second
)

// pauses returns a backoff that never gives up.
func pauses(from, to time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = from, to
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
