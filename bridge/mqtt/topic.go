package mqtt

import (
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// topics names events for the far end: it takes a prefix off their topic and puts the rest
// into a template.
type topics struct {
	prefix string   // levels, without the last "/"; empty takes nothing off
	parts  []string // text and placeholders by turns, text first
	bare   bool     // the template is {topic} alone

	gatewayID string
}

var placeholders = map[string]bool{"topic": true, "gateway": true, "device": true}

// parseTopics reads a template such as "plants/{gateway}/{topic}".
func parseTopics(template, prefix, gatewayID string) (*topics, error) {
	t := &topics{gatewayID: gatewayID, prefix: strings.TrimSuffix(prefix, "/"), bare: template == "{topic}"}
	if prefix != "" {
		if err := gateway.ValidateTopic(prefix); err != nil {
			return nil, gateway.BadKey("strip_prefix", "%w", err)
		}
	}
	for rest, more := template, true; more; {
		var text, name string
		text, rest, more = strings.Cut(rest, "{")
		t.parts = append(t.parts, text)
		if !more {
			break
		}
		var closed bool
		if name, rest, closed = strings.Cut(rest, "}"); !closed || !placeholders[name] {
			return nil, gateway.BadKey("topic", "topic %q: a placeholder is {topic}, {gateway} or {device}", template)
		}
		t.parts = append(t.parts, name)
	}
	if err := gateway.ValidateTopic(strings.NewReplacer("{", "", "}", "").Replace(template)); err != nil {
		return nil, gateway.BadKey("topic", "%w", err)
	}
	return t, nil
}

// of is the topic of e at the far end. The error is gateway.ErrInvalid: there is none.
func (t *topics) of(e *gateway.Event) (string, error) {
	rest := e.Topic
	if t.prefix != "" {
		if at, ok := strings.CutPrefix(e.Topic, t.prefix); ok && (at == "" || at[0] == '/') {
			rest = strings.TrimPrefix(at, "/")
		}
	}
	if t.bare && rest == e.Topic {
		return rest, nil // valid since it was accepted
	}
	var out strings.Builder
	for i, part := range t.parts {
		if i%2 == 0 {
			out.WriteString(part)
			continue
		}
		value := rest
		switch part {
		case "gateway":
			value = t.gatewayID
		case "device":
			// A client chooses its id itself: it must not choose levels with it.
			if value = e.Origin.ID; strings.Contains(value, "/") {
				return "", gateway.Errorf(gateway.ErrInvalid, "device id %q has a / and cannot be a level of a topic", value)
			}
		}
		if value == "" {
			return "", gateway.Errorf(gateway.ErrInvalid, "the event has nothing to stand for {%s} in its topic", part)
		}
		out.WriteString(value)
	}
	topic := out.String()
	if err := gateway.ValidateTopic(topic); err != nil {
		return "", err
	}
	// Topics with $ are the far end's own: the config may lead there, an event may not.
	if topic[0] == '$' && !strings.HasPrefix(t.parts[0], "$") {
		return "", gateway.Errorf(gateway.ErrInvalid, "topic %q would begin with $", topic)
	}
	return topic, nil
}
