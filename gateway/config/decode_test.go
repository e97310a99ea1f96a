package config

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// section returns the device x of a file with text below it.
func section(t *testing.T, text string) Section {
	t.Helper()
	file := tree(t, map[string]string{"weir.yaml": "devices:\n  x:\n    " + strings.ReplaceAll(text, "\n", "\n    ") + "\n"})
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return c.Devices["x"]
}

// message is err without its file name and excerpts.
func message(t *testing.T, err error) string {
	t.Helper()
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %v, want Errors", err)
	}
	var b []string
	for _, e := range errs {
		b = append(b, strings.TrimPrefix(e.place(), e.File+":")+": "+e.Message)
	}
	return strings.Join(b, "\n")
}

type common struct {
	Name  string
	Every time.Duration `yaml:"every"`
}

type loud struct{ Word string }

func (l *loud) UnmarshalText(text []byte) error {
	if string(text) == "quiet" {
		return errors.New("too quiet")
	}
	l.Word = strings.ToUpper(string(text))
	return nil
}

// either is a word or a map.
type either struct {
	Word string
	Map  struct{ Regex string }
}

func (e *either) UnmarshalYAML(unmarshal func(any) error) error {
	if unmarshal(&e.Word) == nil {
		return nil
	}
	return unmarshal(&e.Map)
}

type everything struct {
	*common  `yaml:",inline"`
	Inner    common `yaml:"inner"`
	Text     string
	Yes      bool
	Maybe    *bool
	I        int
	I8       int8
	U        uint16
	F        float64
	D        time.Duration
	S        Size
	Filter   gateway.Filter
	Filters  gateway.Filters
	List     []string
	Ints     []int
	Map      map[string]common
	Words    map[string]string
	Any      any
	Loud     loud
	Either   either
	Rest     Section
	Ignored  string `yaml:"-"`
	hidden   string
	Long     string `yaml:"long_name,omitempty"`
	Untagged int    `yaml:",omitempty"`
}

func TestDecode(t *testing.T) {
	got := everything{common: &common{}, Text: "kept", Inner: common{Name: "kept"}, List: []string{"replaced"}}
	err := section(t, `name: embedded
every: 7d
inner: {every: 500ms}
yes: true
maybe: false
i: -0x1f
i8: -128
u: 65535
f: 1.5
d: 2h
s: 64MiB
filter: a/+
filters: ["#", b/#]
list: [a, 5, true, 007, 1.50]
ints: [1, 2]
map:
  a: {name: x}
  b:
words: {a: b, 1: c, true: d}
any: {n: 5, f: 1.5, b: true, s: "5", t: text, l: [1, null], o: 007x}
loud: hello
either: {regex: '^\d+$'}
rest: {more: {keys: 1}}
long_name: 'it''s'
untagged: 0o17`).Decode(&got)
	if err != nil {
		t.Fatal(err)
	}
	if got.hidden != "" {
		t.Errorf("an unexported field became %q", got.hidden)
	}
	var rest struct{ More map[string]int }
	if err := got.Rest.Decode(&rest); err != nil || rest.More["keys"] != 1 {
		t.Errorf("the section inside is %v, %v", rest, err)
	}
	got.Rest = Section{}
	no := false
	want := everything{
		common: &common{"embedded", 7 * 24 * time.Hour}, Inner: common{"kept", 500 * time.Millisecond},
		Text: "kept", Yes: true, Maybe: &no, I: -31, I8: -128, U: 65535, F: 1.5, D: 2 * time.Hour, S: 64 << 20,
		Filter: gateway.MustFilter("a/+"), Filters: gateway.Filters{gateway.MustFilter("#"), gateway.MustFilter("b/#")},
		List: []string{"a", "5", "true", "007", "1.50"}, Ints: []int{1, 2},
		Map: map[string]common{"a": {Name: "x"}, "b": {}}, Words: map[string]string{"a": "b", "1": "c", "true": "d"},
		Any:  map[string]any{"n": int64(5), "f": 1.5, "b": true, "s": "5", "t": "text", "l": []any{int64(1), nil}, "o": "007x"},
		Loud: loud{"HELLO"}, Long: "it's", Untagged: 15,
	}
	want.Either.Map.Regex = `^\d+$`
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := []struct{ text, want string }{
		{"nam: x", `3:5: unknown key "nam", did you mean "name"?`},
		{"hidden: x", `3:5: unknown key "hidden"; there is any, d, either,`},
		{"ignored: x", `3:5: unknown key "ignored"; there is`},
		{"common: {name: x}", `3:5: unknown key "common"; there is`},
		{"inner: {nme: x}", `3:13: unknown key "nme", did you mean "name"?`},
		{"map: {a: {evry: 5s}}", `3:15: unknown key "evry", did you mean "every"?`},
		{"yes: yes", `3:10: expected true or false, found "yes"`},
		{`yes: "true"`, `3:10: expected true or false, found "true"`},
		{"i: 1.5", `3:8: expected a whole number, found "1.5"`},
		{"i: abc", `3:8: expected a whole number, found "abc"`},
		{`i: "5"`, `3:8: expected a number, found "5"; leave the quotes out`},
		{"i: 010", `3:8: number "010" begins with 0, which YAML versions read differently; leave the 0 out, or write 0o for octal`},
		{"i: [1]", `3:8: expected a number, found a list`},
		{"i8: 128", `3:9: number "128" is out of range; allowed is -128 to 127`},
		{"i: 99999999999999999999", `is out of range; allowed is`},
		{"u: -1", `3:8: number "-1" is out of range; allowed is 0 to 65535`},
		{"u: 65536", `3:8: number "65536" is out of range; allowed is 0 to 65535`},
		{"f: x", `3:8: expected a number, found "x"`},
		{"f: .inf", `3:8: expected a number, found ".inf"`},
		{"f: NaN", `3:8: expected a number, found "NaN"`},
		{"f: 1e999", `3:8: number "1e999" is out of range`},
		{"d: 5", `3:8: "5": expected a duration such as`},
		{"d: -5s", `3:8: "-5s": expected a duration such as`},
		{"d: 1h30m", `3:8: "1h30m": expected a duration such as`},
		{"d: 200000d", `3:8: "200000d": expected a duration such as`},
		{"s: 1.5GiB", `3:8: "1.5GiB": expected a size such as`},
		{"s: {a: b}", `3:8: expected text, found a map; put text that begins with { in quotes`},
		{"filter: a#", `3:13: filter "a#": level "a#" mixes a wildcard with text`},
		{"filters: [a, b, +c]", `3:21: filter "+c": level "+c" mixes a wildcard with text`},
		{"filters: [a, ]\nlist: a", `4:11: expected a list, found "a"; write ["a"]`},
		{"filters:\n  -", `4:8: there is no value here`},
		{"filter:", `3:5: there is no value here`},
		{"loud:", `3:5: there is no value here`},
		{"text: # red", `3:5: there is no value here: "#" begins a comment`},
		{"text: [a]", `3:11: expected text, found a list; put text that begins with [ in quotes`},
		{"words: [a]", `3:12: expected a map of keys, found a list`},
		{"map:\n  a: 5", `4:10: expected a map of keys, found "5"`},
		{"loud: quiet", `3:11: too quiet`},
		{"either: {rgex: x}", `3:14: unknown key "rgex", did you mean "regex"?`},
		{"rest: 5", `3:11: expected a map of keys, found "5"`},
		{"text: " + strings.Repeat("x", 50) + "\ni: " + strings.Repeat("y", 50), `found "` + strings.Repeat("y", 40) + `…"`},
		{"i: x\nnam: y\nd: z", "3:8: expected a whole number, found \"x\"\n4:5: unknown key \"nam\", did you mean \"name\"?\n5:8: \"z\": expected a duration"},
	}
	for _, test := range tests {
		into := everything{common: &common{}}
		err := section(t, test.text).Decode(&into)
		if err == nil {
			t.Errorf("%q: no error", test.text)
			continue
		}
		if got := message(t, err); !strings.Contains(got, test.want) {
			t.Errorf("%q:\ngot  %s\nwant %s", test.text, got, test.want)
		}
	}
}

func TestSection(t *testing.T) {
	s := section(t, "driver: serial\nbaud: 9600\nformat: {regex: '('}\ncolumns: [a, b]\nregisters:\n  main.power:\n    type: float")
	if s.Name() != "x" {
		t.Errorf("name is %q", s.Name())
	}
	if _, err := s.Kind("sink"); err == nil || !strings.Contains(err.Error(), "weir.yaml:2:3: x has no sink") {
		t.Errorf("a kind that is not there: %v", err)
	}
	kind, err := s.Kind("driver")
	if err != nil || kind != "serial" {
		t.Errorf("kind is %q, %v", kind, err)
	}
	// driver is known now, sink is not.
	var into struct{ Baud int }
	if got := message(t, s.Decode(&into)); strings.Contains(got, "driver") || !strings.Contains(got, `"format"`) || into.Baud != 9600 {
		t.Errorf("decoded %+v with %s", into, got)
	}
	for key, want := range map[string]string{
		"":                          ":2:3: oops 5",
		"port":                      ":2:3: oops 5",
		"port.speed":                ":2:3: oops 5",
		"baud":                      ":4:11: oops 5",
		"baud.rate":                 ":4:11: oops 5",
		"format":                    ":5:13: oops 5",
		"format.regex":              ":5:21: oops 5",
		"columns.1":                 ":6:18: oops 5",
		"columns.7":                 ":6:14: oops 5",
		"columns.x":                 ":6:14: oops 5",
		"registers":                 ":7:5: oops 5",
		"registers.main.power":      ":8:7: oops 5",
		"registers.main.power.type": ":9:15: oops 5",
		"registers.main.power.unit": ":8:7: oops 5",
	} {
		err := s.Errorf(key, "oops %d", 5)
		var placed *Error
		if !errors.As(err, &placed) || !strings.Contains(err.Error(), want) {
			t.Errorf("an error at %q is %v, want %s", key, err, want)
		}
	}

	var zero Section
	if err := zero.Decode(&into); err != nil || zero.Name() != "" {
		t.Errorf("the zero section: %v", err)
	}
	if _, err := zero.Kind("driver"); err == nil {
		t.Error("the zero section has a driver")
	}
	if _, err := section(t, "driver: [a]").Kind("driver"); err == nil || !strings.Contains(err.Error(), ":3:13: expected text, found a list") {
		t.Errorf("a driver that is a list: %v", err)
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1B": 1, "2kB": 2000, "2KB": 2000, "512KiB": 512 << 10, "64MiB": 64 << 20, "2GiB": 2 << 30, "2GB": 2e9, "1TiB": 1 << 40, "1TB": 1e12,
		"8388607TiB": 8388607 << 40,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "B", "-1B", "1 GiB", "1gib", "1G", "0x1B", "8388608TiB", "99999999999999999999B", "1_0B", "+1B"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is a size of %d", text, got)
		}
	}
	for size, want := range map[Size]string{0: "0B", 1: "1B", 1000: "1kB", 1024: "1KiB", 2 << 30: "2GiB", 2e9: "2GB", 1 << 40: "1TiB", 1500: "1500B", math.MaxInt64: "9223372036854775807B"} {
		if got := size.String(); got != want {
			t.Errorf("%d reads %s, want %s", int64(size), got, want)
		}
		if back, err := parseSize(size.String()); err != nil || back != size {
			t.Errorf("%s came back as %d, %v", size, back, err)
		}
	}
	for text, want := range map[string]time.Duration{
		"0": 0, "500ms": 500 * time.Millisecond, "5s": 5 * time.Second, "10m": 10 * time.Minute, "2h": 2 * time.Hour, "7d": 168 * time.Hour,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "s", "-1s", "1 s", "1us", "1.5h", "1h30m", "1w", "110000d", "1S"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is a duration of %v", text, got)
		}
	}
}
