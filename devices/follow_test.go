package devices

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/mqttdev"
	"github.com/weir-iot/weir/gateway"
)

// store is a State for many goroutines.
type store struct {
	mu sync.Mutex
	m  memory
}

func (s *store) Each(bucket, prefix string, fn func(string, []byte) error) error {
	s.mu.Lock()
	m := maps.Clone(s.m)
	s.mu.Unlock()
	return m.Each(bucket, prefix, fn)
}

func (s *store) Apply(bucket string, changes map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.Apply(bucket, changes)
}

// await polls until it is stored where the device called id began.
func (s *store) await(t *testing.T, id string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		begun := strings.Contains(fmt.Sprint(s.m), id)
		s.mu.Unlock()
		if begun {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not begin", id)
		}
	}
}

const boiler = "  boiler: {driver: mqtt, from: tele/boiler/SENSOR, format: json, availability: tele/boiler/LWT}\n"

// runs starts the devices of text on l, and returns what stops them.
func runs(t *testing.T, text string, l *ledge, state State, retained ...*gateway.Event) (stop func()) {
	t.Helper()
	s, err := New(Options{
		Sections: sections(t, text), Site: "plant1", GatewayID: "gw", Ingest: l.Ingest, State: state, Feed: l.hub, Age: l.age, Logger: quiet,
		Retained: func(want gateway.Filters) (all []*gateway.Event) {
			for _, e := range retained {
				if want.Match(e.Topic) {
					all = append(all, e)
				}
			}
			return all
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

// cut is the journal as a kill at offset end leaves it.
func (l *ledge) cut(end int) *ledge {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &ledge{begin: l.begin, all: append([]*gateway.Event(nil), l.all[:end]...)}
	c.hub = gateway.NewHub(c, uint64(end+1))
	return c
}

// readings are the values of the device's measurements so far, in order: a b c of message 1, and so on.
func (l *ledge) readings() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.all {
		if strings.HasPrefix(e.Topic, "plant1/boiler/") && !strings.HasSuffix(e.Topic, "/status") {
			all = append(all, strings.TrimPrefix(e.Topic, "plant1/boiler/")+string(e.Payload))
		}
	}
	return all
}

// await polls until the readings are those of messages 1 to n, each once.
func (l *ledge) await(t *testing.T, what string, n int) {
	t.Helper()
	var want []string
	for i := range n {
		for _, name := range []string{"a", "b", "c"} {
			want = append(want, fmt.Sprintf("%s%d", name, i+1))
		}
	}
	got := []string{}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if got = l.readings(); len(got) >= len(want) {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s: got  %v\nwant %v", what, got, want)
	}
}

// sync says that everything is on stable storage.
func (l *ledge) sync() {
	l.mu.Lock()
	next := uint64(len(l.all) + 1)
	l.mu.Unlock()
	l.hub.Synced(next)
}

func (l *ledge) tell(n int) {
	l.publish("tele/boiler/SENSOR", fmt.Sprintf(`{"a":%d,"b":%d,"c":%d}`, n, n, n), nil)
}

// Wherever the gateway is killed, and however old what is stored is by then: each message that was accepted becomes
// its readings, once, in order.
func TestReadingsAreMadeOnceOverAKill(t *testing.T) {
	l, state := newLedge(), &store{m: memory{}}
	stop := runs(t, boiler, l, state)
	state.await(t, "boiler")
	state.mu.Lock()
	first := maps.Clone(state.m)
	state.mu.Unlock()
	const messages = 3
	for n := 1; n <= messages; n++ {
		l.tell(n)
		if n != 2 { // the second waits while the third comes, now and then
			l.await(t, "live", n)
		}
	}
	stop()
	l.await(t, "stopped", messages)
	for _, e := range l.all {
		if e.Topic == "plant1/boiler/a" && (len(e.UserProperties) != 1 || e.UserProperties[0].Key != "source" || !strings.HasPrefix(e.UserProperties[0].Value, "gw/e-") ||
			e.Origin != (gateway.Origin{Via: mqttdev.Via, ID: "boiler"})) {
			t.Errorf("%+v", e)
		}
	}
	for end := 1; end <= len(l.all); end++ {
		accepted := 0
		for _, e := range l.all[:end] {
			if e.Topic == "tele/boiler/SENSOR" {
				accepted++
			}
		}
		t.Run(fmt.Sprintf("killed at %d", end), func(t *testing.T) {
			t.Parallel()
			after := l.cut(end)
			runs(t, boiler, after, &store{m: maps.Clone(first)})
			after.await(t, "started", accepted)
			after.tell(accepted + 1)
			after.await(t, "one more", accepted+1)
		})
	}
}

// What is accepted while no driver runs is read by the next; after a clean stop nothing is looked for.
func TestReadingGoesOnAfterAStop(t *testing.T) {
	l, state := newLedge(), &store{m: memory{}}
	stop := runs(t, boiler, l, state)
	stop()
	l.tell(1)
	stop = runs(t, boiler, l, state)
	l.await(t, "what came in between", 1)
	l.sync()
	stop()
	if got := fmt.Sprint(state.m); !strings.Contains(got, `"read":["tele/boiler/SENSOR","tele/boiler/LWT"]`) || strings.Contains(got, `"at":1,`) {
		t.Errorf("stored: %s", got)
	}
	l.tell(2)
	runs(t, boiler, l, state)
	l.await(t, "again", 2)
}

// What is retained is read when a device is new, and not again at every start.
func TestRetainedIsReadOnce(t *testing.T) {
	l, state := newLedge(), &store{m: memory{}}
	l.tell(1)
	retained := l.all[0]
	retained.Retain = true
	for range 2 {
		stop := runs(t, boiler, l, state, retained)
		l.await(t, "retained", 1)
		l.sync()
		stop()
	}
	other := strings.Replace(boiler, "from: tele/boiler/SENSOR", "from: [tele/boiler/SENSOR, tele/boiler/STATE]", 1)
	runs(t, other, l, state, retained, &gateway.Event{Topic: "tele/boiler/STATE", Payload: []byte(`{"a":2,"b":2,"c":2}`), Retain: true, Offset: 1})
	l.await(t, "of a filter that is new", 2)
}

// A reading that is refused, because the journal is full, waits; so does what comes after it.
func TestRefusedReadingsOfAMessageWait(t *testing.T) {
	l := newLedge()
	refuse := make(chan struct{})
	s, err := New(Options{Sections: sections(t, boiler), Site: "plant1", GatewayID: "gw", Feed: l.hub, Age: l.age, State: &store{m: memory{}}, Logger: quiet, Ingest: l.Ingest,
		Record: func(ctx context.Context, e *gateway.Event, done func(error)) error {
			select {
			case <-refuse:
				return l.Ingest(ctx, e, done)
			default:
				if e.Topic == "plant1/boiler/b" {
					done(gateway.ErrFull)
					return nil
				}
				return l.Ingest(ctx, e, done)
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	l.publish("tele/boiler/LWT", "Online", nil)
	for end := time.Now().Add(20 * time.Second); len(l.readings()) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is read")
		}
		l.tell(1)
	}
	if n := len(l.readings()); n > 1 {
		t.Fatalf("%d readings while the journal refuses", n)
	}
	close(refuse)
	for end := time.Now().Add(20 * time.Second); len(l.readings()) < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("they do not come")
		}
	}
	if got := fmt.Sprint(l.readings()[:3]); got != "[a1 b1 c1]" {
		t.Error(got)
	}
}

// The readings of one device are no input of another, and its own status and readings cannot be configured to be.
func TestNoLoops(t *testing.T) {
	l := newLedge()
	text := boiler + "  copy: {driver: mqtt, from: plant1/boiler/+, format: raw, as: '{3}', topic: 'plant1/boiler/{measurement}'}\n"
	if _, err := New(Options{Sections: sections(t, text), Site: "plant1"}); err == nil || !strings.Contains(err.Error(), "from: plant1/boiler/+ would read what the device's own readings go to, plant1/boiler/+") {
		t.Fatalf("got %v", err)
	}
	state := &store{m: memory{}}
	runs(t, boiler+"  copy: {driver: mqtt, from: plant1/boiler/+, format: raw, as: '{3}'}\n", l, state)
	state.await(t, "copy")
	l.publish("tele/boiler/LWT", "Online", nil)
	for n := 1; n <= 3; n++ {
		l.tell(n)
	}
	l.await(t, "boiler", 3)
	l.publish("plant1/boiler/note", "by a client", nil) // that is read
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		var copied []string
		l.mu.Lock()
		for _, e := range l.all {
			if strings.HasPrefix(e.Topic, "plant1/copy/") && !strings.HasSuffix(e.Topic, "/status") {
				copied = append(copied, e.Topic+"="+string(e.Payload))
			}
		}
		l.mu.Unlock()
		if len(copied) > 0 || time.Now().After(end) {
			if fmt.Sprint(copied) != "[plant1/copy/note=by a client]" {
				t.Errorf("copied %v", copied)
			}
			return
		}
	}
}
