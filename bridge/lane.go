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
	up      bool
	reason  string
}

// keepUp makes one connection after the other.
func (l *lane) keepUp(ctx context.Context) {
	pause := l.p.pauses()
	for ctx.Err() == nil {
		if until, woken := l.p.drilled(); !until.IsZero() {
			l.setState(false, "a drill: no connection until "+until.Format(time.TimeOnly))
			sitOut(ctx, until, woken)
			continue
		}
		began, before := time.Now(), l.p.delivered()
		err := l.connect(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			err = errors.New("the far end ended the connection")
		}
		if l.p.delivered() != before || time.Since(began) > l.p.o.MaxPause {
			pause.Reset()
		}
		l.setState(false, err.Error())
		wait(ctx, pause.NextBackOff())
	}
	l.setState(false, "stopped")
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
		l.setState(true, "")
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

// setState shows how the lane does. The uplink is up when all lanes are; its reason is the first
// lane's that has one.
func (l *lane) setState(up bool, reason string) {
	p := l.p
	p.mu.Lock()
	l.up, l.reason = up, reason
	all, why := true, ""
	for _, other := range p.lanes {
		if !other.up {
			all = false
			if why == "" {
				why = other.reason
			}
		}
	}
	same := p.status.Up == all && p.status.Reason == why
	if p.status.Up != all {
		p.status.Since = time.Now()
	}
	p.status.Up, p.status.Reason = all, why
	p.mu.Unlock()
	if same {
		return
	}
	if all {
		p.o.Logger.Info("uplink is up")
	} else {
		p.o.Logger.Warn("uplink is down", "reason", why)
	}
	p.o.Observer.UplinkState(p.o.Uplink, all, why)
}

func (p *Pump) delivered() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status.Delivered
}
