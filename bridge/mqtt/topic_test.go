package mqtt

import (
	"errors"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

func TestTopics(t *testing.T) {
	long := strings.Repeat("x", 65000)
	for _, c := range []struct {
		template, prefix, topic, device string
		want                            string // empty: poison
	}{
		{"{topic}", "", "a/b", "", "a/b"},
		{"plants/{gateway}/{topic}", "", "a/b", "", "plants/gw/a/b"},
		{"{topic}", "site", "site/a", "", "a"},
		{"{topic}", "site/", "site/a/b", "", "a/b"},
		{"x/{topic}", "site/hall", "site/hall/a", "", "x/a"},
		{"x/{topic}", "site", "sites/a", "", "x/sites/a"}, // a prefix is whole levels
		{"x/{topic}", "site", "other/a", "", "x/other/a"},
		{"x/{topic}", "site", "site", "", ""},  // nothing is left
		{"x/{topic}", "site", "site/", "", ""}, // nor here
		{"{topic}", "site", "site//a", "", "/a"},
		{"d/{device}/{topic}", "", "a", "oven", "d/oven/a"},
		{"d/{device}", "", "a", "", ""},
		{"d/{device}", "", "a", "x/y", ""}, // a client chooses its id, not levels
		{"d/{device}", "", "a", "#", ""},
		{"d/{device}", "", "a", "x+", ""},
		{"fixed", "", "a", "", "fixed"},
		{"x/{topic}", "", long, "", "x/" + long},
		{"x/" + long + "/{topic}", "", long, "", ""},
		{"{topic}", "x", "x/$SYS/a", "", ""}, // an event does not lead to the far end's own topics
		{"$aws/rules/r/{topic}", "", "a", "", "$aws/rules/r/a"},
	} {
		topics, err := parseTopics(c.template, c.prefix, "gw")
		if err != nil {
			t.Errorf("%.40q: %v", c.template, err)
			continue
		}
		got, err := topics.of(&gateway.Event{Topic: c.topic, Origin: gateway.Origin{ID: c.device}})
		if got != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%.40q, %q of %.40q: %.60q, %v", c.template, c.prefix, c.topic, got, err)
		}
	}
	for template, want := range map[string]string{
		"x/{tpoic}": `topic: topic "x/{tpoic}": a placeholder is {topic}, {gateway} or {device}`,
		"x/{topic":  `topic: topic "x/{topic": a placeholder is {topic}, {gateway} or {device}`,
		"x/#":       `topic: topic "x/#": '#' is a wildcard and stands in filters only`,
		"x\x00":     `topic: topic "x\x00" has a NUL character`,
	} {
		if _, err := parseTopics(template, "", "gw"); err == nil || err.Error() != want {
			t.Errorf("%q: %v", template, err)
		}
	}
	if _, err := parseTopics("{topic}", "a/+", "gw"); err == nil || !strings.HasPrefix(err.Error(), "strip_prefix: ") {
		t.Errorf("a prefix with a wildcard: %v", err)
	}
}

// Whatever an event is called, what leaves is a topic name outside the far end's own.
func FuzzTopics(f *testing.F) {
	f.Add("plants/{gateway}/{topic}", "site", "site/a", "dev")
	f.Add("{device}{topic}", "a", "a/$x", "")
	f.Fuzz(func(t *testing.T, template, prefix, topic, device string) {
		topics, err := parseTopics(template, prefix, "gw")
		if err != nil || gateway.ValidateTopic(topic) != nil {
			return
		}
		got, err := topics.of(&gateway.Event{Topic: topic, Origin: gateway.Origin{ID: device}})
		if err != nil {
			if !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("%v is not invalid", err)
			}
			return
		}
		if err := gateway.ValidateTopic(got); err != nil {
			t.Error(err)
		}
		if got[0] == '$' && template[0] != '$' && got != topic {
			t.Errorf("%q of %q", got, topic)
		}
	})
}
