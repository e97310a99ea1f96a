package bridge

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/weir-iot/weir/gateway"
)

// source is what a pump sends from: a route, or a replay. Its fields belong to the pump's mu.
type source struct {
	route  Route
	holder string // where its counters and dead letters are kept; a replay has none
	cursor Cursor
	room   chan struct{} // one waiter, one signal
	dead   *graveyard    // nil for a replay
	replay *replay       // nil for a route
	stop   func()        // ends its reading; nil while it is not read

	began   uint64 // what lies at or below was passed before this process
	win     window
	tally   Commit  // up to win.done
	passed  []lost  // what was lost up to win.done and is not in the tally yet
	stored  Commit  // the tally as the cursor has stored it
	ended   bool    // the cursor has no more
	served  float64 // bytes sent, divided by weight: who has least goes next
	events  *rate.Limiter
	bytes   *rate.Limiter
	stalled time.Time // until then the limits let nothing through

	gaps      uint64
	lastGap   string
	readError string
}

func newSource(r Route, c Cursor, at Commit) *source {
	s := &source{route: r, cursor: c, room: make(chan struct{}, 1), began: at.Position.Offset, tally: at, stored: at, win: newWindow(r, at.Position)}
	s.events, s.bytes = limiter(r.Events), limiter(r.Bytes)
	return s
}

// limiter lets n through in a second, and as many at once; nil is no limit.
func limiter(n int) *rate.Limiter {
	if n <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(n), n)
}

// held tells for how long the limits hold everything back.
func (s *source) held(now time.Time) time.Duration { return max(0, s.stalled.Sub(now)) }

// spend takes e from the limits. One that is larger than what may go in a second goes all the same,
// and those behind it wait longer.
func (s *source) spend(e *gateway.Event, now time.Time) {
	wait := time.Duration(0)
	if s.events != nil {
		s.events.ReserveN(now, 1)
		wait = max(wait, debt(s.events, now))
	}
	if s.bytes != nil {
		for n := e.Size(); n > 0; n -= s.bytes.Burst() {
			s.bytes.ReserveN(now, min(n, s.bytes.Burst()))
		}
		wait = max(wait, debt(s.bytes, now))
	}
	s.stalled = now.Add(wait)
}

// debt is how long it takes until l is in credit again.
func debt(l *rate.Limiter, now time.Time) time.Duration {
	if t := l.TokensAt(now); t < 0 {
		return time.Duration(math.Ceil(-t / float64(l.Limit()) * float64(time.Second)))
	}
	return 0
}

// pop moves the low-water mark and returns how many events were delivered.
func (s *source) pop() (delivered int) {
	s.win.pop(func(e *entry) {
		if e.event == nil {
			s.passed = append(s.passed, e.lost)
			return
		}
		if s.replay != nil {
			s.replay.count(e)
		}
		switch e.outcome {
		case accepted:
			delivered++
			s.tally.Delivered++
		case expired:
			s.tally.Expired++
		case filtered:
			s.tally.Filtered++
		case dead:
			s.tally.Dead++
		}
	})
	s.tally.Position = s.win.done
	if !s.win.full() {
		signal(s.room)
	}
	return delivered
}

// over tells whether a replay has sent all it had.
func (s *source) over() bool { return s.ended && len(s.win.entries) == 0 }

// read fills the window from the cursor.
func (p *Pump) read(ctx context.Context, s *source) {
	pause := p.pauses()
	log := p.o.Logger.With("route", s.route.ID)
	if s.replay != nil {
		log = log.With("replay", s.replay.ID)
	}
	for {
		p.mu.Lock()
		full := s.win.full()
		p.mu.Unlock()
		if full {
			select {
			case <-s.room:
			case <-ctx.Done():
				return
			}
			continue
		}
		b, err := s.cursor.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			p.mu.Lock()
			s.ended = true
			p.pop(s)
			p.mu.Unlock()
			return
		case err != nil:
			log.Error("cannot read what is to be sent", "error", err)
			p.mu.Lock()
			s.readError = err.Error()
			p.mu.Unlock()
			if !wait(ctx, pause.NextBackOff()) {
				return
			}
			continue
		}
		pause.Reset()
		p.add(s, b, log)
	}
}

// missing is how many of a route's events lay in a gap. What a power cut took was never synced, so it was
// never counted either; what is damaged in the backlog the backlog counts.
func (p *Pump) missing(g *gateway.Gap, s *source) lost {
	if g.Reason == gateway.GapLost {
		return lost{}
	}
	if p.o.Missing == nil || g.Reason != gateway.GapDamaged {
		return lost{unsure: true}
	}
	if p.o.Backlog.Mark(s.holder) >= g.To {
		return lost{}
	}
	n, sure := p.o.Missing(g.From, g.To, s.route.Match)
	return lost{n, !sure, g.To}
}

// book adds what was lost to the tally that is about to be stored. What has gone to the backlog meanwhile
// was counted as lost there. The caller holds mu, and committing, so that nothing moves there now.
func (p *Pump) book(s *source) {
	for _, l := range s.passed {
		if l.events > 0 && p.o.Backlog.Mark(s.holder) >= l.to {
			continue
		}
		s.tally.Damaged += l.events
		s.tally.Unsure = s.tally.Unsure || l.unsure
	}
	s.passed = nil
}

// add puts a batch into the window of s.
func (p *Pump) add(s *source, b gateway.Batch, log *slog.Logger) {
	gone := lost{}
	switch {
	case b.Gap == nil:
	case s.replay != nil:
		log.Warn("some of what is to be sent again is not there any more", "gap", b.Gap.String())
	default:
		gone = p.missing(b.Gap, s)
		log.Error("events for this route may be missing", "gap", b.Gap.String(), "asked", b.Gap.Asked.String())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.readError = ""
	if b.Gap != nil {
		s.gaps++
		s.lastGap = b.Gap.String()
	}
	s.win.add(p.o.Uplink, gone, b.Events, s.cursor.Position())
	p.pop(s) // places without events are settled at once
	for _, l := range p.lanes {
		signal(l.more)
	}
}
