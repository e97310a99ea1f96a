package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"runtime/metrics"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
	"github.com/weir-iot/weir/gateway/health"
	"github.com/weir-iot/weir/store"
)

// vitals are what the health event says and only an Observer hears.
type vitals struct {
	started  time.Time
	written  *health.Written
	recovery gateway.Recovery // set before anything runs
}

// watch returns o, which hears what it heard and tells v too.
func (v *vitals) watch(o gateway.Observer) gateway.Observer {
	o = o.OrNop()
	v.started, v.written = time.Now(), health.NewWritten()
	written, recovered := o.Written, o.Recovered
	o.Written = func(events, bytes int) {
		written(events, bytes)
		v.written.Add(bytes)
	}
	o.Recovered = func(r gateway.Recovery) {
		recovered(r)
		v.recovery = r
	}
	return o
}

// newHealth returns what makes the health events, or nil if the config wants none.
func newHealth(cfg *config.Config, a *app, ingest *gateway.Gateway, last *gateway.LastValues, log *slog.Logger) *health.Reporter {
	if cfg.Health.Interval == 0 {
		return nil
	}
	return health.New(health.Options{
		GatewayID: cfg.Gateway.ID,
		Topic:     cfg.Health.Topic,
		Interval:  cfg.Health.Interval,
		Collect:   func() health.Report { return a.report(cfg) },
		Ingest:    ingest.Ingest,
		Ago: func() (time.Duration, bool) {
			for _, e := range last.Match(gateway.Filters{gateway.MustFilter(cfg.Health.Topic)}) {
				return a.journal.Age() - e.Age, true
			}
			return 0, false
		},
		Logger: log.With("part", "health"),
	})
}

// report looks at every part once.
func (a *app) report(cfg *config.Config) health.Report {
	now, trusted := new(store.OSClock).Wall()
	journal := a.journal.Stats()
	r := health.Report{
		Gateway: cfg.Gateway.ID, Version: version, Config: hex.EncodeToString(cfg.Sum[:6]),
		Time: now.UTC(), Trusted: trusted, Uptime: int64(time.Since(a.vitals.started).Seconds()),
		LastEnd: a.vitals.recovery.LastEnd, Epoch: journal.Epoch,
		Journal: health.Journal{Bytes: journal.Bytes, MaxBytes: journal.MaxBytes, Full: journal.Full},
		Memory:  memory(),
	}
	r.Disk.Free, r.Disk.Total, _ = store.OSDisk{}.Space(cfg.Gateway.DataDir) // absent on error
	r.Disk.Written, r.Disk.Day = a.vitals.written.Bytes()
	ledger, err := a.bridge.Accounts()
	r.Accepted, r.Unrouted = ledger.Accepted, ledger.Unrouted
	if err == nil {
		r.Unaccounted = &ledger.Unaccounted
	}
	for _, u := range a.bridge.Status() {
		up := health.Uplink{Name: u.Uplink, Sink: u.Sink, Up: u.Up, Reason: u.Reason, Since: u.Since.UTC(), CertificateExpires: u.CertificateExpiry}
		for _, s := range u.Routes {
			up.Routes = append(up.Routes, health.Route{
				Name: s.Route, Queued: s.Queued(), BacklogBytes: s.Backlog.Bytes, OldestAge: int64(s.Oldest.Seconds()),
				Delivered: s.Delivered, Dead: s.Kept,
			})
		}
		r.Uplinks = append(r.Uplinks, up)
	}
	return r
}

// heapObjects stops no goroutine, as runtime.ReadMemStats would.
const heapObjects = "/memory/classes/heap/objects:bytes"

func memory() (m health.Memory) {
	sample := []metrics.Sample{{Name: heapObjects}}
	metrics.Read(sample)
	m.Heap = sample[0].Value.Uint64()
	statm, err := os.ReadFile("/proc/self/statm") // pages, proc(5): size resident …
	var size, resident int64
	if n, _ := fmt.Fscan(bytes.NewReader(statm), &size, &resident); err == nil && n == 2 {
		m.Resident = resident * int64(os.Getpagesize())
	}
	return m
}

// tellHealth is the part that makes the health events.
func (a *app) tellHealth(ctx context.Context) error {
	if a.health == nil {
		<-ctx.Done()
		return nil
	}
	return a.health.Run(ctx)
}
