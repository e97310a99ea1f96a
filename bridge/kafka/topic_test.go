package kafka

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

func TestTemplate(t *testing.T) {
	for _, c := range []struct{ template, topic, want string }{
		{"weir", "a/b", "weir"},
		{"{topic}", "a/b", "a.b"},
		{"{topic}", "/a//b", ".a..b"},
		{"plant1.{topic}.raw", "Oven 1/Ofentür/°C", "plant1.Oven-1.Ofent-r.-C.raw"},
		{"{topic}", "a_b-c.d", "a_b-c.d"},
		{"x{topic}", "/", "x."},
		{"{topic}", "/", ""}, // "." is no name
		{"{topic}", "//", ""},
		{"{topic}", strings.Repeat("a", 249), strings.Repeat("a", 249)},
		{"{topic}", strings.Repeat("a", 250), ""},
		{"{topic}", strings.Repeat("ü", 249), strings.Repeat("-", 249)},
	} {
		parsed, err := parseTemplate(c.template)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parsed.name(c.topic)
		if got != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%s of %s: %q, %v, want %q", c.template, c.topic, got, err, c.want)
		}
	}
}

// What devices call their topics never makes a name that Kafka does not allow.
func FuzzTemplate(f *testing.F) {
	f.Add("a/b")
	f.Add("..")
	f.Add("\xff/ü")
	legal := regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)
	all, err := parseTemplate("{topic}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		name, err := all.name(topic)
		if err == nil && (!legal.MatchString(name) || name == "." || name == "..") {
			t.Errorf("%q became %q", topic, name)
		}
	})
}
