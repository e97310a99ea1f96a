package web

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weir-iot/weir/gateway"
)

// Metrics counts what an Observer is told, in a registry of its own, and shows it at
// /metrics.
type Metrics struct {
	registry *prometheus.Registry
	observer gateway.Observer
}

// NewMetrics returns metrics that count nothing until their Observer is handed to the
// parts.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.observer = m.observe()
	return m
}

// Observer fills the metrics.
func (m *Metrics) Observer() gateway.Observer { return m.observer }

// Gauge adds a value that is read at each scrape, such as the size of the journal. A
// name that is taken or is no metric name is a mistake in the program: it panics.
func (m *Metrics) Gauge(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
}

// Counter is Gauge for a count that only grows.
func (m *Metrics) Counter(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, read))
}

func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

// refusals are the values of the label reason of weir_events_refused_total.
var refusals = []struct {
	kind error
	name string
}{
	{gateway.ErrInvalid, "invalid"}, {gateway.ErrDenied, "denied"},
	{gateway.ErrFull, "full"}, {gateway.ErrTransient, "transient"},
}

func refusal(err error) string {
	for _, r := range refusals {
		if errors.Is(err, r.kind) {
			return r.name
		}
	}
	return "other"
}

func (m *Metrics) observe() gateway.Observer {
	accepted := m.counter("weir_events_accepted_total", "Events stored and released.")
	acceptedBytes := m.counter("weir_events_accepted_bytes_total", "Payload bytes of the events stored and released.")
	refused := m.counters("weir_events_refused_total", "Events not stored, by the kind of error.", "reason")
	for _, r := range refusals {
		refused.WithLabelValues(r.name)
	}
	refused.WithLabelValues("other")

	writes := m.counter("weir_journal_writes_total", "Calls of write(2) by the journal.")
	written := m.counter("weir_journal_written_bytes_total", "Bytes the journal wrote.")
	syncs := m.counter("weir_journal_syncs_total", "Syncs of the journal.")
	synced := m.counter("weir_journal_synced_events_total", "Events that waited for a sync.")
	syncTime := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "weir_journal_sync_seconds", Help: "How long a sync of the journal took.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 13), // 0.1 ms to 6 s
	})
	m.registry.MustRegister(syncTime)
	recovery := m.gauge("weir_journal_recovery_seconds", "How long opening the journal took.")
	cut := m.gauge("weir_journal_recovery_cut_bytes", "Torn tail set aside when the journal was opened.")
	newEpoch := m.gauge("weir_journal_epoch_changed", "1 if a new epoch began when the journal was opened.")
	damaged := m.counter("weir_journal_damaged_total", "Times a reader met bytes that are not what was written.")

	clients := m.gauge("weir_mqtt_clients", "MQTT clients connected.")
	connects := m.counter("weir_mqtt_connects_total", "MQTT connections accepted.")
	dropped := m.counters("weir_deliveries_dropped_total", "Live deliveries a slow receiver did not get.", "reason")

	deviceUp := m.gauges("weir_device_up", "1 if the device is online.", "device")
	frames := m.counters("weir_device_frames_total", "Frames decoded.", "device")
	commands := m.counters("weir_device_commands_total", "Commands to the device: done, failed, expired, repeated or refused.", "device", "outcome")
	garbage := m.counters("weir_device_garbage_total", "Stretches of bytes that were no frame.", "device", "reason")

	uplinkUp := m.gauges("weir_uplink_up", "1 if the uplink's far end takes events.", "uplink")
	delivered := m.counters("weir_uplink_delivered_total", "Events the far end acknowledged.", "uplink")
	retried := m.counters("weir_uplink_retried_total", "Events sent again.", "uplink")

	streams := m.gauges("weir_streams", "Streams open.", "kind")
	opened := m.counters("weir_streams_opened_total", "Streams opened.", "kind")
	closed := m.counters("weir_streams_closed_total", "Streams ended.", "kind", "reason")

	return gateway.Observer{
		Accepted: func(e *gateway.Event) {
			if e.Kind == gateway.Data {
				accepted.Inc()
				acceptedBytes.Add(float64(len(e.Payload)))
			}
		},
		Refused: func(_ *gateway.Event, err error) { refused.WithLabelValues(refusal(err)).Inc() },
		Written: func(_, bytes int) {
			writes.Inc()
			written.Add(float64(bytes))
		},
		Synced: func(events int, took time.Duration) {
			syncs.Inc()
			synced.Add(float64(events))
			syncTime.Observe(took.Seconds())
		},
		Recovered: func(r gateway.Recovery) {
			recovery.Set(r.Took.Seconds())
			cut.Set(float64(r.Cut))
			newEpoch.Set(oneIf(r.NewEpoch != ""))
		},
		Damaged: func(gateway.Gap) { damaged.Inc() },
		Connected: func(string) {
			clients.Inc()
			connects.Inc()
		},
		Disconnected: func(string, string) { clients.Dec() },
		Dropped:      func(reason string) { dropped.WithLabelValues(reason).Inc() },
		DeviceState:  func(device string, up bool, _ string) { deviceUp.WithLabelValues(device).Set(oneIf(up)) },
		Frame:        func(device string) { frames.WithLabelValues(device).Inc() },
		Command:      func(device, outcome string) { commands.WithLabelValues(device, outcome).Inc() },
		Garbage:      func(device, reason string) { garbage.WithLabelValues(device, reason).Inc() },
		UplinkState:  func(uplink string, up bool, _ string) { uplinkUp.WithLabelValues(uplink).Set(oneIf(up)) },
		Delivered:    func(uplink string, events int) { delivered.WithLabelValues(uplink).Add(float64(events)) },
		Retried:      func(uplink string, events int) { retried.WithLabelValues(uplink).Add(float64(events)) },
		StreamOpened: func(kind string) {
			streams.WithLabelValues(kind).Inc()
			opened.WithLabelValues(kind).Inc()
		},
		StreamClosed: func(kind, reason string) {
			streams.WithLabelValues(kind).Dec()
			closed.WithLabelValues(kind, reason).Inc()
		},
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// deviceCollector shows the names of devices, to be joined with what is measured of them.
type deviceCollector struct{ devices func() []Device }

var deviceInfo = prometheus.NewDesc("weir_device_info", "1; what the device is called, where it is, and how it is read.", []string{"device", "name", "area", "driver"}, nil)

func (c deviceCollector) Describe(to chan<- *prometheus.Desc) { to <- deviceInfo }

func (c deviceCollector) Collect(to chan<- prometheus.Metric) {
	for _, d := range c.devices() {
		to <- prometheus.MustNewConstMetric(deviceInfo, prometheus.GaugeValue, 1, d.ID, d.Name, d.Area, d.Driver)
	}
}

// uplinkCollector shows what only the bridge knows at the moment of a scrape.
type uplinkCollector struct {
	uplinks   func() []Uplink
	downlinks func() []Downlink
	ledger    func() (Ledger, error)
}

var (
	uplinkQueued     = prometheus.NewDesc("weir_uplink_queued_events", "Events that wait for the uplink.", []string{"uplink"}, nil)
	routeBacklog     = prometheus.NewDesc("weir_route_backlog_bytes", "Bytes of the route's backlog in the reservoir.", []string{"uplink", "route"}, nil)
	accepted         = prometheus.NewDesc("weir_ledger_accepted_total", "Events that were accepted, of all time.", nil, nil)
	unrouted         = prometheus.NewDesc("weir_ledger_unrouted_total", "Accepted events that no route matches.", nil, nil)
	routeEvents      = prometheus.NewDesc("weir_ledger_events_total", "What has become of the events that were due to a route: routed, delivered, filtered, expired, or dropped for a reason.", []string{"uplink", "route", "fate", "reason"}, nil)
	routeQueued      = prometheus.NewDesc("weir_ledger_queued_events", "Events that a route is not done with.", []string{"uplink", "route"}, nil)
	routeDead        = prometheus.NewDesc("weir_ledger_dead_events", "Dead letters of a route: what the far end refused for ever and nobody sent again or dropped.", []string{"uplink", "route"}, nil)
	replayed         = prometheus.NewDesc("weir_ledger_replayed_total", "Events of a route that the far end took again, of replays.", []string{"uplink", "route"}, nil)
	unaccounted      = prometheus.NewDesc("weir_ledger_unaccounted_events", "What the ledger cannot account for: 0, or something is wrong.", []string{"uplink", "route"}, nil)
	uplinkState      = prometheus.NewDesc("weir_uplink_state", "1 for the state that the uplink is in: stopped, connecting, up, backoff, throttled, disabled or drill.", []string{"uplink", "state"}, nil)
	uplinkFailures   = prometheus.NewDesc("weir_uplink_consecutive_failures", "Attempts in a row to reach the uplink's far end that failed.", []string{"uplink"}, nil)
	uplinkOldest     = prometheus.NewDesc("weir_uplink_oldest_seconds", "Age of the oldest event that waits for the uplink.", []string{"uplink"}, nil)
	downlinkUp       = prometheus.NewDesc("weir_downlink_up", "1 if the far end sends what it has for the downlink.", []string{"downlink"}, nil)
	downlinkMessages = prometheus.NewDesc("weir_downlink_messages_total", "Messages of the far end: stored, repeated, denied, invalid, own, or failed.", []string{"downlink", "fate"}, nil)
)

func (c *uplinkCollector) Describe(to chan<- *prometheus.Desc) {
	to <- uplinkQueued
	to <- uplinkOldest
	to <- uplinkState
	to <- uplinkFailures
	to <- downlinkUp
	to <- downlinkMessages
	for _, d := range []*prometheus.Desc{routeBacklog, accepted, unrouted, routeEvents, routeQueued, routeDead, replayed, unaccounted} {
		to <- d
	}
}

func (c *uplinkCollector) Collect(to chan<- prometheus.Metric) {
	for _, u := range c.uplinks() {
		var age float64
		if !u.Oldest.IsZero() {
			age = max(0, time.Since(u.Oldest).Seconds())
		}
		to <- prometheus.MustNewConstMetric(uplinkQueued, prometheus.GaugeValue, float64(u.Queued), u.Name)
		to <- prometheus.MustNewConstMetric(uplinkState, prometheus.GaugeValue, 1, u.Name, u.State)
		to <- prometheus.MustNewConstMetric(uplinkFailures, prometheus.GaugeValue, float64(u.Failures), u.Name)
		to <- prometheus.MustNewConstMetric(uplinkOldest, prometheus.GaugeValue, age, u.Name)
		for _, r := range u.Routes {
			to <- prometheus.MustNewConstMetric(routeBacklog, prometheus.GaugeValue, float64(r.BacklogBytes), u.Name, r.Name)
		}
	}
	for _, d := range c.downlinks() {
		to <- prometheus.MustNewConstMetric(downlinkUp, prometheus.GaugeValue, oneIf(d.Up), d.Name)
		for fate, n := range map[string]uint64{
			"stored": d.Stored, "repeated": d.Repeated, "denied": d.Denied, "invalid": d.Invalid, "own": d.Own, "failed": d.Failed,
		} {
			to <- prometheus.MustNewConstMetric(downlinkMessages, prometheus.CounterValue, float64(n), d.Name, fate)
		}
	}
	l, err := c.ledger()
	if err != nil {
		to <- prometheus.NewInvalidMetric(accepted, err)
		return
	}
	to <- prometheus.MustNewConstMetric(accepted, prometheus.CounterValue, float64(l.Accepted))
	to <- prometheus.MustNewConstMetric(unrouted, prometheus.CounterValue, float64(l.Unrouted))
	for _, a := range l.Routes {
		fate := func(name, reason string, n uint64) {
			to <- prometheus.MustNewConstMetric(routeEvents, prometheus.CounterValue, float64(n), a.Uplink, a.Route, name, reason)
		}
		fate("routed", "", a.Routed)
		fate("delivered", "", a.Delivered)
		fate("filtered", "", a.Filtered)
		fate("expired", "", a.Expired)
		for reason, n := range a.Dropped {
			fate("dropped", reason, n)
		}
		to <- prometheus.MustNewConstMetric(routeQueued, prometheus.GaugeValue, float64(a.Queued), a.Uplink, a.Route)
		to <- prometheus.MustNewConstMetric(routeDead, prometheus.GaugeValue, float64(a.Dead), a.Uplink, a.Route)
		to <- prometheus.MustNewConstMetric(replayed, prometheus.CounterValue, float64(a.Replayed), a.Uplink, a.Route)
		to <- prometheus.MustNewConstMetric(unaccounted, prometheus.GaugeValue, float64(a.Unaccounted), a.Uplink, a.Route)
	}
}
