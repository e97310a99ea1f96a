package codec

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-iot/weir/gateway"
)

func format(tb testing.TB, config any) *Format {
	f, err := NewFormat(config, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func decoded(f *Format, frame []byte) string {
	readings, garbage := f.Decode(frame)
	return strings.ReplaceAll(strings.TrimSuffix(show(Frame{Readings: readings, Garbage: garbage}), "\n"), "\n", "; ")
}

func unhex(tb testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestFields(t *testing.T) {
	type m = map[string]any
	frame := unhex(t, "ce08 ffff 80 ffffff fdffffff 0000ac41 400921fb54442d18 4f4b0000 0f deadbeef ffffffffffffffff")
	for _, c := range []struct {
		field m
		want  string
	}{
		{m{"offset": int64(0), "type": "uint16"}, "v = 2254"},
		{m{"offset": int64(0), "type": "int16", "scale": 0.01, "unit": "°C"}, "v = 22.54 [°C]"},
		{m{"offset": int64(0), "type": "int16", "scale": 0.01, "add": int64(-40)}, "v = -17.46"},
		{m{"offset": int64(0), "type": "int16", "scale": "0.10", "add": 0.025}, "v = 225.425"},
		{m{"offset": int64(0), "type": "uint16", "endian": "big"}, "v = 52744"},
		{m{"offset": int64(2), "type": "int16"}, "v = -1"},
		{m{"offset": int64(2), "type": "uint16", "scale": int64(2)}, "v = 131070"},
		{m{"offset": int64(4), "type": "int8"}, "v = -128"},
		{m{"offset": int64(4), "type": "bool"}, "v = true"},
		{m{"offset": int64(4), "type": "bool", "bits": int64(6)}, "v = false"},
		{m{"offset": int64(5), "type": "uint24"}, "v = 16777215"},
		{m{"offset": int64(5), "type": "int24", "endian": "big"}, "v = -1"},
		{m{"offset": int64(8), "type": "int32"}, "v = -3"},
		{m{"offset": int64(12), "type": "float32"}, "v = 21.5"},
		{m{"offset": int64(12), "type": "float32", "scale": 0.1}, "v = 2.15"},
		{m{"offset": int64(16), "type": "float64", "endian": "big"}, "v = 3.141592653589793"},
		{m{"offset": int64(5), "type": "float32", "endian": "big"}, "v = NaN (bad)"},
		{m{"offset": int64(24), "type": "text", "length": int64(4)}, "v = OK"},
		{m{"offset": int64(28), "type": "uint8", "bits": "0-2"}, "v = 7"},
		{m{"offset": int64(28), "type": "uint8", "bits": "2-5"}, "v = 3"},
		{m{"offset": int64(28), "type": "int8", "bits": "2-3"}, "v = -1"},
		{m{"offset": int64(29), "type": "hex", "length": int64(4)}, "v = deadbeef"},
		{m{"offset": int64(33), "type": "uint64"}, "v = 18446744073709551615"},
		{m{"offset": int64(33), "type": "uint64", "scale": 0.001}, "v = 18446744073709551.615"},
		{m{"offset": int64(33), "type": "int64"}, "v = -1"},
		{m{"offset": int64(34), "type": "int64"}, "! malformed"},
	} {
		if got := decoded(format(t, m{"fields": m{"v": c.field}}), frame); got != c.want {
			t.Errorf("%v: %s, want %s", c.field, got, c.want)
		}
	}
	f := format(t, m{"fields": m{"b": m{"offset": int64(0), "type": "uint8"}, "a": m{"offset": int64(1), "type": "uint8"}}})
	if got := decoded(f, []byte{1, 2}); got != "b = 1; a = 2" {
		t.Errorf("in the frame's order: %s", got)
	}
	if got := decoded(f, []byte{1}); got != "! malformed" {
		t.Errorf("a short frame: %s", got)
	}

	for _, c := range []struct {
		fields any
		want   string
	}{
		{nil, "format.fields: is a map by name, such as {temperature: {offset: 0, type: int16, scale: 0.01}}"},
		{[]any{"a"}, "format.fields: is a map"},
		{m{"v": "int8"}, "format.fields.v: is a name or a map"},
		{m{"v": m{"type": "int8"}}, "format.fields.v.offset: missing; it is the first byte of the field, from 0"},
		{m{"v": m{"offset": int64(-1), "type": "int8"}}, "format.fields.v.offset: -1 is not between 0 and 65535"},
		{m{"v": m{"offset": int64(0)}}, `format.fields.v.type: "" is none of ` + names(fieldTypes)},
		{m{"v": m{"offset": int64(0), "type": "int8", "endian": "middle"}}, `format.fields.v.endian: "middle" is none of little, big`},
		{m{"v": m{"offset": int64(0), "type": "int8", "bits": int64(8)}}, "format.fields.v.bits: 8 is neither a bit of 0 to 7 nor a range such as 0-3"},
		{m{"v": m{"offset": int64(0), "type": "int8", "bits": "3-1"}}, "format.fields.v.bits: 3-1 is neither a bit of 0 to 7 nor a range such as 0-3"},
		{m{"v": m{"offset": int64(0), "type": "int8", "scale": "x"}}, `format.fields.v.scale: "x" is no number`},
		{m{"v": m{"offset": int64(0), "type": "int8", "scale": "1e9999999"}}, `format.fields.v.scale: "1e9999999" is no number`},
		{m{"v": m{"offset": int64(0), "type": "text"}}, "format.fields.v.length: missing; text has a length in bytes"},
		{m{"v": m{"offset": int64(0), "type": "text", "length": int64(2), "scale": int64(2)}}, "format.fields.v.scale: unknown key; there is endian, length, offset, type, unit"},
		{m{"a/b": m{"offset": int64(0), "type": "int8"}}, `format.fields.a/b: measurement "a/b" cannot be a topic level; "a_b" can`},
	} {
		_, err := NewFormat(m{"fields": c.fields}, nil)
		var key *gateway.KeyError
		if !errors.As(err, &key) || err.Error() != c.want {
			t.Errorf("%v: %v\nwant %s", c.fields, err, c.want)
		}
	}
}

func TestCBOR(t *testing.T) {
	f := format(t, "cbor")
	for in, want := range map[string]string{
		"a0":                               "",
		"a1 6161 01":                       "a = 1",
		"a2 6162 01 6161 20":               "a = -1; b = 1",
		"a1 6161 f94d60":                   "a = 21.5",
		"a1 6161 fa41ac3d71":               "a = 21.53",
		"a1 6161 fb403587ae147ae148":       "a = 21.53",
		"a1 6161 f97e00":                   "a = NaN (bad)",
		"a1 6161 f5":                       "a = true",
		"a1 6161 f6":                       "",
		"a1 6161 f7":                       "",
		"a1 6161 6131":                     "a = 1",
		"a1 6161 42 beef":                  "a = beef",
		"a1 6161 a1 6162 82 01 f4":         "a.b.0 = 1; a.b.1 = false",
		"bf 6161 9f 01 ff ff":              "a.0 = 1",
		"a1 01 02":                         "1 = 2",
		"a1 6161 c4 82 21 19 6ab3":         "a = 273.15",
		"a1 6161 c4 82 1b ffffffffffff 01": "! malformed",
		"a1 6161 1b ffffffffffffffff":      "a = 18446744073709551615",
		"a1 6161 c2 49 010000000000000000": "a = 18446744073709551616",
		"a1 6161 c1 1a 514b67b0":           "a = 2013-03-21T20:04:00Z",
		"a1 6161 d9 1234 05":               "a = 5",
		"a2 6161 01 6161 02":               "! malformed", // a key twice
		"a2 01 01 6131 02":                 "! malformed", // "1" twice
		"a1 6161":                          "! malformed",
		"a0 00":                            "! malformed",
		"80":                               "! malformed",
		"01":                               "! malformed",
		"f6":                               "! malformed",
		"":                                 "! malformed",
		"a1 62c328 01":                     "! malformed", // invalid UTF-8
	} {
		if got := decoded(f, unhex(t, in)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := decoded(f, []byte(strings.Repeat("\xa1\x61a", 1000)+"\x01")); got != "! malformed" {
		t.Errorf("a deep one: %s", got)
	}
}

// The examples of RFC 8428, section 5.1, and what 4 and 5 say is wrong.
func TestSenML(t *testing.T) {
	for in, want := range map[string]string{
		`[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]`:                                                               "urn:dev:ow:10e2073a01080063 = 23.1 [°C]",
		`[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]`:                "urn:dev:ow:10e2073a01080063:voltage = 120.1 [V]; urn:dev:ow:10e2073a01080063:current = 1.2 [A]",
		`[{"bn":"d:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},{"n":"current","t":-5,"v":1.2}]`: "d:voltage = 120.1 [V] at 2010-06-08T18:01:16.001Z; d:current = 1.2 [A] at 2010-06-08T18:01:11.001Z",
		`[{"bn":"d:","n":"on","vb":true},{"n":"label","vs":"Machine Room"},{"n":"open","vd":"aGkgCg"}]`:                          "d:on = true; d:label = Machine Room; d:open = hi ",
		`[{"bn":"d:"},{"n":"a","v":1}]`:                                "d:a = 1",
		`[{"bn":"d","bv":20,"bu":"%RH","v":0.7},{"bn":"e","v":-0.25}]`: "d = 20.7 [%]; e = 19.75 [%]",
		`[{"n":"e","u":"W","s":500,"bs":0.5}]`:                         "e.sum = 500.5 [W·s]",
		`[{"n":"e","u":"W","v":1,"s":500}]`:                            "e = 1 [W]; e.sum = 500 [W·s]",
		`[{"n":"a","v":1e3,"bv":1}]`:                                   "a = 1001",
		`[{"n":"a","v":1,"later":{}}]`:                                 "a = 1",
		`[]`:                                                           "",
		`[{"n":"a","v":1,"later_":1}]`:                                 "! malformed",
		`[{"n":"a","v":1,"bver":11}]`:                                  "! malformed",
		`[{"n":"a","v":1,"vs":"x"}]`:                                   "! malformed",
		`[{"n":"a"}]`:                                                  "! malformed",
		`[{"v":1}]`:                                                    "! malformed",
		`[{"n":"/a","v":1}]`:                                           "! malformed",
		`[{"n":"a b","v":1}]`:                                          "! malformed",
		`[{"n":"a","v":"1"}]`:                                          "! malformed",
		`[{"n":"a","vb":1}]`:                                           "! malformed",
		`[{"n":"a","vs":1}]`:                                           "! malformed",
		`[{"n":"a","vd":"*"}]`:                                         "! malformed",
		`[{"n":"a","v":1,"t":1e300}]`:                                  "! malformed",
		`[{"n":1,"v":1}]`:                                              "! malformed",
		`{"n":"a","v":1}`:                                              "! malformed",
		`[{"n":"a","v":1}] x`:                                          "! malformed",
		`null`:                                                         "! malformed",
	} {
		if got := strings.ReplaceAll(decoded(format(t, "senml"), []byte(in)), "hi ; ", "hi "); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	// RFC 8428, 6: the first and the third example's labels as numbers.
	for in, want := range map[string]string{
		"81 a3 00 6161 01 6343656c 02 fb403719999999999a":        "a = 23.1 [°C]",
		"81 a5 21 62643a 22 1a 4c0e856c 00 6161 01 6156 02 1878": "d:a = 120 [V] at 2010-06-08T18:01:16Z",
		"81 a2 00 6161 08 42 6869":                               "a = hi",
		"81 a3 00 6161 02 01 18 63 02":                           "a = 1",
		"81 a3 00 6161 02 01 625f5f 02":                          "! malformed",
		"81 a2 00 6161 02 f97e00":                                "! malformed",
		"a0":                                                     "! malformed",
	} {
		if got := decoded(format(t, "senml-cbor"), unhex(t, in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// RFC 8428, 4.5.3: a time below 2^28 is relative to now.
func TestSenMLTimes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		base, t string
		want    time.Time
	}{
		{"", "", time.Time{}}, {"0", "0", time.Time{}},
		{"", "-5", now.Add(-5 * time.Second)}, {"-10", "0.5", now.Add(-9500 * time.Millisecond)},
		{"268435455", "", now.Add(268435455 * time.Second)}, {"268435456", "", time.Unix(268435456, 0).UTC()},
		{"1320078429", "60.25", time.Unix(1320078489, 25e7).UTC()},
	} {
		if got, ok := senmlTime(c.base, c.t, now); !ok || !got.Equal(c.want) {
			t.Errorf("%s+%s: %v, want %v", c.base, c.t, got, c.want)
		}
	}
}

func TestRaw(t *testing.T) {
	if got := decoded(format(t, "raw"), []byte("\x00\xffx")); got != "raw = \x00\xffx" {
		t.Errorf("%q", got)
	}
}

func TestJSONOfSeveralLines(t *testing.T) {
	c, err := New(Config{Framing: map[string]any{"delimited": map[string]any{"start": "02", "end": "03"}}, Format: "json"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, garbage := listen(c, 3, []byte("\x02{\r\n \"a\": 1\r\n}\r\n\x03")); len(got) != 1 || got[0].Value != "1" {
		t.Errorf("%v %v", got, garbage)
	}
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct{ name, unit, kind, class string }{
		{"temperature", "°C", "temperature", "temperature"}, {"air.t", "Cel", "temperature", "temperature"}, {"x", "°F", "temperature", "temperature"},
		{"humidity", "%", "humidity", "humidity"}, {"soil_moisture", "%", "moisture", "moisture"}, {"battery", "%", "battery", "battery"},
		{"battery", "V", "voltage", "voltage"}, {"x", "%", "", ""}, {"pressure", "hPa", "pressure", "pressure"},
		{"power_import.l1", "kW", "power", "power"}, {"energy_import.t1", "kWh", "energy", "energy"},
		{"reactive_energy_import", "kvarh", "reactive energy", "reactive_energy"}, {"gas", "m3", "gas", "gas"}, {"water", "m³", "water", "water"},
		{"pm25", "ug/m3", "pm2.5", "pm25"}, {"pm2_5", "µg/m³", "pm2.5", "pm25"}, {"pm10_cf1", "µg/m³", "pm10", "pm10"}, {"pm1", "µg/m³", "pm1", "pm1"},
		{"co2", "ppm", "carbon dioxide", "carbon_dioxide"}, {"speed", "kn", "speed", "speed"}, {"wind_speed.apparent", "kn", "wind speed", "wind_speed"},
		{"wind_angle.true", "°", "angle", ""}, {"wind_direction", "°", "wind direction", "wind_direction"}, {"course", "°", "angle", ""},
		{"latitude", "°", "position", ""}, {"depth", "m", "distance", "distance"}, {"depth", "ft", "distance", ""}, {"heat", "GJ", "energy", "energy"}, {"weight", "kg", "weight", "weight"},
		{"temperature", "", "", ""}, {"ph", "", "ph", "ph"}, {"rssi", "dBm", "signal strength", "signal_strength"}, {"tvoc", "ppb", "volatile organic compounds", "volatile_organic_compounds_parts"},
		{"dew_point", "°C", "temperature", "temperature"}, {"power_factor", "", "power factor", "power_factor"}, {"light", "lux", "illuminance", "illuminance"},
	} {
		if k := KindOf(c.name, c.unit); k.Name != c.kind || k.DeviceClass != c.class {
			t.Errorf("%s in %s: %q %q, want %q %q", c.name, c.unit, k.Name, k.DeviceClass, c.kind, c.class)
		}
	}
	if k := KindOf("energy", "kWh"); k.StateClass != "total_increasing" {
		t.Errorf("energy is %q", k.StateClass)
	}
	known := map[string]string{}
	for _, k := range kinds {
		known[k.Name] = known[k.Name] + " " + k.units
	}
	for unit, kind := range unitKinds {
		if !hasWord(known[kind], unit) {
			t.Errorf("%s is of %q, which is not measured in it", unit, kind)
		}
	}
	for from, to := range plainUnits {
		if PlainUnit(to) != to {
			t.Errorf("%s is %s is %s", from, to, PlainUnit(to))
		}
	}
}

// FuzzPayloads: no frame makes a decoder panic or a reading that cannot be published. CBOR is
// taken only if the library takes it, and SenML only if it is a list.
func FuzzPayloads(f *testing.F) {
	for _, s := range []string{"a1616101", "a16161f94d60", "81a200616102fb403719999999999a", "a16161c482216ab3"} {
		f.Add(unhex(f, s))
	}
	f.Add([]byte(`[{"bn":"d:","bt":1e9,"bu":"A","bv":1,"n":"v","u":"V","v":120.1,"s":1}]`))
	type m = map[string]any
	all := map[string]any{
		"cbor": "cbor", "senml": "senml", "senml-cbor": "senml-cbor", "raw": "raw",
		"fields": m{"fields": m{
			"a": m{"offset": int64(0), "type": "int16", "scale": 0.01, "unit": "°C"}, "b": m{"offset": int64(2), "type": "float32", "scale": 0.1, "unit": "V"},
			"c": m{"offset": int64(1), "type": "text", "length": int64(4)}, "d": m{"offset": int64(3), "type": "uint24", "bits": "3-20"}}},
	}
	var formats []*Format
	for _, name := range []string{"cbor", "senml", "senml-cbor", "raw", "fields"} {
		formats = append(formats, format(f, all[name]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for i, f := range formats {
			readings, garbage := f.Decode(data)
			if garbage != "" && readings != nil {
				t.Fatal("both readings and garbage")
			}
			for _, r := range readings {
				if err := gateway.ValidateTopic(r.Name); err != nil || CleanName(r.Name) != r.Name {
					t.Fatalf("name %q: %v", r.Name, err)
				}
				if _, ok := Number(r.Value); r.Unit != "" && r.Quality == gateway.Good && !ok {
					t.Fatalf("%s = %q %s is no number", r.Name, r.Value, r.Unit)
				}
			}
			var list []any
			switch {
			case i == 0 && garbage == "" && cbor.Wellformed(data) != nil:
				t.Fatalf("%x is no CBOR", data)
			case i == 1 && garbage == "" && json.Unmarshal(data, &list) != nil:
				t.Fatalf("%q is no list", data)
			}
		}
	})
}
