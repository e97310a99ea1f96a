package bridge

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// lane is one connection of an uplink, and the next one, and the next. Keys are spread over the
// lanes, so each key meets one connection only.
type lane struct {
	p    *Pump
	n    int
	sink Sink
	more chan struct{} // one waiter, one signal

	// Guarded by the pump's mu.
	refused func(error) // ends the connection that there is; nil without one
	circuit Circuit
	reason  string    // why it is not up, in plain words
	drill   time.Time // there is one until then
	upSince time.Time
	before  uint64 // what the uplink had delivered then
}

// keepUp makes one connection after the other.
func (l *lane) keepUp(ctx context.Context) {
	pause := l.p.pauses()
	next := time.Time{} // no attempt before
	for ctx.Err() == nil {
		until, woken := l.p.drilled()
		l.change(func() { l.drill = until })
		switch now := time.Now(); {
		case !until.IsZero():
			sitOut(ctx, until, woken)
			continue
		case now.Before(next):
			sitOut(ctx, next, woken)
			continue
		}
		l.change(func() {
			l.circuit.attempt()
			if l.reason = ""; l.circuit.Failures > 0 {
				l.reason = l.circuit.LastError
			}
		})
		err := l.connect(ctx)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errDrill):
			l.change(func() { l.circuit.State, l.reason = LinkStopped, err.Error() })
		default:
			if err == nil {
				err = errors.New("the far end ended the connection")
			}
			l.change(func() {
				now := time.Now()
				if l.proven(now) {
					pause.Reset()
					l.circuit.Failures = 0
				}
				next = l.circuit.failed(err, now, pause.NextBackOff())
				l.reason = err.Error()
			})
		}
	}
	l.change(func() {
		l.circuit.State, l.circuit.NextAttempt, l.reason = LinkStopped, time.Time{}, "stopped"
		l.drill = time.Time{}
	})
}

// proven tells whether the connection that there is has shown that it is one. The caller holds the pump's mu.
func (l *lane) proven(now time.Time) bool {
	return l.circuit.State == LinkUp && (l.p.status.Delivered != l.before || now.Sub(l.upSince) > l.p.o.MaxPause)
}

// connect is one call of the sink and what goes with it. It returns when that has ended.
func (l *lane) connect(ctx context.Context) error {
	p := l.p
	run, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	feeding, halt := context.WithCancel(ctx)
	defer halt()
	refused := make(chan error, 1)
	p.mu.Lock()
	for _, s := range p.sources {
		s.win.rewind(l.n)
	}
	l.refused = func(err error) {
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
			l.feed(feeding, events)
		case <-feeding.Done():
		}
	})
	up := sync.OnceFunc(func() {
		l.change(func() {
			l.circuit.State, l.reason = LinkUp, ""
			l.upSince, l.before = time.Now(), p.status.Delivered
		})
		close(ready)
	})
	done := func(e *gateway.Event, err error) { p.settle(l, e, err) }
	go func() { ended <- l.sink.Send(run, events, up, done) }()

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
	l.refused = nil
	p.mu.Unlock()
	return err
}

// feed hands events to the sink until ctx ends.
func (l *lane) feed(ctx context.Context, events chan<- *gateway.Event) {
	for {
		e, again, held := l.p.next(l.n)
		if e == nil {
			var credit <-chan time.Time
			if held > 0 {
				credit = time.After(held)
			}
			select {
			case <-l.more:
			case <-credit:
			case <-ctx.Done():
				return
			}
			continue
		}
		if again {
			l.p.o.Observer.Retried(l.p.o.Uplink, 1)
		}
		select {
		case events <- e:
		case <-ctx.Done():
			return
		}
	}
}

// refuse ends the connection that there is. The caller holds the pump's mu.
func (l *lane) refuse(err error) {
	if l.refused != nil {
		l.refused(err)
	}
}

// change changes how the lane does, and shows it. The uplink is up when all lanes are; else it does as
// the first lane that is not.
func (l *lane) change(how func()) {
	p := l.p
	p.mu.Lock()
	how()
	was, why := p.status.Up, p.status.Reason
	shown, reason := p.lanes[0].shown()
	for _, other := range p.lanes {
		if c, r := other.shown(); c.State != LinkUp {
			shown, reason = c, r
			break
		}
	}
	up := shown.State == LinkUp
	if was != up {
		p.status.Since = time.Now()
	}
	p.status.Up, p.status.Reason, p.status.Circuit = up, reason, shown
	p.mu.Unlock()
	switch {
	case was == up && (why == reason || shown.State == LinkConnecting):
		return
	case up:
		p.o.Logger.Info("uplink is up")
	default:
		p.o.Logger.Warn("uplink is down", "reason", reason)
	}
	p.o.Observer.UplinkState(p.o.Uplink, up, reason)
}

// shown is how the lane does, and why it is not up. The caller holds the pump's mu.
func (l *lane) shown() (Circuit, string) {
	c := l.circuit
	if l.drill.IsZero() {
		return c, l.reason
	}
	c.State, c.NextAttempt = LinkDrill, l.drill
	return c, "a drill: no connection until " + l.drill.Format(time.TimeOnly)
}
