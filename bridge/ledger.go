package bridge

import (
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Ledger counts on the way in: what was accepted, and to which routes it was due. The pumps count on
// the way out, and the queues are counted where they lie; nothing is derived from the others, so
// that what does not add up is seen.
//
//	accepted = routed to some uplink + unrouted
//	routed   = delivered + queued + filtered + expired + dropped{reason} + dead      for each route
type Ledger struct {
	state  State
	routes []Holder
	start  func(uint64) (uint64, bool) // Options.Start, or nil

	mu    sync.Mutex
	count intake
	saved uint64 // count.At as it is stored
	memo  map[string][]int
	meter meter

	pending intake // what is stored next, when it is synced; At 0: nothing

	hurry chan struct{} // asks to be stored; one signal
}

// intake is what was counted of the offsets below At.
type intake struct {
	At       uint64            `json:"at"`
	Accepted uint64            `json:"accepted"`
	Unrouted uint64            `json:"unrouted"`
	Routed   map[string]uint64 `json:"routed"`
	// Start is the same at the beginning of the journal's segment that At lies in. From there on what damage took
	// can be counted again, by the segment's index; from the middle of a damaged stretch nobody can.
	Start *intake `json:"start,omitempty"`
}

func (c intake) clone() intake {
	c.Routed = maps.Clone(c.Routed)
	return c
}

const (
	ledgerBucket = "ledger"
	ledgerKey    = "intake"
	maxMemo      = 20_000 // topics
)

// newLedger goes on from what is stored: what was accepted since is counted again from the journal, whose
// next offset is next. For a route that it does not know it begins with what is queued and what the
// cursor says.
func (b *Bridge) newLedger(o Options) (*Ledger, error) {
	l := &Ledger{state: o.State, routes: b.holders, start: o.Start, memo: map[string][]int{}, hurry: make(chan struct{}, 1)}
	var stored intake
	next, synced := o.Hub.Next()
	value, found, err := o.State.Get(ledgerBucket, ledgerKey)
	if err == nil && found {
		err = json.Unmarshal(value, &stored)
	}
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	l.saved = stored.At
	first, _ := l.segment(next)
	// recount is n, as it was at from.At, as it was at first, and as it is at next.
	recount := func(from intake, n uint64, m gateway.Matcher) (then, now uint64, err error) {
		mid := max(first, from.At)
		if then, err = o.Count(from.At, mid, m); err == nil {
			now, err = o.Count(mid, next, m)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("count for the ledger: %w", err)
		}
		return n + then, n + then + now, nil
	}
	from := stored
	if at, indexed := l.segment(stored.At); indexed && stored.Start != nil && stored.Start.At == at {
		from = *stored.Start
	}
	known := found && stored.At <= next
	l.count = intake{At: next, Accepted: stored.Accepted, Unrouted: stored.Unrouted, Routed: map[string]uint64{}}
	start := &intake{At: first, Routed: map[string]uint64{}}
	if known {
		if start.Accepted, l.count.Accepted, err = recount(from, from.Accepted, every{}); err != nil {
			return nil, err
		}
		if start.Unrouted, l.count.Unrouted, err = recount(from, from.Unrouted, l.nobody()); err != nil {
			return nil, err
		}
	}
	for _, p := range b.pumps {
		for _, s := range p.sources {
			since := from
			if _, ok := since.Routed[s.holder]; !ok { // it was new then
				since = stored
			}
			n, ok := since.Routed[s.holder]
			if !known || !ok {
				row, err := p.row(s, func() (uint64, uint64) { return next, 0 })
				if err != nil {
					return nil, fmt.Errorf("count for the ledger: %w", err)
				}
				l.count.Routed[s.holder] = row.settled() + row.Queued
				continue
			}
			then, now, err := recount(since, n, s.route.Match)
			if err != nil {
				return nil, err
			}
			l.count.Routed[s.holder] = now
			if since.At <= first {
				start.Routed[s.holder] = then
			}
		}
	}
	switch {
	case known && from.At <= first:
		l.count.Start = start
	case known && stored.Start != nil && stored.Start.At == first:
		l.count.Start = stored.Start
	}
	if !found { // a kill within the first second must not begin anew
		return l, l.save(synced)
	}
	return l, nil
}

// segment is Options.Start.
func (l *Ledger) segment(offset uint64) (first uint64, indexed bool) {
	if l.start == nil {
		return 0, false
	}
	return l.start(offset)
}

// every matches all topics.
type every struct{}

func (every) Match(string) bool { return true }

// nobody matches what no route does.
func (l *Ledger) nobody() gateway.Matcher {
	var all []gateway.Matcher
	for _, h := range l.routes {
		all = append(all, h.Match)
	}
	return except{every{}, all}
}

// Released is a gateway.Tap.
func (l *Ledger) Released(batch []*gateway.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	metered := l.meter.at(time.Now(), len(l.routes))
	first := uint64(0)
	if len(batch) > 0 {
		first, _ = l.segment(batch[len(batch)-1].Offset)
	}
	for _, e := range batch {
		if e.Offset >= first && first > 0 && (l.count.Start == nil || l.count.Start.At < first) {
			start := l.count.clone()
			start.At, start.Start = first, nil
			l.count.Start = &start
		}
		l.count.At = e.Offset + 1
		metered.all += footprint(e)
		if e.Kind != gateway.Data {
			continue
		}
		l.count.Accepted++
		due := l.due(e.Topic)
		if len(due) == 0 {
			l.count.Unrouted++
		}
		for _, i := range due {
			l.count.Routed[l.routes[i].Name]++
			metered.routes[i] += footprint(e)
		}
	}
}

func (l *Ledger) due(topic string) []int {
	due, known := l.memo[topic]
	if known {
		return due
	}
	for i, h := range l.routes {
		if h.Match.Match(topic) {
			due = append(due, i)
		}
	}
	if len(l.memo) >= maxMemo {
		clear(l.memo)
	}
	l.memo[topic] = due
	return due
}

// Saved is the offset from which the journal is needed to count again.
func (l *Ledger) Saved() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.saved
}

// Save asks for it to be stored soon. It does not wait.
func (l *Ledger) Save() { signal(l.hurry) }

// save stores what was counted, once all of it is on stable storage: below synced. What is counted
// meanwhile is for the next time, or a steady stream that nobody waits for would keep it off for ever.
func (l *Ledger) save(synced uint64) error {
	l.mu.Lock()
	if l.pending.At == 0 && l.count.At != l.saved {
		l.pending = l.count.clone()
	}
	c := l.pending
	l.mu.Unlock()
	if c.At == 0 || c.At > synced {
		return nil
	}
	value, err := json.Marshal(c)
	if err == nil {
		err = l.state.Apply(ledgerBucket, map[string][]byte{ledgerKey: value})
	}
	if err != nil {
		return fmt.Errorf("store the ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saved, l.pending = c.At, intake{}
	return nil
}

// Accounts is the whole ledger at one moment.
type Accounts struct {
	Accepted    uint64
	Unrouted    uint64
	Routes      []Account
	Unaccounted int64 // of all routes; 0, or something is wrong
}

// Account is one route's part, in events of all time.
type Account struct {
	Uplink, Route string
	Routed        uint64
	Delivered     uint64
	Queued        uint64 // in the journal and in the backlog
	Filtered      uint64 // came down this uplink
	Expired       uint64
	Dropped       map[string]uint64 // by reason
	Dead          uint64            // dead letters that are kept
	Unaccounted   int64
	Replayed      uint64 // the far end took again, of replays; no part of the sum

	// A stretch of the journal was lost together with the index that tells what lay there: what
	// does not add up then was there.
	unsure bool
}

func (a Account) settled() uint64 {
	n := a.Delivered + a.Filtered + a.Expired + a.Dead
	for _, d := range a.Dropped {
		n += d
	}
	return n
}

// Accounts counts. It reads the journal's indexes, and at most a segment of each route.
func (b *Bridge) Accounts() (Accounts, error) {
	l := b.ledger
	var all Accounts
	for _, p := range b.pumps {
		for _, s := range p.routes() {
			row, err := p.row(s, func() (at, routed uint64) {
				l.mu.Lock()
				defer l.mu.Unlock()
				all.Accepted, all.Unrouted = l.count.Accepted, l.count.Unrouted
				return l.count.At, l.count.Routed[s.holder]
			})
			if err != nil {
				return all, err
			}
			row.Unaccounted = int64(row.Routed) - int64(row.settled()) - int64(row.Queued)
			if row.unsure && row.Unaccounted > 0 {
				row.Dropped["damaged, by difference"] = uint64(row.Unaccounted)
				row.Unaccounted = 0
			}
			all.Unaccounted += row.Unaccounted
			all.Routes = append(all.Routes, row)
		}
	}
	if len(b.pumps) == 0 {
		l.mu.Lock()
		all.Accepted, all.Unrouted = l.count.Accepted, l.count.Unrouted
		l.mu.Unlock()
	}
	return all, nil
}

// row is what has become of a route's events, as of its last commit. While it counts nothing is
// committed, and what was routed, up to which offset, is asked last: so nothing is settled or moved
// that was not yet routed.
func (p *Pump) row(s *source, now func() (to, routed uint64)) (Account, error) {
	p.committing.Lock()
	defer p.committing.Unlock()
	p.mu.Lock()
	c, replayed := s.stored, p.replayed[s.route.ID]
	p.mu.Unlock()
	raised := s.dead.gone() // of what c counts as dead
	a := Account{
		Uplink: p.o.Uplink, Route: s.route.ID, Delivered: c.Delivered + raised.Delivered, Filtered: c.Filtered, Expired: c.Expired,
		Dead: c.Dead - raised.Delivered - raised.Dropped, Dropped: map[string]uint64{}, Replayed: replayed, unsure: c.Unsure,
	}
	if raised.Dropped > 0 {
		a.Dropped["dead"] = raised.Dropped
	}
	backlog, err := p.o.Backlog.Count(s.holder)
	if err == nil && backlog.Events > 0 && backlog.First <= c.Position.Offset {
		// It was killed, alone, before it had stored what was released.
		if err = p.o.Backlog.Release(s.holder, c.Position.Offset); err == nil {
			backlog, err = p.o.Backlog.Count(s.holder)
		}
	}
	for err == nil {
		journal, to := uint64(0), uint64(0)
		to, a.Routed = now()
		if from := max(c.Position.Offset+1, backlog.Mark); p.o.Count != nil && from < to {
			if journal, err = p.o.Count(from, to, s.route.Match); err != nil {
				break
			}
		}
		var after BacklogCount
		if after, err = p.o.Backlog.Count(s.holder); err == nil && after.Mark == backlog.Mark {
			a.Queued = backlog.Events + journal
			break
		}
		backlog = after // the keeper has moved something meanwhile
	}
	if err != nil {
		return a, err
	}
	for reason, n := range backlog.Dropped {
		a.Dropped[reason] += n
	}
	if c.Damaged > 0 {
		a.Dropped["damaged"] += c.Damaged
	}
	return a, nil
}
