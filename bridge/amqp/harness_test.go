package amqp_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// connection is one Send under test.
type connection struct {
	t      *testing.T
	events chan *gateway.Event
	up     chan struct{}
	done   chan outcome
	ended  chan error
	cancel context.CancelFunc
	n      uint64
}

type outcome struct {
	e   *gateway.Event
	err error
}

func send(t *testing.T, s *amqp.Sink) *connection {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &connection{
		t: t, events: make(chan *gateway.Event, 100), up: make(chan struct{}), done: make(chan outcome, 1000), ended: make(chan error, 1), cancel: cancel,
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.ended <- s.Send(ctx, c.events, func() { close(c.up) }, func(e *gateway.Event, err error) { c.done <- outcome{e, err} })
	}()
	t.Cleanup(func() { cancel(); <-over })
	return c
}

func (c *connection) event(e gateway.Event) *gateway.Event {
	c.n++
	e.Epoch, e.Offset = "e1", c.n
	if e.Accepted.IsZero() {
		e.Accepted = time.Now()
	}
	if e.Age == 0 {
		e.Age = bridgetest.Age()
	}
	c.events <- &e
	return &e
}

func (c *connection) outcome() error {
	c.t.Helper()
	select {
	case o := <-c.done:
		return o.err
	case err := <-c.ended:
		c.t.Fatalf("Send has ended: %v", err)
	case <-time.After(30 * time.Second):
		c.t.Fatal("no outcome within 30 s")
	}
	return nil
}

func (c *connection) end() error {
	c.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(30 * time.Second):
		c.t.Fatal("Send has not ended within 30 s")
		return nil
	}
}

// running is a pump and its state.
type running struct {
	*bridge.Pump
	state *bridgetest.State
}

// reasons are why events are dead.
func (r running) reasons(t *testing.T) (all []string) {
	t.Helper()
	if err := r.state.Each("dead", "far/", func(_ string, value []byte) error {
		var d bridge.DeadLetter
		err := json.Unmarshal(value, &d)
		all = append(all, d.Reason)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// pump runs a pump of "up/#" to s until the test ends.
func pump(t *testing.T, s bridge.Sink, hub *gateway.Hub) running {
	t.Helper()
	state := bridgetest.NewState()
	p, err := bridge.NewPump(bridge.PumpOptions{
		Uplink: "far", GatewayID: bridgetest.GatewayID, Sinks: []bridge.Sink{s}, Hub: hub, State: state, Age: bridgetest.Age,
		Routes:   []bridge.Route{{ID: "all", Match: gateway.MustFilter("up/#")}},
		MinPause: time.Millisecond, MaxPause: 50 * time.Millisecond, CommitEvery: 5 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	return running{p, state}
}
