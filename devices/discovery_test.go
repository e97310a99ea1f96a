package devices

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway/config"
)

var update = flag.Bool("update", false, "write what is found to testdata")

// What Home Assistant is told of a device, as it stands in testdata/discovery.
func TestDiscoveryPayloads(t *testing.T) {
	c, err := config.Load("testdata/discovery/weir.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l := newLedge()
	s, err := New(Options{
		Sections: c.Devices, Buses: c.Buses, Site: "plant1", GatewayID: "plant1-gw.7", Ingest: l.Ingest, State: memory{}, Feed: l.hub, Age: l.age,
		Discovery: &Discovery{Prefix: "homeassistant", Always: true, Version: "1.0.0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, d := range s.discovery.devices {
		told[d.id] = true
		var got bytes.Buffer
		got.WriteString(s.discovery.topic(d) + "\n")
		if err := json.Indent(&got, []byte(s.discovery.payload(d, s.discovery.components(d))), "", "  "); err != nil {
			t.Fatal(err)
		}
		got.WriteByte('\n')
		file := filepath.Join("testdata", "discovery", d.id+".golden")
		if *update {
			if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s\ngot\n%s\nwant\n%s", file, got.Bytes(), want)
		}
	}
	if told["secret"] || len(told) != len(c.Devices)-1 {
		t.Errorf("told are %v", told)
	}
}

// assistant is a gateway of which Home Assistant may be told, over a journal and a state that stay.
type assistant struct {
	t     *testing.T
	ledge *ledge
	state memory
	say   chan codec.Frame
}

func (a *assistant) start(always bool, ids ...string) (stop func()) {
	o := Options{Site: "s", GatewayID: "gw", Ingest: a.ledge.Ingest, State: a.state, Feed: a.ledge.hub, Age: a.ledge.age, Logger: quiet,
		Discovery: &Discovery{Prefix: "ha", Always: always}}
	s := &Supervisor{site: "s", ingest: o.Ingest, state: a.state, log: quiet}
	for _, id := range ids {
		d := fake(a.t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
			emit(codec.Frame{})
			for {
				select {
				case f := <-a.say:
					emit(f)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}), o.Ingest)
		d.id, d.common.Name, d.state.status.Topic = id, "Device "+id, statusTopic("s", id)
		d.state.measurements["c"], d.state.sure["c"] = measured("c", "s/"+id+"/c", ""), true
		s.devices = append(s.devices, d)
	}
	s.discovery = newDiscoverer(o, s.devices)
	ctx, cancel := context.WithCancel(a.t.Context())
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	synctest.Wait()
	return func() { cancel(); <-ended }
}

// heard is what Home Assistant has heard on its topics since it last asked: the names of a device's components, by
// topic, and "" for a device that was taken back.
func (a *assistant) heard() map[string]string {
	a.t.Helper()
	synctest.Wait()
	time.Sleep(2 * tellAgain)
	synctest.Wait()
	a.ledge.mu.Lock()
	defer a.ledge.mu.Unlock()
	all := map[string]string{}
	for _, e := range a.ledge.all {
		if !strings.HasSuffix(e.Topic, "/config") {
			continue
		}
		if !e.Retain || e.QoS != 1 {
			a.t.Errorf("%+v", e)
		}
		var p struct {
			Cmps map[string]struct{ P string }
		}
		text := "gone"
		if len(e.Payload) > 0 {
			if err := json.Unmarshal(e.Payload, &p); err != nil {
				a.t.Fatal(err)
			}
			text = strings.Join(sortedKeys(p.Cmps), " ")
		}
		if before, twice := all[e.Topic]; twice {
			text = before + "; " + text
		}
		all[e.Topic] = text
		e.Topic = "heard"
	}
	return all
}

func sortedKeys[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (a *assistant) birth() {
	a.ledge.publish("ha/status", "online", nil)
}

func TestDiscoveryFollowsHomeAssistant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &assistant{t, newLedge(), memory{}, make(chan codec.Frame)}
		want := func(what string, want map[string]string) {
			t.Helper()
			if got := a.heard(); !maps.Equal(got, want) {
				t.Errorf("%s: heard %q, want %q", what, got, want)
			}
		}
		const d, e = "ha/device/weir-gw-d/config", "ha/device/weir-gw-e/config"
		stop := a.start(false, "d", "e")
		want("before it is there", map[string]string{})
		a.ledge.publish("ha/status", "offline", nil)
		want("it went", map[string]string{})
		a.birth()
		want("it is there", map[string]string{d: "c", e: "c"})
		frame := codec.Frame{Readings: []codec.Reading{{Name: "t", Value: "1", Unit: "°C"}, {Name: "u", Value: "x"}}}
		a.say <- frame
		want("names that came once", map[string]string{})
		stop()

		stop = a.start(false, "d")
		want("one is gone, after a restart", map[string]string{d: "c", e: "gone"})
		a.say <- frame
		a.say <- frame
		want("names that came twice", map[string]string{d: "c t u"})
		a.birth()
		want("it was started again", map[string]string{d: "c t u"})
		a.say <- frame
		want("nothing new", map[string]string{})
		stop()

		stop = a.start(false, "d")
		want("names from before the restart", map[string]string{d: "c t u"})
		stop()
		stop = a.start(false)
		want("no device is left", map[string]string{d: "gone"})
		stop()
	})
}

// Of a device whose names are all in the configuration, what has left it is told to be gone, and then left out.
func TestComponentThatLeavesTheConfiguration(t *testing.T) {
	l := newLedge()
	load := func(state memory, columns string) {
		s, err := New(Options{
			Sections: sections(t, "  scale: {driver: serial, port: /dev/a, format: {csv: ["+columns+"]}}\n"), Site: "s", GatewayID: "gw",
			Ingest: l.Ingest, State: state, Feed: l.hub, Age: l.age, Discovery: &Discovery{Prefix: "ha", Always: true},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.discovery.load(); err != nil {
			t.Fatal(err)
		}
		s.discovery.tellAll(t.Context())
	}
	state := memory{}
	load(state, "a, b")
	load(state, "a, c")
	load(state, "a, c")
	var got []string
	for _, e := range l.all {
		var p struct {
			Cmps map[string]map[string]any
		}
		if err := json.Unmarshal(e.Payload, &p); err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, name := range sortedKeys(p.Cmps) {
			text += name
			if len(p.Cmps[name]) == 1 {
				text += "(" + p.Cmps[name]["p"].(string) + ")"
			}
		}
		got = append(got, text)
	}
	if want := []string{"ab", "ab(sensor)c", "ac", "ac"}; !reflect.DeepEqual(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}
