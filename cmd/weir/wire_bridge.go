package main

import (
	"log/slog"
	"sync"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
	"github.com/weir-iot/weir/store"
)

// backlog is the reservoir as the bridge and the keeper see it. It remembers marks, because the process
// that holds the reservoir may be away just then, and a mark that is too low would be a loss.
type backlog struct {
	r *store.BoxReservoir

	mu    sync.Mutex
	marks map[string]uint64
}

func newBacklog(r *store.BoxReservoir) *backlog {
	return &backlog{r: r, marks: map[string]uint64{}}
}

func (b *backlog) Put(holder string, upTo uint64, records []store.Record) error {
	err := b.r.Put(holder, upTo, records)
	if err == nil {
		b.learn(holder, upTo)
	}
	return err
}

func (b *backlog) learn(holder string, mark uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marks[holder] = max(b.marks[holder], mark)
}

// Mark waits for the first answer; afterwards it knows, for nobody else puts anything there.
func (b *backlog) Mark(holder string) uint64 {
	for {
		b.mu.Lock()
		mark, known := b.marks[holder]
		b.mu.Unlock()
		if known {
			return mark
		}
		if s, err := b.r.Ask(holder); err == nil {
			b.learn(holder, s.Mark)
		} else {
			time.Sleep(askPause)
		}
	}
}

// askPause is how long Mark waits before it asks again.
const askPause = 50 * time.Millisecond

func (b *backlog) Shrink(holder string, after uint64, p store.Policy, maxBytes, now int64) (more bool, err error) {
	return b.r.Shrink(holder, after, p, maxBytes, now)
}

func (b *backlog) Stat(holder string) store.Stat {
	s := b.r.Stat(holder)
	s.Mark = b.Mark(holder)
	return s
}

func (b *backlog) Read(holder string, from uint64) (gateway.Batch, error) {
	found, err := b.r.Read(holder, from, 0)
	return found.Batch(), err
}

func (b *backlog) Release(holder string, upTo uint64) error { return b.r.Release(holder, upTo) }

func (b *backlog) Count(holder string) (bridge.BacklogCount, error) {
	s, err := b.r.Ask(holder)
	if err != nil {
		s = b.r.Stat(holder)
	}
	return bridge.BacklogCount{
		Mark: s.Mark, First: s.First, Events: s.Count, Bytes: s.Bytes, Oldest: time.Duration(s.OldestAge) * time.Millisecond, Dropped: s.Dropped,
	}, err
}

func minFree(s config.Share) store.MinFree {
	if s.Percent > 0 {
		return store.MinFree{Percent: s.Percent, Bytes: store.DefaultMinFree.Bytes}
	}
	return store.MinFree{Bytes: max(int64(s.Bytes), store.LeastFree)}
}

// newKeeper bounds the journal: every route holds it, and what is counted or rolled forward from it
// anchors it.
func newKeeper(cfg *config.Config, a *app, log *slog.Logger) *store.Keeper {
	o := store.KeeperOptions{
		Journal: a.journal, Backlogs: a.backlog, MaxAge: cfg.Journal.MaxAge, Logger: log.With("part", "keeper"),
		Anchors: []store.Anchor{
			{Name: "the broker's state", Needs: a.broker.Saved, Advance: a.broker.Checkpoint},
			{Name: "the ledger", Needs: a.bridge.Ledger().Saved, Advance: a.bridge.Ledger().Save},
		},
	}
	if c := a.bridge.Commands(); c != nil {
		o.Anchors = append(o.Anchors, store.Anchor{Name: "the ids of commands", Needs: c.Saved, Advance: c.Save})
	}
	for _, h := range a.bridge.Holders() {
		p := store.Policy{Mode: h.Policy.OnFull}
		for _, k := range h.Policy.Keep {
			p.Keep = append(p.Keep, store.Step{For: k.For, Every: k.Every, Latest: k.Latest})
		}
		o.Holders = append(o.Holders, store.Holder{
			Name: h.Name, Match: h.Match, Committed: h.Committed, Read: h.Read, Hold: h.Hold, Policy: p, MaxBytes: int64(h.Policy.MaxSize),
		})
	}
	return store.NewKeeper(o)
}

func (a *app) uplinkStatus() []web.Uplink {
	all := []web.Uplink{}
	for _, u := range a.bridge.Status() {
		w := web.Uplink{
			Name: u.Uplink, Sink: u.Sink, Up: u.Up, Reason: u.Reason, Since: u.Since, State: string(u.State), Failures: u.Failures,
			NextAttempt: u.NextAttempt, LastError: u.LastError, LastFailed: u.LastFailed, Queued: u.Queued, Oldest: u.Oldest,
			Position: u.Position.String(), Delivered: u.Delivered, Retried: u.Retried, Dead: u.Dead,
		}
		for _, r := range u.Routes {
			problem := r.ReadError
			if problem == "" && r.LastGap != "" {
				problem = "missing: " + r.LastGap
			}
			w.Routes = append(w.Routes, web.UplinkRoute{
				Name: r.Route, Journal: r.Journal, Backlog: r.Backlog.Events, BacklogBytes: r.Backlog.Bytes, OldestAge: r.Oldest.Seconds(),
				Position: r.Position.String(), Delivered: r.Delivered, Expired: r.Expired, Dropped: r.Backlog.Dropped, Dead: r.Kept, Problem: problem,
			})
		}
		all = append(all, w)
	}
	return all
}

func (a *app) downlinkStatus() []web.Downlink {
	all := []web.Downlink{}
	for _, d := range a.bridge.Downlinks() {
		all = append(all, web.Downlink{
			Name: d.Downlink, Uplink: d.Uplink, Sink: d.Sink, Up: d.Up, Reason: d.Reason, Since: d.Since, Last: d.Last,
			Stored: d.Stored, Repeated: d.Repeated, Denied: d.Denied, Invalid: d.Invalid, Own: d.Own, Failed: d.Failed,
		})
	}
	return all
}

func (a *app) ledger() (web.Ledger, error) {
	all, err := a.bridge.Accounts()
	l := web.Ledger{Accepted: all.Accepted, Unrouted: all.Unrouted, Unaccounted: all.Unaccounted}
	for _, r := range all.Routes {
		l.Routes = append(l.Routes, web.LedgerAccount{
			Uplink: r.Uplink, Route: r.Route, Routed: r.Routed, Delivered: r.Delivered, Queued: r.Queued,
			Filtered: r.Filtered, Expired: r.Expired, Dropped: r.Dropped, Dead: r.Dead, Unaccounted: r.Unaccounted, Replayed: r.Replayed,
		})
	}
	return l, err
}
