package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Stretch says what of the journal is to be sent again: of the events that go to an uplink by one route, or
// by any, those that match one of the filters and lie between two edges.
type Stretch struct {
	Uplink, Route string
	Filters       gateway.Filters // empty: all
	Since         Edge            // the first; open: the oldest that the journal has
	Until         Edge            // the last; open, or in the future: the newest that is on stable storage now
}

// Edge is a place in the journal: a position, which is meant too, or a time of the wall clock by which events
// were accepted: from Since on, before Until. The zero Edge is open.
//
// The wall clock may have jumped, so a time is no place in the journal: all of it is looked through.
type Edge struct {
	Position gateway.Position
	Time     time.Time
}

// both matches what two matchers do.
type both [2]gateway.Matcher

func (b both) Match(topic string) bool { return b[0].Match(topic) && b[1].Match(topic) }

// anyOf matches what one of some matchers does.
type anyOf []gateway.Matcher

func (a anyOf) Match(topic string) bool {
	return slices.ContainsFunc(a, func(m gateway.Matcher) bool { return m.Match(topic) })
}

// Replay begins to send a stretch of the journal again, one at a time for each uplink. The live routes'
// ledger does not change by it. It holds nothing back in the journal: what is let go of before its turn comes
// is told as missing.
func (b *Bridge) Replay(w Stretch) (Replay, error) {
	p := b.Pump(w.Uplink)
	if p == nil {
		return Replay{}, gateway.Errorf(gateway.ErrInvalid, "there is no uplink %q", w.Uplink)
	}
	route := Route{ID: w.Route}
	var want anyOf
	for _, s := range p.routes() {
		if w.Route == "" || w.Route == s.route.ID {
			want = append(want, s.route.Match)
			route.Events, route.Bytes = least(route.Events, s.route.Events), least(route.Bytes, s.route.Bytes)
		}
	}
	if len(want) == 0 {
		return Replay{}, gateway.Errorf(gateway.ErrInvalid, "uplink %q has no route %q", w.Uplink, w.Route)
	}
	c := &stretchCursor{p: p, since: w.Since.Time, until: w.Until.Time}
	r := &replay{Replay: Replay{Route: w.Route}, settled: c.settled}
	var err error
	if r.From, r.To, r.Missing, err = b.edges(w); err != nil {
		return Replay{}, err
	}
	var match gateway.Matcher = want
	if len(w.Filters) > 0 {
		match = both{want, w.Filters}
	}
	c.reader, c.to = b.hub.Reader(r.From, match, gateway.Synced), r.To
	return p.begin(r, route, c)
}

// least is the smaller limit; 0 is none.
func least(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// edges turns the edges of w into offsets, and says what the journal no longer has of it.
func (b *Bridge) edges(w Stretch) (from, to uint64, missing string, err error) {
	oldest, _ := b.hub.Resume(gateway.Position{})
	_, to = b.hub.Next()
	from = oldest
	if at := w.Since.Position; at.Epoch != "" {
		at.Offset = max(at.Offset, 1) - 1 // to resume is to go on behind
		var gap *gateway.Gap
		from, gap = b.hub.Resume(at)
		if gap != nil && gap.Reason == gateway.GapUnknown {
			return 0, 0, "", gateway.Errorf(gateway.ErrInvalid, "position %s is not of this journal", w.Since.Position)
		}
		if gap != nil {
			missing = gap.String()
		}
	} else if e := b.first(oldest); oldest > 1 && e != nil && (w.Since.Time.IsZero() || w.Since.Time.Before(e.Accepted)) {
		missing = fmt.Sprintf("what is older than %s (%s): the journal begins there", e.Accepted.UTC().Format(time.RFC3339), e.Position())
	}
	if at := w.Until.Position; at.Epoch != "" {
		end, gap := b.hub.Resume(at)
		if gap != nil && gap.Reason == gateway.GapUnknown {
			return 0, 0, "", gateway.Errorf(gateway.ErrInvalid, "position %s is not of this journal", at)
		}
		to = min(to, end)
	}
	if from >= to || !w.Since.Time.IsZero() && !w.Until.Time.IsZero() && !w.Since.Time.Before(w.Until.Time) {
		return 0, 0, "", gateway.Errorf(gateway.ErrInvalid, "the journal has nothing between these two")
	}
	return from, to, missing, nil
}

// first is the first event from offset from on, or nil if a short look does not find one.
func (b *Bridge) first(from uint64) *gateway.Event {
	batch, err := b.hub.Reader(from, every{}, gateway.Synced).NextWithin(context.Background(), 0)
	if err != nil || len(batch.Events) == 0 {
		return nil
	}
	return batch.Events[0]
}

// stretchCursor reads a stretch of the journal. Its place is nowhere stored; what its Commit stores is how
// many events of each route were replayed, of all time.
type stretchCursor struct {
	p            *Pump
	reader       *gateway.Reader
	to           uint64
	since, until time.Time
}

// Next is Cursor's.
func (c *stretchCursor) Next(ctx context.Context) (gateway.Batch, error) {
	if c.reader.Offset() >= c.to {
		return gateway.Batch{}, io.EOF
	}
	b, err := c.reader.NextWithin(ctx, 0)
	events := b.Events
	b.Events = nil
	for _, e := range events {
		if e.Offset >= c.to || e.Accepted.Before(c.since) || !c.until.IsZero() && !e.Accepted.Before(c.until) {
			continue
		}
		own := *e // a live route may send the same one, and the pump tells them apart by their addresses
		b.Events = append(b.Events, &own)
	}
	return b, err
}

// Position is Cursor's.
func (c *stretchCursor) Position() gateway.Position {
	return gateway.Position{Epoch: c.p.o.Hub.Epoch(), Offset: min(c.reader.Offset(), c.to) - 1}
}

// settled counts. The pump's mu is held.
func (c *stretchCursor) settled(e *gateway.Event, o outcome, _ string) {
	if o != accepted {
		return
	}
	for _, s := range c.p.sources {
		if s.replay == nil && s.route.Match.Match(e.Topic) {
			c.p.replayed[s.route.ID]++
			return
		}
	}
}

// Commit is Cursor's.
func (c *stretchCursor) Commit(Commit) error {
	c.p.mu.Lock()
	now := maps.Clone(c.p.replayed)
	c.p.mu.Unlock()
	value, err := json.Marshal(now)
	if err == nil {
		err = c.p.o.State.Apply(ledgerBucket, map[string][]byte{replayedKey(c.p.o.Uplink): value})
	}
	if err != nil {
		return fmt.Errorf("store how many events were replayed: %w", err)
	}
	return nil
}

func replayedKey(uplink string) string { return "replayed/" + uplink }

// readReplayed returns how many events of each route were replayed, of all time.
func readReplayed(state State, uplink string) (map[string]uint64, error) {
	counts := map[string]uint64{}
	value, ok, err := state.Get(ledgerBucket, replayedKey(uplink))
	if err == nil && ok {
		err = json.Unmarshal(value, &counts)
	}
	if err != nil {
		return nil, fmt.Errorf("read how many events were replayed: %w", err)
	}
	return counts, nil
}
