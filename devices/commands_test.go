package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// ledge is a journal in memory, with a hub: what is ingested is stored at once and released.
type ledge struct {
	begin time.Time
	hub   *gateway.Hub
	full  bool // refuses

	mu  sync.Mutex
	all []*gateway.Event // offset 1 is the first
}

func newLedge() *ledge {
	l := &ledge{begin: time.Now()}
	l.hub = gateway.NewHub(l, 1)
	return l
}

func (l *ledge) age() time.Duration { return time.Since(l.begin) }

func (l *ledge) Ingest(_ context.Context, e *gateway.Event, done func(error)) error {
	l.mu.Lock()
	if l.full {
		l.mu.Unlock()
		return gateway.ErrFull
	}
	e.Epoch, e.Offset, e.Age = "e", uint64(len(l.all)+1), l.age()
	l.all = append(l.all, e)
	next := uint64(len(l.all) + 1)
	l.mu.Unlock()
	l.hub.Released([]*gateway.Event{e}, next)
	if done != nil {
		done(nil)
	}
	return nil
}

func (l *ledge) Read(from uint64, want gateway.Matcher, n int) (gateway.Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := gateway.Batch{Next: uint64(len(l.all) + 1)}
	for _, e := range l.all[from-1:] {
		if want.Match(e.Topic) {
			b.Events = append(b.Events, e)
		}
	}
	return b, nil
}
func (l *ledge) Resume(gateway.Position) (uint64, *gateway.Gap) { return 1, nil }
func (l *ledge) Epoch() string                                  { return "e" }

// publish is what an MQTT client does.
func (l *ledge) publish(topic, value string, change func(*gateway.Event)) (id string) {
	e := &gateway.Event{Topic: topic, Payload: []byte(value), QoS: 1, Origin: gateway.Origin{Via: "mqtt", ID: "panel", User: "anna"}}
	if change != nil {
		change(e)
	}
	l.Ingest(context.Background(), e, nil)
	return e.ID("gw")
}

// results are those so far, by the command's id: the error, or "ok" and the reply; two are put in a row.
func (l *ledge) results(t *testing.T) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]string{}
	for _, e := range l.all {
		if !strings.HasSuffix(e.Topic, "/result") {
			continue
		}
		var r Result
		if err := json.Unmarshal(e.Payload, &r); err != nil {
			t.Fatalf("%s: %v", e.Payload, err)
		}
		if r.OK != (r.Error == "") || e.QoS != 1 || e.Retain || e.Origin != (gateway.Origin{Via: "weir", ID: strings.Split(e.Topic, "/")[1]}) {
			t.Errorf("result %+v: %s", e, e.Payload)
		}
		text := r.Error
		if r.OK {
			text = "ok " + r.Reply
		}
		all[r.ID] += text
	}
	return all
}

// actuator is a driver that is connected while plugged, and notes what it is told.
type actuator struct {
	plug  chan bool
	mu    sync.Mutex
	told  []string
	write func(ctx context.Context, name, value string) (string, error) // nil: answers the value
}

func newActuator() *actuator { return &actuator{plug: make(chan bool)} }

func (a *actuator) Run(ctx context.Context, emit func(codec.Frame)) error {
	for plugged := true; ; {
		if !plugged {
			return errors.New("unplugged")
		}
		emit(codec.Frame{})
		select {
		case plugged = <-a.plug:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *actuator) Settings() []codec.Setting {
	return []codec.Setting{{Name: "level", Form: codec.Text}}
}

func (a *actuator) Write(ctx context.Context, name, value string) (string, error) {
	a.mu.Lock()
	a.told = append(a.told, name+"="+value)
	a.mu.Unlock()
	if a.write != nil {
		return a.write(ctx, name, value)
	}
	return value, nil
}

func (a *actuator) got() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := strings.Join(a.told, " ")
	a.told = nil
	return s
}

// plant is a gateway with devices that can be commanded. It can be started again over the same journal and
// state.
type plant struct {
	t      *testing.T
	ledge  *ledge
	state  memory
	outage bool // of the state
	stop   func()
}

func (p *plant) Each(bucket, prefix string, fn func(string, []byte) error) error {
	return p.state.Each(bucket, prefix, fn)
}

func (p *plant) Apply(bucket string, changes map[string][]byte) error {
	if p.outage {
		return errors.New("the disk is full")
	}
	return p.state.Apply(bucket, changes)
}

func (p *plant) start(drivers map[string]Driver) {
	o := Options{
		Site: "s", Ingest: p.ledge.Ingest, State: p, Feed: p.ledge.hub, Age: p.ledge.age, GatewayID: "gw", Logger: quiet,
		May: func(o gateway.Origin, topic string) error {
			if o.User == "anna" && strings.HasPrefix(topic, "anna/") {
				return nil
			}
			return errors.New("anna may not")
		},
	}
	s := &Supervisor{site: "s", ingest: o.Ingest, log: quiet}
	for _, id := range slices.Sorted(maps.Keys(drivers)) {
		d := fake(p.t, drivers[id], o.Ingest)
		d.id, d.common.CommandTimeout = id, defaultTimeout
		d.state.status.Topic = statusTopic("s", id)
		d.writer, _ = drivers[id].(Writer)
		d.queue.more = make(chan struct{}, 1)
		s.devices = append(s.devices, d)
	}
	s.commands = newCommander(o, s.devices)
	ctx, cancel := context.WithCancel(p.t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	p.stop = func() { cancel(); running.Wait() }
	synctest.Wait()
}

func commanded(t *testing.T, test func(t *testing.T, p *plant)) {
	synctest.Test(t, func(t *testing.T) { test(t, &plant{t: t, ledge: newLedge(), state: memory{}}) })
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	synctest.Wait()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestCommandIsCarriedOutAndAnswered(t *testing.T) {
	commanded(t, func(t *testing.T, p *plant) {
		a := newActuator()
		p.start(map[string]Driver{"d": a})
		id := p.ledge.publish("s/d/level/set", "7", func(e *gateway.Event) {
			e.ResponseTopic, e.CorrelationData = "anna/answers", []byte("c1")
		})
		synctest.Wait()
		expect(t, "told", a.got(), "level=7")
		expect(t, "result", p.ledge.results(t)[id], "ok 7")
		response := p.ledge.all[len(p.ledge.all)-1]
		if response.Topic != "anna/answers" || string(response.CorrelationData) != "c1" || response.ContentType != "application/json" {
			t.Errorf("response %+v", response)
		}
		var r Result
		if json.Unmarshal(response.Payload, &r); r != (Result{ID: id, Value: "7", OK: true, Reply: "7", Correlation: "c1"}) {
			t.Errorf("response %s", response.Payload)
		}

		n := len(p.ledge.all)
		p.ledge.publish("s/d/level/set", "8", func(e *gateway.Event) {
			e.ResponseTopic, e.CorrelationData = "s/other/level/set", []byte{0xff}
		})
		synctest.Wait()
		if json.Unmarshal(p.ledge.all[n+1].Payload, &r); len(p.ledge.all) != n+2 || r.Unanswered != "anna may not" || r.CorrelationBase64 != "/w==" {
			t.Errorf("a response where its sender may not publish: %s", p.ledge.all[n+1].Payload)
		}
		p.stop()
	})
}

func TestWhatIsRefused(t *testing.T) {
	commanded(t, func(t *testing.T, p *plant) {
		a := newActuator()
		deaf := driverFunc(func(ctx context.Context, emit func(codec.Frame)) error { <-ctx.Done(); return ctx.Err() })
		p.start(map[string]Driver{"d": a, "deaf": deaf})
		correlated := func(e *gateway.Event) { e.CorrelationData, e.ResponseTopic = []byte("c1"), "anna/answers" }
		want := map[string]string{
			p.ledge.publish("s/d/level/set", "1", correlated):                                 "ok 1",
			p.ledge.publish("s/d/level/set", "1", correlated):                                 "a command with this correlation data was taken before; it is not carried out again",
			p.ledge.publish("s/d/level/set", "2", func(e *gateway.Event) { e.Retain = true }): "a retained command is not carried out, because nobody could tell a new one from an old one",
			p.ledge.publish("s/d/level/set", "\xff", nil):                                     "the value is not text",
			p.ledge.publish("s/d/level/set", strings.Repeat("x", maxValue+1), nil):            "the value has 4097 bytes, and the most is 4096",
			p.ledge.publish("s/deaf/level/set", "3", nil):                                     "the device takes no commands: driver fake",
		}
		p.ledge.publish("s/d/level/set", "", func(e *gateway.Event) { e.Retain = true }) // takes it back
		p.ledge.publish("s/stranger/level/set", "4", nil)
		p.ledge.publish("s/d/level/deep/set", "5", nil)
		synctest.Wait()
		expect(t, "told", a.got(), "level=1")
		if got := p.ledge.results(t); !maps.Equal(got, want) {
			t.Errorf("results\n%q, want\n%q", got, want)
		}
		responses := 0
		for _, e := range p.ledge.all {
			if e.Topic == "anna/answers" {
				responses++
			}
		}
		if responses != 1 {
			t.Errorf("%d responses to one correlation", responses)
		}
		p.stop()
	})
}

// A device that is down is waited for, no longer than the deadline; others do not wait for it, and neither does
// what stands behind a command that waits longer.
func TestDeadlines(t *testing.T) {
	commanded(t, func(t *testing.T, p *plant) {
		a, other := newActuator(), newActuator()
		back := make(chan struct{})
		gone := driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
			select {
			case <-back:
			default:
				return errors.New("no cable")
			}
			return a.Run(ctx, emit)
		})
		p.start(map[string]Driver{"d": struct {
			Driver
			*commands
		}{gone, (*commands)(a)}, "other": other})
		long := p.ledge.publish("s/d/level/set", "1", func(e *gateway.Event) { e.Expiry = time.Hour })
		short := p.ledge.publish("s/d/level/set", "2", nil)
		quick := p.ledge.publish("s/other/level/set", "3", nil)
		synctest.Wait()
		expect(t, "the other's", p.ledge.results(t)[quick], "ok 3")
		time.Sleep(defaultTimeout - time.Millisecond)
		synctest.Wait()
		expect(t, "before the deadline", p.ledge.results(t)[short], "")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		expect(t, "at the deadline", p.ledge.results(t)[short], "expired after 10s, not carried out: the device is offline: no cable")
		expect(t, "the long one", p.ledge.results(t)[long], "")
		close(back)
		time.Sleep(2 * lastWait)
		synctest.Wait()
		expect(t, "the long one, when it is back", p.ledge.results(t)[long], "ok 1")
		expect(t, "told", a.got(), "level=1")

		// And one that the device never ends.
		a.write = func(ctx context.Context, _, _ string) (string, error) { <-ctx.Done(); return "", ctx.Err() }
		stuck := p.ledge.publish("s/d/level/set", "4", nil)
		behind := p.ledge.publish("s/d/level/set", "5", func(e *gateway.Event) { e.Expiry = 2 * time.Second })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		expect(t, "behind it", p.ledge.results(t)[behind], "expired after 2s, not carried out: others came before it")
		time.Sleep(defaultTimeout)
		synctest.Wait()
		expect(t, "stuck", p.ledge.results(t)[stuck], "not done within 10s; it may have been carried out: context deadline exceeded")
		p.stop()
	})
}

// commands is the writing half of an actuator.
type commands actuator

func (c *commands) Settings() []codec.Setting { return (*actuator)(c).Settings() }
func (c *commands) Write(ctx context.Context, name, value string) (string, error) {
	return (*actuator)(c).Write(ctx, name, value)
}

func TestQueueIsBoundedAndInOrder(t *testing.T) {
	commanded(t, func(t *testing.T, p *plant) {
		a := newActuator()
		first := make(chan struct{})
		a.write = func(context.Context, string, string) (string, error) { <-first; return "", nil }
		p.start(map[string]Driver{"d": a})
		var want []string
		for i := range maxWaiting + 2 { // one is being carried out, and one is too much
			p.ledge.publish("s/d/level/set", fmt.Sprint(i), nil)
			synctest.Wait()
			want = append(want, fmt.Sprint("level=", i))
		}
		if got := p.ledge.results(t); len(got) != 1 {
			t.Errorf("results %q", got)
		}
		for _, e := range p.ledge.results(t) {
			expect(t, "one too many", e, "100 commands are waiting already")
		}
		close(first)
		synctest.Wait()
		expect(t, "told", a.got(), strings.Join(want[:maxWaiting+1], " "))
		p.stop()
	})
}

// However a run ends, the next one carries out what has not been begun and has time left, and nothing
// twice; and every command has one result.
func TestRestart(t *testing.T) {
	commanded(t, func(t *testing.T, p *plant) {
		a := newActuator()
		all := make(chan struct{}) // have been accepted
		a.write = func(ctx context.Context, _, value string) (string, error) {
			switch value {
			case "1":
				<-all
			case "2":
				<-ctx.Done()
				return "", ctx.Err()
			}
			return "", nil
		}
		p.start(map[string]Driver{"d": a})
		hour := func(e *gateway.Event) { e.Expiry, e.CorrelationData = time.Hour, e.Payload }
		done := p.ledge.publish("s/d/level/set", "1", hour)
		cut := p.ledge.publish("s/d/level/set", "2", hour)
		waits := p.ledge.publish("s/d/level/set", "3", hour)
		late := p.ledge.publish("s/d/level/set", "4", func(e *gateway.Event) { e.Expiry = time.Minute })
		synctest.Wait()
		close(all)
		synctest.Wait()
		expect(t, "told", a.got(), "level=1 level=2")

		// Killed: what was stored by now is all there is.
		killed := &plant{t: t, ledge: newLedge(), state: maps.Clone(p.state)}
		killed.ledge.begin, killed.ledge.all = p.ledge.begin, slices.Clone(p.ledge.all)
		killed.ledge.hub = gateway.NewHub(killed.ledge, uint64(len(killed.ledge.all)+1))
		p.stop()
		time.Sleep(2 * time.Minute)

		b := newActuator()
		killed.start(map[string]Driver{"d": b})
		synctest.Wait()
		expect(t, "told after the kill", b.got(), "level=3")
		want := map[string]string{
			done:  "ok ",
			cut:   "the gateway was stopped while it was carried out, or before its result was stored: it may have been carried out, and is not again",
			waits: "ok 3",
			late:  "expired after 1m0s, not carried out: the gateway was not running",
		}
		if got := killed.ledge.results(t); !maps.Equal(got, want) {
			t.Errorf("results\n%q, want\n%q", got, want)
		}
		again := killed.ledge.publish("s/d/level/set", "3", hour)
		want[again] = "a command with this correlation data was taken before; it is not carried out again"
		synctest.Wait()
		killed.stop()
		killed.start(map[string]Driver{"d": b})
		expect(t, "told after one more start", b.got(), "")
		if got := killed.ledge.results(t); !maps.Equal(got, want) {
			t.Errorf("results after one more start\n%q, want\n%q", got, want)
		}
		killed.stop()

		// Stopped in order: the same for what waits, and the result of what was cut off is there at once.
		if got := p.ledge.results(t); !strings.HasPrefix(got[cut], "the gateway was stopped while it was carried out; it may have been") || got[waits] != "" {
			t.Errorf("results after the stop: %q", got)
		}
		p.start(map[string]Driver{"d": b})
		expect(t, "told after the stop", b.got(), "level=3")
		p.stop()
	})
}

// Without a place to store that a command is begun it is not carried out, and results that the journal has
// no room for are owed.
func TestNothingCanBeStored(t *testing.T) {
	commanded(t, func(t *testing.T, p *plant) {
		a := newActuator()
		p.start(map[string]Driver{"d": a})
		p.outage = true
		id := p.ledge.publish("s/d/level/set", "1", nil)
		synctest.Wait()
		expect(t, "told", a.got(), "")
		expect(t, "result", p.ledge.results(t)[id], "not carried out, because it cannot be stored that it is: the disk is full")
		p.outage = false
		a.write = func(context.Context, string, string) (string, error) {
			p.ledge.mu.Lock()
			p.ledge.full = true
			p.ledge.mu.Unlock()
			return "", nil
		}
		id = p.ledge.publish("s/d/level/set", "2", nil)
		time.Sleep(time.Minute)
		expect(t, "no room", p.ledge.results(t)[id], "")
		p.ledge.mu.Lock()
		p.ledge.full = false
		p.ledge.mu.Unlock()
		time.Sleep(2 * tellAgain)
		expect(t, "room", p.ledge.results(t)[id], "ok ")
		p.stop()
	})
}
