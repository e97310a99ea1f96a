package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gw = bridgetest.GatewayID

// rig is a pump and what it stands between. Inside a synctest bubble its times are exact.
type rig struct {
	t     *testing.T
	log   *bridgetest.Log
	hub   *gateway.Hub
	state *bridgetest.State
	far   *bridgetest.Memory
	opts  bridge.PumpOptions
	n     int

	pump *bridge.Pump
	end  context.CancelFunc // nil: it does not run
	over chan error
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, state: bridgetest.NewState(), far: &bridgetest.Memory{GatewayID: gw, Patience: 20 * time.Second}}
	t.Cleanup(func() { r.stop() })
	r.log, r.hub = bridgetest.NewLog("e1")
	r.opts = bridge.PumpOptions{
		Uplink: "far", GatewayID: gw, Sinks: []bridge.Sink{r.far}, State: r.state, Count: r.log.Count, Age: bridgetest.Age,
		Routes: []bridge.Route{{ID: "all", Match: gateway.MustFilter("up/#")}},
	}
	return r
}

func (r *rig) new() {
	r.t.Helper()
	r.opts.Hub = r.hub
	p, err := bridge.NewPump(r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.pump = p
}

func (r *rig) run() {
	r.t.Helper()
	if r.pump == nil {
		r.new()
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.end, r.over = cancel, make(chan error, 1)
	go func(p *bridge.Pump, over chan<- error) { over <- p.Run(ctx) }(r.pump, r.over)
}

// stop ends the pump and waits for it, if it runs; so does the end of the test.
func (r *rig) stop() error {
	if r.end == nil {
		return nil
	}
	r.end()
	r.end, r.pump = nil, nil
	return <-r.over
}

// restart is a new process after the old one has stopped.
func (r *rig) restart(epoch string) {
	r.hub = r.log.Restart(epoch)
	r.run()
}

// add appends n events of topic with payloads 1, 2, 3 …
func (r *rig) add(n int, topic string) (last *gateway.Event) {
	for range n {
		r.n++
		last = &gateway.Event{Topic: topic, Payload: fmt.Append(nil, r.n), Accepted: time.Now()}
		r.log.Append(last)
	}
	return last
}

func (r *rig) arrived() string {
	var all []string
	for _, a := range r.far.Arrivals() {
		all = append(all, a.Payload)
	}
	return strings.Join(all, " ")
}

func (r *rig) want(payloads string) {
	r.t.Helper()
	if got := r.arrived(); got != payloads {
		r.t.Errorf("arrived %q, not %q", got, payloads)
	}
}

func (r *rig) stored() string {
	v, _, _ := r.state.Get("cursors", "far/all")
	c, err := bridge.ParseCommit(v)
	if err != nil {
		r.t.Error(err)
	}
	return c.At
}

// settle lets everything happen that happens within d.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func bubble(t *testing.T, name string, fn func(t *testing.T, r *rig)) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { fn(t, newRig(t)) })
	})
}

func TestCursor(t *testing.T) {
	bubble(t, "a new uplink begins now, and that is stored before Run", func(t *testing.T, r *rig) {
		r.add(3, "up/a")
		r.new()
		if r.stored() != "e1:3" {
			t.Errorf("stored %q", r.stored())
		}
		r.add(2, "up/a") // accepted after New, before Run: not to be missed
		r.run()
		settle(5 * time.Second)
		r.want("4 5")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	bubble(t, "a place lost with the state is the journal's beginning", func(t *testing.T, r *rig) {
		r.add(3, "up/a")
		r.opts.StateLost = true
		r.run()
		settle(5 * time.Second)
		r.want("1 2 3")
	})
	bubble(t, "an empty journal", func(t *testing.T, r *rig) {
		r.run()
		r.add(1, "up/a")
		settle(5 * time.Second)
		r.want("1")
	})
	bubble(t, "killed before anything was sent", func(t *testing.T, r *rig) {
		r.new()
		r.add(2, "up/a")
		r.pump = nil
		r.restart("")
		settle(5 * time.Second)
		r.want("1 2")
	})
	bubble(t, "goes on behind what is stored, across epochs", func(t *testing.T, r *rig) {
		r.run()
		r.add(3, "up/a")
		settle(5 * time.Second)
		r.stop()
		r.add(2, "up/a")
		r.hub = r.log.Restart("e2")
		r.add(2, "up/a")
		r.run()
		settle(5 * time.Second)
		r.want("1 2 3 4 5 6 7")
		if got := r.far.Arrivals()[6].ID; got != "test-gw/e2-107" {
			t.Errorf("id %s", got)
		}
		if s := r.pump.Status(); s.Routes[0].Gaps != 0 || s.Retried != 0 {
			t.Errorf("%+v", s)
		}
	})
	bubble(t, "passes over what is not routed", func(t *testing.T, r *rig) {
		r.run()
		r.add(2, "up/a")
		r.add(1000, "local/b")
		settle(70 * time.Second)
		if r.stored() != "e1:1002" {
			t.Errorf("stored %q", r.stored())
		}
	})
	bubble(t, "only what is synced leaves", func(t *testing.T, r *rig) {
		r.run()
		r.log.Hold()
		r.add(3, "up/a")
		settle(time.Minute)
		r.want("")
		r.log.Sync()
		settle(time.Second)
		r.want("1 2 3")
	})
	bubble(t, "a gap is told and passed", func(t *testing.T, r *rig) {
		r.run()
		r.add(3, "up/a")
		settle(5 * time.Second)
		r.stop()
		r.add(5, "up/a")
		r.log.Trim(7)
		var logged strings.Builder
		r.opts.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		r.restart("")
		settle(5 * time.Second)
		r.want("1 2 3 7 8")
		if s := r.pump.Status(); s.Routes[0].Gaps != 1 || s.Routes[0].LastGap != "trimmed: offsets 4 to 6" {
			t.Errorf("%+v", s)
		}
		if !strings.Contains(logged.String(), "level=ERROR") {
			t.Errorf("logged %s", logged.String())
		}
	})
	bubble(t, "a position from another history", func(t *testing.T, r *rig) {
		r.state.Apply("cursors", map[string][]byte{"far/all": []byte(`{"at":"e9:50"}`)})
		r.add(3, "up/a")
		r.run()
		r.add(1, "up/a")
		settle(5 * time.Second)
		r.want("4")
		if s := r.pump.Status(); s.Routes[0].Gaps != 1 || !strings.HasPrefix(s.Routes[0].LastGap, "unknown") {
			t.Errorf("%+v", s)
		}
	})
	t.Run("a stored position that is none", func(t *testing.T) {
		r := newRig(t)
		r.state.Apply("cursors", map[string][]byte{"far/all": []byte("nonsense")})
		r.opts.Hub = r.hub
		if _, err := bridge.NewPump(r.opts); !errors.Is(err, gateway.ErrInvalid) {
			t.Error(err)
		}
	})
	t.Run("the first position cannot be stored", func(t *testing.T) {
		r := newRig(t)
		r.state.Break()
		r.opts.Hub = r.hub
		if _, err := bridge.NewPump(r.opts); err == nil {
			t.Error("a new uplink began without a stored cursor")
		}
	})
	bubble(t, "commits are gathered", func(t *testing.T, r *rig) {
		r.run()
		for range 1000 {
			r.add(1, "up/a")
			settle(10 * time.Millisecond)
		}
		if n := r.state.Writes(); n > 12 { // 10 s, and the first position
			t.Errorf("%d writes in 10 s", n)
		}
		r.add(1, "up/a")
		synctest.Wait()
		if err := r.stop(); err != nil { // and the last at the end
			t.Error(err)
		}
		if r.stored() != "e1:1001" {
			t.Errorf("stored %q", r.stored())
		}
	})
	bubble(t, "a state that cannot be written holds nothing up", func(t *testing.T, r *rig) {
		r.run()
		r.state.Break()
		r.add(600, "up/a")
		settle(10 * time.Second)
		if n := len(r.far.Arrivals()); n != 600 {
			t.Errorf("%d arrived", n)
		}
		if err := r.stop(); err == nil {
			t.Error("the last commit failed, and Run does not say so")
		}
		r.state.Mend()
		r.restart("")
		settle(5 * time.Second)
		if n := len(r.far.Arrivals()); n != 1200 { // late, never early: all are repeated
			t.Errorf("%d arrived", n)
		}
	})
}

func TestExpiry(t *testing.T) {
	bubble(t, "what expired before its turn is dropped and counted", func(t *testing.T, r *rig) {
		r.run()
		r.opts.Sinks[0].(*bridgetest.Memory).FarEnd().Refuse()
		for i := range 10 {
			e := &gateway.Event{Topic: "up/a", Payload: fmt.Append(nil, i), Accepted: time.Now()}
			if i%2 == 0 {
				e.Expiry = 2 * time.Minute
			}
			r.log.Append(e)
		}
		settle(3 * time.Minute)
		r.far.FarEnd().Heal()
		settle(2 * time.Minute)
		r.want("1 3 5 7 9")
		if s := r.pump.Status(); s.Expired != 5 || s.Delivered != 5 || s.Position.Offset != 10 {
			t.Errorf("%+v", s)
		}
	})
	bubble(t, "nothing but expired events", func(t *testing.T, r *rig) {
		r.run()
		r.far.FarEnd().Refuse()
		for range 2000 {
			r.log.Append(&gateway.Event{Topic: "up/a", Accepted: time.Now(), Expiry: time.Second})
		}
		settle(time.Minute)
		r.far.FarEnd().Heal()
		settle(2 * time.Minute)
		r.want("")
		if s := r.pump.Status(); s.Expired != 2000 || s.Position.Offset != 2000 || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// answers is a far end that refuses some events.
type answers struct {
	mu   sync.Mutex
	errs map[string][]error // by payload: what it says, one after the other, then nil
}

func (a *answers) answer(e *gateway.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.errs[string(e.Payload)]
	if len(list) == 0 {
		return nil
	}
	a.errs[string(e.Payload)] = list[1:]
	return list[0]
}

func TestRefusedForNow(t *testing.T) {
	bubble(t, "is sent again with all behind it", func(t *testing.T, r *rig) {
		full := gateway.Errorf(gateway.ErrFull, "quota exceeded")
		a := answers{errs: map[string][]error{"3": {full, full}}}
		r.far.Answer = a.answer
		r.new()
		r.add(5, "up/a")
		r.run()
		settle(100 * time.Millisecond)
		if s := r.pump.Status(); s.Up || s.Reason != "the far end refused test-gw/e1-3 for now: quota exceeded" || s.Position.Offset != 2 {
			t.Errorf("%+v", s)
		}
		settle(10 * time.Second)
		r.want("1 2 3 4 5 3 4 5 3 4 5")
		if s := r.pump.Status(); s.Delivered != 5 || s.Retried != 6 || s.Dead != 0 || !s.Up {
			t.Errorf("%+v", s)
		}
	})
}

func TestPoison(t *testing.T) {
	denied := gateway.Errorf(gateway.ErrDenied, "not authorized")
	bubble(t, "becomes a dead letter, and the rest goes on", func(t *testing.T, r *rig) {
		a := answers{errs: map[string][]error{"2": {denied}}}
		r.far.Answer = a.answer
		r.new()
		r.add(1, "up/a")
		e := &gateway.Event{
			Topic: "up/a", Payload: []byte("2"), QoS: 2, Retain: true, Accepted: time.Now().UTC(),
			UserProperties: []gateway.UserProperty{{Key: "k", Value: "v"}},
		}
		r.n++
		r.log.Append(e)
		r.add(1, "up/a")
		r.run()
		settle(5 * time.Second)
		r.want("1 2 3")
		if s := r.pump.Status(); s.Delivered != 2 || s.Dead != 1 || !s.Up || s.Retried != 0 || r.stored() != "e1:3" {
			t.Errorf("%+v, stored %s", s, r.stored())
		}
		letters, err := letters(r.state, "far")
		if err != nil || len(letters) != 1 {
			t.Fatal(letters, err)
		}
		if l := letters[0]; l.ID != "test-gw/e1-2" || l.Reason != "not authorized" || !reflect.DeepEqual(l.Event, e) {
			t.Errorf("%+v %+v", l, l.Event)
		}
		r.stop()
		r.restart("")
		if s := r.pump.Status(); s.Dead != 1 {
			t.Errorf("after a restart: %+v", s)
		}
	})
	bubble(t, "is not passed before its letter is stored", func(t *testing.T, r *rig) {
		a := answers{errs: map[string][]error{"2": {denied, denied, denied}}}
		r.far.Answer = a.answer
		r.run()
		r.add(1, "up/a")
		settle(2 * time.Second)
		r.state.Break()
		r.add(3, "up/a")
		settle(300 * time.Millisecond)
		s := r.pump.Status()
		if s.Position.Offset != 1 || s.Up || !strings.HasPrefix(s.Reason, "stopped at test-gw/e1-2, which the far end will not take (not authorized): ") {
			t.Errorf("%+v", s)
		}
		r.state.Mend()
		settle(time.Minute)
		if s := r.pump.Status(); s.Position.Offset != 4 || s.Dead != 1 || s.Delivered != 3 {
			t.Errorf("%+v", s)
		}
	})
	bubble(t, "stops the pump at the bound, and goes on when there is room", func(t *testing.T, r *rig) {
		open := false
		var mu sync.Mutex
		r.far.Answer = func(*gateway.Event) error {
			mu.Lock()
			defer mu.Unlock()
			if open {
				return nil
			}
			return denied
		}
		r.opts.MaxPause = time.Second
		r.run()
		r.add(1200, "up/a")
		settle(time.Minute)
		s := r.pump.Status()
		if s.Dead != 1000 || s.Position.Offset != 1000 || s.Queued != 200 {
			t.Errorf("%+v", s)
		}
		mu.Lock()
		open = true
		mu.Unlock()
		settle(10 * time.Second)
		if s := r.pump.Status(); s.Dead != 1000 || s.Delivered != 200 || s.Position.Offset != 1200 {
			t.Errorf("%+v", s)
		}
	})
}

func letters(state bridge.State, holder string) (all []bridge.DeadLetter, err error) {
	err = bridge.EachDeadLetter(state, holder, func(l bridge.DeadLetter) error {
		all = append(all, l)
		return nil
	})
	return all, err
}

// The stored form is read by later versions: a change of it has to be on purpose.
func TestDeadLetterFormat(t *testing.T) {
	state := bridgetest.NewState()
	stored := `{"id":"gw/e1-7","reason":"not authorized (0x87)","time":"2026-11-23T12:00:00Z","event":{"Kind":0,"Topic":"up/a",` +
		`"Payload":"MjEuNQ==","QoS":1,"Retain":true,"Expiry":60000000000,"UTF8":true,"ContentType":"text/plain","ResponseTopic":"r",` +
		`"CorrelationData":"AAE=","UserProperties":[{"Key":"k","Value":"v"}],"Origin":{"Via":"mqtt","ID":"c","User":"u"},` +
		`"Accepted":"2026-11-23T11:00:00Z","Source":"0001-01-01T00:00:00Z","Quality":1,"PacketID":0,"Epoch":"e1","Offset":7}}`
	state.Apply("dead", map[string][]byte{"far/all/0000000000000007": []byte(stored)})
	letters, err := letters(state, "far")
	if err != nil {
		t.Fatal(err)
	}
	want := bridge.DeadLetter{
		Uplink: "far", Route: "all", ID: "gw/e1-7", Reason: "not authorized (0x87)", Time: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Event: &gateway.Event{
			Topic: "up/a", Payload: []byte("21.5"), QoS: 1, Retain: true, Expiry: time.Minute, UTF8: true,
			ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte{0, 1},
			UserProperties: []gateway.UserProperty{{Key: "k", Value: "v"}},
			Origin:         gateway.Origin{Via: "mqtt", ID: "c", User: "u"},
			Accepted:       time.Date(2026, 11, 23, 11, 0, 0, 0, time.UTC), Quality: gateway.Uncertain,
			Epoch: "e1", Offset: 7,
		},
	}
	if len(letters) != 1 || !reflect.DeepEqual(letters[0], want) {
		t.Errorf("%+v", letters)
	}
}

func TestPauses(t *testing.T) {
	bubble(t, "grow, and begin anew after progress", func(t *testing.T, r *rig) {
		far := r.far.FarEnd()
		far.Refuse()
		r.run()
		r.add(1, "up/a")
		settle(10 * time.Second)
		early := r.far.Connections() // 0.5 1 2 4 … s, each by chance half to one and a half
		settle(10 * time.Minute)
		late := r.far.Connections() - early
		if early < 3 || early > 10 || late < 10 || late > 45 {
			t.Errorf("%d attempts in 10 s, %d in the next 10 min", early, late)
		}
		far.Heal()
		settle(time.Minute)
		r.want("1")
		n := r.far.Connections()
		far.Refuse()
		settle(10 * time.Second)
		if again := r.far.Connections() - n; again < 3 {
			t.Errorf("%d attempts in the 10 s after a connection that worked", again)
		}
	})
	bubble(t, "grow also when it is up for a moment only", func(t *testing.T, r *rig) {
		r.far.Answer = func(*gateway.Event) error { return gateway.Errorf(gateway.ErrTransient, "busy") }
		r.run()
		r.add(1, "up/a")
		settle(10 * time.Minute)
		if n := r.far.Connections(); n > 50 {
			t.Errorf("%d connections in 10 min to a far end that only refuses", n)
		}
	})
}

func TestStop(t *testing.T) {
	bubble(t, "waits for what is in flight", func(t *testing.T, r *rig) {
		r.run()
		synctest.Wait()
		far := r.far.FarEnd()
		far.LoseAcks()
		r.add(5, "up/a")
		synctest.Wait()
		r.end()
		settle(time.Second)
		r.add(1, "up/a") // not taken any more
		far.Heal()       // now the acknowledgements come
		synctest.Wait()
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if r.want("1 2 3 4 5"); r.stored() != "e1:5" {
			t.Errorf("stored %s", r.stored())
		}
	})
	bubble(t, "but not for ever", func(t *testing.T, r *rig) {
		r.run()
		synctest.Wait()
		far := r.far.FarEnd()
		far.LoseAcks()
		r.add(5, "up/a")
		synctest.Wait()
		began := time.Now()
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
		if r.stored() != "e1:0" {
			t.Errorf("stored %s", r.stored())
		}
	})
	bubble(t, "at once while it is down", func(t *testing.T, r *rig) {
		r.far.FarEnd().Stall()
		r.run()
		r.add(5, "up/a")
		settle(time.Second)
		began := time.Now()
		r.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}
