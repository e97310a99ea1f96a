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
	"context"
	"errors"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// Options are what a Bridge needs.
type Options struct {
	GatewayID string
	Uplinks   map[string]config.Section
	Routes    map[string]config.Route
	Hub       *gateway.Hub
	// Count says how many released events from offset from on match f.
	Count func(from uint64, f gateway.Filters) (uint64, error)
	State State
	// Age is the clock that gateway.Event.Age is of.
	Age func() time.Duration
	// StateLost says that State was begun anew because the old one was damaged. An uplink
	// without a cursor then begins at the journal's oldest event.
	StateLost bool
	Logger    *slog.Logger
	Observer  gateway.Observer
}

// Bridge is all uplinks.
type Bridge struct {
	pumps []*Pump // in order of uplink id
}

// New makes a pump for each uplink. An uplink without a stored cursor begins at the journal's
// end as it is now, so New belongs before anything takes events in. Errors in
// the config have their place in the file.
func New(o Options) (*Bridge, error) {
	topics := map[string]gateway.Filters{}
	for name, r := range o.Routes {
		if _, ok := o.Uplinks[r.Uplink]; !ok {
			return nil, gateway.Errorf(gateway.ErrInvalid, "route %q leads to uplink %q, which does not exist", name, r.Uplink)
		}
		topics[r.Uplink] = append(topics[r.Uplink], r.Topics...)
	}
	b := &Bridge{}
	var wrong []error
	for uplink, section := range o.Uplinks {
		kind, sink, err := newSink(section, deps{gatewayID: o.GatewayID, key: byTopic})
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		p, err := NewPump(PumpOptions{
			Uplink: uplink, GatewayID: o.GatewayID, Sink: sink, Hub: o.Hub, State: o.State, StateLost: o.StateLost,
			Filters: topics[uplink], Count: o.Count, Age: o.Age, Logger: o.Logger, Observer: o.Observer,
		})
		if err != nil {
			return nil, err
		}
		p.status.Sink = kind
		b.pumps = append(b.pumps, p)
	}
	sort.Slice(b.pumps, func(i, j int) bool { return b.pumps[i].o.Uplink < b.pumps[j].o.Uplink })
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	return b, nil
}

// Run sends until ctx ends; see [Pump.Run] for how it stops.
func (b *Bridge) Run(ctx context.Context) error {
	var all sync.WaitGroup
	ends := make([]error, len(b.pumps))
	for i, p := range b.pumps {
		all.Go(func() { ends[i] = p.Run(ctx) })
	}
	<-ctx.Done() // also without an uplink
	all.Wait()
	return errors.Join(ends...)
}

// Status returns the state of every uplink, in order of id.
func (b *Bridge) Status() []Status {
	all := make([]Status, len(b.pumps))
	for i, p := range b.pumps {
		all[i] = p.Status()
	}
	return all
}
