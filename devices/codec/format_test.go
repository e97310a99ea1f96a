package codec

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Each testdata/*.lines begins with "# format: …" as JSON, optionally "# units: …", and
// holds lines as a device sends them; the .golden beside it what they decode to.
func TestGoldenLines(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.lines")
	if len(files) < 4 {
		t.Fatalf("only %d files in testdata", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var format any
			units := map[string]Measurement{}
			var out strings.Builder
			var l *Format
			for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
				if text, ok := strings.CutPrefix(line, "# format: "); ok {
					if err := json.Unmarshal([]byte(text), &format); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if text, ok := strings.CutPrefix(line, "# units: "); ok {
					if err := json.Unmarshal([]byte(text), &units); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if l == nil {
					if l, err = NewFormat(format, units); err != nil {
						t.Fatal(err)
					}
				}
				fmt.Fprintf(&out, "%s\n", line)
				readings, garbage := l.Decode([]byte(line))
				if garbage != "" {
					fmt.Fprintf(&out, "\t! %s\n", garbage)
				}
				for _, r := range readings {
					fmt.Fprintf(&out, "\t%s = %s", r.Name, r.Value)
					if r.Unit != "" {
						fmt.Fprintf(&out, " [%s]", r.Unit)
					}
					if r.Quality != gateway.Good {
						fmt.Fprintf(&out, " (%s)", r.Quality)
					}
					out.WriteString("\n")
				}
			}
			golden := strings.TrimSuffix(file, ".lines") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", out.String(), want)
			}
		})
	}
}

func TestBinaryIsNoLine(t *testing.T) {
	l, err := NewFormat(map[string]any{"csv": []any{"a"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"1\x002", "\x1b[0m1", "1\xb0C", "\x7f", "1\r2"} {
		if r, garbage := l.Decode([]byte(line)); garbage != Binary || r != nil {
			t.Errorf("%q: %v, %q", line, r, garbage)
		}
	}
}

func TestNumber(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "21.50": "21.50", "-3": "-3", "+12.3": "12.3", "0012.30": "12.30", "-007": "-7", ".5": "0.5",
		"-.5": "-0.5", "5.": "5", "000": "0", "1e5": "1e5", "1.5E-03": "1.5E-03",
		"123456789012345678901234567890.10": "123456789012345678901234567890.10",
		"":                                  "", "-": "", ".": "", "+-1": "", "1e": "", "e5": "", "1e+-5": "", "1.2.3": "", "0x10": "", "1,5": "", "12 kg": "", "NaN": "", "1_0": "", "١": "",
	} {
		got, ok := Number(in)
		if ok != (want != "") || got != want {
			t.Errorf("Number(%q) = %q, %t; want %q", in, got, ok, want)
		}
		if ok && !json.Valid([]byte(got)) {
			t.Errorf("Number(%q) = %q is not a JSON number", in, got)
		}
	}
}

func TestCleanName(t *testing.T) {
	for in, want := range map[string]string{
		"": "_", "weight": "weight", "a/b": "a_b", "+": "_", "a#": "a_", "$SYS": "_SYS", "t\x00": "t_", "\xff": "_",
		"Größe": "Größe", "air.t": "air.t", strings.Repeat("ö", 100): strings.Repeat("ö", 64), " ": " ",
	} {
		got := CleanName(in)
		if got != want {
			t.Errorf("CleanName(%q) = %q, want %q", in, got, want)
		}
		if err := gateway.ValidateTopic(got); err != nil {
			t.Errorf("CleanName(%q): %v", in, err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		format any
		units  map[string]Measurement
		key    string
		want   string
	}{
		{nil, nil, "format", "missing; it is one of " + formats},
		{"jsn", nil, "format", `"jsn" is no format; it is one of ` + formats},
		{1, nil, "format", "is one of " + formats},
		{map[string]any{"cvs": 1}, nil, "format.cvs", `"cvs" is no format; it is one of ` + formats},
		{map[string]any{"csv": 1, "regex": 2}, nil, "format", "has 2 keys; it is one of " + formats},
		{map[string]any{"csv": []any{}}, nil, "format.csv", "csv is a list of column names, such as [temperature, humidity]"},
		{map[string]any{"csv": []any{"a", 1}}, nil, "format.csv", "csv column 2 is 1; a column is a name"},
		{map[string]any{"csv": []any{"a", "a"}}, nil, "format.csv", `"a" stands twice`},
		{map[string]any{"csv": []any{"_"}}, nil, "format.csv", "csv skips every column"},
		{map[string]any{"csv": []any{"a/b"}}, nil, "format.csv", `measurement "a/b" cannot be a topic level; "a_b" can`},
		{map[string]any{"csv": []any{""}}, nil, "format.csv", `a measurement has an empty name`},
		{map[string]any{"regex": "("}, nil, "format.regex", "error parsing regexp: missing closing ): `(`"},
		{map[string]any{"regex": "(.*)"}, nil, "format.regex", "regex has no named group, such as (?P<weight>[0-9.]+)"},
		{map[string]any{"regex": true}, nil, "format.regex", "regex is a string"},
		{map[string]any{"regex": "(?P<w>.)"}, map[string]Measurement{"weight": {Unit: "kg"}}, "measurements.weight", `the format has no measurement "weight"; it has w`},
		{"json", map[string]Measurement{"a+": {}}, "measurements.a+", `measurement "a+" cannot be a topic level; "a_" can`},
	} {
		_, err := NewFormat(c.format, c.units)
		var key *gateway.KeyError
		if !errors.As(err, &key) || key.Key != c.key || key.Err.Error() != c.want {
			t.Errorf("%v %v: %v", c.format, c.units, err)
		}
	}
}

func TestNames(t *testing.T) {
	l, err := NewFormat(map[string]any{"csv": []any{"t", "_", "h"}}, map[string]Measurement{"t": {Unit: "°C"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Names(); !reflect.DeepEqual(got, []string{"h", "t"}) {
		t.Errorf("names of csv: %v", got)
	}
	l, err = NewFormat("json", map[string]Measurement{"t": {Unit: "°C"}, "a": {}})
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Names(); !reflect.DeepEqual(got, []string{"a", "t"}) {
		t.Errorf("names of json: %v", got)
	}
}

func TestTooManyReadings(t *testing.T) {
	l, _ := NewFormat("json", nil)
	list := func(n int) []byte { return []byte(`{"v":[` + strings.Repeat("1,", n-1) + `1]}`) }
	if r, garbage := l.Decode(list(MaxReadings)); len(r) != MaxReadings || garbage != "" {
		t.Errorf("%d readings, %q", len(r), garbage)
	}
	if r, garbage := l.Decode(list(MaxReadings + 1)); r != nil || garbage != TooMany {
		t.Errorf("%d readings, %q", len(r), garbage)
	}
}

// FuzzDecode: no line makes a decoder panic or a reading that cannot be published, and
// JSON is taken exactly when encoding/json takes it as an object.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"a":{"b":[1,true,null,"x"]}}`, "t=21.5 h=4", "1.5;2", "+0012.50 kg", "[[[[", `{"a":1}{}`} {
		f.Add([]byte(s))
	}
	units := map[string]Measurement{"weight": {Unit: "kg"}}
	var lines []*Format
	for _, format := range []any{"json", "key=value", map[string]any{"csv": []any{"a", "_"}}, map[string]any{"regex": `^(?P<weight>\S+) kg$`}} {
		m := units
		if f, ok := format.(map[string]any); ok && f["csv"] != nil {
			m = nil
		}
		l, err := NewFormat(format, m)
		if err != nil {
			f.Fatal(err)
		}
		lines = append(lines, l)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for i, l := range lines {
			readings, garbage := l.Decode(data)
			if garbage != "" && readings != nil {
				t.Fatal("both readings and garbage")
			}
			for _, r := range readings {
				if err := gateway.ValidateTopic(r.Name); err != nil || CleanName(r.Name) != r.Name {
					t.Fatalf("name %q: %v", r.Name, err)
				}
				if _, ok := Number(r.Value); r.Unit != "" && r.Quality == gateway.Good && (!ok || !json.Valid([]byte(r.Value))) {
					t.Fatalf("%s = %q is no number", r.Name, r.Value)
				}
			}
			var object map[string]any
			if i == 0 && garbage == "" && json.Unmarshal(data, &object) != nil && string(data) != "null" {
				t.Fatalf("%q is no JSON object, yet it was taken", data)
			}
		}
	})
}
