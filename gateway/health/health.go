// Package health says how the gateway does, as an event like any other: it is stored, seen on the page
// and by MQTT subscribers, and taken by every route that matches. So whoever reads at the far end
// knows what a fleet does without a way into it, and a report that was made during an outage
// comes when the outage is over.
//
// It is polite: one event in an interval, over restarts too, and nobody waits for it. When
// it cannot be stored that is said once and tried again in the next interval.
package health

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Options are what a Reporter needs. All but Ago and Logger are required.
type Options struct {
	GatewayID string
	Topic     string
	Interval  time.Duration
	// Collect looks at everything once.
	Collect func() Report
	// Ingest is gateway.Gateway.Ingest.
	Ingest func(ctx context.Context, e *gateway.Event, done func(error)) error
	// Ago is how long ago the last report was stored, perhaps by the process before this one.
	Ago    func() (ago time.Duration, known bool)
	Logger *slog.Logger
}

// Reporter makes the events.
type Reporter struct{ o Options }

// New returns a Reporter.
func New(o Options) *Reporter {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Reporter{o}
}

// settle is how long after the start the first report is made: uplinks need a moment.
const settle = 5 * time.Second

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	t := time.NewTimer(r.first())
	defer t.Stop()
	failed := false
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		err := r.tell(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			r.o.Logger.Warn("the health event is not stored", "error", err)
		}
		failed = err != nil
		t.Reset(r.o.Interval) // from here, so that a slow one does not make the next come early
	}
}

func (r *Reporter) first() time.Duration {
	wait := min(settle, r.o.Interval)
	if r.o.Ago != nil {
		if ago, known := r.o.Ago(); known {
			wait = max(wait, r.o.Interval-max(0, ago))
		}
	}
	return wait
}

// tell stores one report. It waits no longer than an interval: if the journal has no room the
// next report says more than this one.
func (r *Reporter) tell(ctx context.Context) error {
	report := r.o.Collect()
	if report.Uplinks == nil {
		report.Uplinks = []Uplink{}
	}
	payload, err := json.Marshal(report)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.o.Interval)
	defer cancel()
	return r.o.Ingest(ctx, &gateway.Event{
		Topic: r.o.Topic, Payload: payload, QoS: 1, Retain: true, ContentType: "application/json", UTF8: true,
		// A device, so that it has something to say where a far end's topic has {device} in it.
		Origin: gateway.Origin{Via: gateway.ViaWeir, ID: r.o.GatewayID},
	}, nil)
}
