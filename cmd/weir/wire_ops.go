package main

import (
	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/web"
)

// ops is what people may ask of the bridge.
func (a *app) ops() web.Ops {
	return web.Ops{
		Dead:         a.deadLetters,
		RetryDead:    func(w web.DeadLetters) ([]web.Replay, error) { return replays(a.bridge.RetryDead(bridge.Letters(w))) },
		DropDead:     func(w web.DeadLetters) (int, error) { return a.bridge.DropDead(bridge.Letters(w)) },
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
