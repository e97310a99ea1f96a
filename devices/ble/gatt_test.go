package ble

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/firmware-sim/hci"
	"github.com/weir-iot/weir/gateway"
)

// station is a weather station that is a heart rate strap, too.
type station struct {
	*hci.Peripheral
	rate, note *hci.Characteristic
}

func newStation() *station {
	s := &station{
		rate: &hci.Characteristic{UUID: 0x2a37, Properties: 0x10, Value: []byte{0x16, 60, 0, 4}},
		note: &hci.Characteristic{UUID: 0xff01, Properties: 0x0a, Value: []byte{1}},
	}
	chars := func(list ...*hci.Characteristic) []*hci.Characteristic { return list }
	s.Peripheral = &hci.Peripheral{
		Addr: strap, Random: true, RSSI: -60, Every: 20 * time.Millisecond, Data: []byte{2, 1, 6}, Response: hci.Name("station"),
		Services: []hci.Service{
			{UUID: 0x180f, Characteristics: chars(&hci.Characteristic{UUID: 0x2a19, Properties: 2, Value: []byte{87}})},
			{UUID: 0x180a, Characteristics: chars(
				&hci.Characteristic{UUID: 0x2a29, Properties: 2, Value: []byte("Weather & Sons, a maker with a name that is longer than a packet")},
				&hci.Characteristic{UUID: 0x2a24, Properties: 2, Value: []byte("WS-1\x00")})},
			{UUID: 0x181a, Characteristics: chars(
				&hci.Characteristic{UUID: 0x2a6e, Properties: 2, Value: []byte{0x66, 0x08}},
				&hci.Characteristic{UUID: 0x2a6e, Properties: 2, Value: []byte{0x9c, 0xff}},
				&hci.Characteristic{UUID: 0x2a6f, Properties: 2, Value: []byte{0xff, 0xff}},
				&hci.Characteristic{UUID: 0x2a6d, Properties: 2, Value: []byte{0x12, 0x76, 0x0f, 0}})},
			{UUID: 0x180d, Characteristics: chars(s.rate, &hci.Characteristic{UUID: 0x2a38, Properties: 2, Value: []byte{1}}, &hci.Characteristic{UUID: 0x2a39, Properties: 8})},
			{UUID: 0xff00, Characteristics: chars(s.note)},
		},
	}
	return s
}

// TestStation: connect, discover, read, be told and write, through the radio's process, and the kernel where there is one.
func TestStation(t *testing.T) {
	t.Parallel()
	r := newRig(t, AirConfig{})
	s := newStation()
	r.ctl.Add(s.Peripheral)
	// A public address before a random one, and the other way round, must not matter.
	r.ctl.Add(&hci.Peripheral{Addr: thermometer, RSSI: -50, Every: 20 * time.Millisecond, Data: hci.BTHome(1, 21.5), Services: s.Services})
	names := func(list ...string) (out []Attribute) {
		for _, name := range list {
			out = append(out, Attribute{UUID: name})
		}
		return out
	}
	d, err := New(Config{Address: strap.String(), GATT: &GATTConfig{
		Read:   append(names("battery", "manufacturer", "model", "temperature", "humidity", "pressure", "body_sensor_location"), Attribute{UUID: "ff01", Fields: []adv.Field{{Name: "level", Unit: "m", Scale: 0.1}}}),
		Notify: names("heart_rate"),
		Write:  append(names("heart_rate_control"), Attribute{UUID: "ff01", Name: "level", Fields: []adv.Field{{Name: "level", Scale: 0.1}}}),
	}}, r.air, 0)
	if err != nil {
		t.Fatal(err)
	}
	once, err := New(Config{Address: thermometer.String(), Decoder: "bthome", GATT: &GATTConfig{Read: names("battery"), Interval: time.Second}}, r.air, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []codec.Setting{{Name: "heart_rate_control", Form: codec.Choice, Options: []string{"reset"}}, {Name: "level", Form: codec.Numeric, Step: 0.1}}
	low, high := 0.0, 25.5
	want[1].Min, want[1].Max = &low, &high
	if got := d.Settings(); !reflect.DeepEqual(got, want) || once.Settings() != nil {
		t.Errorf("it can be set: %+v", got)
	}
	lines, again := r.drive(d), r.drive(once)
	lines.await("")
	lines.await("battery=87 manufacturer=Weather & Sons, a maker with a name that is longer than a packet model=WS-1 " +
		"temperature=21.50 temperature_2=-1.00 pressure=1013.266 body_sensor_location=chest level=0.1")
	lines.await("heart_rate=60 sensor_contact=true rr_interval=1.000")
	r.ctl.Change(func() { s.rate.Value = []byte{0x01, 0x2c, 0x01} })
	lines.await("heart_rate=300")
	again.await("temperature=21.50")
	for range 3 { // while the other is connected
		again.await("battery=87")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if reply, err := d.Write(ctx, "level", "0.7"); err != nil || reply != "0.7" {
		t.Errorf("%q, %v", reply, err)
	}
	if reply, err := d.Write(ctx, "heart_rate_control", "reset"); err != nil || reply != "" {
		t.Errorf("%q, %v", reply, err)
	}
	for name, want := range map[string]error{"battery": gateway.ErrDenied, "heart_rate_control": gateway.ErrInvalid, "level": gateway.ErrInvalid, "x": gateway.ErrInvalid} {
		if _, err := d.Write(ctx, name, "full"); !errors.Is(err, want) {
			t.Errorf("write %s: %v", name, err)
		}
	}
	if _, err := once.Write(ctx, "battery", "1"); !errors.Is(err, gateway.ErrDenied) {
		t.Error(err)
	}
	// It goes and comes back.
	r.ctl.Remove(s.Peripheral)
	lines.await("! unreachable")
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := d.Write(ctx, "level", "0.8"); err == nil {
		t.Error("written to a device that is gone")
	}
}

// TestCallsEnd: every call through the process ends within its deadline and a second more, whatever it hangs at.
func TestCallsEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, AirConfig{})
	s := newStation()
	r.ctl.Add(s.Peripheral)
	r.keep()
	r.hears()
	within := func(what string, do func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := do(ctx); err == nil {
			t.Errorf("%s worked", what)
		} else if took := time.Since(began); took > 1300*time.Millisecond {
			t.Errorf("%s took %v", what, took)
		}
	}
	connect := func() Peer {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		p, err := r.radio.Connect(ctx, strap, adv.Random)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	r.ctl.Change(func() { s.Unreachable = true })
	within("connect", func(ctx context.Context) error { _, err := r.radio.Connect(ctx, strap, adv.Random); return err })
	r.hears() // it scans on
	r.ctl.Change(func() { s.Unreachable = false })
	p := connect()
	list, err := p.Discover(t.Context())
	if err != nil || len(list) != 11 {
		t.Fatalf("%d, %v", len(list), err)
	}
	p.Close()
	calls := map[string]func(ctx context.Context, p Peer) error{
		"discover":  func(ctx context.Context, p Peer) error { _, err := p.Discover(ctx); return err },
		"read":      func(ctx context.Context, p Peer) error { _, err := p.Read(ctx, list[0]); return err },
		"write":     func(ctx context.Context, p Peer) error { return p.Write(ctx, list[10], []byte{1}) },
		"subscribe": func(ctx context.Context, p Peer) error { return p.Subscribe(ctx, list[7]) },
	}
	for what, do := range calls {
		r.ctl.Change(func() { s.Silent = false })
		p := connect()
		r.ctl.Change(func() { s.Silent = true })
		within(what, func(ctx context.Context) error { return do(ctx, p) })
		p.Close()
		eventually(t, "still connected", func() bool { return r.ctl.Connections() == 0 })
	}
	r.ctl.Change(func() { s.Silent = false })
	p = connect()
	r.ctl.Mute() // now the controller itself hangs, and later its process is ended for it
	for what, do := range calls {
		within(what, func(ctx context.Context) error { return do(ctx, p) })
	}
	within("connect", func(ctx context.Context) error { _, err := r.radio.Connect(ctx, strap, adv.Random); return err })
	<-p.Gone()
	if p.Err() == nil {
		t.Error("gone without a reason")
	}
}

// lines is what a driver emits, as text.
type lines struct {
	t   *testing.T
	out chan string
}

// await waits for a frame; others may come before.
func (l *lines) await(want string) {
	l.t.Helper()
	limit := time.After(30 * time.Second)
	var got []string
	for {
		select {
		case line := <-l.out:
			if line == want {
				return
			}
			got = append(got, line)
		case <-limit:
			l.t.Fatalf("got %q, want %q", got[max(0, len(got)-5):], want)
		}
	}
}

// drive runs a driver as the supervisor does, until the test ends.
func (r *rig) drive(d *Driver) *lines {
	l := &lines{r.t, make(chan string, 10_000)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			err := d.Run(ctx, func(f codec.Frame) {
				var parts []string
				if f.Garbage != "" {
					parts = append(parts, "! "+f.Garbage)
					r.t.Logf("%s: %s", f.Garbage, f.Raw)
				}
				for _, v := range f.Readings {
					parts = append(parts, v.Name+"="+v.Value)
				}
				l.out <- strings.Join(parts, " ")
			})
			if ctx.Err() == nil {
				r.t.Logf("ended: %v", err)
			}
		}
	})
	r.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return l
}

// A device that cannot be connected to is down at once if nothing else was heard of it, else after some attempts, and says why.
func TestUnreachable(t *testing.T) {
	for _, said := range []bool{false, true} {
		radio := newFake()
		air, err := NewAir("hci0", AirConfig{}, radio)
		if err != nil {
			t.Fatal(err)
		}
		d, err := New(Config{Address: thermometer.String(), GATT: &GATTConfig{Read: []Attribute{{UUID: "battery"}}}}, air, 0)
		if err != nil {
			t.Fatal(err)
		}
		if said {
			d.gatt.failed = maxFailed - 1
		}
		ctx, cancel := context.WithCancel(t.Context())
		var sending sync.WaitGroup
		sending.Go(func() {
			data := []byte{2, 1, 6}
			if said {
				data = hci.BTHome(1, 20)
			}
			for {
				select {
				case radio.reports <- report(thermometer, data):
				case <-ctx.Done():
					return
				}
			}
		})
		var got []string
		err = d.Run(ctx, func(f codec.Frame) {
			if f.Garbage != "" {
				got = append(got, f.Garbage+": "+string(f.Raw))
			}
		})
		cancel()
		sending.Wait()
		if err == nil || err.Error() != "the device does not answer" {
			t.Errorf("%v", err)
		}
		want := map[bool][]string{true: {Unreachable + ": the device does not answer"}}[said]
		if !slices.Equal(got, want) {
			t.Errorf("emitted %q, want %q", got, want)
		}
		least := map[bool]time.Duration{false: firstVisit, true: 4 * firstVisit}[said]
		if wait := time.Until(d.gatt.next); wait < least-2*time.Second || wait > least {
			t.Errorf("the next visit is in %v", wait)
		}
	}
}

func TestHeartRate(t *testing.T) {
	for in, want := range map[string]string{
		"\x00\x48":                             "heart_rate=72",
		"\x06\x48":                             "heart_rate=72 sensor_contact=true",
		"\x04\x48":                             "heart_rate=72 sensor_contact=false",
		"\x01\x48\x01":                         "heart_rate=328",
		"\x19\x48\x00\x0a\x00\x00\x02\x00\x03": "heart_rate=72 energy_expended=10 rr_interval=0.750",
		"":                                     "!", "\x00": "!", "\x01\x48": "!", "\x08\x48\x01": "!", "\x10\x48\x01": "heart_rate=72",
	} {
		list, err := heartRate([]byte(in))
		var parts []string
		for _, v := range list {
			parts = append(parts, v.Name+"="+v.Value)
		}
		if err != nil {
			parts = []string{"!"}
		}
		if got := strings.Join(parts, " "); got != want {
			t.Errorf("%x: %q, want %q", in, got, want)
		}
	}
}
