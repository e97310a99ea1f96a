package bridge

import (
	"context"
	"errors"
	"time"

	"github.com/weir-iot/weir/gateway"
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

// Drill rehearses an outage of an uplink, see Pump.Drill.
func (b *Bridge) Drill(uplink string, d time.Duration) error {
	p := b.Pump(uplink)
	if p == nil {
		return gateway.Errorf(gateway.ErrInvalid, "there is no uplink %q", uplink)
	}
	p.Drill(d)
	return nil
}

// Drills tells until when which uplinks are drilled.
func (b *Bridge) Drills() map[string]time.Time {
	all := map[string]time.Time{}
	for _, p := range b.pumps {
		if until, _ := p.drilled(); !until.IsZero() {
			all[p.o.Uplink] = until
		}
	}
	return all
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
