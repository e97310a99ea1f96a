package bridge

import (
	"context"
	"errors"
	"time"
)

var errDrill = errors.New("a drill begins")

// Drill rehearses an outage: for d there is no connection to the far end, from now on. A d of 0
// ends a drill.
func (p *Pump) Drill(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = time.Time{}
	if d > 0 {
		p.paused = time.Now().Add(d)
		for _, l := range p.lanes {
			l.refuse(errDrill)
		}
	}
	close(p.woken)
	p.woken = make(chan struct{})
}

// drilled tells until when a drill lasts, zero if there is none, and what closes when that changes.
func (p *Pump) drilled() (until time.Time, woken <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !time.Now().Before(p.paused) {
		p.paused = time.Time{}
	}
	return p.paused, p.woken
}

// sitOut waits until a drill ends, or another begins.
func sitOut(ctx context.Context, until time.Time, woken <-chan struct{}) {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-t.C:
	case <-woken:
	case <-ctx.Done():
	}
}
