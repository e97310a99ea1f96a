package codec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
)

func show(f Frame) string {
	if f.Garbage != "" {
		return "! " + f.Garbage + "\n"
	}
	var b strings.Builder
	for _, r := range f.Readings {
		fmt.Fprintf(&b, "%s = %s", r.Name, r.Value)
		if r.Unit != "" {
			fmt.Fprintf(&b, " [%s]", r.Unit)
		}
		if r.Quality != gateway.Good {
			fmt.Fprintf(&b, " (%s)", r.Quality)
		}
		if !r.Source.IsZero() {
			fmt.Fprintf(&b, " at %s", r.Source.Format(time.RFC3339Nano))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Each testdata/PROTOCOL*.wire holds what devices send; the .frames beside it what is read.
func TestGoldenProtocols(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.wire")
	if len(files) < 4 {
		t.Fatalf("only %d files in testdata", len(files))
	}
	for _, file := range files {
		wire, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		s := protocol(t, name).Stream()
		var out strings.Builder
		s.Feed(wire, func(f Frame) { out.WriteString(show(f) + "\n") })
		golden := strings.TrimSuffix(file, ".wire") + ".frames"
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
			t.Errorf("%s: got\n%s\nwant\n%s", file, out.String(), want)
		}
	}
}
