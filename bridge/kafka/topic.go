package kafka

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// maxTopic is the longest name of a topic, in bytes.
const maxTopic = 249

// placeholder stands for the event's topic in a template.
const placeholder = "{topic}"

// template names the Kafka topic of an event. In the event's topic "/" becomes "." and every
// other character that Kafka does not allow becomes "-": not "_", because Kafka may refuse a
// name that differs from another only in "." and "_". Two topics may become one; the
// header weir-topic and the key tell them apart.
type template struct {
	before, after string
	perEvent      bool // has {topic}
}

func parseTemplate(s string) (template, error) {
	before, after, found := strings.Cut(s, placeholder)
	t := template{before, after, found}
	if i := strings.IndexFunc(before+after, illegal); i >= 0 {
		return t, fmt.Errorf("topic %q: letters, digits, . _ - and one {topic} make a name", s)
	}
	if !found {
		return t, checkName(s)
	}
	if len(s)-len(placeholder) >= maxTopic {
		return t, fmt.Errorf("topic %q leaves no room in %d bytes", s, maxTopic)
	}
	return t, nil
}

// name returns the Kafka topic for an event's topic. It is gateway.ErrInvalid if there is none.
func (t template) name(topic string) (string, error) {
	if !t.perEvent {
		return t.before, nil
	}
	name := t.before + strings.Map(func(r rune) rune {
		switch {
		case r == '/':
			return '.'
		case illegal(r):
			return '-'
		}
		return r
	}, topic) + t.after
	if err := checkName(name); err != nil {
		return "", gateway.Errorf(gateway.ErrInvalid, "no Kafka topic for it: %w", err)
	}
	return name, nil
}

func checkName(name string) error {
	switch {
	case len(name) > maxTopic:
		return fmt.Errorf("name of %d bytes; %d is the most", len(name), maxTopic)
	case name == "" || name == "." || name == "..":
		return errors.New(`a name is not empty, "." or ".."`)
	}
	return nil
}

func illegal(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
}
