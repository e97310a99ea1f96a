package main

import (
	"slices"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// duePage bounds one answer.
const duePage = 5000

// due reads from the journal what a route is done with, from an offset on.
func (a *app) due(cfg *config.Config, state bridge.State) func(uplink, route string, from uint64) (web.Due, error) {
	return func(uplink, route string, from uint64) (web.Due, error) {
		name := uplink + "/" + route
		i := slices.IndexFunc(a.bridge.Holders(), func(h bridge.Holder) bool { return h.Name == name })
		if i < 0 {
			return web.Due{}, gateway.Errorf(gateway.ErrInvalid, "uplink %q has no route %q", uplink, route)
		}
		holder := a.bridge.Holders()[i]
		done := a.doneWith(uplink, route) // before the dead letters are read, so that none of them looks delivered
		dead := map[uint64]bool{}
		err := bridge.EachDeadLetter(state, name, func(l bridge.DeadLetter) error {
			dead[l.Event.Offset] = true
			return nil
		})
		if err != nil {
			return web.Due{}, err
		}
		answer := web.Due{Oldest: a.journal.Stats().Oldest, Events: []web.DueEvent{}}
		for from = max(from, answer.Oldest); from <= done; {
			if len(answer.Events) >= duePage {
				answer.Next = from
				return answer, nil
			}
			b, err := a.journal.Read(from, holder.Match, duePage-len(answer.Events))
			if err != nil {
				return web.Due{}, err
			}
			for _, e := range b.Events {
				if e.Offset > done {
					return answer, nil
				}
				answer.Events = append(answer.Events, web.DueEvent{ID: e.ID(cfg.Gateway.ID), Topic: e.Topic, Excuse: excuse(e, dead, cfg.Routes[route])})
			}
			if b.Next <= from {
				break
			}
			from = b.Next
		}
		return answer, nil
	}
}

// doneWith is the offset up to which a route is done with everything.
func (a *app) doneWith(uplink, route string) uint64 {
	for _, s := range a.bridge.Pump(uplink).Status().Routes {
		if s.Route == route {
			return s.Position.Offset
		}
	}
	return 0
}

// excuse is why an event that is done with may not be at the far end.
func excuse(e *gateway.Event, dead map[uint64]bool, r config.Route) string {
	switch {
	case dead[e.Offset]:
		return "a dead letter"
	case e.Expiry > 0 || r.TTL > 0:
		return "may have expired"
	}
	return ""
}
