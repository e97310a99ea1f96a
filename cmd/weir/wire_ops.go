package main

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// ops is what people may ask of the bridge.
func (a *app) ops(cfg *config.Config) web.Ops {
	return web.Ops{
		Drill:  func(uplink, length string) (web.Drill, error) { return a.drill(cfg, uplink, length) },
		Trace:  func(id, topic string) (web.Trace, error) { return a.trace(cfg.Gateway.ID, id, topic) },
		Drills: func() ([]web.Drill, error) { return a.drills(cfg, "") },

		Dead:         a.deadLetters,
		RetryDead:    func(w web.DeadLetters) ([]web.Replay, error) { return replays(a.bridge.RetryDead(bridge.Letters(w))) },
		DropDead:     func(w web.DeadLetters) (int, error) { return a.bridge.DropDead(bridge.Letters(w)) },
		Replay:       a.replay,
		Replays:      func() []web.Replay { all, _ := replays(a.bridge.Replays(), nil); return all },
		CancelReplay: func(id string) (web.Replay, error) { r, err := a.bridge.CancelReplay(id); return web.Replay(r), err },
		Seen:         a.seen,
		Adopt:        func(w web.Adoption) (web.Adopted, error) { return a.adopt(cfg, w) },
	}
}

func (a *app) deadLetters(uplink, route string, fn func(web.DeadLetter) error) error {
	return a.bridge.EachDead(bridge.Letters{Uplink: uplink, Route: route}, func(l bridge.DeadLetter) error {
		return fn(web.DeadLetter{
			ID: l.ID, Uplink: l.Uplink, Route: l.Route, Topic: l.Event.Topic, Bytes: len(l.Event.Payload),
			Refused: l.Time, Reason: l.Reason, Event: l.Event,
		})
	})
}

func replays(of []bridge.Replay, err error) (all []web.Replay, _ error) {
	for _, r := range of {
		all = append(all, web.Replay(r))
	}
	return all, err
}

func (a *app) replay(r web.ReplayRequest) (web.Replay, error) {
	w := bridge.Stretch{Uplink: r.Uplink, Route: r.Route}
	var err error
	if w.Filters, err = gateway.ParseFilters(r.Filters...); err == nil {
		w.Since, err = parseEdge(r.Since, time.Now())
	}
	if err == nil {
		w.Until, err = parseEdge(r.Until, time.Now())
	}
	if err != nil {
		return web.Replay{}, err
	}
	begun, err := a.bridge.Replay(w)
	return web.Replay(begun), err
}

// parseEdge reads a time, a duration before now, or a position. Times without a zone are local.
func parseEdge(s string, now time.Time) (e bridge.Edge, err error) {
	if s == "" {
		return e, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if e.Time, err = time.ParseInLocation(layout, s, time.Local); err == nil {
			return e, nil
		}
	}
	if d, err := config.ParseDuration(s); err == nil {
		return bridge.Edge{Time: now.Add(-d)}, nil
	}
	if strings.Contains(s, ":") {
		if e.Position, err = gateway.ParsePosition(s); err == nil {
			return bridge.Edge{Position: e.Position}, nil
		}
	}
	return bridge.Edge{}, gateway.Errorf(gateway.ErrInvalid, "%q is neither a time (2026-11-24T12:00:00Z, 2026-11-24 12:00), a duration (2h, 7d) nor a position (epoch:offset)", s)
}

// maxDrill bounds a drill that somebody forgets.
const maxDrill = 7 * 24 * time.Hour

// drill begins or ends a drill. What it would come to is found first, so that a drill is not begun blindly.
func (a *app) drill(cfg *config.Config, uplink, length string) (web.Drill, error) {
	d := time.Duration(0)
	if length != "" {
		var err error
		if d, err = config.ParseDuration(length); err != nil || d <= 0 || d > maxDrill {
			return web.Drill{}, gateway.Errorf(gateway.ErrInvalid, "%q is no length of a drill: 10m, 2h, up to 7d", length)
		}
	}
	if _, err := a.drills(cfg, uplink); err != nil {
		return web.Drill{}, err
	}
	if err := a.bridge.Drill(uplink, d); err != nil {
		return web.Drill{}, err
	}
	all, err := a.drills(cfg, uplink)
	if err != nil {
		return web.Drill{}, err
	}
	return all[0], nil
}

// drills is how one uplink is, or all are.
func (a *app) drills(cfg *config.Config, only string) (all []web.Drill, err error) {
	s := a.journal.Stats()
	room := bridge.Room{Journal: s.Bytes, Oldest: s.Oldest, Next: s.Next, MaxAge: cfg.Journal.MaxAge}
	if room.JournalKeeps, room.Disk, err = a.journal.Room(); err != nil {
		return nil, err
	}
	uplinks := []string{only}
	if only == "" {
		uplinks = slices.Sorted(maps.Keys(cfg.Uplinks))
	}
	until := a.bridge.Drills()
	for _, uplink := range uplinks {
		o, err := a.bridge.Outlook(uplink, room)
		if err != nil {
			return nil, err
		}
		d := web.Drill{Uplink: uplink, Until: until[uplink], Rate: o.Rate, Journal: seconds(o.Journal)}
		for _, r := range o.Routes {
			d.Routes = append(d.Routes, web.DrillRoute{Route: r.Route, Rate: r.Rate, Lasts: seconds(r.Lasts), Limit: r.Limit, Then: r.Then})
		}
		all = append(all, d)
	}
	return all, nil
}

func seconds(d time.Duration) *float64 {
	if d == bridge.Forever {
		return nil
	}
	s := d.Seconds()
	return &s
}

func (a *app) trace(gatewayID, id, topic string) (web.Trace, error) {
	at, err := a.traced(gatewayID, id, topic)
	if err != nil {
		return web.Trace{}, err
	}
	found, err := a.bridge.Trace(at)
	if err != nil {
		return web.Trace{}, err
	}
	named := gateway.Event{Epoch: at.Epoch, Offset: at.Offset}
	t := web.Trace{ID: named.ID(gatewayID), Position: at.String(), Place: found.Place, Synced: found.Synced, Event: found.Event}
	if e := found.Event; e != nil {
		t.Received = &web.Received{
			Via: e.Origin.Via, Client: e.Origin.ID, User: e.Origin.User, QoS: e.QoS, Time: e.Accepted.UTC(), ClockTrusted: e.ClockTrusted,
			Age: max(a.journal.Age()-e.Age, 0).Seconds(), Boot: e.Boot, Expiry: e.Expiry.Seconds(),
		}
	}
	for _, r := range found.Routes {
		t.Routes = append(t.Routes, web.TraceRoute(r))
	}
	return t, nil
}

// traced is the position of the event with that id, which may be a position, or of the newest of topic.
func (a *app) traced(gatewayID, id, topic string) (gateway.Position, error) {
	if id != "" {
		if at, err := gateway.ParsePosition(id); err == nil {
			return at, nil
		}
		return gateway.ParseID(gatewayID, id)
	}
	if err := gateway.ValidateTopic(topic); err != nil {
		return gateway.Position{}, err
	}
	newest, err := a.journal.Last(gateway.Filters{gateway.MustFilter(topic)}, 1)
	if err == nil && len(newest) == 0 {
		err = gateway.Errorf(gateway.ErrInvalid, "the journal has no event of topic %q of late", topic)
	}
	if err != nil {
		return gateway.Position{}, err
	}
	return newest[0].Position(), nil
}
