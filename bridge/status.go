package bridge

import (
	"math"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Status is how an uplink does.
type Status struct {
	Uplink string
	Sink   string // its kind

	Up     bool
	Reason string    // why it is down, in plain words
	Since  time.Time // when Up last changed
	Circuit

	Delivered uint64 // acknowledged by the far end, since the process started
	Retried   uint64 // handed to the sink again, since the process started
	Routes    []RouteStatus

	CertificateExpiry time.Time // of the client's own; zero if there is none

	// All routes together.
	Queued   uint64           // not done with
	Oldest   time.Time        // when the oldest of them was accepted, as the wall clock would say now; zero if there is none
	Position gateway.Position // of the route that is furthest behind
	Expired  uint64
	Dead     uint64 // dead letters that are kept now
}

// RouteStatus is how one route does. Counts are of all time but for Queued and Kept.
type RouteStatus struct {
	Route string

	Journal  uint64           // accepted for this route, not done with, in the journal; counted at most every countEvery
	Backlog  BacklogCount     // and in the reservoir
	Oldest   time.Duration    // the age of the oldest of them; 0 if there is none
	Position gateway.Position // everything up to here is done with

	Delivered uint64
	Expired   uint64
	Kept      uint64 // dead letters that are kept now

	Gaps      uint64 // stretches that could not be read
	LastGap   string
	ReadError string // why nothing can be read now
}

// Queued is all that is not done with.
func (r RouteStatus) Queued() uint64 { return r.Journal + r.Backlog.Events }

// countEvery bounds how often Status counts the queue, which may read the disk.
const countEvery = 2 * time.Second

// Status may be called at any time, from any goroutine.
func (p *Pump) Status() Status {
	if p.o.Count != nil && p.counting.TryLock() { // who comes meanwhile gets the last count
		p.count()
		p.counting.Unlock()
	}
	backlogs := map[string]BacklogCount{}
	for _, src := range p.all() { // not under mu: it is another process that answers
		if src.replay == nil {
			backlogs[src.holder], _ = p.o.Backlog.Count(src.holder) // an old answer is better than none here
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	if s.Up && p.lanes[0].proven(time.Now()) {
		s.Failures = 0
	}
	age := p.o.Age()
	for _, src := range p.sources {
		if src.replay != nil {
			continue
		}
		raised := src.dead.gone()
		r := RouteStatus{
			Route: src.route.ID, Journal: p.queued[src.route.ID], Backlog: backlogs[src.holder], Position: src.win.done,
			Delivered: src.tally.Delivered + raised.Delivered, Expired: src.tally.Expired, Kept: uint64(src.dead.kept()),
			Gaps: src.gaps, LastGap: src.lastGap, ReadError: src.readError,
		}
		if e := src.win.first(); e != nil {
			r.Oldest = max(age-e.Age, time.Nanosecond)
			if r.Queued() == 0 {
				r.Journal = 1
			}
		} else if r.Backlog.Events > 0 {
			r.Oldest = age - r.Backlog.Oldest
		}
		s.add(r)
	}
	return s
}

func (s *Status) add(r RouteStatus) {
	s.Routes = append(s.Routes, r)
	s.Queued += r.Queued()
	s.Expired += r.Expired
	s.Dead += r.Kept
	if at := time.Now().Add(-r.Oldest); r.Oldest > 0 && (s.Oldest.IsZero() || at.Before(s.Oldest)) {
		s.Oldest = at
	}
	if len(s.Routes) == 1 || r.Position.Offset < s.Position.Offset {
		s.Position = r.Position
	}
}

// count counts what is queued in the journal: behind the mark, and behind what is in the backlog.
func (p *Pump) count() {
	if time.Since(p.counted) < countEvery {
		return
	}
	p.certificate()
	for _, s := range p.routes() {
		p.mu.Lock()
		from := s.win.done.Offset + 1
		p.mu.Unlock()
		n, err := p.o.Count(max(from, p.o.Backlog.Mark(s.holder)), math.MaxUint64, s.route.Match)
		if err != nil {
			p.o.Logger.Warn("cannot count what is queued", "route", s.route.ID, "error", err)
			continue
		}
		p.mu.Lock()
		p.queued[s.route.ID] = n
		p.mu.Unlock()
	}
	p.counted = time.Now()
}

// certificate looks when the client certificate ends: all lanes have the same.
func (p *Pump) certificate() {
	c, ok := p.lanes[0].sink.(Certified)
	if !ok {
		return
	}
	ends := c.CertificateExpiry()
	p.mu.Lock()
	p.status.CertificateExpiry = ends
	p.mu.Unlock()
}
