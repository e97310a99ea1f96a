package bridge

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Route is one stream of events to an uplink, with its own cursor: what happens to one route
// never holds up another. A topic goes to each uplink by one route at most.
type Route struct {
	ID    string
	Match gateway.Matcher
	// Key is what order is kept by: events of one key arrive in journal order. nil: the topic.
	Key func(*gateway.Event) string
	// Lanes is over how many connections the keys are spread; 0 means 1.
	Lanes int
	// Weight is this route's share of the link while others of the uplink have something to send
	// too; 0 means 1.
	Weight int
	// TTL is the longest that an event is worth sending; 0: for ever.
	TTL time.Duration
	// Events and Bytes bound what is sent in a second; 0: not at all.
	Events, Bytes int
	// DeadAfter is how often a far end has to refuse an event for ever until it is believed; 0
	// means once.
	DeadAfter int
}

func (r Route) withDefaults() Route {
	if r.Key == nil {
		r.Key = byTopic
	}
	r.Lanes, r.Weight, r.DeadAfter = max(r.Lanes, 1), max(r.Weight, 1), max(r.DeadAfter, 1)
	return r
}

// byTopic is the ordering key unless a route says otherwise.
func byTopic(e *gateway.Event) string { return e.Topic }

// except matches what want matches and none of others does.
type except struct {
	want   gateway.Matcher
	others []gateway.Matcher
}

func (x except) Match(topic string) bool {
	for _, o := range x.others {
		if o.Match(topic) {
			return false
		}
	}
	return x.want.Match(topic)
}

// ParseKey makes the function that an ordering key's template stands for: text with
// {topic}, {device}, or {1}, {2} … for a level of the topic.
func ParseKey(template string) (func(*gateway.Event) string, error) {
	if template == "" || template == "{topic}" {
		return byTopic, nil
	}
	var parts []func(*gateway.Event) string
	for rest := template; rest != ""; {
		text, after, found := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, gateway.Errorf(gateway.ErrInvalid, "key %q: } without {", template)
		}
		if text != "" {
			parts = append(parts, func(*gateway.Event) string { return text })
		}
		if !found {
			break
		}
		name, after, found := strings.Cut(after, "}")
		if !found {
			return nil, gateway.Errorf(gateway.ErrInvalid, "key %q: { without }", template)
		}
		part, err := keyPart(name)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		rest = after
	}
	return func(e *gateway.Event) string {
		var b strings.Builder
		for _, p := range parts {
			b.WriteString(p(e))
		}
		return b.String()
	}, nil
}

func keyPart(name string) (func(*gateway.Event) string, error) {
	switch name {
	case "topic":
		return byTopic, nil
	case "device":
		return func(e *gateway.Event) string { return e.Origin.ID }, nil
	}
	n, err := strconv.Atoi(name)
	if err != nil || n < 1 || n > 32 {
		return nil, gateway.Errorf(gateway.ErrInvalid, "key has no {%s}: {topic}, {device}, or {1} to {32} for a level of the topic", name)
	}
	return func(e *gateway.Event) string { return level(e.Topic, n) }, nil
}

// level is the nth level of topic, from 1; empty if it has fewer.
func level(topic string, n int) string {
	for ; n > 1; n-- {
		_, rest, ok := strings.Cut(topic, "/")
		if !ok {
			return ""
		}
		topic = rest
	}
	first, _, _ := strings.Cut(topic, "/")
	return first
}

// holderName names a route where cursors, backlogs and counters are kept.
func holderName(uplink, route string) string { return fmt.Sprintf("%s/%s", uplink, route) }
