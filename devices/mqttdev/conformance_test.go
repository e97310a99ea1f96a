package mqttdev_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/devicetest"
	"github.com/weir-iot/weir/devices/mqttdev"
	"github.com/weir-iot/weir/gateway"
)

var (
	_ devices.Driver = (*mqttdev.Driver)(nil)
	_ devices.Writer = (*mqttdev.Driver)(nil)
)

// broker is a journal in memory with what is retained.
type broker struct {
	hub *gateway.Hub

	order sync.Mutex                         // events are released in order
	heard func(topic string, payload []byte) // the device: what the gateway publishes; nil: it takes no notice

	mu       sync.Mutex
	all      []*gateway.Event // offset 1 is the first
	retained map[string]*gateway.Event
}

func newBroker() *broker {
	b := &broker{retained: map[string]*gateway.Event{}}
	b.hub = gateway.NewHub(b, 1)
	return b
}

func (b *broker) Read(from uint64, want gateway.Matcher, _ int) (gateway.Batch, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	batch := gateway.Batch{Next: uint64(len(b.all) + 1)}
	for _, e := range b.all[from-1:] {
		if want.Match(e.Topic) {
			batch.Events = append(batch.Events, e)
		}
	}
	return batch, nil
}
func (b *broker) Resume(gateway.Position) (uint64, *gateway.Gap) { return 1, nil }
func (b *broker) Epoch() string                                  { return "e" }

func (b *broker) Publish(_ context.Context, e *gateway.Event) error {
	b.store(e)
	if b.heard != nil && e.Origin.Via == mqttdev.Via {
		b.heard(e.Topic, e.Payload)
	}
	return nil
}

func (b *broker) store(e *gateway.Event) {
	b.order.Lock()
	defer b.order.Unlock()
	b.mu.Lock()
	e.Epoch, e.Offset = "e", uint64(len(b.all)+1)
	b.all = append(b.all, e)
	if e.Retain {
		b.retained[e.Topic] = e
	}
	b.mu.Unlock()
	b.hub.Released([]*gateway.Event{e}, e.Offset+1)
}

// say is what the device publishes.
func (b *broker) say(topic, payload string, retain bool) {
	b.store(&gateway.Event{Topic: topic, Payload: []byte(payload), Retain: retain, Origin: gateway.Origin{Via: "mqtt", ID: "DVES_1"}})
}

func (b *broker) options() *mqttdev.Broker {
	return &mqttdev.Broker{
		Reader: b.hub.Reader, Next: b.hub.Next, Publish: b.Publish,
		Retained: func(want gateway.Filters) (all []*gateway.Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			for topic, e := range b.retained {
				if want.Match(topic) {
					all = append(all, e)
				}
			}
			return all
		},
		Commands: gateway.Filters{gateway.MustFilter("plant1/+/+/set")},
		Own:      func(via string) bool { return via == mqttdev.Via || via == "weir" },
	}
}

func filter(s string) mqttdev.Filters {
	return mqttdev.Filters{Filters: gateway.Filters{gateway.MustFilter(s)}}
}

func TestConformance(t *testing.T) {
	devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig {
		b := newBroker()
		least, most := 1.0, 100.0
		d, err := mqttdev.New("boiler", mqttdev.Config{
			From: filter("tele/boiler/SENSOR"), Format: "json", Availability: mqttdev.Availability{Topic: "tele/boiler/LWT"},
			Commands: map[string]mqttdev.Command{"level": {Topic: "cmnd/boiler/level", Min: &least, Max: &most}},
		}, nil, nil, b.options())
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var told []string
		deaf := false
		quiet := func(is bool) {
			mu.Lock()
			defer mu.Unlock()
			deaf = is
		}
		b.heard = func(topic string, payload []byte) {
			if topic != "cmnd/boiler/level" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if told = append(told, string(payload)); !deaf {
				b.say("tele/boiler/SENSOR", fmt.Sprintf(`{"level":%s}`, payload), false)
			}
		}
		rig := &devicetest.Rig{
			Driver: d,
			Say:    func(n int) { b.say("tele/boiler/SENSOR", fmt.Sprintf(`{"seq":%d}`, n), false) },
			Noise:  func() { b.say("tele/boiler/SENSOR", "{", false) },
			Unplug: func() { quiet(true); b.say("tele/boiler/LWT", "Offline", true) },
			Plug:   func() { quiet(false); b.say("tele/boiler/LWT", "Online", true) },
			Stream: true, Setting: "level",
			Told: func() []string {
				mu.Lock()
				defer mu.Unlock()
				return slices.Clone(told)
			},
			Mute: func() { quiet(true) },
		}
		rig.Plug()
		return rig
	})
}

// frames runs d and gives what it emits as text.
func frames(t *testing.T, d *mqttdev.Driver) <-chan string {
	ctx, cancel := context.WithCancel(context.Background())
	out, ended := make(chan string, 100), make(chan struct{})
	t.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // it ends while nothing is heard
			d.Run(ctx, func(f codec.Frame) {
				text := "! " + f.Garbage
				if f.Garbage == "" {
					text = ""
					for _, r := range f.Readings {
						text += r.Name + "=" + r.Value + r.Unit + " "
					}
				}
				if text != "" {
					out <- strings.TrimSpace(text)
				}
			})
		}
	}()
	return out
}

func next(t *testing.T, out <-chan string) string {
	t.Helper()
	select {
	case s := <-out:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
		return ""
	}
}

// A word that the device is there counts if it came after the gateway was started: who was there before a kill may never
// say that it is not.
func TestOldWordIsNoSign(t *testing.T) {
	b := newBroker()
	cfg := mqttdev.Config{Profile: "tasmota"}
	run := func(d *mqttdev.Driver) (frames []codec.Frame, err error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err = d.Run(ctx, func(f codec.Frame) {
			frames = append(frames, f)
			if f.From == nil || f.From.Offset > 3 {
				cancel()
			}
		})
		return frames, err
	}
	b.say("tele/heater/LWT", "Online", true)
	b.say("tele/heater/LWT", "Online", false)
	b.say("tele/heater/SENSOR", `{"ENERGY":{"Power":1}}`, false)
	d, err := mqttdev.New("heater", cfg, nil, nil, b.options())
	if err != nil {
		t.Fatal(err)
	}
	d.Follow(2, gateway.Filters{gateway.MustFilter("#")})
	if frames, err := run(d); len(frames) != 1 || frames[0].From.Offset != 3 || err == nil || !strings.Contains(err.Error(), "nothing heard from it") {
		t.Errorf("%+v, %v", frames, err)
	}
	b.say("tele/heater/LWT", "Online", true)
	if frames, err := run(d); len(frames) != 1 || len(frames[0].Readings) != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", frames, err)
	}
	b.say("tele/heater/LWT", "Offline", true)
	if d, err = mqttdev.New("heater", cfg, nil, nil, b.options()); err != nil {
		t.Fatal(err)
	}
	if frames, err := run(d); len(frames) != 0 || err == nil || err.Error() != "it is offline, says tele/heater/LWT" {
		t.Errorf("%+v, %v", frames, err)
	}
	b.say("tele/heater/SENSOR", `{"ENERGY":{"Power":1}}`, false)
	if frames, err := run(d); len(frames) != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", frames, err)
	}
}

// What is retained is read at the beginning, what clients publish then, and nothing that the gateway says itself.
func TestReadsClientsOnly(t *testing.T) {
	b := newBroker()
	b.say("farm/level", "71", true)
	b.say("farm/old", "1", false) // before the device was configured, and not retained
	d, err := mqttdev.New("silo", mqttdev.Config{From: filter("farm/#"), Format: "raw", As: "{2}"},
		map[string]codec.Measurement{"level": {Unit: "%"}}, gateway.Filters{gateway.MustFilter("plant1/silo/+")}, b.options())
	if err != nil {
		t.Fatal(err)
	}
	out := frames(t, d)
	if got := next(t, out); got != "level=71%" {
		t.Errorf("retained: %q", got)
	}
	for _, via := range []string{mqttdev.Via, "weir"} {
		b.Publish(t.Context(), &gateway.Event{Topic: "farm/level", Payload: []byte("1"), Origin: gateway.Origin{Via: via, ID: "silo"}})
	}
	b.say("farm/level", "", true) // takes back what was retained
	for _, via := range []string{"mqtt", "http", "uplink"} {
		b.Publish(t.Context(), &gateway.Event{Topic: "farm/level", Payload: []byte("72"), Origin: gateway.Origin{Via: via}})
		if got := next(t, out); got != "level=72%" {
			t.Errorf("via %s: %q", via, got)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	own := gateway.Filters{gateway.MustFilter("plant1/silo/+"), gateway.MustFilter("plant1/silo/status")}
	for want, cfg := range map[string]mqttdev.Config{
		"from: missing; it is the topic":                                                 {Format: "json"},
		"format: missing":                                                                {From: filter("a")},
		"from: # would read what the device's own readings go to":                        {From: filter("#"), Format: "json"},
		"from: plant1/# would read":                                                      {From: filter("plant1/#"), Format: "json"},
		"from: plant1/silo/raw would read":                                               {From: filter("plant1/silo/raw"), Format: "json"},
		"base: plant1/silo/# would read":                                                 {Profile: "shelly_gen1", Base: "plant1/silo"},
		`profile: "tasmoto" is none of esphome, shelly, shelly_gen1`:                     {Profile: "tasmoto"},
		"from: profile tasmota knows its topics":                                         {Profile: "tasmota", From: filter("a")},
		"format: profile tasmota has its own":                                            {Profile: "tasmota", Format: "json"},
		"base: is for devices with a profile":                                            {Base: "x", From: filter("a"), Format: "json"},
		"base: topic \"a/+\"":                                                            {Profile: "tasmota", Base: "a/+"},
		"as: \"level\" has no {name}":                                                    {From: filter("a"), Format: "raw", As: "level"},
		"availability: needs both words":                                                 {From: filter("a"), Format: "raw", Availability: mqttdev.Availability{Topic: "b", Online: "yes"}},
		"from: $SYS/# begins with $":                                                     {From: filter("$SYS/#"), Format: "raw"},
		"base: $SYS/x begins with $":                                                     {Profile: "tasmota", Base: "$SYS/x"},
		"commands.open: plant1/gate/open/set is where the gateway itself takes commands": {From: filter("a"), Format: "raw", Commands: map[string]mqttdev.Command{"open": {Topic: "plant1/gate/open/set"}}},
		"commands.state: plant1/gate/lamp/set is where the gateway":                      {Profile: "zigbee2mqtt", Base: "plant1/gate/lamp", Commands: map[string]mqttdev.Command{"state": {}}},
		"base: has more than 1024 bytes or 64 levels":                                    {Profile: "tasmota", Base: strings.Repeat("a/", 100) + "b"},
		"commands.open: needs a topic":                                                   {From: filter("a"), Format: "raw", Commands: map[string]mqttdev.Command{"open": {}}},
		"commands.a.b.topic: topic \"x/#\"":                                              {From: filter("a"), Format: "raw", Commands: map[string]mqttdev.Command{"a.b": {Topic: "x/#"}}},
		"commands.x.y.z.w: needs a topic":                                                {Profile: "shelly", Commands: map[string]mqttdev.Command{"x.y.z.w": {}}},
	} {
		_, err := mqttdev.New("silo", cfg, nil, own, newBroker().options())
		var key *gateway.KeyError
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &key) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// A device answers a command, and what Write returns is what it says.
func TestCommands(t *testing.T) {
	for _, c := range []struct {
		name                        string
		cfg                         mqttdev.Config
		command, value              string
		topic, payload              string // what the device is to get
		answerTo, answer            string // what it says then
		reply, fails, form, options string
	}{
		{name: "tasmota", cfg: mqttdev.Config{Profile: "tasmota", Base: "heater"}, command: "power", value: "on",
			topic: "cmnd/heater/POWER", payload: "ON", answerTo: "stat/heater/RESULT", answer: `{"POWER":"ON"}`, reply: "ON", form: codec.Switch, options: "[ON OFF]"},
		{name: "tasmota refuses a word", cfg: mqttdev.Config{Profile: "tasmota"}, command: "power2", value: "warm", fails: `"warm" is none of ON, OFF`, form: codec.Switch, options: "[ON OFF]"},
		{name: "esphome", cfg: mqttdev.Config{Profile: "esphome", Base: "cellar"}, command: "switch.pump", value: "OFF",
			topic: "cellar/switch/pump/command", payload: "OFF", answerTo: "cellar/switch/pump/state", answer: "OFF", reply: "OFF", form: codec.Switch, options: "[ON OFF]"},
		{name: "esphome light", cfg: mqttdev.Config{Profile: "esphome", Base: "cellar"}, command: "light.lamp", value: "ON",
			topic: "cellar/light/lamp/command", payload: `{"state":"ON"}`, answerTo: "cellar/light/lamp/state", answer: `{"state":"ON","brightness":3}`, reply: "ON", form: codec.Switch, options: "[ON OFF]"},
		{name: "esphome button", cfg: mqttdev.Config{Profile: "esphome", Base: "cellar"}, command: "button.restart", value: "",
			topic: "cellar/button/restart/command", payload: "PRESS", form: codec.Button, options: "[]"},
		{name: "shelly gen1", cfg: mqttdev.Config{Profile: "shelly_gen1", Base: "shellies/s1"}, command: "relay.0", value: "on",
			topic: "shellies/s1/relay/0/command", payload: "on", answerTo: "shellies/s1/relay/0", answer: "on", reply: "on", form: codec.Switch, options: "[on off]"},
		{name: "shelly", cfg: mqttdev.Config{Profile: "shelly", Base: "plug"}, command: "switch.0", value: "on",
			topic: "plug/rpc", payload: `"method":"Switch.Set","params":{"id":0,"on":true},"src":"plug/weir"}`, answerTo: "plug/weir/rpc", answer: `{"id":ID,"src":"shellyplus1","dst":"plug/weir","result":{"was_on":false}}`,
			reply: "on", form: codec.Switch, options: "[on off]"},
		{name: "shelly refuses", cfg: mqttdev.Config{Profile: "shelly", Base: "plug"}, command: "cover.0.current_pos", value: "50",
			topic: "plug/rpc", payload: `"method":"Cover.GoToPosition","params":{"id":0,"pos":50},`, answerTo: "plug/weir/rpc", answer: `{"id":ID,"src":"s","dst":"plug/weir","error":{"code":-105,"message":"Argument 'id', value 0 not found!"}}`,
			fails: "the device says Argument 'id', value 0 not found! (-105)", form: codec.Numeric, options: "[]"},
		{name: "zigbee2mqtt", cfg: mqttdev.Config{Profile: "zigbee2mqtt", Base: "zigbee2mqtt/lamp"}, command: "brightness", value: "128",
			topic: "zigbee2mqtt/lamp/set", payload: `{"brightness":128}`, answerTo: "zigbee2mqtt/lamp", answer: `{"state":"ON","brightness":128.0}`, reply: "128.0", form: codec.Text, options: "[]"},
		{name: "one's own", cfg: mqttdev.Config{From: filter("farm/gate/state"), Format: "json", Commands: map[string]mqttdev.Command{"gate": {Topic: "farm/gate/do", Payload: "move {value}", Reply: ptr("position"), Options: []string{"open", "shut"}}}},
			command: "gate", value: "open", topic: "farm/gate/do", payload: "move open", answerTo: "farm/gate/state", answer: `{"position":"open"}`, reply: "open", form: codec.Choice, options: "[open shut]"},
		{name: "without an answer", cfg: mqttdev.Config{From: filter("farm/gate/state"), Format: "json", Commands: map[string]mqttdev.Command{"ring": {Topic: "farm/bell", Reply: ptr("")}}},
			command: "ring", value: "1", topic: "farm/bell", payload: "1", form: codec.Text, options: "[]"},
		{name: "out of bounds", cfg: mqttdev.Config{Profile: "zigbee2mqtt", Commands: map[string]mqttdev.Command{"position": {Min: ptr(0.0), Max: ptr(100.0)}}},
			command: "position", value: "101", fails: "101 is more than 100", form: codec.Numeric, options: "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBroker()
			if c.cfg.Commands == nil {
				c.cfg.Commands = map[string]mqttdev.Command{c.command: {}}
			}
			d, err := mqttdev.New("device", c.cfg, nil, nil, b.options())
			if err != nil {
				t.Fatal(err)
			}
			if s := d.Settings(); len(s) != 1 || s[0].Name != c.command || s[0].Form != c.form || fmt.Sprint(s[0].Options) != c.options {
				t.Errorf("settings %+v", s)
			}
			got := make(chan struct{})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			go func() { // the device
				defer close(got)
				if c.topic == "" {
					return
				}
				batch, err := b.hub.Reader(1, gateway.Filters{gateway.MustFilter(c.topic)}, gateway.Written).Next(ctx)
				if err != nil {
					return
				}
				e := batch.Events[0]
				if p := string(e.Payload); !strings.Contains(p, c.payload) || e.QoS != 1 || e.Retain || e.Origin != (gateway.Origin{Via: mqttdev.Via, ID: "device"}) {
					t.Errorf("got %s from %+v, want %s", p, e.Origin, c.payload)
				}
				id, _, _ := strings.Cut(strings.TrimPrefix(string(e.Payload), `{"id":`), ",")
				if c.answerTo != "" {
					b.say(c.answerTo, "?", false)
					b.say(c.answerTo, strings.ReplaceAll(c.answer, "ID", id), false)
				}
			}()
			reply, err := d.Write(ctx, c.command, c.value)
			<-got
			if reply != c.reply || (err != nil) != (c.fails != "") || err != nil && err.Error() != c.fails {
				t.Errorf("reply %q, error %v", reply, err)
			}
			if _, err := d.Write(ctx, "nothing", "1"); !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("a command that is not there: %v", err)
			}
		})
	}
}

// A device that does not take a command, and one that says something else.
func TestCommandsThatFail(t *testing.T) {
	b := newBroker()
	d, err := mqttdev.New("heater", mqttdev.Config{Profile: "tasmota", Commands: map[string]mqttdev.Command{"power": {}}}, nil, nil, b.options())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := d.Write(ctx, "power", "ON")
		done <- err
	}()
	r := b.hub.Reader(1, gateway.Filters{gateway.MustFilter("cmnd/#")}, gateway.Written)
	if _, err := r.Next(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, gateway.ErrTransient) || !strings.Contains(err.Error(), "the device has not said that power is ON") {
		t.Error(err)
	}
}

func ptr[T any](v T) *T { return &v }
