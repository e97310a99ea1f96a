// Package bridge carries events to other systems: routes, cursors and pumps. For each uplink a
// [Pump] moves events from a [Cursor], the uplink's place in the journal, to a
// [Sink], the code that speaks to the far end. Nothing is passed before the far end has
// acknowledged it, so an uplink may be down for days: what it has not had is simply
// what lies behind its cursor.
//
// What a reader of the far end sees: every event at least once, always with the same id; the
// events of one topic in journal order at their first arrival. After a lost
// connection everything from the first unacknowledged event on is sent again, in order.
// One exception to the order is the far end's own: if it refuses an event for the moment and
// accepts later ones of the same topic that were already in flight, those come
// first, and then all again from the refused one on, so that the last arrival is the newest.
package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
	"github.com/weir-iot/weir/gateway/config"
)

// Options are what a Bridge needs.
type Options struct {
	GatewayID string
	Uplinks   map[string]config.Section
	Routes    map[string]config.Route
	Downlinks map[string]config.Downlink
	// Auth and Ingest are for downlinks: who may publish what, and gateway.Gateway.Ingest.
	Auth   *auth.Policy
	Ingest func(context.Context, *gateway.Event, func(error)) error
	Hub    *gateway.Hub
	// Count says how many released events with from <= offset < to match m.
	Count func(from, to uint64, m gateway.Matcher) (uint64, error)
	// Missing says how many events that cannot be read any more matched m, and whether that is sure.
	Missing func(from, to uint64, m gateway.Matcher) (n uint64, sure bool)
	// Start is the first offset of the journal's segment that offset lies in; indexed says that Count knows
	// what the whole of it held, even if it cannot be read any more.
	Start func(offset uint64) (first uint64, indexed bool)
	State State
	// Backlog is where events go that the journal has no room for any more; nil: nowhere.
	Backlog Backlog
	// Age is the clock that gateway.Event.Age is of.
	Age func() time.Duration
	// StateLost says that State was begun anew because the old one was damaged. A route
	// without a cursor then begins at the oldest event there is.
	StateLost bool
	Logger    *slog.Logger
	Observer  gateway.Observer
}

// Bridge is all uplinks.
type Bridge struct {
	pumps     []*Pump // in order of uplink id
	holders   []Holder
	ledger    *Ledger
	downlinks []*Downlink // in order of id
	commands  *Commands   // nil if there are none
	hub       *gateway.Hub
	state     State
	log       *slog.Logger
}

// Holder is a route as the keeper of the journal sees it.
type Holder struct {
	Name   string // "<uplink>/<route>"
	Match  gateway.Matcher
	Policy config.Retention
	// Committed is the offset up to which everything is done with, also after a crash.
	Committed func() uint64
	// Read is the offset up to which events were read and may be on their way.
	Read func() uint64
	// Hold keeps Committed from moving until what it returns is called.
	Hold func() (release func())
}

// New makes a pump for each uplink. A route without a stored cursor begins at the journal's
// end as it is now, so New belongs before anything takes events in. Errors in
// the config have their place in the file.
func New(o Options) (*Bridge, error) {
	routes := map[string][]string{} // of each uplink, in the order in which they are asked
	for id, r := range o.Routes {
		if _, ok := o.Uplinks[r.Uplink]; !ok {
			return nil, gateway.Errorf(gateway.ErrInvalid, "route %q leads to uplink %q, which does not exist", id, r.Uplink)
		}
		routes[r.Uplink] = append(routes[r.Uplink], id)
	}
	down := map[string]bool{}
	for _, d := range o.Downlinks {
		down[d.Uplink] = true
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bridge{hub: o.Hub, state: o.State, log: o.Logger}
	var wrong []error
	for _, uplink := range slices.Sorted(maps.Keys(o.Uplinks)) {
		ids := routes[uplink]
		if len(ids) == 0 && down[uplink] { // nothing goes up
			continue
		}
		slices.SortFunc(ids, func(a, b string) int {
			return cmp.Or(cmp.Compare(o.Routes[b].Weight(), o.Routes[a].Weight()), strings.Compare(a, b))
		})
		if err := b.add(o, uplink, ids); err != nil {
			wrong = append(wrong, err)
		}
	}
	if err := b.newDownlinks(o); err != nil {
		wrong = append(wrong, err)
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	var err error
	b.ledger, err = b.newLedger(o)
	return b, err
}

// Ledger is what has to be told of everything that is released.
func (b *Bridge) Ledger() *Ledger { return b.ledger }

// saveEvery is how often the ledger is stored.
const saveEvery = time.Second

// keepLedger stores the ledger now and then, and at the end.
func (b *Bridge) keepLedger(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	failed := false
	for {
		hurry := b.ledger.hurry
		if failed { // the disk is full, say: no need to ask faster
			hurry = nil
		}
		select {
		case <-tick.C:
		case <-hurry:
		case <-ctx.Done():
		}
		_, synced := b.hub.Next()
		err := b.ledger.save(synced)
		if ctx.Err() != nil {
			return err
		}
		if err != nil && !failed {
			b.log.Error("cannot store the ledger; a restart counts again from where it was", "error", err)
		}
		failed = err != nil
	}
}

// add makes the pump of one uplink.
func (b *Bridge) add(o Options, uplink string, ids []string) error {
	po := PumpOptions{
		Uplink: uplink, GatewayID: o.GatewayID, Hub: o.Hub, State: o.State, Backlog: o.Backlog, StateLost: o.StateLost,
		Count: o.Count, Missing: o.Missing, Age: o.Age, Logger: o.Logger, Observer: o.Observer,
	}
	lanes := 1
	for _, id := range ids {
		r := o.Routes[id]
		key, err := ParseKey(r.Key)
		if err != nil {
			return fmt.Errorf("route %q: %w", id, err)
		}
		lanes = max(lanes, r.Lanes)
		po.Routes = append(po.Routes, Route{
			ID: id, Match: r.Topics, Key: key, Lanes: r.Lanes, Weight: r.Weight(), TTL: r.TTL,
			Events: r.Limit.Events, Bytes: int(r.Limit.Bytes), DeadAfter: r.DeadAfter,
		})
	}
	kind := ""
	for n := range lanes {
		name, sink, err := newSink(o.Uplinks[uplink], deps{gatewayID: o.GatewayID, key: keyOf(po.Routes), lane: n, age: o.Age})
		if err != nil {
			return err
		}
		kind, po.Sinks = name, append(po.Sinks, sink)
	}
	p, err := NewPump(po)
	if err != nil {
		return err
	}
	p.status.Sink = kind
	b.pumps = append(b.pumps, p)
	for _, s := range p.sources {
		b.hold(p, s, o.Routes[s.route.ID].Retention)
	}
	return nil
}

// hold makes a route known to who lets go of segments.
func (b *Bridge) hold(p *Pump, s *source, policy config.Retention) {
	b.holders = append(b.holders, Holder{
		Name: s.holder, Match: s.route.Match, Policy: policy,
		Committed: func() uint64 {
			p.mu.Lock()
			defer p.mu.Unlock()
			return s.stored.Position.Offset
		},
		Read: func() uint64 { return s.cursor.Position().Offset },
		Hold: func() func() {
			p.committing.Lock()
			return p.committing.Unlock
		},
	})
}

// keyOf is the ordering key of an event by the route that brings it.
func keyOf(routes []Route) func(*gateway.Event) string {
	return func(e *gateway.Event) string {
		for _, r := range routes {
			if r.Match.Match(e.Topic) {
				return r.withDefaults().Key(e)
			}
		}
		return e.Topic
	}
}

// Holders are all routes, for who lets go of segments.
func (b *Bridge) Holders() []Holder { return b.holders }

// Pump returns the pump of an uplink, or nil.
func (b *Bridge) Pump(uplink string) *Pump {
	for _, p := range b.pumps {
		if p.o.Uplink == uplink {
			return p
		}
	}
	return nil
}

// Run sends until ctx ends; see [Pump.Run] for how it stops.
func (b *Bridge) Run(ctx context.Context) error {
	var all sync.WaitGroup
	ends := make([]error, len(b.pumps))
	for i, p := range b.pumps {
		all.Go(func() { ends[i] = p.Run(ctx) })
	}
	var last error
	all.Go(func() { last = b.keepLedger(ctx) })
	all.Wait()
	return errors.Join(append(ends, last)...)
}

// Status returns the state of every uplink, in order of id.
func (b *Bridge) Status() []Status {
	all := make([]Status, len(b.pumps))
	for i, p := range b.pumps {
		all[i] = p.Status()
	}
	return all
}
