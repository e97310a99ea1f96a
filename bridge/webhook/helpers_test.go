package webhook_test

import (
	"context"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/webhook"
	"github.com/weir-iot/weir/gateway"
)

// exampleSecret is a secret that the Standard Webhooks project publishes in its tests.
const exampleSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// caFile is the authority of a TLS server.
func caFile(t *testing.T, s *httptest.Server) string {
	t.Helper()
	return pemFile(t, "CERTIFICATE", s.Certificate().Raw)
}

func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func newSink(t *testing.T, c webhook.Config) *webhook.Sink {
	t.Helper()
	s, err := webhook.New(c, bridgetest.GatewayID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sending is one call of Send that the test feeds by hand.
type sending struct {
	t      *testing.T
	events chan *gateway.Event
	up     chan struct{}
	done   chan outcome
	ended  chan error
	cancel context.CancelFunc
}

type outcome struct {
	event *gateway.Event
	err   error
}

// send calls Send, and ends it with the test.
func send(t *testing.T, s bridge.Sink, events ...*gateway.Event) *sending {
	ctx, cancel := context.WithCancel(context.Background())
	c := &sending{
		t: t, events: make(chan *gateway.Event, 1000), up: make(chan struct{}),
		done: make(chan outcome, 1000), ended: make(chan error, 1), cancel: cancel,
	}
	for _, e := range events {
		c.events <- e
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.ended <- s.Send(ctx, c.events, func() { close(c.up) }, func(e *gateway.Event, err error) { c.done <- outcome{e, err} })
	}()
	t.Cleanup(func() {
		cancel()
		<-over
	})
	return c
}

// outcomes waits for n of them.
func (c *sending) outcomes(n int) (all []outcome) {
	c.t.Helper()
	deadline := time.After(10 * time.Second)
	for len(all) < n {
		select {
		case o := <-c.done:
			all = append(all, o)
		case <-deadline:
			c.t.Fatalf("%d of %d outcomes", len(all), n)
		}
	}
	return all
}

// end waits until Send returns.
func (c *sending) end() error {
	c.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(10 * time.Second):
		c.t.Fatal("Send does not end")
		return nil
	}
}

var accepted = time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)

// events are n events from offset first on, with their offset as payload.
func events(first, n int) (all []*gateway.Event) {
	for i := first; i < first+n; i++ {
		all = append(all, &gateway.Event{
			Topic: "plant1/boiler/temperature", Payload: []byte(strconv.Itoa(i)),
			Accepted: accepted, Epoch: "e1", Offset: uint64(i),
		})
	}
	return all
}

// pump runs a pump of every topic to s until the test ends, and returns the log to add to.
func pump(t *testing.T, s bridge.Sink) (*bridge.Pump, *bridgetest.Log) {
	t.Helper()
	log, hub := bridgetest.NewLog("e1")
	p, err := bridge.NewPump(bridge.PumpOptions{
		Uplink: "far", GatewayID: bridgetest.GatewayID, Sinks: []bridge.Sink{s}, Age: bridgetest.Age, Hub: hub, State: bridgetest.NewState(),
		Routes:   []bridge.Route{{ID: "all", Match: gateway.MustFilter("#")}},
		MinPause: time.Millisecond, MaxPause: 20 * time.Millisecond, CommitEvery: 5 * time.Millisecond,
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
	return p, log
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
