package codec

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// split feeds chunks to s and returns lines as they are and garbage as "!reason raw".
func split(s *splitter, chunks ...string) []string {
	var got []string
	for _, c := range chunks {
		s.Feed([]byte(c),
			func(line []byte) { got = append(got, string(line)) },
			func(reason string, raw []byte) { got = append(got, "!"+reason+" "+string(raw)) })
	}
	return got
}

func TestSplitter(t *testing.T) {
	long := strings.Repeat("x", 8)
	for _, c := range []struct {
		name   string
		chunks []string
		want   []string
	}{
		{"lf", []string{"a\nb\n"}, []string{"a", "b"}},
		{"crlf", []string{"a\r\nb\r\n"}, []string{"a", "b"}},
		{"cr only", []string{"a\rb\r"}, []string{"a", "b"}},
		{"cr cr lf", []string{"a\r\r\nb\r\r\n"}, []string{"a", "b"}},
		{"empty lines", []string{"\n\r\n\na\n\n"}, []string{"a"}},
		{"byte by byte", []string{"1", "2", "\r", "\n", "3", "\r", "\n"}, []string{"12", "3"}},
		{"no end yet", []string{"a\nrest"}, []string{"a"}},
		{"a lone cr is noise where lines end with lf", []string{"a\n1\r2\n"}, []string{"a", "1\r2"}},
		{"longest", []string{long + "\r\n" + long + "\n"}, []string{long, long}},
		{"overlong", []string{long + "y\nok\n"}, []string{"!overlong " + long + "y", "ok"}},
		{"overlong in pieces", []string{long, long, long, "\r\nok\r\n"}, []string{"!overlong " + long + long + long, "ok"}},
	} {
		if got := split(newLines(8), c.chunks...); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestSplitterSkipsWhatItDidNotSeeBegin(t *testing.T) {
	s := newLines(0)
	s.SkipPartial()
	got := split(s, "2.34", " kg\r\n12.35 kg\r\n")
	if want := []string{"!partial 2.34 kg", "12.35 kg"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	s.SkipPartial() // nothing came before the end: nothing was lost, so nothing is counted
	if got := split(s, "\n1\n"); !reflect.DeepEqual(got, []string{"1"}) {
		t.Errorf("got %q", got)
	}
}

func TestSplitterHoldsNoMoreThanALine(t *testing.T) {
	s := newLines(100)
	for range 1000 {
		split(s, strings.Repeat("z", 1000))
	}
	if cap(s.buf) > 1024 {
		t.Errorf("holds %d bytes of an endless line", cap(s.buf))
	}
	if got := split(s, "\nok\n"); len(got) != 2 || got[1] != "ok" {
		t.Errorf("after an endless line: %q", got)
	}
}

// FuzzSplitter: how the bytes are cut into reads changes nothing, no line is longer than
// allowed or holds an end, and after one line end the stream is in step again.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("a\r\nb\rc\nddddddddddddddddddd\r\n"), uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		whole := split(newLines(16), string(data))
		rng := rand.New(rand.NewPCG(seed, 0))
		var chunks []string
		for rest := data; len(rest) > 0; {
			n := 1 + rng.IntN(min(len(rest), 7))
			chunks = append(chunks, string(rest[:n]))
			rest = rest[n:]
		}
		s := newLines(16)
		pieces := split(s, chunks...)
		// What is kept of garbage, for people, may end earlier.
		if a, b := reasons(whole), reasons(pieces); !reflect.DeepEqual(a, b) {
			t.Fatalf("whole %q, in pieces %q", a, b)
		}
		for _, line := range whole {
			if !strings.HasPrefix(line, "!overlong ") && (len(line) > 16 || line == "" || strings.Contains(line, "\n")) {
				t.Fatalf("line %q", line)
			}
		}
		if got := split(s, "\nin step\n"); len(got) == 0 || got[len(got)-1] != "in step" {
			t.Fatalf("out of step: %q", got)
		}
	})
}

func reasons(lines []string) []string {
	var out []string
	for _, l := range lines {
		if strings.HasPrefix(l, "!overlong ") {
			l = "!overlong"
		}
		out = append(out, l)
	}
	return out
}

func BenchmarkLine(b *testing.B) {
	l, err := NewFormat("json", nil)
	if err != nil {
		b.Fatal(err)
	}
	data := bytes.Repeat([]byte(fmt.Sprintf("%s\r\n", `{"temperature":21.53,"humidity":44,"co2":612}`)), 10)
	s := newLines(0)
	b.ReportAllocs()
	for b.Loop() {
		s.Feed(data, func(line []byte) { l.Decode(line) }, func(string, []byte) {})
	}
}
