package bridge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Fates of an event on a route.
const (
	FateBefore       = "before the route" // accepted before the route existed
	FateQueued       = "queued"
	FateInFlight     = "in flight" // handed to the sink, and not answered
	FateAcknowledged = "acknowledged"
	FateExpired      = "expired"
	FateDead         = "dead"
	FateDropped      = "dropped"
	FateUnknown      = "unknown"
)

// Trace is where an event went. Nothing is written for it when events pass: it is read off the
// cursors, the windows, the reservoir and the dead letters.
type Trace struct {
	Position gateway.Position
	Event    *gateway.Event // nil if it is nowhere any more
	Place    string         // where it was found, or why it was not
	Synced   bool           // on stable storage
	Routes   []TraceRoute   // those that match its topic, as they are configured now; all, if it is not known
}

// TraceRoute is what has become of an event on one route.
type TraceRoute struct {
	Uplink, Route string
	Fate          string // one of the Fate… constants
	Detail        string // how that is known
	Doubt         string // what else it may be; empty if nothing
}

// Trace finds out where the event at a position went.
func (b *Bridge) Trace(at gateway.Position) (Trace, error) {
	t := Trace{Position: at}
	released, synced := b.hub.Next()
	_, gap := b.hub.Resume(gateway.Position{Epoch: at.Epoch, Offset: max(at.Offset, 1) - 1})
	switch {
	case at.Offset < 1 || gap != nil && gap.Reason == gateway.GapUnknown:
		return t, gateway.Errorf(gateway.ErrInvalid, "%s is not of this gateway's journal", at)
	case at.Offset >= released:
		return t, gateway.Errorf(gateway.ErrInvalid, "there is no event %s yet: the next is %d", at, released)
	}
	t.Synced = at.Offset < synced
	var err error
	if t.Event, t.Place, err = b.locate(at, gap); err != nil {
		return t, err
	}
	for _, p := range b.pumps {
		for _, s := range p.routes() {
			if t.Event != nil && !s.route.Match.Match(t.Event.Topic) {
				continue
			}
			r, err := p.trace(s, at.Offset, t.Event, synced)
			if err != nil {
				return t, err
			}
			r.Uplink, r.Route = p.o.Uplink, s.route.ID
			t.Routes = append(t.Routes, r)
		}
	}
	return t, nil
}

// locate looks for an event in the journal, then wherever else it may be kept.
func (b *Bridge) locate(at gateway.Position, gap *gateway.Gap) (*gateway.Event, string, error) {
	is := func(e *gateway.Event) bool { return e.Offset == at.Offset && e.Epoch == at.Epoch }
	batch, err := b.hub.Reader(at.Offset, every{}, gateway.Written).NextWithin(context.Background(), 0)
	if err != nil {
		return nil, "", err
	}
	if len(batch.Events) > 0 && is(batch.Events[0]) {
		return batch.Events[0], "in the journal", nil
	}
	if gap == nil {
		gap = batch.Gap
	}
	for _, p := range b.pumps {
		for _, s := range p.routes() {
			if p.o.Backlog.Mark(s.holder) > at.Offset {
				kept, err := p.o.Backlog.Read(s.holder, at.Offset)
				if err != nil {
					return nil, "", err
				}
				if len(kept.Events) > 0 && is(kept.Events[0]) {
					return kept.Events[0], "in the reservoir of " + s.holder, nil
				}
			}
			l, err := s.dead.letter(at.Offset)
			if err != nil {
				return nil, "", err
			}
			if l != nil && is(l.Event) {
				return l.Event, "among the dead letters of " + s.holder, nil
			}
		}
	}
	switch {
	case gap == nil:
		return nil, "no event has this offset: it belongs to a change of state, or was never used", nil
	case gap.Reason == gateway.GapTrimmed:
		return nil, "no longer in the journal", nil
	case gap.Reason == gateway.GapLost:
		return nil, "lost: it was not on stable storage yet when the power went", nil
	}
	return nil, "damaged: it cannot be read any more", nil
}

// trace finds out what has become of an event on a route; e is nil if it is not known.
func (p *Pump) trace(s *source, offset uint64, e *gateway.Event, synced uint64) (r TraceRoute, err error) {
	l, err := s.dead.letter(offset)
	if err != nil {
		return r, err
	}
	for range 3 { // it may move on while it is looked for
		p.mu.Lock()
		done, stored, c := s.win.done, s.stored.Position, s.tally
		seen := s.win.look(offset)
		up := p.status.Up
		p.mu.Unlock()
		switch {
		case offset < c.Since:
			return TraceRoute{Fate: FateBefore, Detail: fmt.Sprintf("the route began at offset %d", c.Since)}, nil
		case l != nil:
			return TraceRoute{Fate: FateDead, Detail: fmt.Sprintf("refused %s: %s", l.Time.Format(time.RFC3339), l.Reason)}, nil
		case offset <= done.Offset:
			return p.traceDone(s, offset, e, c, stored)
		case seen.found:
			return p.traceSeen(s, e, seen, up), nil
		}
		if r, err = p.traceWaiting(s, offset, e, synced); err != nil || r.Fate != FateDropped {
			return r, err
		}
	}
	return r, nil
}

// traceDone is for what lies at or below the low-water mark. The counters say what else it may be.
func (p *Pump) traceDone(s *source, offset uint64, e *gateway.Event, c Commit, stored gateway.Position) (TraceRoute, error) {
	r := TraceRoute{Fate: FateAcknowledged, Detail: "at or below the cursor, " + c.Position.String()}
	switch {
	case offset <= s.began:
		r.Detail += ", by range: it was passed in an earlier run"
	case offset > stored.Offset:
		r.Detail += ", which is not stored yet"
	}
	var doubts []string
	doubt := func(n uint64, what string) {
		if n > 0 {
			doubts = append(doubts, fmt.Sprintf("%d %s", n, what))
		}
	}
	if e == nil || e.Expiry > 0 || s.route.TTL > 0 {
		doubt(c.Expired, "have expired")
	}
	if offset < p.o.Backlog.Mark(s.holder) {
		backlog, err := p.o.Backlog.Count(s.holder)
		if err != nil {
			return r, err
		}
		for _, reason := range slices.Sorted(maps.Keys(backlog.Dropped)) {
			doubt(backlog.Dropped[reason], "were dropped in the reservoir: "+reason)
		}
	}
	if e == nil {
		doubt(c.Damaged, "were lost to damage of the journal")
	}
	doubt(s.dead.gone().Dropped, "dead letters were dropped by hand")
	if e == nil {
		r.Fate = FateUnknown
		r.Detail = "if it went there, it is done with: " + r.Detail
	}
	if len(doubts) > 0 {
		r.Doubt = "of this route " + strings.Join(doubts, ", ") + "; it may be one of them"
	}
	return r, nil
}

// traceSeen is for what is in the window.
func (p *Pump) traceSeen(s *source, e *gateway.Event, seen sight, up bool) TraceRoute {
	switch seen.outcome {
	case accepted:
		return TraceRoute{Fate: FateAcknowledged, Detail: "by the far end; the cursor waits for what lies before it"}
	case expired:
		return TraceRoute{Fate: FateExpired, Detail: "before its turn came"}
	case poison, dead:
		return TraceRoute{Fate: FateDead, Detail: "refused: " + seen.reason}
	}
	switch {
	case s.win.expired(seen.event, p.o.Age):
		return TraceRoute{Fate: FateExpired, Detail: "it will be passed over when its turn comes"}
	case seen.sent && up:
		return TraceRoute{Fate: FateInFlight, Detail: "handed to the sink, and not answered yet"}
	case seen.sent:
		return TraceRoute{Fate: FateQueued, Detail: "it was sent, and no answer came; it is sent again when the uplink is up"}
	}
	return TraceRoute{Fate: FateQueued, Detail: "read ahead; its turn comes soon once the uplink is up"}
}

// traceWaiting is for what lies behind the window, or is missing there.
func (p *Pump) traceWaiting(s *source, offset uint64, e *gateway.Event, synced uint64) (TraceRoute, error) {
	if offset >= p.o.Backlog.Mark(s.holder) {
		switch {
		case e == nil:
			return TraceRoute{Fate: FateUnknown, Detail: "the route is not there yet"}, nil
		case offset >= synced:
			return TraceRoute{Fate: FateQueued, Detail: "in the journal; not on stable storage yet, and not sent before"}, nil
		case s.win.expired(e, p.o.Age):
			return TraceRoute{Fate: FateExpired, Detail: "it will be passed over when its turn comes"}, nil
		}
		return TraceRoute{Fate: FateQueued, Detail: "in the journal"}, nil
	}
	kept, err := p.o.Backlog.Read(s.holder, offset)
	if err != nil {
		return TraceRoute{}, err
	}
	if len(kept.Events) > 0 && kept.Events[0].Offset == offset {
		return TraceRoute{Fate: FateQueued, Detail: "in the reservoir"}, nil
	}
	if e == nil {
		return TraceRoute{Fate: FateUnknown, Detail: "not in the reservoir: if it went there, it was dropped"}, nil
	}
	backlog, err := p.o.Backlog.Count(s.holder)
	if err != nil {
		return TraceRoute{}, err
	}
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(backlog.Dropped)) {
		if backlog.Dropped[reason] > 0 {
			reasons = append(reasons, reason)
		}
	}
	return TraceRoute{Fate: FateDropped, Detail: "it is behind the cursor and not in the reservoir: " + strings.Join(reasons, " or ")}, nil
}
