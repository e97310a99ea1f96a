package bridge_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/gateway"
)

// scriptedSink's connections end as they are told to, one after the other; the last one stays.
type scriptedSink struct{ ends []func(up func()) error }

func (s *scriptedSink) Send(ctx context.Context, _ <-chan *gateway.Event, up func(), _ func(*gateway.Event, error)) error {
	if len(s.ends) == 0 {
		up()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	end := s.ends[0]
	s.ends = s.ends[1:]
	return end(up)
}

type refrain struct {
	error
	until time.Time
}

func (r refrain) Until() time.Time { return r.until }

// What an uplink shows of its connection as it fails, is held back, and comes up.
func TestCircuit(t *testing.T) {
	refused := errors.New("connection refused")
	fails := func(err error) func(func()) error { return func(func()) error { return err } }
	check := func(t *testing.T, r *rig, state bridge.LinkState, failures int, next time.Duration, last string) {
		t.Helper()
		synctest.Wait()
		s := r.pump.Status()
		got := time.Duration(0)
		if !s.NextAttempt.IsZero() {
			got = time.Until(s.NextAttempt)
		}
		if s.State != state || s.Up != (state == bridge.LinkUp) || s.Failures != failures || got < next/2 || got > next*3/2 || s.LastError != last {
			t.Errorf("%v: next in %v, not %s, %d failures, next in about %v, %q", s.Circuit, got, state, failures, next, last)
		}
	}
	bubble(t, "not started, connecting, backoff that grows, up", func(t *testing.T, r *rig) {
		slow := make(chan bool)
		r.opts.Sinks = []bridge.Sink{&scriptedSink{ends: []func(func()) error{
			func(func()) error { <-slow; return refused }, fails(refused), fails(refused),
		}}}
		r.new()
		check(t, r, bridge.LinkStopped, 0, 0, "")
		r.run()
		check(t, r, bridge.LinkConnecting, 0, 0, "")
		if s := r.pump.Status(); s.Reason != "" {
			t.Errorf("it is being connected for the first time, because of %q", s.Reason)
		}
		close(slow)
		check(t, r, bridge.LinkBackoff, 1, 500*time.Millisecond, "connection refused")
		failed := r.pump.Status().LastFailed
		if !failed.Equal(time.Now()) {
			t.Errorf("failed at %v", failed)
		}
		time.Sleep(time.Until(r.pump.Status().NextAttempt))
		check(t, r, bridge.LinkBackoff, 2, time.Second, "connection refused")
		time.Sleep(time.Until(r.pump.Status().NextAttempt))
		check(t, r, bridge.LinkBackoff, 3, 2*time.Second, "connection refused")
		time.Sleep(time.Until(r.pump.Status().NextAttempt))
		check(t, r, bridge.LinkUp, 3, 0, "connection refused") // it has to last before it counts
		time.Sleep(31 * time.Second)
		check(t, r, bridge.LinkUp, 0, 0, "connection refused")
		p := r.pump
		r.stop()
		if s := p.Status(); s.State != bridge.LinkStopped || s.Reason != "stopped" {
			t.Errorf("%+v", s)
		}
	})
	bubble(t, "throttled until the far end takes something", func(t *testing.T, r *rig) {
		slow := make(chan bool)
		r.opts.Sinks = []bridge.Sink{&scriptedSink{ends: []func(func()) error{
			func(up func()) error { up(); return gateway.Errorf(gateway.ErrFull, "quota exceeded") },
			func(func()) error { <-slow; return refused },
		}}}
		r.run()
		check(t, r, bridge.LinkThrottled, 1, 500*time.Millisecond, "quota exceeded")
		time.Sleep(time.Second)
		check(t, r, bridge.LinkThrottled, 1, 0, "quota exceeded") // connected, and waits
		close(slow)
		check(t, r, bridge.LinkBackoff, 2, time.Second, "connection refused")
		r.stop()
	})
	bubble(t, "the far end says until when", func(t *testing.T, r *rig) {
		r.opts.Sinks = []bridge.Sink{&scriptedSink{ends: []func(func()) error{
			func(func()) error { return refrain{errors.New("too many requests"), time.Now().Add(time.Hour)} },
		}}}
		r.run()
		check(t, r, bridge.LinkThrottled, 1, time.Hour, "too many requests")
		settle(59 * time.Minute)
		check(t, r, bridge.LinkThrottled, 1, time.Minute, "too many requests")
		settle(time.Minute)
		check(t, r, bridge.LinkUp, 1, 0, "too many requests")
		r.stop()
	})
	bubble(t, "the far end says never; a drill does not change that", func(t *testing.T, r *rig) {
		s := &scriptedSink{ends: []func(func()) error{fails(refrain{errors.New("gone"), time.Time{}}), fails(refused)}}
		r.opts.Sinks = []bridge.Sink{s}
		r.run()
		settle(30 * 24 * time.Hour)
		check(t, r, bridge.LinkDisabled, 1, 0, "gone")
		r.pump.Drill(time.Hour)
		check(t, r, bridge.LinkDrill, 1, time.Hour, "gone")
		settle(2 * time.Hour)
		check(t, r, bridge.LinkDisabled, 1, 0, "gone")
		if s := r.pump.Status(); s.Reason != "gone" {
			t.Errorf("%q", s.Reason)
		}
		if len(s.ends) != 1 {
			t.Error("it was tried again")
		}
		r.stop()
	})
	bubble(t, "a drill is no failure", func(t *testing.T, r *rig) {
		r.run()
		check(t, r, bridge.LinkUp, 0, 0, "")
		r.pump.Drill(time.Hour)
		check(t, r, bridge.LinkDrill, 0, time.Hour, "")
		r.pump.Drill(0)
		check(t, r, bridge.LinkUp, 0, 0, "")
		r.stop()
	})
}
