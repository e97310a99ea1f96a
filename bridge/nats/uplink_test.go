package nats_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/gateway"
)

// uplink is a sink behind a real pump over a log in memory.
type uplink struct {
	*bridge.Pump
	log   *bridgetest.Log
	state *bridgetest.State
	n     int
}

func startUplink(t *testing.T, s *nats.Sink) *uplink {
	t.Helper()
	u := &uplink{state: bridgetest.NewState()}
	var hub *gateway.Hub
	u.log, hub = bridgetest.NewLog("e1")
	var err error
	u.Pump, err = bridge.NewPump(bridge.PumpOptions{
		Uplink: "far", GatewayID: bridgetest.GatewayID, Sinks: []bridge.Sink{s}, Hub: hub, State: u.state, Age: bridgetest.Age,
		Routes:   []bridge.Route{{ID: "all", Match: gateway.MustFilter("#")}},
		MinPause: 5 * time.Millisecond, MaxPause: 100 * time.Millisecond, CommitEvery: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	over := make(chan error)
	go func() { over <- u.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	return u
}

// add appends n events with numbers as payloads, over the topics up/0 to up/4.
func (u *uplink) add(n int) {
	for range n {
		u.n++
		u.log.Append(&gateway.Event{Topic: "up/" + strconv.Itoa(u.n%5), Payload: []byte(strconv.Itoa(u.n)), Accepted: time.Now()})
	}
}

func (u *uplink) delivered(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " events are delivered"), func() bool { return u.Status().Delivered >= uint64(n) })
}

func (u *uplink) isDownBecause(t *testing.T, reason string) {
	t.Helper()
	eventually(t, "the uplink is down because "+reason, func() bool { return !u.Status().Up && contains(u.Status().Reason, reason) })
}

// inOrder checks that nothing is there twice, and that the payloads of a topic, which are numbers, grow.
func inOrder(t *testing.T, got []bridgetest.Arrival) {
	t.Helper()
	seen, last := map[string]bool{}, map[string]int{}
	for _, a := range got {
		i, err := strconv.Atoi(a.Payload)
		switch {
		case err != nil:
			t.Fatal(err)
		case seen[a.ID]:
			t.Errorf("%+v is there twice", a)
		case i <= last[a.Topic]:
			t.Errorf("%+v is behind %d", a, last[a.Topic])
		}
		seen[a.ID], last[a.Topic] = true, i
	}
}

// once checks that just the n events of add are there, each once and in order.
func once(t *testing.T, got []bridgetest.Arrival, n int) {
	t.Helper()
	inOrder(t, got)
	if len(got) != n {
		t.Errorf("%d of %d events are there", len(got), n)
	}
	for _, a := range got {
		if a.ID != bridgetest.GatewayID+"/e1-"+a.Payload {
			t.Errorf("%+v has a wrong id", a)
		}
	}
}

// outcomes sends events over one connection and returns what became of each.
func outcomes(t *testing.T, s *nats.Sink, events ...*gateway.Event) []error {
	t.Helper()
	in := make(chan *gateway.Event, len(events))
	for _, e := range events {
		in <- e
	}
	close(in)
	missing := errors.New("no outcome")
	all := make([]error, len(events))
	for i := range all {
		all[i] = missing
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Send(ctx, in, func() {}, func(e *gateway.Event, err error) {
		for i := range events {
			if events[i] == e {
				all[i] = err
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
