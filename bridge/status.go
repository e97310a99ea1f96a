package bridge

import (
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Status is how an uplink does. Counts are of events since the process started, except
// Dead, which counts what is kept.
type Status struct {
	Uplink string
	Sink   string // its kind

	Up     bool
	Reason string    // why it is down, in plain words
	Since  time.Time // when Up last changed

	Queued   uint64           // accepted for this uplink and not done with; counted at most every countEvery
	Oldest   time.Time        // when the oldest of them was accepted; zero if there is none
	Position gateway.Position // everything up to here is done with

	Delivered uint64 // acknowledged by the far end
	Retried   uint64 // handed to the sink again
	Expired   uint64 // no longer worth sending when their turn came
	Dead      uint64 // dead letters kept

	Gaps      uint64 // stretches of the journal that could not be read
	LastGap   string
	ReadError string // why the journal cannot be read now
}

// countEvery bounds how often Status counts the queue, which may read the disk.
const countEvery = 2 * time.Second

// Status may be called at any time, from any goroutine.
func (p *Pump) Status() Status {
	if p.o.Count != nil && p.counting.TryLock() { // who comes meanwhile gets the last count
		p.count()
		p.counting.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Position = p.win.done
	if e := p.win.first(); e != nil {
		s.Oldest = e.Accepted
		s.Queued = max(s.Queued, 1)
	}
	return s
}

func (p *Pump) count() {
	if time.Since(p.counted) < countEvery {
		return
	}
	p.mu.Lock()
	from := p.win.done.Offset + 1
	p.mu.Unlock()
	n, err := p.o.Count(from, p.o.Filters)
	p.counted = time.Now()
	if err != nil {
		p.o.Logger.Warn("cannot count what is queued", "error", err)
		return
	}
	p.mu.Lock()
	p.status.Queued = n
	p.mu.Unlock()
}
