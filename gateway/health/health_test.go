package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told is what a Reporter stored, and when.
type told struct {
	at    []time.Duration // since began
	event *gateway.Event
	log   bytes.Buffer
}

// report runs a Reporter for d in a time that is not real. ingest may be nil.
func report(t *testing.T, o Options, d time.Duration, ingest func(context.Context) error) *told {
	t.Helper()
	got := &told{}
	began := time.Now()
	o.GatewayID, o.Topic = "gw", "weir/gw/health"
	o.Logger = slog.New(slog.NewTextHandler(&got.log, nil))
	o.Collect = func() Report { return Report{Gateway: "gw", Uptime: int64(time.Since(began).Seconds())} }
	o.Ingest = func(ctx context.Context, e *gateway.Event, done func(error)) error {
		if done != nil {
			t.Error("somebody waits for the event; each would be a sync of its own")
		}
		if ingest != nil {
			if err := ingest(ctx); err != nil {
				return err
			}
		}
		got.at, got.event = append(got.at, time.Since(began)), e
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := New(o).Run(ctx); err != nil {
		t.Error(err)
	}
	return got
}

func TestPace(t *testing.T) {
	for name, c := range map[string]struct {
		interval time.Duration
		ago      time.Duration // of the last report; negative: there was none
		first    time.Duration
	}{
		"the first ever":                   {time.Minute, -1, settle},
		"the interval is short":            {time.Second, -1, time.Second},
		"one was stored long ago":          {time.Minute, time.Hour, settle},
		"one was stored before a restart":  {time.Minute, 20 * time.Second, 40 * time.Second},
		"one was stored just before":       {time.Hour, 0, time.Hour},
		"the clock of the last is strange": {time.Minute, -2, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := Options{Interval: c.interval}
				if c.ago != -1 {
					o.Ago = func() (time.Duration, bool) { return c.ago, true }
				}
				got := report(t, o, c.first+3*c.interval+time.Millisecond, nil)
				if len(got.at) != 4 || got.at[0] != c.first {
					t.Fatalf("reported at %v; the first is due at %v", got.at, c.first)
				}
				for i := range got.at[1:] {
					if d := got.at[i+1] - got.at[i]; d != c.interval {
						t.Errorf("%v between two", d)
					}
				}
			})
		})
	}
}

func TestEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := report(t, Options{Interval: time.Minute}, 10*time.Second, nil).event
		if e.Topic != "weir/gw/health" || !e.Retain || e.QoS != 1 || e.ContentType != "application/json" || e.Origin != (gateway.Origin{Via: "weir", ID: "gw"}) {
			t.Errorf("%+v", e)
		}
		var r map[string]any
		if err := json.Unmarshal(e.Payload, &r); err != nil || r["gateway"] != "gw" || r["uptime"] != 5.0 {
			t.Errorf("%v: %s", err, e.Payload)
		}
		if _, ok := r["uplinks"].([]any); !ok {
			t.Errorf("uplinks is no list in %s", e.Payload)
		}
		if _, there := r["unaccounted"]; there {
			t.Errorf("unaccounted was not counted, and is in %s", e.Payload)
		}
	})
}

// A journal without room is tried again at each interval, and told of once.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, full := 0, true
		got := report(t, Options{Interval: time.Second}, 5500*time.Millisecond, func(context.Context) error {
			if tries++; tries == 4 {
				full = false
			}
			if full {
				return gateway.Errorf(gateway.ErrFull, "the journal is full")
			}
			return nil
		})
		if tries != 5 || len(got.at) != 2 {
			t.Errorf("tried %d times, stored %d", tries, len(got.at))
		}
		if n := strings.Count(got.log.String(), "\n"); n != 1 {
			t.Errorf("%d lines in the log:\n%s", n, got.log.String())
		}
	})
}

// A journal that takes nothing for long holds a report up for an interval, and not the stop.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waits []error
		began := time.Now()
		report(t, Options{Interval: 10 * time.Second}, 30*time.Second, func(ctx context.Context) error {
			<-ctx.Done()
			waits = append(waits, ctx.Err())
			return ctx.Err()
		})
		if time.Since(began) != 30*time.Second {
			t.Errorf("it ran for %v", time.Since(began))
		}
		if len(waits) != 2 || !errors.Is(waits[0], context.DeadlineExceeded) {
			t.Errorf("waited %v", waits)
		}
	})
}

func TestWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWritten()
		check := func(total, day uint64) {
			t.Helper()
			if gotTotal, gotDay := w.Bytes(); gotTotal != total || gotDay != day {
				t.Errorf("after %v: %d, of the day %d; want %d, %d", time.Since(w.began), gotTotal, gotDay, total, day)
			}
		}
		w.Add(100)
		for range 23 {
			time.Sleep(time.Hour)
			w.Add(10)
		}
		check(330, 330)
		time.Sleep(time.Hour)
		check(330, 230) // the first hour is more than a day ago
		time.Sleep(2 * time.Hour)
		w.Add(1)
		check(331, 211)
		time.Sleep(1000 * time.Hour)
		check(331, 0)
		w.Add(7)
		check(338, 7)
	})
}
