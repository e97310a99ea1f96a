package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

var quiet = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sections loads a configuration file that holds text under "devices:".
func sections(t *testing.T, text string) map[string]config.Section {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte("devices:\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return c.Devices
}

func TestConfigErrorsHaveTheirPlace(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"  scale: {}", `2:3: scale has no driver`},
		{"  scale: {driver: serail}", `2:19: there is no driver "serail", did you mean "serial"?`},
		{"  scale: {driver: serial, format: json}", `2:3: port: missing; it is a path such as /dev/serial/by-id/… or usb:VID:PID`},
		{"  scale: {driver: serial, port: /dev/a}", `2:3: format: missing; it is one of json, key=value, {csv: [name, …]}, {regex: '…'}, `},
		{"  scale: {driver: serial, port: /dev/a, protocol: nmea}", `2:51: protocol: "nmea" is none of dsmr_p1, nmea0183, `},
		{"  scale: {driver: serial, port: /dev/a, format: raw, framing: {cobs: {crc: arx}}}", `2:76: framing.cobs.crc: "arx" is none of `},
		{"  scale: {driver: serial, port: /dev/a, framing: cobs, format: {fields: {a.t: {offset: 0, type: int17}}}}", `2:97: format.fields.a.t.type: "int17" is none of `},
		{"  scale: {driver: serial, port: /dev/a, format: json, bawd: 1}", `2:55: unknown key "bawd", did you mean "baud"?`},
		{"  scale: {driver: serial, port: /dev/a, format: json, baud: x}", `2:61: expected a whole number, found "x"`},
		{"  scale: {driver: serial, port: /dev/a, format: json, stop_bits: 3}", `2:66: stop_bits: 3 is neither 1 nor 2`},
		{"  scale: {driver: serial, port: /dev/a, format: {regex: '(.)'}}", `2:57: format.regex: regex has no named group, such as (?P<weight>[0-9.]+)`},
		{"  scale: {driver: serial, port: /dev/a, format: {csv: [a]}, measurements: {b: {unit: kg}}}", `2:79: measurements.b: the format has no measurement "b"; it has a`},
		{"  scale: {driver: serial, port: /dev/a, format: json, topic: '{site}/{devcie}'}", `2:62: a topic has no field {devcie}, did you mean "device"?`},
		{"  scale: {driver: serial, port: /dev/a, format: json, topic: '{site}/{device'}", `2:62: topic "{site}/{device" has a { without a }`},
		{"  scale: {driver: serial, port: /dev/a, format: json, topic: 'a}/b'}", `2:62: topic "a}/b" has a } without a {`},
		{"  scale: {driver: serial, port: /dev/a, format: json, topic: 'a/+/{measurement}'}", `2:62: topic "a/+/measurement": '+' is a wildcard`},
		{"  scale: {driver: serial, port: /dev/a, format: json, topic: '$SYS/{measurement}'}", `2:62: topic "$SYS/{measurement}" begins with $, which is for the gateway itself`},
		{"  scale: {driver: serial, port: /dev/a, format: json, name: a/b, topic: '{name}'}", `name "a/b" cannot be part of a topic; "a_b" can`},
		{"  scale: {driver: serial, port: /dev/a, format: json, topic: '{area}/{measurement}'}", `the topic has {area} in it, and the device has no area`},
		{"  scale: {driver: serial, port: /dev/a, format: json, area: a+b, topic: '{area}'}", `area "a+b" cannot be part of a topic; "a_b" can`},
		{"  scale: {driver: serial, port: /dev/a, format: json, expire_after: -1s}", `-1s`},
		{"  scale: {driver: serial, port: /dev/a, format: json, measurements: {a: {kind: tempreature}}}", `2:80: measurements.a.kind: there is no kind "tempreature", did you mean "temperature"?`},
		{"  scale: {driver: serial, port: /dev/a, format: json, measurements: {a: {unit: kg, kind: temperature}}}", `measurements.a.kind: temperature cannot be in kg; its units are °C, °F, K`},
		{"  scale: {driver: serial, port: /dev/a, format: json, measurements: {a: {kind: voltage}}}", `measurements.a.kind: voltage cannot be in no unit; its units are V, mV, `},
		{"  scale: {driver: serial, port: /dev/a, format: json, measurements: {a: {unit: kg, kind: count}}}", `measurements.a.kind: count cannot be in kg; its units are none`},
		{"  scale: {driver: serial, port: /dev/a, format: {csv: [a, status]}}", `measurement "status" would be on s/scale/status, where it stands whether the device is online`},
	} {
		_, err := New(Options{Sections: sections(t, c.text), Site: "s"})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "weir.yaml:2:") {
			t.Errorf("%s\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
	_, err := New(Options{Sections: sections(t, "  a: {}\n  b: {}")})
	if err == nil || !strings.Contains(err.Error(), ":2:3:") || !strings.Contains(err.Error(), ":3:3:") {
		t.Errorf("not every mistake is told: %v", err)
	}
}

func TestBusesAndModbusDevices(t *testing.T) {
	load := func(text string) ([]Status, error) {
		dir := t.TempDir()
		file := filepath.Join(dir, "weir.yaml")
		csv := "name,holding,unit\nflow,7,m³/h\n"
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "map.csv"), []byte(csv), 0o600)); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(file)
		if err != nil {
			return nil, err
		}
		s, err := New(Options{Sections: c.Devices, Buses: c.Buses, Site: "s"})
		if err != nil {
			return nil, err
		}
		return s.Status(), nil
	}
	const bus = "buses: {rs485: {port: /dev/a}}\ndevices:\n  meter: {driver: modbus, unit_id: 3, "
	status, err := load(bus + "bus: rs485, registers: {power: {input: 52, unit: W}, level: {coil: 1}}, registers_file: map.csv, measurements: {level: {unit: x}}}")
	if err != nil {
		t.Fatal(err)
	}
	want := []Measurement{measured("flow", "s/meter/flow", "m³/h"), measured("level", "s/meter/level", "x"), measured("power", "s/meter/power", "W")}
	if !reflect.DeepEqual(status[0].Measurements, want) {
		t.Errorf("%+v", status[0].Measurements)
	}
	for text, want := range map[string]string{
		bus + "registers: {x: {coil: 0}}}":                                              "weir.yaml:3:3: bus: missing; it is one of those under buses",
		bus + "bus: rs458, registers: {x: {coil: 0}}}":                                  `weir.yaml:3:44: bus: there is no bus "rs458", did you mean "rs485"?`,
		bus + "bus: rs485, registers: {x: {coil: 0, tyep: bool}}}":                      `unknown key "tyep", did you mean "type"?`,
		bus + "bus: rs485, registers: {x: {holding: 40053}}}":                           "weir.yaml:3:76: registers.x.holding: 40053 can mean holding register 40053 (address 52) or",
		bus + "bus: rs485, registers: {x: {register: 50053}}}":                          "weir.yaml:3:77: \"50053\" is no register number",
		bus + "bus: rs485, registers: {x: {coil: 0}}, measurements: {y: {unit: W}}}":    `measurements.y: there is no register "y"`,
		bus + "bus: rs485, registers_file: none.csv}":                                   "weir.yaml:3:67: registers_file: open ",
		"buses: {rs485: {port: /dev/a, boud: 1}}":                                       `weir.yaml:1:31: unknown key "boud", did you mean "baud"?`,
		"buses: {rs485: {address: plc, framing: x}}":                                    `weir.yaml:1:40: framing: "x" is neither tcp nor rtu`,
		"buses: {rs485: {}}\ndevices: {m: {driver: modbus, bus: rs485, sunspec: true}}": "weir.yaml:1:9: port: missing; a bus has a port",
	} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
		}
	}
}

func TestTopics(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "plant1/scale/weight",
		"{measurement}":                   "weight",
		"x/{name}/{device}-{measurement}": "x/Packing scale/scale-weight",
		"{site}/{area}/{measurement}":     "plant1/hall 3/weight",
		"fixed":                           "fixed",
	} {
		if text == "" {
			text = defaultTopic
		}
		tmpl, err := newTemplate(text, "plant1", "scale", "Packing scale", "hall 3")
		if err != nil {
			t.Fatal(err)
		}
		if got := tmpl.topic("weight"); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// measured is a measurement of whose kind the configuration says nothing.
func measured(name, topic, unit string) Measurement {
	return Measurement{name, topic, unit, codec.KindOf(name, unit)}
}

// journal keeps what was ingested: readings, and apart from them what was retained.
type journal struct {
	mu       sync.Mutex
	events   []*gateway.Event
	retained []*gateway.Event
	more     chan struct{}
}

func newJournal() *journal { return &journal{more: make(chan struct{}, 1000)} }

func (j *journal) Ingest(ctx context.Context, e *gateway.Event, done func(error)) error {
	if e.Retain {
		j.mu.Lock()
		j.retained = append(j.retained, e)
		j.mu.Unlock()
		if done != nil {
			done(nil)
		}
		return nil
	}
	if done != nil {
		return errors.New("somebody waits for a reading")
	}
	j.mu.Lock()
	j.events = append(j.events, e)
	j.mu.Unlock()
	j.more <- struct{}{}
	return nil
}

func (j *journal) next(t *testing.T, n int) *gateway.Event {
	t.Helper()
	select {
	case <-j.more:
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.events[n]
}

// From a line on a terminal to the event, and on after the adapter was pulled and plugged in
// again under another number.
func TestFromTheWireToTheEvent(t *testing.T) {
	link := filepath.Join(t.TempDir(), "usb-scale")
	p, err := pty.Open(link)
	if err != nil {
		t.Fatal(err)
	}
	j := newJournal()
	up := make(chan string, 100)
	s, err := New(Options{
		Sections: sections(t, fmt.Sprintf(`
  scale:
    driver: serial
    name: Packing scale
    port: %s
    format: {regex: '^(?P<weight>[-0-9.]+|nan) kg$'}
    measurements: {weight: {unit: kg}}
`, link)),
		Site: "plant1", Ingest: j.Ingest,
		Observer: gateway.Observer{DeviceState: func(device string, isUp bool, reason string) {
			up <- fmt.Sprintf("%s %t %s", device, isUp, reason)
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantState := func(want string) {
		t.Helper()
		select {
		case got := <-up:
			if !strings.HasPrefix(got, want) {
				t.Fatalf("state %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no state, want %q", want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	wantState("scale true")
	p.Write([]byte("\n12.340 kg\r\nboot\r\nnan kg\r\n"))
	if e := j.next(t, 0); e.Topic != "plant1/scale/weight" || string(e.Payload) != "12.340" || e.QoS != 0 ||
		e.Origin != (gateway.Origin{Via: "serial", ID: "scale"}) || e.Quality != gateway.Good ||
		!reflect.DeepEqual(e.UserProperties, []gateway.UserProperty{{Key: "unit", Value: "kg"}}) {
		t.Errorf("event %+v", e)
	}
	if e := j.next(t, 1); string(e.Payload) != "nan" || e.Quality != gateway.Bad {
		t.Errorf("event %+v", e)
	}
	st := s.Status()[0]
	if !st.Up || st.Frames != 2 || st.Garbage != 1 || st.LastGarbage != `malformed: "boot"` || st.Name != "Packing scale" ||
		!reflect.DeepEqual(st.Measurements, []Measurement{measured("weight", "plant1/scale/weight", "kg")}) {
		t.Errorf("status %+v", st)
	}

	p.Close()
	wantState("scale false port " + link + ": unplugged")
	wantState("scale false port " + link + ": not there")
	other, err := pty.Open("") // takes the number that is free now
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if p, err = pty.Open(link); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	plugged := time.Now()
	wantState("scale true")
	if took := time.Since(plugged); took > 3*time.Second {
		t.Errorf("found again after %v", took)
	}
	p.Write([]byte("\n1 kg\n"))
	if e := j.next(t, 2); string(e.Payload) != "1" {
		t.Errorf("event %+v", e)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if st := s.Status()[0]; st.Up || st.Reason != "stopped" {
		t.Errorf("status %+v", st)
	}
}

// driverFunc is a driver that is a function.
type driverFunc func(ctx context.Context, emit func(codec.Frame)) error

func (f driverFunc) Run(ctx context.Context, emit func(codec.Frame)) error { return f(ctx, emit) }

func fake(t *testing.T, d Driver, ingest Ingest) *device {
	t.Helper()
	tmpl, err := newTemplate(defaultTopic, "s", "d", "d", "")
	if err != nil {
		t.Fatal(err)
	}
	dev := &device{id: "d", site: "s", kind: "fake", driver: d, topic: tmpl, ingest: ingest,
		log: quiet, observe: gateway.Observer{}.OrNop()}
	dev.notices.ingest = ingest
	dev.state.status.Topic = statusTopic("s", "d")
	dev.state.measurements, dev.state.sure = map[string]Measurement{}, map[string]bool{}
	return dev
}

func reading(name, value string) codec.Frame {
	return codec.Frame{Readings: []codec.Reading{{Name: name, Value: value}}}
}

func TestStartsAgainWithAGrowingWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begin := time.Now()
		n := 0
		d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
			at = append(at, time.Since(begin))
			if n++; n == 8 {
				emit(reading("x", "1")) // it works again: the next wait is short
			}
			if n%2 == 0 {
				panic("boom")
			}
			return errors.New("no")
		}), newJournal().Ingest)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		d.run(ctx)
		for i := 1; i < len(at); i++ {
			wait := at[i] - at[i-1]
			want := min(firstWait<<(i-1), lastWait)
			if i >= 8 {
				want = min(firstWait<<(i-8), lastWait)
			}
			if wait < want*8/10 || wait > want*12/10 {
				t.Errorf("wait %d is %v, want %v and up to a fifth", i, wait, want)
			}
			if wait >= 3*time.Second {
				t.Errorf("wait of %v", wait)
			}
		}
		if len(at) < 30 {
			t.Errorf("%d starts in a minute", len(at))
		}
	})
}

func TestSilentDeviceIsDownUntilItSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		speak := make(chan struct{})
		d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
			emit(codec.Frame{})
			for {
				select {
				case <-speak:
					emit(reading("x", "1"))
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}), newJournal().Ingest)
		d.common.ExpireAfter = time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { d.run(ctx) })
		wait := func(t time.Duration) { time.Sleep(t); synctest.Wait() }

		for range 10 { // slow, but not silent
			wait(50 * time.Second)
			speak <- struct{}{}
		}
		wait(0)
		if st := d.state.snapshot(); !st.Up || st.Starts != 1 || st.Frames != 10 {
			t.Errorf("a slow device: %+v", st)
		}
		wait(70 * time.Second) // started again, and its port opens, but it does not speak
		if st := d.state.snapshot(); st.Up || st.Reason != "silent for 1m0s" || st.Starts != 2 {
			t.Errorf("a silent device: %+v", st)
		}
		speak <- struct{}{}
		wait(0)
		if st := d.state.snapshot(); !st.Up {
			t.Errorf("it spoke again: %+v", st)
		}
		cancel()
		running.Wait()
	})
}

func TestNoiseDoesNotMakeTopicsWithoutEnd(t *testing.T) {
	j := newJournal()
	d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
		for i := range maxMeasurements + 10 {
			emit(reading(fmt.Sprint("n", i), "1"))
		}
		return errors.New("end")
	}), j.Ingest)
	d.once(t.Context(), "")
	if st := d.state.snapshot(); len(j.events) != maxMeasurements || st.Garbage != 10 || len(st.Measurements) != maxMeasurements {
		t.Errorf("%d events, %+v", len(j.events), st)
	}
}

// What the device itself says of a value, its unit and its time, is on the event, and the unit
// on the status too, though the name was known before it.
func TestUnitAndTimeAreTheDevices(t *testing.T) {
	j := newJournal()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
		emit(codec.Frame{Readings: []codec.Reading{{Name: "gas", Value: "1.5", Unit: "m³", Source: at}, {Name: "power", Value: "2"}}})
		return errors.New("end")
	}), j.Ingest)
	d.state.measurements["gas"] = measured("gas", "s/d/gas", "")
	d.once(t.Context(), "")
	if e := j.events[0]; !e.Source.Equal(at) || !reflect.DeepEqual(e.UserProperties, []gateway.UserProperty{{Key: "unit", Value: "m³"}}) {
		t.Errorf("event %+v", e)
	}
	if e := j.events[1]; !e.Source.IsZero() || e.UserProperties != nil {
		t.Errorf("event %+v", e)
	}
	want := []Measurement{measured("gas", "s/d/gas", "m³"), measured("power", "s/d/power", "")}
	if got := d.state.snapshot().Measurements; !reflect.DeepEqual(got, want) {
		t.Errorf("measurements %v", got)
	}
}

func TestRefusedReadingsAreCounted(t *testing.T) {
	d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
		emit(reading("x", "1"))
		emit(reading("x", "2"))
		return errors.New("end")
	}), func(context.Context, *gateway.Event, func(error)) error { return gateway.ErrFull })
	_, err := d.once(t.Context(), "")
	if st := d.state.snapshot(); st.Refused != 2 || err.Error() != "end" {
		t.Errorf("%v, %+v", err, st)
	}
}

// A journal that takes nothing holds a driver up, not the stop.
func TestStopWhileTheJournalIsBusy(t *testing.T) {
	entered := make(chan struct{})
	d := fake(t, driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
		emit(reading("x", "1"))
		return ctx.Err()
	}), func(ctx context.Context, e *gateway.Event, _ func(error)) error {
		if e.Retain { // the status
			return nil
		}
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { d.run(ctx) })
	<-entered
	cancel()
	running.Wait()
}
