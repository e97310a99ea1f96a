package ble

import (
	"context"
	"errors"
	"fmt"
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

// ear runs drivers on a fake radio and writes down what they emit.
type ear struct {
	t     *testing.T
	air   *Air
	radio *fakeRadio
	out   chan string
	start []func() // the drivers; all are made before any runs
}

func newEar(t *testing.T, cfg AirConfig) *ear {
	t.Helper()
	e := &ear{t: t, radio: newFake(), out: make(chan string, 1000)}
	var err error
	if e.air, err = NewAir("hci0", cfg, e.radio); err != nil {
		t.Fatal(err)
	}
	return e
}

// device makes a driver, which runs from the first advertisement on until the test ends.
func (e *ear) device(name string, cfg Config) *Driver {
	e.t.Helper()
	d, err := New(cfg, e.air, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	e.start = append(e.start, func() { e.run(name, d) })
	return d
}

// hear has the radio hear a report.
func (e *ear) hear(r adv.Report) {
	e.t.Helper()
	for _, run := range e.start {
		run()
	}
	if n := len(e.start); n > 0 {
		eventually(e.t, "not all listen", func() bool {
			e.air.mu.Lock()
			defer e.air.mu.Unlock()
			return len(e.air.listeners) >= n
		})
	}
	e.start = nil
	e.radio.reports <- r
}

func (e *ear) run(name string, d *Driver) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		err := d.Run(ctx, func(f codec.Frame) {
			line := name
			if f.Garbage != "" {
				line += " ! " + f.Garbage
			}
			for _, v := range f.Readings {
				line += " " + v.Name + "=" + v.Value
			}
			e.out <- line
		})
		if ctx.Err() == nil {
			e.out <- name + " ended: " + err.Error()
		}
	})
	e.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// hears has the radio hear reports and waits for what comes of it, in any order.
func (e *ear) hears(reports []adv.Report, want ...string) {
	e.t.Helper()
	for _, r := range reports {
		e.hear(r)
	}
	// What comes after is not before: a last one, that everybody understands.
	e.hear(report(adv.Addr{0xff}, nil))
	var got []string
	for len(got) < len(want) {
		select {
		case line := <-e.out:
			got = append(got, line)
		case <-time.After(10 * time.Second):
			e.t.Fatalf("got %q, want %q", got, want)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		e.t.Fatalf("got %q, want %q", got, want)
	}
	select {
	case line := <-e.out:
		e.t.Fatalf("got %q, too", line)
	case <-time.After(20 * time.Millisecond): // nothing must come
	}
}

func one(r adv.Report) []adv.Report { return []adv.Report{r} }

func TestDriver(t *testing.T) {
	e := newEar(t, AirConfig{})
	e.device("a", Config{Address: thermometer.String(), Decoder: "pvvx", Signal: true})
	b := e.device("b", Config{Address: other.String()})
	if names := b.Names(); len(names) != 0 {
		t.Error(names)
	}
	pvvx := func(counter byte, temperature float64) adv.Report {
		return report(thermometer, hci.PVVX(thermometer, counter, temperature, 40))
	}
	values := " temperature=21.50 humidity=40.00 voltage=2.900 battery=87"
	full := e.first("a", pvvx(1, 21.5))
	if !strings.HasPrefix(full, "a temperature=21.50 humidity=40.00") || !strings.HasSuffix(full, " rssi=-60") {
		t.Errorf("%q; something like%s", full, values)
	}
	e.hears(one(pvvx(1, 21.5)))                          // the same packet
	e.hears(one(pvvx(2, 21.5)), full)                    // the same values, measured again
	e.hears(one(report(thermometer, hci.BTHome(1, 30)))) // not of the format
	e.hears(one(report(other, hci.BTHome(1, 30))), "b", "b temperature=30.00")
	e.hears([]adv.Report{report(other, hci.BTHome(1, 30)), report(other, hci.BTHome(2, 30.5))}, "b temperature=30.50")
	// Somebody else's advertisement, in which stands the address.
	e.hears(one(report(adv.Addr{0x42, 1, 2, 3, 4, 5}, hci.PVVX(thermometer, 9, 1, 1))), strings.NewReplacer("21.50", "1.00", "40.00", "1.00").Replace(full))
	// Broken, and of no format.
	e.hears(one(report(other, []byte{5, 0xff, 0x4c, 0, 2, 0x15})), "b ! malformed")
	e.hears(one(report(other, []byte{2, 1, 6})))
	e.radio.fail <- errors.New("pulled out")
	e.expect("a ended: adapter hci0: pulled out", "b ended: adapter hci0: pulled out")
	if s := e.air.Status(); s.Up || s.Reason != "pulled out" {
		t.Errorf("%+v", s)
	}
}

// first is what comes of the first advertisement of a device.
func (e *ear) first(name string, r adv.Report) string {
	e.t.Helper()
	e.hear(r)
	if line := e.line(); line != name {
		e.t.Fatalf("the first frame is %q", line)
	}
	return e.line()
}

func (e *ear) line() string {
	e.t.Helper()
	select {
	case line := <-e.out:
		return line
	case <-time.After(10 * time.Second):
		e.t.Fatal("nothing came")
		return ""
	}
}

func (e *ear) expect(want ...string) {
	e.t.Helper()
	var got []string
	for range want {
		got = append(got, e.line())
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		e.t.Fatalf("got %q, want %q", got, want)
	}
}

func TestDedup(t *testing.T) {
	const window = 50 * time.Millisecond
	e := newEar(t, AirConfig{})
	e.device("a", Config{Address: thermometer.String(), Dedup: window})
	began := time.Now()
	e.first("a", report(thermometer, hci.BTHome(1, 20)))
	eventually(t, "the same is not told again", func() bool {
		e.hear(report(thermometer, hci.BTHome(1, 20)))
		return len(e.out) > 0
	})
	if took, line := time.Since(began), e.line(); took < window || line != "a temperature=20.00" {
		t.Errorf("%q, told again after %v; the window is %v", line, took, window)
	}
	if d, err := New(Config{Address: other.String()}, newEar(t, AirConfig{}).air, 10*time.Second); err != nil || d.dedup != 5*time.Second {
		t.Errorf("a device that expires after 10 s is told every %v, %v", d.dedup, err)
	}
}

// TestIdentity: a beacon whose address changes keeps its name by what it carries.
func TestIdentity(t *testing.T) {
	e := newEar(t, AirConfig{})
	uuid := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	e.device("keys", Config{ID: "iBeacon-0102030405060708090a0b0c0d0e0f10-7-9"})
	want := "keys uuid=0102030405060708090a0b0c0d0e0f10 major=7 minor=9 measured_power=-59"
	for i := range byte(3) {
		r := report(adv.Addr{0x40 | i, 1, 2, 3, 4, 5}, hci.IBeacon(uuid, 7, 9))
		r.AddrKind = adv.Random
		if i == 0 {
			if got := e.first("keys", r); got != want {
				t.Errorf("%q", got)
			}
			continue
		}
		e.hears(one(r))
	}
	e.hears(one(report(adv.Addr{1}, hci.IBeacon(uuid, 7, 10))))
}

func TestPresence(t *testing.T) {
	e := newEar(t, AirConfig{})
	d, err := New(Config{Address: thermometer.String(), Presence: time.Second}, e.air, 0)
	if err != nil {
		t.Fatal(err)
	}
	d.presence = 50 * time.Millisecond
	e.run("tag", d)
	e.expect("tag")                // the adapter is open
	e.expect("tag presence=false") // and the tag not near
	e.hear(report(thermometer, []byte{2, 1, 6}))
	e.expect("tag presence=true")
	e.expect("tag presence=false")
	e.hear(report(thermometer, []byte{2, 1, 6}))
	e.expect("tag presence=true")
	if names := d.Names(); !slices.Equal(names, []string{"presence"}) {
		t.Error(names)
	}
}

func TestKeys(t *testing.T) {
	const key = "231d39c1d7cc1ab1aee224cd096db932"
	e := newEar(t, AirConfig{})
	e.device("a", Config{Address: thermometer.String(), Key: key})
	e.device("b", Config{Address: other.String()})
	// What is not encrypted is not believed of a device with a key, also if it comes from elsewhere.
	e.hears(one(report(thermometer, hci.BTHome(1, 20))), "a", "a ! not encrypted")
	e.hears(one(report(adv.Addr{1}, hci.PVVX(thermometer, 1, 20, 40))), "a ! not encrypted")
	// Encrypted, and no key: the key of another device.
	sealed := []byte{14, 0x16, 0xd2, 0xfc, 0x41, 1, 2, 3, 0, 0, 0, 0, 5, 6, 7}
	e.hears(one(report(other, sealed)), "b", "b ! no key")
	e.hears(one(report(thermometer, sealed)), "a ! wrong key")
}

func TestLists(t *testing.T) {
	e := newEar(t, AirConfig{MinRSSI: -80, Allow: []string{"A4:C1:38"}, Deny: []string{other.String()}})
	e.device("a", Config{Address: thermometer.String()})
	e.device("b", Config{Address: other.String()})
	weak := report(thermometer, hci.BTHome(1, 20))
	weak.RSSI = -81
	e.hears([]adv.Report{weak, report(other, hci.BTHome(1, 20)), report(strap, hci.BTHome(1, 20))})
	e.first("a", report(thermometer, hci.BTHome(1, 20)))
	if s := e.air.Status(); s.Weak != 1 || s.Denied < 2 || s.Heard != 1 || len(s.Seen) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSeen: what is near and not configured is shown, and there is an end to it.
func TestSeen(t *testing.T) {
	e := newEar(t, AirConfig{Remember: 10})
	e.device("a", Config{Address: thermometer.String()})
	e.first("a", report(thermometer, hci.BTHome(1, 20)))
	e.hears(one(report(other, append(hci.BTHome(1, 23.5), hci.Name("shed")...))))
	stranger := func(i int) adv.Report {
		r := report(adv.Addr{0x50, 0, 0, 0, byte(i >> 8), byte(i)}, []byte{2, 1, 6})
		r.AddrKind = adv.Random
		return r
	}
	for i := range 1000 {
		e.hear(stranger(i))
	}
	e.hears(nil)
	s := e.air.Status()
	if len(s.Seen) != 10 {
		t.Fatalf("%d are remembered", len(s.Seen))
	}
	i := slices.IndexFunc(s.Seen, func(d Seen) bool { return d.ID == other.ID() })
	if i < 0 {
		t.Fatal("the one of a known format was forgotten for phones")
	}
	if d := s.Seen[i]; d.Format != "bthome_v2" || d.Name != "shed" || d.Address != other.String() || !slices.Equal(d.Readings, []string{"temperature=23.50 °C"}) {
		t.Errorf("%+v", d)
	}
	if !s.Seen[1].Private || s.Seen[1].Format != "" {
		t.Errorf("%+v", s.Seen[1])
	}
	// Those of known formats push out each other.
	for i := range 50 {
		e.hear(report(adv.Addr{1, byte(i)}, hci.BTHome(1, 20)))
	}
	for i := range 50 { // and phones push out none of them
		e.hear(stranger(i))
	}
	e.hears(nil)
	s = e.air.Status()
	if strangers := slices.ContainsFunc(s.Seen, func(d Seen) bool { return d.Format == "" }); len(s.Seen) != 10 || strangers {
		t.Errorf("%+v", s.Seen)
	}
}

// TestSlow: a device whose events are not taken in loses its oldest, and holds up nobody else.
func TestSlow(t *testing.T) {
	e := newEar(t, AirConfig{})
	d, err := New(Config{Address: thermometer.String()}, e.air, 0)
	if err != nil {
		t.Fatal(err)
	}
	e.device("b", Config{Address: other.String()})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	free := make(chan struct{})
	var last string
	running.Go(func() {
		d.Run(ctx, func(f codec.Frame) {
			<-free
			for _, v := range f.Readings {
				last = v.Value
			}
			if last == "40.00" {
				cancel()
			}
		})
	})
	for i := range 200 {
		e.hear(report(thermometer, hci.BTHome(byte(i), 20+float64(i)/10)))
	}
	e.first("b", report(other, hci.BTHome(1, 20)))
	e.hear(report(thermometer, hci.BTHome(250, 40)))
	close(free)
	running.Wait()
	if last != "40.00" {
		t.Errorf("the last is %q", last)
	}
}

func TestConfigErrors(t *testing.T) {
	air, err := NewAir("hci0", AirConfig{}, newFake())
	if err != nil {
		t.Fatal(err)
	}
	read := []Attribute{{UUID: "battery"}}
	for want, cfg := range map[string]Config{
		"address": {},
		"id":      {Address: "A4:C1:38:00:00:01", ID: "x"},
		"address: \"A4:C1\" is no device address, such as A4:C1:38:00:11:22": {Address: "A4:C1"},
		"decoder: there is no format \"pvx\"":                                {Address: "A4:C1:38:00:00:02", Decoder: "pvx"},
		"key":                                                                {Address: "A4:C1:38:00:00:03", Key: "12"},
		"presence":                                                           {Address: "A4:C1:38:00:00:04", Presence: time.Millisecond},
		"dedup":                                                              {Address: "A4:C1:38:00:00:05", Dedup: -1},
		"gatt.interval":                                                      {Address: "A4:C1:38:00:00:06", GATT: &GATTConfig{Read: read, Interval: 1}},
		"gatt.timeout":                                                       {Address: "A4:C1:38:00:00:07", GATT: &GATTConfig{Read: read, Timeout: time.Hour}},
		"gatt":                                                               {Address: "A4:C1:38:00:00:08", GATT: &GATTConfig{}},
		"gatt.read.0":                                                        {Address: "A4:C1:38:00:00:09", GATT: &GATTConfig{Read: []Attribute{{UUID: "batery"}}}},
		"gatt.write.1":                                                       {Address: "A4:C1:38:00:00:0b", GATT: &GATTConfig{Write: append(read, read...)}},
		"gatt.notify.0.fields.0.type": {Address: "A4:C1:38:00:00:0a", GATT: &GATTConfig{
			Notify: []Attribute{{UUID: "fff1", Fields: []adv.Field{{Name: "x", Type: "u7"}}}}}},
	} {
		_, err := New(cfg, air, 0)
		var key *gateway.KeyError
		if !errors.As(err, &key) || !strings.HasPrefix(fmt.Sprintf("%s: %v", key.Key, key.Err), want) {
			t.Errorf("%+v: %v, want %s", cfg, err, want)
		}
	}
	if _, err := New(Config{Address: thermometer.String()}, air, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Address: thermometer.String()}, air, 0); err == nil {
		t.Error("two devices have one address")
	}
	for want, cfg := range map[string]AirConfig{
		"min_rssi": {MinRSSI: 60}, "remember": {Remember: -1}, "allow.0": {Allow: []string{"phone"}}, "deny.1": {Deny: []string{"a4", ""}},
		"decoders.0.name": {Decoders: []adv.Table{{}}},
	} {
		_, err := NewAir("hci0", cfg, newFake())
		var key *gateway.KeyError
		if !errors.As(err, &key) || key.Key != want {
			t.Errorf("%+v: %v, want %s", cfg, err, want)
		}
	}
	for _, name := range []string{"", "hci", "hci-1", "hci01", "hci256", "eth0", "hci0x"} {
		if _, err := AdapterIndex(name); err == nil {
			t.Errorf("%q is an adapter", name)
		}
	}
}
