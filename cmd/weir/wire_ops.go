package main

import (
	"strings"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// ops is what people may ask of the bridge.
func (a *app) ops() web.Ops {
	return web.Ops{
		Dead:         a.deadLetters,
		RetryDead:    func(w web.DeadLetters) ([]web.Replay, error) { return replays(a.bridge.RetryDead(bridge.Letters(w))) },
		DropDead:     func(w web.DeadLetters) (int, error) { return a.bridge.DropDead(bridge.Letters(w)) },
		Replay:       a.replay,
		Replays:      func() []web.Replay { all, _ := replays(a.bridge.Replays(), nil); return all },
		CancelReplay: func(id string) (web.Replay, error) { r, err := a.bridge.CancelReplay(id); return web.Replay(r), err },
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
