package bridge

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Replay is something that is sent again because somebody asked for it: a stretch of the journal, or dead
// letters. It goes beside the live routes, with the smallest share of the link while they have
// something to send, under the same ids, and out of their order. It does not survive a restart.
type Replay struct {
	ID     string // "<uplink>-<number>", of this process
	Uplink string
	Route  string // empty: all of the uplink
	Dead   bool   // of dead letters
	Began  time.Time
	Ended  time.Time // zero while it goes on

	From, To uint64 // the offsets: From <= offset < To
	At       uint64 // offsets below are done with
	Events   uint64 // of dead letters: how many; of a stretch: unknown, 0

	Delivered  uint64
	Refused    uint64 // for ever; of a stretch nothing comes of that
	Expired    uint64 // on the way: not sent
	LastReason string // of the last that was refused
	Missing    string // what was asked for and is not there any more
	Problem    string // why nothing can be read now
	Cancelled  bool
}

// replay is a Replay and its part in the pump, whose mu guards it.
type replay struct {
	Replay
	source  *source
	settled func(e *gateway.Event, o outcome, reason string) // told of each event, in order; must not block
	over    func()                                           // told once, at the end
}

// count is told of what leaves the window.
func (r *replay) count(e *entry) {
	switch e.outcome {
	case accepted:
		r.Delivered++
	case expired:
		r.Expired++
	case dead:
		r.Refused++
		r.LastReason = e.reason
	}
	r.settled(e.event, e.outcome, e.reason)
}

// shown is r as it is now.
func (r *replay) shown() Replay {
	v := r.Replay
	if v.Ended.IsZero() {
		v.At = max(v.From, r.source.win.done.Offset+1)
		v.Problem = r.source.readError
		switch gap := r.source.lastGap; {
		case v.Missing == "":
			v.Missing = gap
		case gap != "":
			v.Missing += "; " + gap
		}
	}
	return v
}

// Bounds of each uplink: replays that are remembered when they are over, and those that go on at once.
const (
	keptReplays = 20
	maxReplays  = 8
)

// begin makes a temporary source of c and starts it.
func (p *Pump) begin(r *replay, route Route, c Cursor) (Replay, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reading == nil {
		return Replay{}, gateway.Errorf(gateway.ErrTransient, "the uplink does not run")
	}
	going := 0
	for _, other := range p.replays {
		if !other.Ended.IsZero() {
			continue
		}
		if going++; going == maxReplays || !r.Dead && !other.Dead {
			return Replay{}, gateway.Errorf(gateway.ErrInvalid, "replay %s goes on: wait for its end, or cancel it", other.ID)
		}
	}
	p.begun++
	r.ID, r.Uplink, r.Began = fmt.Sprintf("%s-%d", p.o.Uplink, p.begun), p.o.Uplink, time.Now()
	s := newSource(route.withDefaults(), c, Commit{Position: gateway.Position{Offset: r.From - 1}})
	s.replay, r.source = r, s
	for _, other := range p.sources { // it does not catch up on what went before it
		s.served = max(s.served, other.served)
	}
	p.sources = append(p.sources, s)
	p.replays = append(p.replays, r)
	if over := len(p.replays) - keptReplays; over > 0 {
		p.replays = slices.DeleteFunc(p.replays, func(r *replay) bool {
			over--
			return over >= 0 && !r.Ended.IsZero()
		})
	}
	p.reading(s)
	p.o.Logger.Info("a replay begins", "replay", r.ID, "from", r.From, "to", r.To)
	return r.shown(), nil
}

// finish removes a temporary source. The caller holds mu.
func (p *Pump) finish(s *source, cancelled bool) {
	r := s.replay
	r.Replay = r.shown()
	r.Ended, r.Cancelled, r.source = time.Now(), cancelled, nil
	p.sources = slices.DeleteFunc(p.sources, func(o *source) bool { return o == s })
	s.stop()
	if r.over != nil {
		r.over()
	}
	p.o.Logger.Info("a replay is over", "replay", r.ID, "delivered", r.Delivered, "refused", r.Refused, "expired", r.Expired, "cancelled", cancelled)
}

// cancel ends the replay called id. What is in flight may still arrive.
func (p *Pump) cancel(id string) (Replay, error) {
	p.committing.Lock()
	defer p.committing.Unlock()
	p.mu.Lock()
	i := slices.IndexFunc(p.replays, func(r *replay) bool { return r.ID == id })
	if i < 0 {
		p.mu.Unlock()
		return Replay{}, errNoReplay
	}
	r := p.replays[i]
	s := r.source
	if s == nil {
		defer p.mu.Unlock()
		return r.Replay, gateway.Errorf(gateway.ErrInvalid, "replay %s is over already", id)
	}
	p.finish(s, true)
	at, shown := s.tally, r.Replay
	p.mu.Unlock()
	return shown, s.cursor.Commit(at) // nothing more is settled in it now
}

var errNoReplay = errors.New("no such replay")

// Replays returns what is being sent again, and what was of late, in order of uplink and age.
func (b *Bridge) Replays() []Replay {
	all := []Replay{}
	for _, p := range b.pumps {
		p.mu.Lock()
		for _, r := range p.replays {
			all = append(all, r.shown())
		}
		p.mu.Unlock()
	}
	return all
}

// CancelReplay ends one that goes on.
func (b *Bridge) CancelReplay(id string) (Replay, error) {
	for _, p := range b.pumps {
		r, err := p.cancel(id)
		if !errors.Is(err, errNoReplay) {
			return r, err
		}
	}
	return Replay{}, gateway.Errorf(gateway.ErrInvalid, "there is no replay %q", id)
}
