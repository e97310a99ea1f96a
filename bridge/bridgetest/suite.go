package bridgetest

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/gateway"
)

// GatewayID is the gateway that the suite's events come from. Sinks are made for it.
const GatewayID = "test-gw"

// FarEnd is a sink, what its far end has got, and what can go wrong on the way. A fault that
// is nil cannot happen to this kind of far end; its scenarios are left out.
type FarEnd struct {
	Sink     bridge.Sink
	Arrivals func() []Arrival // in order of arrival, repeats included
	NoIDs    bool             // the protocol has no place for the event's id
	Once     bool             // it recognises a repeat and stores it once, so a lost acknowledgement need not show
	Late     bool             // Arrivals may lag behind what the far end has acknowledged
	Patience time.Duration    // how long anything may take until it counts as wrong; 0: 15 s

	Cut      func() // breaks the connection once
	LoseAcks func() // until Heal, events arrive and their acknowledgements do not
	Stall    func() // until Heal, nothing moves; the sink has to notice within two seconds
	Refuse   func() // until Heal, there is no connection
	Heal     func()
}

// Run runs every scenario that open's far end can play. open is called for each.
func Run(t *testing.T, open func(t *testing.T) *FarEnd) {
	for _, s := range Scenarios() {
		runScenario(t, s.Name, open, s.Possible, s.Check)
	}
}

// runScenario runs one of either suite as a test of its own.
func runScenario[F any](t *testing.T, name string, open func(*testing.T) F, possible func(F) bool, check func(F) error) {
	t.Run(name, func(t *testing.T) {
		far := open(t)
		if !possible(far) {
			t.Skip("this far end has no such fault")
		}
		if err := check(far); err != nil {
			t.Error(err)
		}
	})
}

// Scenario is one history that a sink and the pump must come through.
type Scenario struct {
	Name     string
	Possible func(*FarEnd) bool
	play     func(*world) error
}

// Scenarios returns the suite.
func Scenarios() []Scenario {
	always := func(*FarEnd) bool { return true }
	cut := func(f *FarEnd) bool { return f.Cut != nil }
	return []Scenario{
		{"everything arrives in order", always, playAll},
		{"the bare contract of Send", always, playContract},
		{"acknowledgements are lost", func(f *FarEnd) bool { return f.LoseAcks != nil && f.Cut != nil }, playLostAcks},
		{"connection is reset in mid batch", cut, playCuts},
		{"far end lies still", func(f *FarEnd) bool { return f.Stall != nil }, playStall},
		{"far end refuses", func(f *FarEnd) bool { return f.Refuse != nil }, playRefuse},
		{"stop while the far end lies still", func(f *FarEnd) bool { return f.Stall != nil }, playStopStalled},
		{"process dies and comes back", always, playCrashes},
		{"many faults, seed 1", cut, func(w *world) error { return playFaults(w, 1) }},
		{"many faults, seed 2", cut, func(w *world) error { return playFaults(w, 2) }},
	}
}

// Check plays the scenario against far and returns what was not as promised.
func (s Scenario) Check(far *FarEnd) error {
	ignore := goleak.IgnoreCurrent()
	w := &world{far: far, state: NewState(), sink: &checked{sink: far.Sink}}
	w.log, w.hub = NewLog("e1")
	w.state.Applied = w.onCommit
	err := s.play(w)
	if err == nil {
		err = w.finish()
	}
	w.stop()
	if far.Heal != nil {
		far.Heal()
	}
	return errors.Join(err, w.sink.violations(), w.early(), goleak.Find(ignore))
}

const topics = 5

// world is a journal, a pump and a far end.
type world struct {
	far   *FarEnd
	sink  *checked
	log   *Log
	hub   *gateway.Hub
	state *State
	sent  []*gateway.Event // routed to the far end
	n     int

	pump *bridge.Pump // nil: it does not run
	end  func() error

	mu       sync.Mutex
	tooEarly error
}

// start starts a pump as a new process would.
func (w *world) start() error {
	p, err := newPump(w.sink, w.hub, w.state, "up/#")
	if err != nil {
		return err
	}
	w.pump, w.end = p, launch(p.Run)
	return nil
}

// restart starts a pump as a new process would, over what the last one left of the journal.
func (w *world) restart() error {
	w.hub = w.log.Restart("")
	return w.start()
}

// stop ends the pump and waits for it.
func (w *world) stop() error {
	if w.pump == nil {
		return nil
	}
	w.pump = nil
	return soon("the pump", w.end)
}

// soon calls stop, which may not take long.
func soon(what string, stop func() error) error {
	began := time.Now()
	err := stop()
	if took := time.Since(began); took > 3*time.Second {
		return fmt.Errorf("%s took %v to stop", what, took)
	}
	return err
}

// add appends n events for the far end, and others between them.
func (w *world) add(n int) {
	for range n {
		w.n++
		if w.n%7 == 0 {
			w.log.Append(&gateway.Event{Topic: "local/only", Payload: []byte("stays here"), Accepted: time.Now()})
		}
		e := &gateway.Event{
			Topic: "up/" + strconv.Itoa(w.n%topics), Payload: []byte(strconv.Itoa(w.n)),
			QoS: byte(w.n % 3), Accepted: time.Now(),
		}
		w.log.Append(e)
		w.sent = append(w.sent, e)
	}
}

// until waits for cond.
func (w *world) until(what string, cond func() bool) error {
	if !poll(w.patience(), cond) {
		return fmt.Errorf("waited %v in vain until %s", w.patience(), what)
	}
	return nil
}

func (w *world) patience() time.Duration { return cmp.Or(w.far.Patience, usual) }

// usual is the patience of a far end that does not ask for another.
const usual = 15 * time.Second

func (w *world) arrived(n int) func() bool {
	return func() bool { return len(w.far.Arrivals()) >= n }
}

// onCommit sees each commit just before it counts.
func (w *world) onCommit(bucket string, changes map[string][]byte) {
	if bucket != "cursors" || w.far.Late {
		return
	}
	c, err := bridge.ParseCommit(changes["far/all"])
	at := c.Position
	if err == nil {
		err = w.has(at)
	}
	if err != nil {
		w.mu.Lock()
		w.tooEarly = fmt.Errorf("committed %s: %w", at, err)
		w.mu.Unlock()
	}
}

func (w *world) early() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tooEarly
}

// committed is what a restart would go on behind.
func (w *world) committed() gateway.Position {
	v, _, _ := w.state.Get("cursors", "far/all")
	at, _ := bridge.ParseCommit(v)
	return at.Position
}

// last is the position of the last event that was sent.
func (w *world) last() gateway.Position { return w.sent[len(w.sent)-1].Position() }

func (w *world) allCommitted() bool { return w.committed().Offset >= w.last().Offset }

// untilHas waits until the far end has every event up to at.
func (w *world) untilHas(at gateway.Position) error {
	var missing error
	err := w.until("the far end had all up to "+at.String(), func() bool { missing = w.has(at); return missing == nil })
	return errors.Join(err, missing)
}

// has checks that the far end has every event up to at.
func (w *world) has(at gateway.Position) error {
	have := map[string]bool{}
	for _, a := range w.far.Arrivals() {
		have[a.Payload] = true
	}
	w.log.mu.Lock()
	events := w.log.events
	w.log.mu.Unlock()
	for _, e := range events {
		if e.Offset <= at.Offset && e.Topic != "local/only" && !have[string(e.Payload)] {
			return fmt.Errorf("the far end does not have %s", e.ID(GatewayID))
		}
	}
	return nil
}

// finish waits until everything has arrived and is committed, stops, and looks at all
// that arrived.
func (w *world) finish() error {
	if err := w.until("everything was committed", w.allCommitted); err != nil {
		return fmt.Errorf("%w; status %+v", err, w.pump.Status())
	}
	if err := w.untilHas(w.last()); err != nil {
		return err
	}
	if err := w.stop(); err != nil {
		return err
	}
	err := w.judge()
	if w.far.Late && err != nil { // what came twice may be half there; what is wrong for good stays so
		w.until("all that came twice had arrived", func() bool { err = w.judge(); return err == nil })
	}
	return err
}

// judge checks ids, topics and order of what arrived.
func (w *world) judge() error {
	bySeq := map[string]*gateway.Event{}
	for _, e := range w.sent {
		bySeq[string(e.Payload)] = e
	}
	seen := map[string]bool{}
	newest := map[string]uint64{} // by topic: highest offset that arrived
	final := map[string]uint64{}  // by topic: offset of the last arrival
	for i, a := range w.far.Arrivals() {
		e := bySeq[a.Payload]
		switch {
		case e == nil:
			return fmt.Errorf("arrival %d: %+v was never routed there", i, a)
		case a.Topic != e.Topic:
			return fmt.Errorf("arrival %d: %+v has another topic than %s", i, a, e.Topic)
		case !w.far.NoIDs && a.ID != e.ID(GatewayID):
			return fmt.Errorf("arrival %d: %+v has another id than %s", i, a, e.ID(GatewayID))
		}
		if !seen[a.Payload] {
			seen[a.Payload] = true
			if e.Offset < newest[e.Topic] {
				return fmt.Errorf("arrival %d: %+v came first after a newer one of its topic", i, a)
			}
			newest[e.Topic] = e.Offset
		}
		final[e.Topic] = e.Offset
	}
	for topic, offset := range final {
		if offset != newest[topic] {
			return fmt.Errorf("the last arrival of %s is offset %d, not %d", topic, offset, newest[topic])
		}
	}
	return nil
}
