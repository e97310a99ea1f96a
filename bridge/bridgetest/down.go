package bridgetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// Message is what somebody at a far end sends to a gateway.
type Message struct{ ID, Topic, Payload string }

// FarSource is a source, who sends at its far end, and what can go wrong on the way. A fault that is nil
// cannot happen to this kind of far end; its scenarios are left out.
type FarSource struct {
	// Source asks for "down/#".
	Source bridge.Source
	// Send puts messages, whose topics are below "down", to the far end, and returns when it has them.
	Send     func(...Message) error
	Window   int           // how many it has in flight; 0: ten or more
	NoIDs    bool          // the protocol has no place for an id, so a message that comes again is another event
	Patience time.Duration // how long anything may take until it counts as wrong; 0: 15 s

	Cut    func() // breaks the connection once
	Stall  func() // until Heal, nothing moves; the source has to notice within the patience
	Refuse func() // until Heal, there is no connection
	Heal   func()
}

// RunSource runs every scenario that open's far end can play. open is called for each.
func RunSource(t *testing.T, open func(t *testing.T) *FarSource) {
	for _, s := range SourceScenarios() {
		runScenario(t, s.Name, open, s.Possible, s.Check)
	}
}

// SourceScenario is one history that a source and the downlink must come through.
type SourceScenario struct {
	Name     string
	Possible func(*FarSource) bool
	play     func(*receiver) error
}

// Check plays the scenario against far and returns what was not as promised.
func (s SourceScenario) Check(far *FarSource) error {
	ignore := goleak.IgnoreCurrent()
	r := &receiver{far: far, state: NewState(), source: &watched{source: far.Source}, stored: map[string]bool{}}
	r.log, _ = NewLog("e1")
	err := s.play(r)
	if err == nil {
		err = r.finish()
	}
	err = errors.Join(err, r.stop())
	if far.Heal != nil {
		far.Heal()
	}
	return errors.Join(err, r.source.violations(), goleak.Find(ignore))
}

// storage is what becomes of what is taken in.
type storage int

const (
	storing storage = iota
	hanging         // nothing is stored, and nobody is told
	dying           // all is stored, and nobody is told
	full            // nothing is stored, and everybody is told
)

// receiver is a journal, a downlink and a far end.
type receiver struct {
	far    *FarSource
	source *watched
	log    *Log
	state  *State

	commands *bridge.Commands
	down     *bridge.Downlink // nil: it does not run
	end      func() error

	mu      sync.Mutex
	storage storage
	taken   int // handed to Ingest
	sent    []Message
	stored  map[string]bool // by payload
}

// start starts a downlink as a new process would.
func (r *receiver) start() (err error) {
	hub := r.log.Restart("", func(batch []*gateway.Event) { r.commands.Released(batch) })
	if r.commands, err = bridge.OpenCommands(hub, r.state, false, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	down := bridge.NewDownlink(bridge.DownlinkOptions{
		ID: "commands", GatewayID: GatewayID, Source: r.source, Commands: r.commands, Account: "operator",
		Config: config.Downlink{
			Uplink: "far", Topics: gateway.Filters{gateway.MustFilter("down/#")}, StripPrefix: "down", Topic: "cmd/{topic}",
		},
		May: func(topic string) error {
			if topic == "cmd/denied" {
				return gateway.Errorf(gateway.ErrDenied, "nobody may")
			}
			return nil
		},
		Ingest: r.ingest, MinPause: time.Millisecond, MaxPause: 20 * time.Millisecond,
	})
	commands := r.commands
	r.down, r.end = down, launch(func(ctx context.Context) error {
		var all sync.WaitGroup
		defer all.Wait()
		all.Go(func() { down.Run(ctx) })
		return commands.Run(ctx)
	})
	return nil
}

// stop ends the downlink and waits for it.
func (r *receiver) stop() error {
	if r.down == nil {
		return nil
	}
	r.down = nil
	return soon("the downlink", r.end)
}

// die ends the downlink so that nothing it does from then on is kept.
func (r *receiver) die() {
	r.state.Break()
	r.store(dying)
	r.stop() // its last save fails, as it should
	r.state.Mend()
	r.store(storing)
}

func (r *receiver) store(s storage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.storage = s
}

func (r *receiver) ingest(_ context.Context, e *gateway.Event, done func(error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken++
	switch r.storage {
	case storing:
		r.log.Append(e)
		done(nil)
	case dying:
		r.log.Append(e)
	case full:
		return gateway.Errorf(gateway.ErrFull, "no room")
	}
	return nil
}

func (r *receiver) tookIn() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken
}

// send sends n messages over three topics.
func (r *receiver) send(n int) error {
	var batch []Message
	for range n {
		i := len(r.sent) + 1
		m := Message{ID: "order-" + strconv.Itoa(i), Topic: "down/" + strconv.Itoa(i%3), Payload: strconv.Itoa(i)}
		batch, r.sent = append(batch, m), append(r.sent, m)
	}
	return r.far.Send(batch...)
}

// events are what was stored.
func (r *receiver) events() []*gateway.Event {
	b, _ := r.log.Read(1, gateway.Filters{gateway.MustFilter("#")}, math.MaxInt)
	return b.Events
}

// all tells whether every message was stored.
func (r *receiver) all() bool {
	have := map[string]bool{}
	for _, e := range r.events() {
		have[string(e.Payload)] = true
	}
	for _, m := range r.sent {
		if !have[m.Payload] {
			return false
		}
	}
	return true
}

func (r *receiver) until(what string, cond func() bool) error {
	if patience := cmp.Or(r.far.Patience, usual); !poll(patience, cond) {
		return fmt.Errorf("waited %v in vain until %s; %+v", patience, what, r.down.Status())
	}
	return nil
}

// pass sends n messages and waits until every message is stored.
func (r *receiver) pass(n int) error {
	if err := r.send(n); err != nil {
		return err
	}
	return r.until("every message was stored", r.all)
}

// flight is how many of ten messages are taken while none is done.
func (r *receiver) flight() int {
	if w := r.far.Window; w > 0 {
		return min(w, 10)
	}
	return 10
}

func (r *receiver) isUp() bool { return r.down.Status().Up }

// finish waits until everything is stored, looks at it, and starts once more: nothing is sent again then.
func (r *receiver) finish() error {
	if err := r.pass(1); err != nil { // what comes again comes before it
		return err
	}
	if err := r.stop(); err != nil {
		return err
	}
	if err := r.judge(); err != nil {
		return err
	}
	events := len(r.events())
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.pass(1); err != nil { // behind it comes whatever the far end has left
		return err
	}
	if n := len(r.events()); n != events+1 {
		return fmt.Errorf("%d events came again after they were acknowledged", n-events-1)
	}
	return nil
}

// judge checks what was stored.
func (r *receiver) judge() error {
	byPayload := map[string]Message{}
	for _, m := range r.sent {
		byPayload[m.Payload] = m
	}
	seen, newest := map[string]bool{}, map[string]int{}
	for _, e := range r.events() {
		m, known := byPayload[string(e.Payload)]
		n, _ := strconv.Atoi(m.Payload)
		switch {
		case !known:
			return fmt.Errorf("%q was never sent", e.Payload)
		case e.Topic != "cmd/"+m.Topic[len("down/"):]:
			return fmt.Errorf("%+v came under %q", m, e.Topic)
		case e.Origin != gateway.Origin{Via: "uplink", ID: "far", User: "operator"}:
			return fmt.Errorf("%+v is from %+v", m, e.Origin)
		case e.QoS != 1:
			return fmt.Errorf("%+v has QoS %d", m, e.QoS)
		case seen[m.Payload] && !r.far.NoIDs:
			return fmt.Errorf("%+v was stored twice", m)
		case !seen[m.Payload] && n < newest[m.Topic]:
			return fmt.Errorf("%+v was stored after a later one of its topic", m)
		}
		seen[m.Payload], newest[m.Topic] = true, max(n, newest[m.Topic])
	}
	return nil
}

// watched sees that a source keeps to the contract of bridge.Source.
type watched struct {
	source bridge.Source
	contract
}

// Receive is bridge.Source.
func (w *watched) Receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	w.mu.Lock()
	if w.active {
		w.fail("Receive is called while it runs")
	}
	w.active = true
	w.mu.Unlock()
	ups, taking, returned := 0, false, false
	err := w.source.Receive(ctx, func() {
		w.mu.Lock()
		if ups++; ups > 1 || returned {
			w.fail("up is called %d times, after the return: %t", ups, returned)
		}
		w.mu.Unlock()
		up()
	}, func(e *gateway.Event, id string, done func(error)) {
		w.mu.Lock()
		if taking || returned {
			w.fail("take is called while it runs (%t) or after Receive has returned (%t)", taking, returned)
		}
		taking = true
		w.mu.Unlock()
		take(e, id, done)
		w.mu.Lock()
		taking = false
		w.mu.Unlock()
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if returned, w.active = true, false; err == nil {
		w.fail("Receive returned no error")
	}
	return err
}
