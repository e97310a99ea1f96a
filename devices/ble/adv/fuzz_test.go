package adv

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/firmware-sim/hci"
)

// seeds calls add with everything the vectors have on the air.
func seeds(f *testing.F, add func(r Report, event []byte)) {
	f.Helper()
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		f.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(file, &vectors); err != nil {
		f.Fatal(err)
	}
	for _, v := range vectors {
		event := unhex(f, v.Event)
		reports, _ := ParseEvent(event)
		switch {
		case len(reports) > 0:
			add(reports[0], event)
		case v.Data != "":
			uuid, err := ParseUUID(v.ServiceUUID)
			if err != nil {
				continue
			}
			add(Report{Addr: sensor, Data: structure(adService16, []byte{uuid[3], uuid[2]}, unhex(f, v.Data))}, nil)
		}
	}
}

// decent checks what must hold of results, whatever was heard.
func decent(t *testing.T, results []Result, err error) {
	t.Helper()
	if len(results) == 0 && err == nil {
		t.Fatal("neither a result nor an error")
	}
	for _, r := range results {
		if r.Format == "" || r.ID == "" || !utf8.ValidString(r.ID+r.Model) {
			t.Fatalf("%+v", r)
		}
		if len(r.Readings) > codec.MaxReadings+1300 { // an object of BTHome has two bytes at least
			t.Fatalf("%d readings", len(r.Readings))
		}
		for _, v := range r.Readings {
			if codec.CheckName(v.Name) != nil || v.Value == "" || strings.HasSuffix(v.Value, "Inf") || !utf8.ValidString(v.Value) || v.Value == "NaN" {
				t.Fatalf("%s: %+v", r.Format, v)
			}
		}
	}
}

func FuzzAdvertisement(f *testing.F) {
	for _, s := range []string{"0216d2", "0116", "020301", "03070102", "ff16", "00", "020106000000"} {
		f.Add(unhex(f, s), false)
	}
	seeds(f, func(r Report, _ []byte) { f.Add(r.Data, true) })
	f.Fuzz(func(t *testing.T, data []byte, keyed bool) {
		keys := map[Addr][]byte{}
		if keyed {
			keys[sensor] = unhex(t, bindKey)
		}
		d := decoder(t, keys)
		report := Report{Addr: sensor, TxPower: NoPower, Data: data}
		results, err := d.Decode(report)
		decent(t, results, err)
		again, _ := d.Decode(report) // the same packet says the same, replay protection or not
		if len(again) != len(results) {
			t.Fatalf("%d results, then %d", len(results), len(again))
		}
		structures, err := Structures(data)
		used := 0
		for _, s := range structures {
			used += 2 + len(s.Data)
		}
		if used > len(data) || err == nil && used < len(data) && data[used] != 0 {
			t.Fatalf("%d bytes of %d, %v", used, len(data), err)
		}
	})
}

func FuzzEvent(f *testing.F) {
	seeds(f, func(_ Report, event []byte) { f.Add(event) })
	f.Add(unhex(f, "3e190202"))
	f.Fuzz(func(t *testing.T, event []byte) {
		before := slices.Clone(event)
		reports, err := ParseEvent(event)
		total := 0
		d, a := decoder(t, nil), Assembler{}
		for _, r := range reports {
			total += len(r.Data) + 9
			if whole, ok := a.Add(r); ok {
				results, err := d.Decode(whole)
				decent(t, results, err)
			}
		}
		if total > len(event) {
			t.Fatalf("%d bytes of reports in %d, %v", total, len(event), err)
		}
		if !slices.Equal(before, event) {
			t.Fatal("the event changed")
		}
	})
}

// FuzzFormats gives each format what it asks for, so that the fuzzer gets past the door.
func FuzzFormats(f *testing.F) {
	doors := []func(data []byte) []byte{}
	for _, uuid := range []uint16{0xfcd2, 0x181c, 0x181e, 0xfe95, 0x181d, 0x181b, 0x181a, 0xfdcd, 0xfff9, 0xfeaa, 0xfd3d, 0x0d00, 0xfd50, 0x2a6e} {
		doors = append(doors, func(data []byte) []byte { return structure(adService16, []byte{byte(uuid), byte(uuid >> 8)}, data) })
	}
	for _, id := range []uint16{0x0499, 0x004c, 0xffff, 0x0757, 0x089a, 0x0133, 0x06d5, 0xec88, 0x0001, 0x8803, 0x0010, 0xaa55, 0x3254, 0x0118} {
		doors = append(doors, func(data []byte) []byte { return structure(adManufacturer, []byte{byte(id), byte(id >> 8)}, data) })
	}
	for _, name := range []string{"sps", "tps", "iBBQ", "MOCREO", "ST7", "TP357", "TP960", "GVH5106", "GV5140", "GVH5112", "ITH-13-B", "P RHT"} {
		doors = append(doors, func(data []byte) []byte {
			return slices.Concat(structure(adName, []byte(name)), structure(adManufacturer, data), structure(adService16, []byte{0x6f, 0x2a}, data))
		})
	}
	for _, uuid := range []uint16{0x8251, 0x8451, 0x9851, 0x5550, 0xaa20, 0xfff0} {
		doors = append(doors, func(data []byte) []byte {
			return slices.Concat(structure(adUUIDs16+1, []byte{byte(uuid), byte(uuid >> 8)}), structure(adManufacturer, data))
		})
	}
	sensorPush := structure(adUUIDs128+1, unhex(f, "b00a09ecd79db893ba42d611000009ef"))
	doors = append(doors,
		func(data []byte) []byte { return slices.Concat(sensorPush, structure(adManufacturer, data)) },
		func(data []byte) []byte { return structure(adUUIDs32+1, data) })
	seeds(f, func(r Report, _ []byte) {
		list, _ := Structures(r.Data)
		for _, s := range list {
			if s.Type == adService16 || s.Type == adManufacturer {
				f.Add(uint8(len(s.Data)%len(doors)), s.Data[2:])
			}
		}
	})
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		if len(data) > 200 {
			return
		}
		for _, addr := range []Addr{sensor, {0x66, 0x55, 0x44, 0x33, 0x22, 0x11}} {
			r := Report{Addr: addr, TxPower: NoPower, Data: doors[int(which)%len(doors)](data)}
			results, err := decoder(t, nil).Decode(r)
			decent(t, results, err)
		}
	})
}

// FuzzOpen gives the formats that encrypt packets that open, with anything inside.
func FuzzOpen(f *testing.F) {
	f.Add(uint8(0), unhex(f, "02ca0903bf13"))
	f.Add(uint8(1), unhex(f, "0a100163"))
	f.Add(uint8(2), unhex(f, "0a100163"))
	f.Add(uint8(0), unhex(f, "5400530100")) // raw bytes and a text that are empty
	f.Fuzz(func(t *testing.T, which uint8, plain []byte) {
		if len(plain) > 200 {
			return
		}
		key, count := unhex(t, bindKey), []byte{1, 2, 3, 4}
		var r Report
		switch which % 4 {
		case 0:
			sealed := seal(t, key, slices.Concat(sensor[:], []byte{0xd2, 0xfc, 0x41}, count), plain, nil, 4)
			r = heard(0xfcd2, []byte{0x41}, sealed[:len(plain)], count, sealed[len(plain):])
		case 1:
			sealed := seal(t, key, slices.Concat(sensor[:], []byte{0x1e, 0x18}, count), plain, []byte{0x11}, 4)
			r = heard(0x181e, sealed[:len(plain)], count, sealed[len(plain):])
		case 2:
			head := []byte{0x48, 0x58, 0x5b, 0x05, 1}
			sealed := seal(t, key, slices.Concat(sensor.reversed(), head[2:], count[1:]), plain, []byte{0x11}, 4)
			r = heard(0xfe95, head, sealed[:len(plain)], count[1:], sealed[len(plain):])
		case 3: // every lock, remote and scale
			r = heard(0xfe95, []byte{0x40, 0x50}, plain)
			results, err := decoder(t, nil).Decode(r)
			decent(t, results, err)
			return
		}
		results, err := decoder(t, map[Addr][]byte{sensor: key}).Decode(r)
		decent(t, results, err)
		if len(results) > 1 || len(results) == 1 && len(results[0].Readings) > 0 && !results[0].Encrypted {
			t.Fatalf("%+v, %v", results, err)
		}
	})
}

// FuzzTable gives the parser any file, and what it accepts any packet.
func FuzzTable(f *testing.F) {
	f.Add(pond, unhex(f, "02f6ff1388ff425345beef414243"))
	f.Add("decoders: [{name: x, match: {service: fcd2}, fields: [{name: a, type: s64le, mask: 0x8000000000000000, quotient: 3, remainder: 2}]}]", []byte("12345678"))
	f.Add("decoders: [{name: x, match: {manufacturer: true, bytes: [{at: -1, is: [1]}]}, fields: [{name: a, at: -4, type: f32be, scale: 1e300, div: 1e-300}]}]", []byte("12345678"))
	f.Fuzz(func(t *testing.T, text string, data []byte) {
		tables, err := read(t, text)
		if err != nil {
			return
		}
		d, err := New(nil, tables)
		if err != nil || len(data) > 200 {
			return
		}
		for _, r := range []Report{heard(0xfcd2, data), made(0x0a5b, data)} {
			results, err := d.Decode(r)
			decent(t, results, err)
		}
	})
}

// A gateway in a busy street hears some thousand advertisements a second.
func BenchmarkDecode(b *testing.B) {
	d := decoder(b, nil)
	r := heard(0xfcd2, unhex(b, "400009015d025d0903b718"))
	b.Run("bthome", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d.Decode(r)
		}
	})
	stranger := made(0x004c, unhex(b, "10054b1c8a2f3c"))
	b.Run("unknown", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d.Decode(stranger)
		}
	})
}

// What the air does to packets, many times over: events of every format with bytes changed, cut, doubled and run
// together, through one decoder. The fuzz targets above look deeper; this looks at every run.
func TestNoise(t *testing.T) {
	rounds := 50_000
	if testing.Short() {
		rounds = 5_000
	}
	if text := os.Getenv("WEIR_NOISE"); text != "" { // make ble-noise
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	var events [][]byte
	keys := map[Addr][]byte{}
	for _, v := range vectors {
		if v.Event == "" {
			continue
		}
		events = append(events, unhex(t, v.Event))
		if addr, err := ParseAddr(v.MAC); err == nil && v.Key != "" {
			keys[addr] = unhex(t, v.Key)
		}
	}
	d, a := decoder(t, keys), Assembler{}
	random := rand.New(rand.NewPCG(1, 2))
	heard := 0
	for range rounds {
		event := hci.Spoil(random, events[random.IntN(len(events))], events)
		reports, _ := ParseEvent(event)
		for _, r := range reports {
			if whole, ok := a.Add(r); ok {
				results, err := d.Decode(whole)
				decent(t, results, err)
				heard += len(results)
			}
		}
	}
	if heard < rounds/10 {
		t.Errorf("%d results of %d events: the noise drowns everything", heard, rounds)
	}
	if len(d.last) > len(keys) || len(d.peers) > maxPeers {
		t.Errorf("%d counters, %d peers", len(d.last), len(d.peers))
	}
}
