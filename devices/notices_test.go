package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// said are the retained messages so far, as "topic text", and forgets them.
func (j *journal) said() (all []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.retained {
		all = append(all, e.Topic+" "+string(e.Payload))
	}
	j.retained = nil
	return all
}

// The status says what is known: offline before anything is, online with the first word of the
// device, offline when it goes and when the gateway stops.
func TestStatusIsFromLiveness(t *testing.T) {
	for _, expire := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			do := make(chan func(func(codec.Frame)) error)
			j := newJournal()
			d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
				for {
					select {
					case f := <-do:
						if err := f(emit); err != nil {
							return err
						}
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}), j.Ingest)
			d.common.ExpireAfter = expire
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { d.run(ctx) })
			want := func(what string, want ...string) {
				t.Helper()
				synctest.Wait()
				if got := j.said(); !reflect.DeepEqual(got, want) {
					t.Errorf("expire_after %v: %s: said %q, want %q", expire, what, got, want)
				}
			}
			connect := func(emit func(codec.Frame)) error { emit(codec.Frame{}); return nil }
			speak := func(emit func(codec.Frame)) error { emit(reading("x", "1")); return nil }
			unplug := func(func(codec.Frame)) error { return errors.New("unplugged") }

			want("at the start", "s/d/status offline")
			do <- connect
			if expire == 0 { // nothing more is ever known of it
				want("connected", "s/d/status online")
			} else {
				want("connected")
				if st := d.state.snapshot(); st.Up || st.Reason != "connected, and nothing heard yet" {
					t.Errorf("%+v", st)
				}
				do <- func(emit func(codec.Frame)) error { emit(codec.Frame{Garbage: codec.Noise}); return nil }
				want("noise")
				do <- speak
				want("heard", "s/d/status online")
			}
			do <- speak
			want("heard again")
			do <- unplug
			want("unplugged", "s/d/status offline")
			do <- speak
			want("back", "s/d/status online")
			if expire > 0 {
				time.Sleep(expire)
				want("silent", "s/d/status offline")
				do <- connect
				want("connected, and still silent")
				do <- speak
				want("heard at last", "s/d/status online")
			}
			cancel()
			running.Wait()
			want("stopped", "s/d/status offline")
		})
	}
}

// A full journal does not make the status wrong for good.
func TestStatusIsSaidAgainUntilItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		full.Store(true)
		j := newJournal()
		d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
			emit(codec.Frame{})
			<-ctx.Done()
			return ctx.Err()
		}), func(ctx context.Context, e *gateway.Event, done func(error)) error {
			if full.Load() {
				return gateway.ErrFull
			}
			return j.Ingest(ctx, e, done)
		})
		s := &Supervisor{devices: []*device{d}}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.Run(ctx) })
		time.Sleep(time.Hour)
		synctest.Wait()
		full.Store(false)
		time.Sleep(2 * tellAgain)
		synctest.Wait()
		if got := j.said(); !reflect.DeepEqual(got, []string{"s/d/status online"}) {
			t.Errorf("said %q", got)
		}
		cancel()
		running.Wait()
	})
}

// memory is a State.
type memory map[string]string

func (m memory) Each(bucket, prefix string, fn func(string, []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if rest, in := strings.CutPrefix(key, bucket+"|"+prefix); in {
			if err := fn(prefix+rest, []byte(m[key])); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m memory) Apply(bucket string, changes map[string][]byte) error {
	for key, v := range changes {
		if m[bucket+"|"+key] = string(v); v == nil {
			delete(m, bucket+"|"+key)
		}
	}
	return nil
}

// What stands on a topic for a device that has left the configuration is taken back, also if the
// gateway was killed in between, and once only.
func TestNothingIsRetainedForADeviceThatIsGone(t *testing.T) {
	state := memory{}
	start := func(ingest Ingest, ids ...string) {
		s := &Supervisor{ingest: ingest, state: state, log: quiet}
		for _, id := range ids {
			d := fake(t, nil, ingest)
			d.id, d.state.status.Topic = id, statusTopic("s", id)
			s.devices = append(s.devices, d)
		}
		s.tidy(t.Context())
	}
	j := newJournal()
	start(j.Ingest, "a", "b")
	if got := j.said(); got != nil {
		t.Errorf("said %q", got)
	}
	start(func(context.Context, *gateway.Event, func(error)) error { return gateway.ErrFull }, "b", "c")
	start(j.Ingest, "b", "c")
	if got := j.said(); !reflect.DeepEqual(got, []string{"s/a/status "}) {
		t.Errorf("said %q", got)
	}
	start(j.Ingest, "b", "c")
	if got := j.said(); got != nil {
		t.Errorf("said again: %q", got)
	}
	if want := (memory{"devices|s/b/status": "b", "devices|s/c/status": "c"}); !reflect.DeepEqual(state, want) {
		t.Errorf("remembers %v, want %v", state, want)
	}
}

// Readings are retained where that is asked for, and taken back when it is not any more, or the device is gone.
func TestReadingsAreRetained(t *testing.T) {
	state := memory{}
	j := newJournal()
	start := func(retain bool, ids ...string) {
		s := &Supervisor{ingest: j.Ingest, state: state, log: quiet}
		for _, id := range ids {
			d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
				emit(reading("x", "1"))
				emit(reading("x", "2"))
				return errors.New("end")
			}), j.Ingest)
			d.id, d.state.status.Topic, d.common.Retain, d.remember = id, statusTopic("s", id), retain, s.remember
			d.topic, _ = newTemplate(defaultTopic, "s", id, id, "")
			s.devices = append(s.devices, d)
		}
		s.tidy(t.Context())
		for _, d := range s.devices {
			d.once(t.Context(), "")
		}
	}
	said := func(want ...string) {
		t.Helper()
		got := slices.DeleteFunc(j.said(), func(s string) bool { return strings.Contains(s, "/status ") })
		if !slices.Equal(got, want) {
			t.Errorf("said %q, want %q", got, want)
		}
	}
	start(true, "a", "b")
	said("s/a/x 1", "s/a/x 2", "s/b/x 1", "s/b/x 2")
	start(true, "a") // what a retains stands although nothing has come from it yet
	said("s/b/x ", "s/a/x 1", "s/a/x 2")
	start(false, "a")
	said("s/a/x ")
	if len(j.events) != 2 || state["devices|s/a/x"] != "" {
		t.Errorf("%d readings, and it remembers %v", len(j.events), state)
	}
}

// A device cannot write over its own status by sending something of that name.
func TestReadingIsNotTakenForTheStatus(t *testing.T) {
	j := newJournal()
	d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
		emit(codec.Frame{Readings: []codec.Reading{{Name: "status", Value: "online"}, {Name: "x", Value: "1"}}})
		return errors.New("end")
	}), j.Ingest)
	d.once(t.Context(), "")
	if st := d.state.snapshot(); len(j.events) != 1 || st.LastGarbage != fmt.Sprintf("%s: %q", codec.Reserved, "status") {
		t.Errorf("%d events, %+v", len(j.events), st)
	}
}

func TestKindsAreFoundOrSaid(t *testing.T) {
	c := common{Measurements: map[string]codec.Measurement{"level": {Unit: "m", Kind: "temperature"}, "a": {Unit: "%", Kind: "moisture"}}}
	for _, m := range [][3]string{{"air.temperature", "°C", "temperature"}, {"a", "%", "moisture"}, {"b", "%", ""}, {"level", "m", ""}} {
		if k := c.kind(m[0], m[1]); k.Name != m[2] {
			t.Errorf("%s in %s is %q, want %q", m[0], m[1], k.Name, m[2])
		}
	}
}

func TestEveryKindIsInTheDocs(t *testing.T) {
	docs, err := os.ReadFile("../docs/devices.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(docs)), " ")
	for _, name := range codec.KindNames() {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("docs/devices.md lacks `%s`", name)
		}
	}
}
