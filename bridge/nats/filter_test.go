package nats

import (
	"slices"
	"testing"
)

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		filter string
		want   []string
	}{
		{"gw7/cmd/#", []string{"gw7.cmd.>", "gw7.cmd"}},
		{"gw7/+/set", []string{"gw7.*.set"}},
		{"#", []string{">"}},
		{"a.b//c", []string{"a//b./.c"}},
	} {
		got, err := fromFilter(c.filter)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", c.filter, got, err)
		}
	}
	if _, err := fromFilter("a/*"); err == nil {
		t.Error("a level * is a wildcard there")
	}
	for _, topic := range []string{"a", "a/b", "a//b", "/a", "a/", "a.b/c"} {
		s, err := fromTopic(topic)
		if got := toTopic(s); err != nil || got != topic {
			t.Errorf("%q came back as %q by %q, %v", topic, got, s, err)
		}
	}
}
