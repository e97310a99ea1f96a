package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

// Of the nine digits every variant has a known CRC; those are from the catalogue of
// parametrised CRC algorithms.
func TestCRC16(t *testing.T) {
	want := map[string]uint16{
		"arc": 0xbb3d, "modbus": 0x4b37, "usb": 0xb4c8, "maxim": 0x44c2, "buypass": 0xfee8, "xmodem": 0x31c3,
		"ccitt-false": 0x29b1, "genibus": 0xd64e, "gsm": 0xce3c, "aug-ccitt": 0xe5cc, "kermit": 0x2189, "x25": 0x906e,
		"mcrf4xx": 0x6f91, "dnp": 0xea82, "en13757": 0xc2b7, "dect": 0x007f, "t10-dif": 0xd0db, "cdma2000": 0x4c06,
	}
	for name, crc := range crcs {
		if got := crc.sum()([]byte("123456789")); got != want[name] {
			t.Errorf("%s: %04x, want %04x", name, got, want[name])
		}
	}
	if len(want) != len(crcs) {
		t.Errorf("%d variants, %d known", len(crcs), len(want))
	}
}

func ends(p []byte, name string) []byte {
	sum := crcs[name].sum()(p)
	if crcs[name].reflected {
		return binary.LittleEndian.AppendUint16(slices.Clone(p), sum)
	}
	return binary.BigEndian.AppendUint16(slices.Clone(p), sum)
}

// sample is a framing and how a device frames a payload with it.
type sample struct {
	name   string
	config any
	wrap   func(p []byte) []byte
	silent bool // only silence tells where a frame begins
	text   bool // payloads are text
}

func samples() []sample {
	type m = map[string]any
	return []sample{
		{"line", nil, func(p []byte) []byte { return append(slices.Clone(p), "\r\n"...) }, false, true},
		{"cobs", "cobs", func(p []byte) []byte { return append(stuff(p), 0) }, false, false},
		{"cobs crc", m{"cobs": m{"crc": "modbus"}}, func(p []byte) []byte { return append(stuff(ends(p, "modbus")), 0) }, false, false},
		{"slip", "slip", func(p []byte) []byte { return append(append([]byte{0xc0}, escape(p)...), 0xc0) }, false, false},
		{"slip crc", m{"slip": m{"crc": "xmodem"}}, func(p []byte) []byte { return append(escape(ends(p, "xmodem")), 0xc0) }, false, false},
		{"length", m{"length": m{}}, func(p []byte) []byte { return append([]byte{byte(len(p))}, p...) }, true, false},
		{"length 4 big, frame, start", m{"length": m{"size": int64(4), "endian": "big", "counts": "frame", "start": "aa55", "crc": "ccitt-false"}}, func(p []byte) []byte {
			out := append([]byte{0xaa, 0x55}, binary.BigEndian.AppendUint32(nil, uint32(len(p)+8))...)
			return append(out, ends(p, "ccitt-false")...)
		}, false, false},
		{"length 2, rest, crc over all", m{"length": m{"size": int64(2), "counts": "rest", "crc": m{"name": "kermit", "over": "frame", "endian": "big"}}}, func(p []byte) []byte {
			out := append(binary.LittleEndian.AppendUint16(nil, uint16(len(p)+2)), p...)
			return binary.BigEndian.AppendUint16(out, crcs["kermit"].sum()(out))
		}, false, false},
		{"delimited", m{"delimited": m{"start": "02", "end": "03"}}, func(p []byte) []byte { return append(append([]byte{2}, p...), 3) }, false, true},
		{"delimited by one byte", m{"delimited": m{"start": "7e", "end": "7e"}}, func(p []byte) []byte { return append(append([]byte{0x7e}, p...), 0x7e) }, false, true},
		{"delimited, xor", m{"delimited": m{"start": "1002", "end": "1003", "crc": m{"name": "xor8", "over": "frame"}}}, func(p []byte) []byte {
			out := append([]byte{0x10, 2}, p...)
			return append(append(out, xor8(out)), 0x10, 3)
		}, false, true},
	}
}

func (s sample) codec(tb testing.TB, max int) *Codec {
	c, err := New(Config{Framing: s.config, Format: "raw", MaxFrame: max}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// payload makes one that the sample can carry: text has none of its ends.
func (s sample) payload(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.UintN(256))
		if s.text {
			p[i] = 'a' + p[i]%20
		}
	}
	return p
}

func values(readings []Reading) (out []string) {
	for _, r := range readings {
		out = append(out, r.Value)
	}
	return out
}

func TestFramings(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, s := range samples() {
		c := s.codec(t, 300)
		var wire []byte
		var want []string
		for _, n := range []int{1, 2, 3, 20, 200, 250} {
			p := s.payload(rng, n)
			wire = append(wire, s.wrap(p)...)
			want = append(want, string(p))
		}
		for _, n := range []int{1, 2, 3, 7, 64, len(wire)} {
			got, _, garbage := listen(c, n, wire)
			if !reflect.DeepEqual(values(got), want) || garbage != nil {
				t.Errorf("%s in chunks of %d: %q, garbage %v", s.name, n, values(got), garbage)
			}
		}
	}
}

func TestFramingsCountGarbage(t *testing.T) {
	type m = map[string]any
	for _, c := range []struct {
		framing any
		wire    string
		want    string
	}{
		{m{"cobs": m{"crc": "modbus"}}, "\x03ab\x00", "checksum"},
		{"cobs", "\x05a\x00\x02b\x00", "malformed b"},
		{"slip", "a\xdbb\xc0c\xc0", "malformed c"},
		{"cobs", strings.Repeat("\x02a", 8) + "\x00\x02b\x00", "overlong b"},
		{m{"length": m{}}, "\x09abc", "noise"},
		{m{"length": m{}}, "\x03ab", "malformed"},
		{m{"length": m{"start": "aa"}}, "xyz\xaa\x01bxyz\xaa\x01c", "noise b noise c"},
		{m{"length": m{"start": "aa", "crc": "sum8"}}, "\xaa\x01bb\xaa\x01cd\xaa\x01ee", "b checksum e"},
		{m{"delimited": m{"start": "02", "end": "03"}}, "\x02ab\x02c\x03", "malformed c"},
		{m{"delimited": m{"start": "02", "end": "03"}}, "\x02abcdefghijk\x03\x02c\x03", "overlong c"},
		{m{"delimited": m{"start": "02", "end": "03", "crc": "xor8"}}, "\x02aa\x03\x02ab\x03\x02bb\x03", "a checksum b"},
	} {
		codec, err := New(Config{Framing: c.framing, Format: "raw", MaxFrame: 8}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		s := codec.Stream()
		emit := func(f Frame) {
			if f.Garbage != "" {
				got = append(got, f.Garbage)
			}
			got = append(got, values(f.Readings)...)
		}
		s.Feed([]byte(c.wire), emit)
		s.Idle(emit)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v %q: %q, want %q", c.framing, c.wire, got, c.want)
		}
	}
}

// Frames that a damaged one seems to hold are found: when its check is wrong, or when what it
// promises does not come.
func TestDamagedFramesHideNoOthers(t *testing.T) {
	for _, s := range samples() {
		if s.silent || s.name == "delimited by one byte" {
			continue // only a pause would tell, and ends that look like starts
		}
		for _, long := range []int{25, 250} {
			c := s.codec(t, 300)
			if _, scans := c.Stream().cutting.(*scanner); !scans {
				continue // up to its end a frame is damaged
			}
			wire := s.wrap(bytes.Repeat([]byte("x"), long))[:12]
			wire = append(append(wire, s.wrap([]byte("first"))...), s.wrap([]byte("second"))...)
			got, _, garbage := listen(c, 5, wire)
			if !reflect.DeepEqual(values(got), []string{"first", "second"}) || len(garbage) != 1 {
				t.Errorf("%s: %q, garbage %v", s.name, values(got), garbage)
			}
		}
	}
}

// The rest of a frame that began before we listened is not taken for one, whatever it holds.
func TestFramingsSkipPartial(t *testing.T) {
	for _, s := range samples() {
		stream := s.codec(t, 300).Stream()
		stream.SkipPartial()
		var got []string
		emit := func(f Frame) {
			got = append(got, f.Garbage+strings.Join(values(f.Readings), " "))
		}
		whole := s.wrap([]byte("abcdefghij"))
		stream.Feed(whole[len(whole)/2:], emit)
		if s.silent {
			if !stream.Pending() {
				t.Errorf("%s does not ask for silence", s.name)
			}
			stream.Idle(emit)
		}
		stream.Feed(whole, emit)
		stream.Feed(whole, emit)
		if len(got) < 2 || got[0] != Partial || got[len(got)-1] != "abcdefghij" {
			t.Errorf("%s: %q", s.name, got)
		}
		for _, frame := range got[1:] {
			if strings.HasPrefix(frame, "a") != (frame == "abcdefghij") {
				t.Errorf("%s: %q", s.name, got)
			}
		}
	}
}

func TestNoiseWithoutEndIsBounded(t *testing.T) {
	for _, s := range samples() {
		c := s.codec(t, 100)
		stream := c.Stream()
		frames := 0
		noise := bytes.Repeat([]byte{0x11}, 1000)
		for range 1000 {
			stream.Feed(noise, func(Frame) { frames++ })
		}
		if !s.silent && frames > 1000 { // one in MaxFrame bytes is 244
			t.Errorf("%s: %d reports of a million bytes", s.name, frames)
		}
		switch held := stream.cutting.(type) {
		case *scanner:
			if cap(held.buf) > 4096 {
				t.Errorf("%s holds %d bytes", s.name, cap(held.buf))
			}
		case *splitter:
			if cap(held.buf) > 4096 {
				t.Errorf("%s holds %d bytes", s.name, cap(held.buf))
			}
		}
	}
}

// FuzzFramings: how the bytes are cut into reads changes nothing; and after any noise the next
// good frame is found: at the latest the second, because the noise may swallow the end of what
// it is taken for.
func FuzzFramings(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 0xc0, 0xdb, 0xaa, 0x55, 0x7e, 0x10, 2}, uint64(1))
	f.Add([]byte("\xaa\x55\xff\xff\xff\xff\x02\x02\x03\x10\x02\x7e"), uint64(3))
	f.Fuzz(func(t *testing.T, noise []byte, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		for _, s := range samples() {
			c := s.codec(t, 64)
			good := s.payload(rng, 1+rng.IntN(40))
			wire := append(slices.Clone(noise), bytes.Repeat(s.wrap(good), 2)...)
			wellBehaved(t, s.name, c, wire, rng)
			stream := c.Stream()
			var got []string
			emit := func(f Frame) { got = append(got, values(f.Readings)...) }
			stream.Feed(noise, emit)
			if s.silent {
				stream.Idle(emit)
			}
			stream.Feed(s.wrap(good), emit)
			stream.Feed(s.wrap(good), emit)
			stream.Idle(emit)
			if len(got) == 0 || got[len(got)-1] != string(good) {
				t.Fatalf("%s: after %x, %x is not found: %x", s.name, noise, s.wrap(good), got)
			}
		}
	})
}

// wellBehaved feeds wire whole and in pieces.
func wellBehaved(t *testing.T, name string, c *Codec, wire []byte, rng *rand.Rand) {
	t.Helper()
	readings, _, garbage := listen(c, len(wire)+1, wire)
	if n := 1 + rng.IntN(7); len(wire) > 0 {
		again, _, garbage2 := listen(c, n, wire)
		if !reflect.DeepEqual(readings, again) || !reflect.DeepEqual(garbage, garbage2) {
			t.Fatalf("%s: %x whole is %v %v, in pieces of %d %v %v", name, wire, readings, garbage, n, again, garbage2)
		}
	}
	for _, r := range readings {
		if err := gateway.ValidateTopic(r.Name); err != nil || CleanName(r.Name) != r.Name {
			t.Fatalf("%s: name %q: %v", name, r.Name, err)
		}
		if _, ok := Number(r.Value); r.Unit != "" && r.Quality == gateway.Good && !ok {
			t.Fatalf("%s: %s = %q %s is no number", name, r.Name, r.Value, r.Unit)
		}
	}
}

// FuzzProtocols is FuzzFramings for the known protocols.
func FuzzProtocols(f *testing.F) {
	good := map[string][]byte{}
	for _, v := range vectors(f) {
		if protocols[v.Decoder] != nil {
			wire := v.wire(f)
			if v.Decoder == "nmea0183" {
				wire = append(wire, "\r\n"...)
			}
			if v.Accept {
				good[v.Decoder] = wire
			}
			f.Add(wire, uint64(1))
			f.Add(wire[:len(wire)/2], uint64(2))
		}
	}
	names := slices.Sorted(maps.Keys(good))
	if len(names) != len(protocols) {
		f.Fatalf("vectors of %d protocols", len(good))
	}
	f.Add([]byte(`\g:1-2-34,c:1577880000*5A\$GPGLL,,,,`), uint64(1))
	f.Fuzz(func(t *testing.T, noise []byte, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		for _, name := range names {
			wire := good[name]
			c := protocol(t, name)
			whole, _, _ := listen(c, len(wire), wire)
			all := append(slices.Clone(noise), wire...)
			wellBehaved(t, name, c, append(all, wire...), rng)
			s := c.Stream()
			var got []Reading
			emit := func(f Frame) { got = append(got, f.Readings...) }
			s.Feed(noise, emit)
			s.Feed(wire, emit)
			s.Feed(wire, emit)
			if len(got) < len(whole) || !reflect.DeepEqual(got[len(got)-len(whole):], whole) {
				t.Fatalf("%s is not found after %q", name, noise)
			}
		}
	})
}

func TestFramingErrors(t *testing.T) {
	type m = map[string]any
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Framing: "cbos", Format: "raw"}, `framing: "cbos" is no framing; it is one of ` + framings},
		{Config{Framing: m{"cbos": m{}}, Format: "raw"}, `framing.cbos: "cbos" is no framing; it is one of ` + framings},
		{Config{Framing: m{"cobs": m{}, "slip": m{}}, Format: "raw"}, `framing: has 2 keys; it is one of ` + framings},
		{Config{Framing: true, Format: "raw"}, `framing: is one of ` + framings},
		{Config{Framing: m{"cobs": m{"crc": "crc99"}}, Format: "raw"}, `framing.cobs.crc: "crc99" is none of ` + names(crcs) + ", " + names(sums)},
		{Config{Framing: m{"cobs": m{"crcs": "arc"}}, Format: "raw"}, `framing.cobs.crcs: unknown key; there is crc`},
		{Config{Framing: m{"cobs": m{"crc": m{"name": "arc", "over": "all"}}}, Format: "raw"}, `framing.cobs.crc.over: "all" is none of payload, frame`},
		{Config{Framing: m{"cobs": "arc"}, Format: "raw"}, `framing.cobs: is a map`},
		{Config{Framing: m{"line": m{"end": "0a"}}, Format: "raw"}, `framing.line.end: "0a" is none of lf, crlf, cr`},
		{Config{Framing: m{"length": m{"size": int64(3)}}, Format: "raw"}, `framing.length.size: 3 is none of 1, 2, 4`},
		{Config{Framing: m{"length": m{"size": int64(5)}}, Format: "raw"}, `framing.length.size: 5 is not between 1 and 4`},
		{Config{Framing: m{"length": m{"counts": "all"}}, Format: "raw"}, `framing.length.counts: "all" is none of payload, rest, frame`},
		{Config{Framing: m{"length": m{"start": int64(2)}}, Format: "raw"}, `framing.length.start: 2 is not text: quote it`},
		{Config{Framing: m{"length": m{"start": "2"}}, Format: "raw"}, `framing.length.start: "2" is not 1 to 16 bytes in hexadecimal, such as "aa55"`},
		{Config{Framing: m{"delimited": m{"start": "02"}}, Format: "raw"}, `framing.delimited.end: missing; it is bytes in hexadecimal, such as "02"`},
		{Config{Format: "cbor"}, "format: the format is binary, in which any byte may look like the end of a line: its framing is one of slip, {slip: …}, cobs, {cobs: …}, {length: …} or {delimited: …}"},
		{Config{}, "format: missing; it is one of " + formats + ". Or protocol is one of dsmr_p1, nmea0183, pms3003, pms5003, sds011"},
		{Config{Protocol: "nmea"}, `protocol: "nmea" is none of dsmr_p1, nmea0183, pms3003, pms5003, sds011`},
		{Config{Protocol: "nmea0183", Format: "json"}, "format: protocol nmea0183 has its own format"},
		{Config{Protocol: "nmea0183", Framing: "line"}, "framing: protocol nmea0183 has its own framing"},
		{Config{Protocol: "nmea0183", MaxFrame: 1}, "max_frame: protocol nmea0183 has its own limit"},
		{Config{Format: "json", MaxFrame: 1 << 20}, "max_frame: 1048576 is not between 1 and 65536"},
	} {
		_, err := New(c.cfg, nil)
		var key *gateway.KeyError
		if !errors.As(err, &key) || err.Error() != c.want {
			t.Errorf("%v: %v\nwant %s", c.cfg, err, c.want)
		}
	}
	for name, units := range map[string]map[string]Measurement{
		"measurements.pm25: pm25 is in µg/m³; Weir does not convert":               {"pm25": {Unit: "mg/m³"}},
		`measurements.pm2: the format has no measurement "pm2"; it has pm10, pm25`: {"pm2": {Unit: "µg/m³"}},
	} {
		if _, err := New(Config{Protocol: "sds011"}, units); fmt.Sprint(err) != name {
			t.Errorf("%v, want %s", err, name)
		}
	}
}

// What is framed for a device is what is read back, whatever bytes it is of; what a frame cannot hold is refused.
func TestWrapIsTheInverse(t *testing.T) {
	type m = map[string]any
	for _, f := range []any{
		"line", m{"line": m{"end": "crlf"}}, m{"line": m{"end": "cr"}}, "cobs", m{"cobs": m{"crc": "modbus"}}, "slip", m{"slip": m{"crc": "xmodem"}},
		m{"length": nil}, m{"length": m{"size": int64(2), "endian": "big", "counts": "frame", "start": "aa55", "crc": m{"name": "x25", "over": "frame"}}},
		m{"length": m{"size": int64(4), "counts": "rest", "crc": "sum8"}},
		m{"delimited": m{"start": "02", "end": "03", "crc": "xor8"}}, m{"delimited": m{"start": "0202", "end": "0d0a"}},
	} {
		c, err := New(Config{Framing: f, Format: "raw"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		framed, rng := 0, rand.New(rand.NewPCG(1, 2))
		for range 2000 {
			p := make([]byte, 1+rng.IntN(600)>>rng.IntN(9))
			for i := range p {
				if p[i] = byte(rng.Uint32()); rng.IntN(3) == 0 {
					p[i] = "\x00\x02\x03\r\n\xc0\xdb\xff"[rng.IntN(8)]
				}
			}
			wire, err := c.Wrap(p)
			if err != nil {
				if !errors.Is(err, gateway.ErrInvalid) || f == "cobs" || f == "slip" {
					t.Fatal(err)
				}
				continue
			}
			framed++
			var got []string
			s := c.Stream()
			s.Feed(wire, func(fr Frame) {
				got = append(got, fr.Garbage)
				for _, r := range fr.Readings {
					got = append(got, r.Value)
				}
			})
			if len(got) != 2 || got[0] != "" || got[1] != string(p) {
				t.Fatalf("%v: %x is sent as %x and read as %q", f, p, wire, got)
			}
		}
		if framed < 100 {
			t.Errorf("%v: only %d were framed", f, framed)
		}
	}
	c, err := New(Config{Protocol: "nmea0183"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if wire, err := c.Wrap([]byte("PMTK220,1000")); string(wire) != "$PMTK220,1000*1F\r\n" {
		t.Errorf("%q, %v", wire, err)
	}
	if _, err := c.Wrap([]byte("PMTK*")); !errors.Is(err, gateway.ErrInvalid) {
		t.Error(err)
	}
	if c, _ = New(Config{Protocol: "sds011"}, nil); c != nil {
		if _, err := c.Wrap(nil); !errors.Is(err, gateway.ErrInvalid) {
			t.Error(err)
		}
	}
}

// A frame that is the answer to a command is no garbage; if it measures something, that is read.
func TestAnswerIsNoGarbage(t *testing.T) {
	c, err := New(Config{Format: "key=value"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := c.Stream()
	s.Answer = func(p []byte) bool { return !bytes.Contains(p, []byte("noise")) }
	var got []string
	s.Feed([]byte("OK\nnoise\nt=1\n"), func(f Frame) {
		got = append(got, f.Garbage)
		for _, r := range f.Readings {
			got = append(got, r.Name)
		}
	})
	if want := []string{Malformed, "", "t"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
