package adv

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway/config"
)

// read reads tables as the driver's section has them, the way the gateway does.
func read(t testing.TB, text string) ([]Table, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weir.yaml")
	text = "devices:\n  air:\n    driver: ble\n    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	var section struct{ Decoders []Table }
	s := cfg.Devices["air"]
	if _, err := s.Kind("driver"); err != nil {
		return nil, err
	}
	return section.Decoders, s.Decode(&section)
}

const pond = `
decoders:
  - name: pond
    model: Pond 2
    match: {company: 0x0a5b, min_length: 14, bytes: [{at: 0, is: [0x02]}]}
    fields:
      - {name: temperature, unit: °C, at: 1, type: s16le, scale: 0.01, invalid: [-32768]}
      - {name: depth, unit: m, at: 3, type: u16be, scale: 0.001, add: -1, min: 0, max: 20}
      - {name: turbidity, unit: NTU, at: 5, type: u16le, mask: 0x3ff, scale: 100, div: 1023, digits: 1}
      - {name: pump, at: 6, mask: 0xc0, values: {0: off, 1: "on", 2: fault}}
      - {name: leak, at: 7, type: bool, mask: 0x01}
      - {name: ph, at: 8, scale: 0.1, when: [{at: 7, mask: 0x02, is: [1]}]}
      - {name: serial, at: 9, type: hex, size: 2}
      - {name: site, at: -3, type: text}
    counter: {at: 7, mask: 0xf0}
    identity: {at: 9, type: hex, size: 2}
`

func TestUserTable(t *testing.T) {
	tables, err := read(t, pond)
	if err != nil {
		t.Fatal(err)
	}
	d := decoder(t, nil, tables...)
	for _, tt := range []struct{ data, want string }{
		{"02" + "f6ff" + "1388" + "ff42" + "53" + "45" + "beef" + "414243",
			"pond Pond 2 id=pond-beef #5 temperature=-0.10°C depth=4.000m turbidity=75.0NTU pump=on leak=true ph=6.9 serial=beef site=ABC"},
		{"02" + "0080" + "0001" + "00c0" + "f0" + "45" + "beef" + "000000", "pond Pond 2 id=pond-beef #15 turbidity=0.0NTU leak=false serial=beef"},
		{"02" + "0080" + "0001" + "00c0" + "f0" + "45" + "beef" + "0000", "error: unknown format"}, // too short
		{"01" + "0080" + "0001" + "00c0" + "f0" + "45" + "beef" + "000000", "error: unknown format"},
	} {
		if got := show(d.Decode(made(0x0a5b, unhex(t, tt.data)))); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.data, got, tt.want)
		}
	}
	if got := show(d.Decode(made(0x0a5c, unhex(t, "02"+"f6ff"+"1388"+"ff42"+"53"+"45"+"beef"+"414243")))); got != "error: unknown format" {
		t.Error(got)
	}
}

// Where a user's table fits, the user is right.
func TestUserTableFirst(t *testing.T) {
	mine := Table{Name: "mine", Match: Match{Service: "0000fcd2-0000-1000-8000-00805f9b34fb", Names: []string{"Shed"}}, Fields: []Field{{Name: "raw", Type: "hex"}}}
	d := decoder(t, nil, mine)
	report := heard(0xfcd2, unhex(t, "40015d"))
	if got := show(d.Decode(report)); got != "bthome_v2 battery=93%" {
		t.Error(got)
	}
	if got := show(d.Decode(report.with(structure(adName, []byte("Shed 1"))))); got != "mine raw=40015d" {
		t.Error(got)
	}
	// Two ways to know a device, and one that fits first.
	second := mine
	second.Match.Names, second.Model = nil, "second"
	d = decoder(t, nil, mine, second)
	if got := show(d.Decode(report)); got != "mine second raw=40015d" {
		t.Error(got)
	}
	if got := show(d.Decode(report.with(structure(adName, []byte("Shed 1"))))); got != "mine raw=40015d" {
		t.Error(got)
	}
}

func TestBadTables(t *testing.T) {
	const head = "decoders:\n  - name: x\n    match: {service: fcd2}\n"
	long := strings.Repeat("{name: a, at: 1}, ", maxFields+1)
	for text, want := range map[string]string{
		"decoders:\n  - match: {service: fcd2}\n    fields: [{name: a}]":                                              "decoders.0.name: missing; it names the format",
		"decoders:\n  - name: a/b\n    match: {service: fcd2}\n    fields: [{name: a}]":                               `decoders.0.name: measurement "a/b" cannot be a topic level; "a_b" can`,
		"decoders:\n  - name: x\n    fields: [{name: a}]":                                                             "decoders.0.match: needs exactly one of service, company and manufacturer: true",
		"decoders:\n  - name: x\n    match: {service: fcd2, company: 1}\n    fields: [{name: a}]":                     "decoders.0.match: needs exactly one of service, company and manufacturer: true",
		"decoders:\n  - name: x\n    match: {service: zzzz}\n    fields: [{name: a}]":                                 `decoders.0.match.service: "zzzz" is no service UUID, such as fcd2 or 0000fcd2-0000-1000-8000-00805f9b34fb`,
		"decoders:\n  - name: x\n    match: {manufacturer: true, length: 9}\n    fields: [{name: a}]":                 "decoders.0.match: manufacturer: true takes data of every maker; add names, advertise or bytes",
		"decoders:\n  - name: x\n    match: {service: fcd2, advertise: [1]}\n    fields: [{name: a}]":                 `decoders.0.match.advertise.0: "1" is no service UUID, such as fcd2 or 0000fcd2-0000-1000-8000-00805f9b34fb`,
		"decoders:\n  - name: x\n    match: {service: fcd2, names: ['']}\n    fields: [{name: a}]":                    "decoders.0.match.names: an empty name begins every name",
		"decoders:\n  - name: x\n    match: {service: fcd2, length: -1}\n    fields: [{name: a}]":                     "decoders.0.match.length: -1 is not in 0 to 1650",
		"decoders:\n  - name: x\n    match: {service: fcd2, bytes: [{at: 1}]}\n    fields: [{name: a}]":               "decoders.0.match.bytes.0.is: missing; it is the list of numbers that fit",
		"decoders:\n  - name: x\n    match: {service: fcd2, bytes: [{type: text, is: [1]}]}\n    fields: [{name: a}]": `decoders.0.match.bytes.0.type: "text" is no whole number, such as u8, s16le or u24be`,
		head:                                "decoders.0.fields: missing; without them there is nothing to read",
		head + "    fields: [" + long + "]": "decoders.0.fields: has 65 entries; the most are 64",
		head + "    fields: [{at: 1}]":      "decoders.0.fields.0.name: a measurement has an empty name",
		head + "    fields: [{name: a}, {name: a}]":                  `decoders.0.fields.1.name: "a" stands twice`,
		head + "    fields: [{name: a, type: u9}]":                   `decoders.0.fields.0.type: "u9" is no type; such are u8, s16le, u24be, f32le, bool, text, hex and mac`,
		head + "    fields: [{name: a, type: s16}]":                  `decoders.0.fields.0.type: "s16" is no type; such are u8, s16le, u24be, f32le, bool, text, hex and mac`,
		head + "    fields: [{name: a, mask: 0x100}]":                "decoders.0.fields.0.mask: 0x100 has more than the 8 bits of the type",
		head + "    fields: [{name: a, mask: 0x05}]":                 "decoders.0.fields.0.mask: 0x5 has a hole",
		head + "    fields: [{name: a, type: f32le, mask: 1}]":       "decoders.0.fields.0.mask: only whole numbers have one",
		head + "    fields: [{name: a, at: 99999}]":                  "decoders.0.fields.0.at: 99999 is not in -1650 to 1650",
		head + "    fields: [{name: a, size: 3}]":                    "decoders.0.fields.0.size:  has a size of its own",
		head + "    fields: [{name: a, digits: 10}]":                 "decoders.0.fields.0.digits: 10 is not in 0 to 9",
		head + "    fields: [{name: a, values: {0x1: b}}]":           `decoders.0.fields.0.values: "0x1" is no decimal whole number`,
		head + "    fields: [{name: a, values: {1: b}, scale: 2}]":   "decoders.0.fields.0.values: what is named has no scale, div or add",
		head + "    fields: [{name: a, type: hex, quotient: 2}]":     "decoders.0.fields.0.type: values, quotient and remainder are for whole numbers",
		head + "    fields: [{name: a, when: [{is: [1], mask: 9}]}]": "decoders.0.fields.0.when.0.mask: 0x9 has a hole",
		head + "    fields: [{name: a}]\n    counter: {type: text}":  `decoders.0.counter.type: "text" is no whole number`,
		head + "    fields: [{name: a}]\n    identity: {type: x}":    `decoders.0.identity.type: "x" is no type; such are u8, s16le, u24be, f32le, bool, text, hex and mac`,
	} {
		tables, err := read(t, text)
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		if _, err = New(nil, tables); err == nil || err.Error() != want {
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
	// The file itself is read strictly.
	if _, err := read(t, head+"    fields: [{name: a, ofset: 1}]"); err == nil || !strings.Contains(err.Error(), `unknown key "ofset"`) {
		t.Error(err)
	}
}

func TestField(t *testing.T) {
	none := "nothing"
	digits := 1
	for _, tt := range []struct {
		field Field
		data  string
		want  string
	}{
		{Field{}, "ff", "255"},
		{Field{At: -1}, "01ff", "255"},
		{Field{At: -3}, "01ff", none},
		{Field{At: 1}, "ff", none},
		{Field{Type: "s8"}, "ff", "-1"},
		{Field{Type: "m8"}, "85", "-5"},
		{Field{Type: "m8"}, "80", "0"},
		{Field{Type: "u16be"}, "0102", "258"},
		{Field{Type: "u16le"}, "0102", "513"},
		{Field{Type: "s16be"}, "8000", "-32768"},
		{Field{Type: "u24be"}, "800000", "8388608"},
		{Field{Type: "s24le"}, "000080", "-8388608"},
		{Field{Type: "m24be"}, "800001", "-1"},
		{Field{Type: "u32le"}, "ffffffff", "4294967295"},
		{Field{Type: "s32le"}, "ffffffff", "-1"},
		{Field{Type: "s40be"}, "ffffffffff", "-1"},
		{Field{Type: "u48be"}, "ffffffffffff", "281474976710655"},
		{Field{Type: "s64le"}, "feffffffffffffff", "-2"},
		{Field{Type: "s64be"}, "8000000000000000", "-9223372036854775808"},
		{Field{Type: "u64be", Quotient: 1 << 62}, "ffffffffffffffff", "3"},
		{Field{Type: "m64be", Quotient: 1 << 61}, "c000000000000000", "-2"},
		{Field{Type: "u16be", Mask: 0xffe0}, "ac36", "1377"},
		{Field{Type: "s8", Mask: 0x70}, "70", "-1"},
		{Field{Type: "s8", Mask: 0x70}, "3f", "3"},
		{Field{Type: "u8", Quotient: 10}, "63", "9"},
		{Field{Type: "u8", Remainder: 10}, "63", "9"},
		{Field{Type: "s8", Quotient: 10}, "9d", "-9"}, // towards zero
		{Field{Scale: 0.1}, "0a", "1.0"},
		{Field{Scale: 0.35}, "ea", "81.90"},
		{Field{Scale: 0.0025}, "01", "0.0025"},
		{Field{Type: "s8", Scale: 0.0625}, "ff", "-0.0625"},
		{Field{Scale: 5, Div: 9}, "01", "0.6"},
		{Field{Scale: 100, Div: 65536}, "01", "0.002"},
		{Field{Scale: 1, Div: 256}, "80", "0.500"},
		{Field{Scale: 0.000001, Type: "s32be"}, "ffd05700", "-3.123456"},
		{Field{Type: "s8", Scale: 0.1, Digits: &digits}, "00", "0.0"},
		{Field{Type: "s8", Scale: 0.01, Digits: &digits}, "ff", "0.0"}, // no negative zero
		{Field{Scale: 2, Add: -40}, "0a", "-20"},
		{Field{Scale: 100}, "0a", "1000"},
		{Field{Type: "f32le"}, "00003442", "45"},
		{Field{Type: "f32le"}, "cdccb441", "22.6"},
		{Field{Type: "f32be", Scale: 1, Digits: &digits}, "41b4cccd", "22.6"},
		{Field{Type: "f32le"}, "0000c07f", none},
		{Field{Type: "f32le"}, "0000807f", none},
		{Field{Type: "bool"}, "02", "true"},
		{Field{Type: "bool", Mask: 1}, "02", "false"},
		{Field{Type: "text"}, "e6b0b400", "水"},
		{Field{Type: "text"}, "000000", none},
		{Field{Type: "text", Size: 2}, "41", none},
		{Field{Type: "text", At: 1}, "41", none},
		{Field{Type: "hex"}, "00ff", "00ff"},
		{Field{Type: "mac"}, "010203040506", "010203040506"},
		{Field{Type: "macle"}, "010203040506", "060504030201"},
		{Field{Type: "mac"}, "ffffffffffff", none},
		{Field{Type: "mac"}, "000000000000", none},
		{Field{Type: "mac"}, "0102030405", none},
		{Field{Invalid: []int64{255, 254}}, "fe", none},
		{Field{Values: map[string]string{"1": "on"}}, "01", "on"},
		{Field{Values: map[string]string{"1": "on"}}, "02", none},
		{Field{When: []Condition{{At: 1, Is: []int64{1, 2}}}}, "0502", "5"},
		{Field{When: []Condition{{At: 1, Is: []int64{1, 2}}}}, "0503", none},
		{Field{When: []Condition{{At: 1, Is: []int64{1, 2}}}}, "05", none},
	} {
		tt.field.Name = "x"
		if err := tt.field.check("field"); err != nil {
			t.Errorf("%+v: %v", tt.field, err)
			continue
		}
		got, ok := tt.field.read(unhex(t, tt.data))
		if !ok {
			got = none
		}
		if got != tt.want {
			t.Errorf("%+v of %s: %s, not %s", tt.field, tt.data, got, tt.want)
		}
	}
	if got, ok := field("x", "", 0, "u8", 1).between(10, 20), false; !ok {
		for raw, want := range map[byte]bool{9: false, 10: true, 20: true, 21: false} {
			if _, ok := got.read([]byte{raw}); ok != want {
				t.Errorf("%d between 10 and 20: %v", raw, ok)
			}
		}
	}
}

// Every built-in field that knows a marker for "no value" gives no reading for it, and one for its neighbour.
func TestInvalidMarkers(t *testing.T) {
	var fields []Field
	for _, table := range builtInTables {
		fields = slices.Concat(fields, table.Fields)
	}
	fields = slices.Concat(fields, tlmFields, ruuvi6, ruuviE1, miObjectFields[0x000a])
	markers := 0
	for _, f := range fields {
		f.When = nil
		for _, marker := range f.Invalid {
			for _, v := range []int64{marker, marker ^ 2} {
				data := make([]byte, 64)
				put(data, f, v)
				if got, _ := raw(data, f.At, f.Type, f.Mask); got != v {
					t.Fatalf("%+v: put %d, read %d", f, v, got)
				}
				if text, ok := f.read(data); ok != !slices.Contains(f.Invalid, v) && f.Min == nil {
					t.Errorf("%s: raw %d is %q, %v", f.Name, v, text, ok)
				}
			}
			markers++
		}
	}
	if markers < 40 {
		t.Errorf("only %d markers", markers)
	}
}

// put writes a raw value where f reads it.
func put(data []byte, f Field, v int64) {
	k := kinds[f.Type]
	u := uint64(v)
	if mask := f.Mask; mask != 0 {
		for ; mask&1 == 0; mask >>= 1 {
			u <<= 1
		}
		u &= f.Mask
	}
	for i := range k.bytes {
		place := f.At + i
		if !k.little {
			place = f.At + k.bytes - 1 - i
		}
		data[place] = byte(u >> (8 * i))
	}
}

// The documentation names every format, and every object of BTHome. The table in it is tested with all configs of the docs.
func TestDocumentedFormats(t *testing.T) {
	page, err := os.ReadFile("../../../docs/ble-formats.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range slices.Concat(formats, fallbacks) {
		names = append(names, f.name)
	}
	for _, table := range builtInTables {
		names = append(names, table.Name)
	}
	for _, name := range names {
		if !strings.Contains(string(page), fmt.Sprintf("`%s", name)) {
			t.Errorf("it does not name %s", name)
		}
	}
	for id, o := range bthomeObjects {
		if !strings.Contains(string(page), "`"+o.Name+"`") {
			t.Errorf("it does not name %s, object %#02x of BTHome", o.Name, id)
		}
	}
}

// What Encode writes is what is read.
func TestEncode(t *testing.T) {
	most := 16.0
	for _, c := range []struct {
		f    Field
		text string
		want string // bytes, or "!" for an error
	}{
		{Field{}, "255", "ff"}, {Field{}, "256", "!"}, {Field{}, "-1", "!"}, {Field{}, "x", "!"}, {Field{}, "NaN", "!"},
		{Field{Type: "s16le", Scale: 0.01}, "-12.34", "2efb"}, {Field{Type: "u24be", Add: -40}, "-30", "00000a"}, {Field{Type: "u8", Div: 4}, "2.5", "0a"},
		{Field{Scale: 0.1, Max: &most}, "16.1", "!"}, {Field{Scale: 0.1, Max: &most}, "16", "a0"}, {Field{Scale: -1, Add: 10}, "3", "07"},
		{Field{At: 1}, "1", "!"}, {Field{Type: "u64le"}, "1", "!"}, {Field{Mask: 3}, "1", "!"}, {Field{Type: "text"}, "1", "!"}, {Field{Values: map[string]string{"1": "on"}}, "1", "!"},
	} {
		c.f.Name = "x"
		b, err := c.f.Encode(c.text)
		got := fmt.Sprintf("%x", b)
		if err != nil {
			got = "!"
		}
		if got != c.want {
			t.Errorf("%+v: %s is %s (%v), want %s", c.f, c.text, got, err, c.want)
		}
		if err == nil {
			x, _ := strconv.ParseFloat(c.text, 64)
			if v := Values(b, []Field{c.f}); len(v) != 1 {
				t.Errorf("%s is not read", c.text)
			} else if y, _ := strconv.ParseFloat(v[0].Value, 64); y != x {
				t.Errorf("%s is read as %s", c.text, v[0].Value)
			}
		}
	}
}
