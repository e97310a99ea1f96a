package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/devices/mqttsn"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
	"github.com/weir-iot/weir/gateway/broker"
	"github.com/weir-iot/weir/gateway/config"
	"github.com/weir-iot/weir/gateway/health"
	"github.com/weir-iot/weir/store"
)

// How long each phase of a stop may take. A phase that is late is said and left behind.
const (
	intakeDeadline  = 5 * time.Second
	drainDeadline   = 10 * time.Second
	journalDeadline = 15 * time.Second
)

// The table of last values: topics it holds, and how many of the newest events fill it at start.
const (
	lastTopics = 20_000
	lastWarm   = 20_000
)

// app is the gateway, put together. newApp opens what it stands on and binds its ports; Run
// starts the parts and stops them in order; Close gives back what newApp took.
type app struct {
	log     *slog.Logger
	journal *store.Journal
	box     *store.Box // state and reservoir, in a process of their own
	backlog *backlog   // the reservoir as the bridge and the keeper see it
	keeper  *store.Keeper
	hub     *gateway.Hub
	broker  *broker.Broker
	devices *devices.Supervisor
	bridge  *bridge.Bridge
	web     *web.Server
	vitals  vitals
	health  *health.Reporter // nil if nobody wants to know

	mqtt, http, command net.Listener

	nodes *mqttsn.Gateway // nil if the config has no MQTT-SN
	udp   *net.UDPConn

	adopting sync.Mutex // one change of the configuration at a time
}

// newApp composes the gateway, from the ground up.
func newApp(cfg *config.Config, log *slog.Logger) (_ *app, err error) {
	a := &app{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()

	metrics := web.NewMetrics()
	observer := a.vitals.watch(metrics.Observer())

	// Ports first: a second gateway, or a mosquitto, is the commonest mistake, and the
	// message about it should not come after a recovery.
	if a.mqtt, err = listen("listeners.mqtt.address", cfg.Listeners.MQTT.Address); err != nil {
		return nil, err
	}
	if a.http, err = listen("listeners.http.address", cfg.Listeners.HTTP.Address); err != nil {
		return nil, err
	}

	if sn := cfg.Listeners.MQTTSN; sn != nil {
		if a.udp, err = listenUDP("listeners.mqttsn.address", sn.Address); err != nil {
			return nil, err
		}
	}

	dir := cfg.Gateway.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("gateway.data_dir: %w", err)
	}
	a.journal, err = store.Open(withFaults(store.Options{
		Dir:           filepath.Join(dir, "journal"),
		MaxSize:       int64(cfg.Journal.MaxSize),
		MinFree:       minFree(cfg.Journal.MinFree),
		FlushInterval: cfg.Journal.FlushInterval,
		Logger:        log.With("part", "journal"),
		Observer:      observer,
	}, log))
	if err != nil {
		return nil, err
	}
	if a.box, err = store.OpenBox(store.BoxOptions{Dir: dir, Logger: log.With("part", "state")}); err != nil {
		return nil, err
	}
	state := a.box.State()

	a.backlog = newBacklog(a.box.Reservoir())

	ingest := gateway.New(gateway.Options{
		Journal: a.journal, Observer: observer,
		Admit: func(e *gateway.Event) error { return a.keeper.Admit(e) },
	})
	a.broker, err = broker.New(broker.Options{
		Auth:     cfg.Auth,
		Ingest:   ingest.Ingest,
		State:    state,
		Replay:   a.journal.Replay,
		Age:      a.journal.Age,
		Logger:   log.With("part", "broker"),
		Observer: observer,
	})
	if err != nil {
		return nil, err
	}
	if cfg.Listeners.MQTTSN != nil {
		if a.nodes, err = newNodes(cfg, a.broker, log, observer); err != nil {
			return nil, err
		}
	}
	last := gateway.NewLastValues(lastTopics)
	newest, err := a.journal.Last(gateway.Filters{gateway.MustFilter("#")}, lastWarm)
	if err != nil { // the page begins empty; that is no reason not to begin
		log.Warn("the last values cannot be read", "error", err)
	}
	last.Update(newest)

	// What the journal releases goes to MQTT subscribers and last values first, then readers
	// wake, then senders are acknowledged.
	a.hub = gateway.NewHub(a.journal, a.journal.Next(), a.broker.Deliver, last.Update,
		func(batch []*gateway.Event) {
			a.bridge.Ledger().Released(batch)
			if c := a.bridge.Commands(); c != nil {
				c.Released(batch)
			}
		})

	a.devices, err = newDevices(cfg, devices.Options{
		Ingest: ingest.Ingest, Record: ingest.Record, State: state, Feed: a.hub, Age: a.journal.Age, Retained: a.broker.Retained,
		May: mayPublish(cfg.Auth), Logger: log, Observer: observer,
	})
	if err != nil {
		return nil, err
	}
	a.bridge, err = bridge.New(bridge.Options{
		GatewayID: cfg.Gateway.ID,
		Uplinks:   cfg.Uplinks,
		Routes:    cfg.Routes,
		Downlinks: cfg.Downlinks,
		Auth:      cfg.Auth,
		Ingest:    ingest.Ingest,
		Hub:       a.hub,
		Count:     a.journal.Count,
		Missing:   a.journal.Missing,
		Start:     a.journal.Start,
		Age:       a.journal.Age,
		State:     state,
		Backlog:   a.backlog,
		StateLost: state.Lost(),
		Logger:    log.With("part", "bridge"),
		Observer:  observer,
	})
	if err != nil {
		return nil, err
	}
	a.keeper = newKeeper(cfg, a, log)
	a.health = newHealth(cfg, a, ingest, last, log)
	a.web, err = web.New(web.Options{
		GatewayID: cfg.Gateway.ID,
		Version:   version,
		Feed:      a.hub,
		History:   a.journal.Last,
		Last:      last,
		Ingest:    ingest.IngestWait,
		Auth:      cfg.Auth,
		Origins:   cfg.Listeners.HTTP.Origins,
		MQTT:      a.broker.Connect,
		Devices:   a.deviceStatus,
		Target:    a.target,
		Watch:     a.devices.Watch,
		Record:    a.devices.Record,
		Radios:    a.radioStatus,
		Uplinks:   a.uplinkStatus,
		Downlinks: a.downlinkStatus,
		Ledger:    a.ledger,
		Ops:       a.ops(cfg),
		Due:       a.due(cfg, state),
		Ready:     a.ready,
		Metrics:   metrics,
		Observer:  observer,
		Logger:    log.With("part", "web"),
	})
	if err != nil {
		return nil, err
	}
	a.gauges(metrics, last)
	a.command, err = listenUnix(filepath.Join(dir, socketName))
	return a, err
}

// Run runs the gateway until ctx ends or a part fails, then stops it in two phases: first
// what takes events in, then what carries them on; the journal last, so that everything
// that was accepted is stored and every cursor is saved.
func (a *app) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	journal := startPhase(fail, journalDeadline, part{"journal", func(ctx context.Context) error { return a.journal.Run(ctx, a.hub) }})
	drain := startPhase(fail, drainDeadline, part{"bridge", a.bridge.Run}, part{"keeper", a.keeper.Run}, part{"scrub", a.journal.Scrub})
	intake := startPhase(fail, intakeDeadline,
		part{"broker", a.broker.Run},
		part{"mqtt listener", func(ctx context.Context) error { return a.broker.Serve(ctx, a.mqtt) }},
		part{"http listener", func(ctx context.Context) error { return a.web.Serve(ctx, a.http, web.Network) }},
		part{"command socket", func(ctx context.Context) error { return a.web.Serve(ctx, a.command, web.Local) }},
		part{"devices", a.devices.Run},
		part{"health", a.tellHealth},
		part{"downlinks", a.bridge.Receive},
	)
	stops := []func() error{intake.stop, drain.stop, journal.stop}
	if a.nodes != nil { // first, while the broker can still publish their wills
		nodes := startPhase(fail, intakeDeadline, part{"mqtt-sn listener", func(ctx context.Context) error { return a.nodes.Serve(ctx, a.udp) }})
		stops = append([]func() error{nodes.stop}, stops...)
	}
	<-ctx.Done()
	a.log.Info("stopping", "reason", context.Cause(ctx))
	var errs []error
	for _, stop := range stops {
		errs = append(errs, stop())
	}
	return errors.Join(errs...)
}

// Close gives back what newApp opened. After Run it finds most of it closed.
func (a *app) Close() error {
	for _, l := range []net.Listener{a.mqtt, a.http, a.command} {
		if l != nil {
			l.Close() // the parts that served it closed it too
		}
	}
	if a.udp != nil {
		a.udp.Close()
	}
	var errs []error
	if a.box != nil {
		errs = append(errs, a.box.Close())
	}
	if a.journal != nil {
		errs = append(errs, a.journal.Close())
	}
	return errors.Join(errs...)
}

// gauges shows at /metrics how near the gateway is to its bounds.
func (a *app) gauges(m *web.Metrics, last *gateway.LastValues) {
	journal := func(read func(store.Stats) float64) func() float64 {
		return func() float64 { return read(a.journal.Stats()) }
	}
	m.Gauge("weir_journal_bytes", "Size of the journal.", journal(func(s store.Stats) float64 { return float64(s.Bytes) }))
	m.Gauge("weir_journal_max_bytes", "Size at which the journal refuses: journal.max_size.", journal(func(s store.Stats) float64 { return float64(s.MaxBytes) }))
	m.Gauge("weir_journal_queued_bytes", "What waits for the journal's writer.", journal(func(s store.Stats) float64 { return float64(s.Queued) }))
	m.Gauge("weir_journal_unsynced_events", "Offsets that are written and not yet on stable storage.", journal(func(s store.Stats) float64 { return float64(s.Next - s.Synced) }))
	m.Gauge("weir_last_values_topics", "Topics whose newest value is remembered.", func() float64 { held, _ := last.Topics(); return float64(held) })
	m.Gauge("weir_seen_clients", "MQTT clients that publish and are no device, as far as they are remembered.", func() float64 { n, _ := a.devices.SeenCount(); return float64(n) })
	m.Gauge("weir_seen_forgotten_clients", "Those that were forgotten because 200 others were seen later.", func() float64 { _, n := a.devices.SeenCount(); return float64(n) })
	if a.nodes != nil {
		a.nodeGauges(m)
	}
	m.Gauge("weir_last_values_missed_events", "Events whose topic found no room among the last values.", func() float64 { _, missed := last.Topics(); return float64(missed) })
}

// ready is nil while events can be taken in.
func (a *app) ready() error {
	switch s := a.journal.Stats(); {
	case s.Failed != nil:
		return s.Failed
	case s.Full:
		return gateway.Errorf(gateway.ErrFull, "the journal is full: %d of %d bytes", s.Bytes, s.MaxBytes)
	}
	return nil
}

func (a *app) deviceStatus() []web.Device {
	all := []web.Device{}
	for _, d := range a.devices.Status() {
		all = append(all, web.Device{
			ID: d.ID, Name: d.Name, Area: d.Area, Driver: d.Driver, Topic: d.Topic, Up: d.Up, Reason: d.Reason, Since: d.Since,
			LastFrame: d.Last, Frames: d.Frames, Garbage: d.Garbage, Measurements: measurements(d.Measurements), Settings: d.Settings,
		})
	}
	return all
}

func (a *app) radioStatus() (all []web.Radio) {
	for _, r := range a.devices.Radios() {
		radio := web.Radio{
			Name: r.Name, Up: r.Up, Reason: r.Reason, Since: r.Since, Extended: r.Controller.Extended, Starts: r.Starts,
			Heard: r.Heard, Weak: r.Weak, Denied: r.Denied, Seen: []web.Near{},
		}
		if r.Controller.Address != (adv.Addr{}) {
			radio.Address = r.Controller.Address.String()
		}
		for _, s := range r.Seen {
			radio.Seen = append(radio.Seen, web.Near{
				ID: s.ID, Address: s.Address, Private: s.Private, Name: s.Name, Format: s.Format, Model: s.Model, RSSI: int(s.RSSI),
				First: s.First, Last: s.Last, Count: s.Count, Readings: s.Readings, Problem: s.Problem,
			})
		}
		all = append(all, radio)
	}
	return all
}

func measurements(of []devices.Measurement) (all []web.Measurement) {
	for _, m := range of {
		all = append(all, web.Measurement{Name: m.Name, Topic: m.Topic, Unit: m.Unit, Kind: m.Kind.Name})
	}
	return all
}

func (a *app) target(device, name, timeout string) (web.Target, error) {
	t, err := a.devices.Target(device, name)
	if err == nil && timeout != "" {
		if t.Timeout, err = config.ParseDuration(timeout); err != nil {
			err = gateway.Errorf(gateway.ErrInvalid, "timeout: %w", err)
		}
	}
	return web.Target(t), err
}

// newDevices fills in what stands in the configuration.
func newDevices(cfg *config.Config, o devices.Options) (*devices.Supervisor, error) {
	o.Sections, o.Buses, o.Radios = cfg.Devices, cfg.Buses, cfg.Radios
	o.Site, o.GatewayID = cfg.Gateway.Site, cfg.Gateway.ID
	o.Logger = o.Logger.With("part", "devices")
	if d := cfg.Discovery; d.Enabled != "false" {
		o.Discovery = &devices.Discovery{Prefix: d.Prefix, Always: d.Enabled == "true", Version: version}
	}
	return devices.New(o)
}

// mayPublish tells whether who an event came from may publish to a topic.
func mayPublish(policy *auth.Policy) func(gateway.Origin, string) error {
	return func(o gateway.Origin, topic string) error {
		account, err := policy.Anonymous()
		if !policy.Open() {
			account, err = policy.Account(o.User)
		}
		if err != nil {
			return err
		}
		return account.CanPublish(topic, o.ID)
	}
}

// A part runs until its context ends. One that returns before has failed, even with nil.
type part struct {
	name string
	run  func(context.Context) error
}

// phase is a set of parts that stop together.
type phase struct {
	cancel   context.CancelFunc
	deadline time.Duration
	done     chan struct{}

	mu      sync.Mutex
	running map[string]bool
	errs    []error
}

func startPhase(fail context.CancelCauseFunc, deadline time.Duration, parts ...part) *phase {
	ctx, cancel := context.WithCancel(context.Background())
	p := &phase{cancel: cancel, deadline: deadline, done: make(chan struct{}), running: map[string]bool{}}
	for _, part := range parts {
		p.running[part.name] = true
	}
	for _, part := range parts {
		go func() {
			err := part.run(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("ended by itself")
			}
			p.ended(part.name, ctx, err)
			if ctx.Err() == nil {
				fail(fmt.Errorf("%s: %w", part.name, err))
			}
		}()
	}
	return p
}

func (p *phase) ended(name string, ctx context.Context, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", name, err))
	}
	delete(p.running, name)
	if len(p.running) == 0 {
		close(p.done)
	}
}

// stop asks the parts to end and waits for them, up to the deadline.
func (p *phase) stop() error {
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(p.deadline):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	errs := p.errs
	for name := range p.running {
		errs = append(errs, fmt.Errorf("%s: did not stop within %v", name, p.deadline))
	}
	return errors.Join(errs...)
}
