package bridgetest

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/gateway"
)

// poll looks at cond again and again until it is true, and tells whether that was within patience.
func poll(patience time.Duration, cond func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// Until waits for cond, and ends the test after a minute in vain: elections of a cluster take their time
// on a busy machine.
func Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !poll(time.Minute, cond) {
		t.Fatalf("waited a minute in vain until %s", what)
	}
}

// Outcome is what a sink said of an event.
type Outcome struct {
	Event *gateway.Event
	Err   error // nil: the far end has it
}

// Sending is one call of Send that a test feeds by hand.
type Sending struct {
	Events chan *gateway.Event // what the sink has not taken yet; the test may close it
	Up     chan struct{}       // closed when there is a connection
	Ended  chan struct{}       // closed when Send has returned
	Cancel context.CancelFunc  // ends its context

	t    testing.TB
	n    uint64
	done chan Outcome
	err  error // what Send returned; read behind Ended
}

// patience is how long an outcome, and the end of Send, may take: less than a minute, for which a batch may
// linger, so that one that does is noticed.
const patience = 30 * time.Second

// Send calls the sink's Send with events, to which the test may add. It is cancelled with the test.
func Send(t testing.TB, s bridge.Sink, events ...*gateway.Event) *Sending {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Sending{
		Events: make(chan *gateway.Event, 2000), Up: make(chan struct{}), Ended: make(chan struct{}), Cancel: cancel,
		t: t, done: make(chan Outcome, 2000),
	}
	for _, e := range events {
		c.Events <- e
	}
	go func() {
		defer close(c.Ended)
		c.err = s.Send(ctx, c.Events, func() { close(c.Up) }, func(e *gateway.Event, err error) { c.done <- Outcome{e, err} })
	}()
	t.Cleanup(func() {
		cancel()
		<-c.Ended
	})
	return c
}

// Event hands e over with the next offset, accepted now unless it says when.
func (c *Sending) Event(e gateway.Event) *gateway.Event {
	c.n++
	e.Epoch, e.Offset = "e1", c.n
	if e.Accepted.IsZero() {
		e.Accepted = time.Now()
	}
	if e.Age == 0 {
		e.Age = Age()
	}
	c.Events <- &e
	return &e
}

// Outcome waits for the next outcome, and returns its error.
func (c *Sending) Outcome() error {
	c.t.Helper()
	return c.Outcomes(1)[0].Err
}

// Outcomes waits for the next n outcomes, also of a Send that has returned.
func (c *Sending) Outcomes(n int) (all []Outcome) {
	c.t.Helper()
	late := time.After(patience)
	for ended := c.Ended; len(all) < n; {
		select {
		case o := <-c.done:
			all = append(all, o)
		case <-ended:
			if len(all)+len(c.done) < n {
				c.t.Fatalf("Send has returned %v after %d of %d outcomes", c.err, len(all)+len(c.done), n)
			}
			ended = nil
		case <-late:
			c.t.Fatalf("%d of %d outcomes within %v", len(all), n, patience)
		}
	}
	return all
}

// End waits until Send returns, and returns what it does.
func (c *Sending) End() error {
	c.t.Helper()
	select {
	case <-c.Ended:
	case <-time.After(patience):
		c.t.Fatalf("Send has not returned within %v", patience)
	}
	return c.err
}

// Finish closes Events, waits until Send returns, and returns the outcomes that were not asked for, and what
// Send returned.
func (c *Sending) Finish() ([]Outcome, error) {
	c.t.Helper()
	close(c.Events)
	err := c.End()
	return c.Outcomes(len(c.done)), err
}

// newPump returns a pump of what filter matches to s, in a hurry.
func newPump(s bridge.Sink, hub *gateway.Hub, state *State, filter string) (*bridge.Pump, error) {
	return bridge.NewPump(bridge.PumpOptions{
		Uplink: "far", GatewayID: GatewayID, Sinks: []bridge.Sink{s}, Hub: hub, State: state, Age: Age,
		Routes:   []bridge.Route{{ID: "all", Match: gateway.MustFilter(filter)}},
		MinPause: time.Millisecond, MaxPause: 20 * time.Millisecond,
		CommitEvery: 5 * time.Millisecond, DrainTimeout: 500 * time.Millisecond,
	})
}

// launch calls run, and returns what ends it: stop waits for run, and returns what it does.
func launch(run func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- run(ctx) }()
	return func() error {
		cancel()
		return <-over
	}
}

// Running is a pump that runs until its test ends, with the journal that it reads and the state that it keeps.
type Running struct {
	*bridge.Pump
	Log   *Log
	State *State
}

// RunPump runs a pump of every topic to s.
func RunPump(t testing.TB, s bridge.Sink) *Running {
	t.Helper()
	log, hub := NewLog("e1")
	r := &Running{Log: log, State: NewState()}
	var err error
	if r.Pump, err = newPump(s, hub, r.State, "#"); err != nil {
		t.Fatal(err)
	}
	stop := launch(r.Run)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// DeadReasons are why events are dead, as far as they are kept.
func (r *Running) DeadReasons(t testing.TB) (all []string) {
	t.Helper()
	if err := r.State.Each("dead", "far/", func(_ string, value []byte) error {
		var d bridge.DeadLetter
		err := json.Unmarshal(value, &d)
		all = append(all, d.Reason)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
