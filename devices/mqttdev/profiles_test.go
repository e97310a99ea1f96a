package mqttdev

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The files in testdata are made by hand, in the form that the projects document: a line for each message, and a
// first one that says which profile and base. Beside each stands what becomes of it.
func TestProfiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.mqtt")
	if err != nil || len(files) < 7 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".mqtt") + ".readings"
			got := play(t, data)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// play decodes the messages of a recording and writes down what they say.
func play(t *testing.T, recording []byte) []byte {
	lines := bufio.NewScanner(bytes.NewReader(recording))
	lines.Buffer(nil, 1<<16)
	lines.Scan()
	header, _, _ := strings.Cut(strings.TrimPrefix(lines.Text(), "# "), ":")
	cfg := Config{From: Filters{filters("farm/+/+")}, Format: "raw", As: "{2}.{3}"}
	measurements := map[string]codec.Measurement{"silo1.level": {Unit: "%"}, "silo2.level": {Unit: "%"}}
	if profile, base, ok := strings.Cut(header, " "); ok {
		cfg, measurements = Config{Profile: profile, Base: base}, nil
	}
	d, err := New("device", cfg, measurements, nil, &Broker{})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for lines.Scan() {
		topic, payload, _ := strings.Cut(lines.Text(), " ")
		e := &gateway.Event{Topic: topic, Payload: []byte(payload)}
		fmt.Fprintln(&out, topic)
		switch {
		case !d.Reads().Match(topic):
			fmt.Fprintln(&out, "  is not read")
		case slices.Contains(d.availability, topic):
			d.hear(e)
			fmt.Fprintf(&out, "  there: %t\n", d.isThere())
		default:
			readings, garbage := d.decode(e)
			if garbage != "" {
				fmt.Fprintf(&out, "  garbage: %s\n", garbage)
			}
			for _, r := range readings {
				fmt.Fprintf(&out, "  %s = %s %s", r.Name, r.Value, r.Unit)
				if k := codec.KindOf(r.Name, r.Unit); k.Name != "" {
					fmt.Fprintf(&out, " (%s)", k.Name)
				}
				if r.Quality != gateway.Good {
					fmt.Fprintf(&out, " %s", r.Quality)
				}
				if !r.Source.IsZero() {
					fmt.Fprintf(&out, " at %s", r.Source.UTC().Format(time.RFC3339))
				}
				fmt.Fprintln(&out)
			}
		}
	}
	return out.Bytes()
}

// Whatever stands in a message, no profile falls over it, and what it makes can be a topic.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.mqtt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, line := range strings.Split(string(data), "\n")[1:] {
			topic, payload, _ := strings.Cut(line, " ")
			f.Add(topic, []byte(payload))
		}
	}
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		if gateway.ValidateTopic(topic) != nil {
			return
		}
		for _, name := range Profiles() {
			g, _ := GuessOf(topic)
			if g.Profile != name {
				g.Base = "x"
			}
			d, err := New("device", Config{Profile: name, Base: g.Base}, nil, nil, &Broker{})
			if err != nil {
				continue // of a base that cannot be
			}
			readings, garbage := d.decode(&gateway.Event{Topic: topic, Payload: payload})
			if garbage != "" && len(readings) > 0 {
				t.Errorf("%s: both readings and %s", name, garbage)
			}
			for _, r := range readings {
				if err := codec.CheckName(r.Name); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			d.hear(&gateway.Event{Topic: topic, Payload: payload})
		}
	})
}
