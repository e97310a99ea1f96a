package nats

import (
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// maxSubject bounds a subject, in bytes. A server closes the connection on a protocol line longer
// than its max_control_line, 4096 unless it is told otherwise; the rest is for reply and sizes.
const maxSubject = 3584

// subject is what is before and behind the event's topic.
type subject struct {
	before, behind string
	byTopic        bool
}

func newSubject(template, gatewayID string) (subject, error) {
	if template == "" {
		template = "{topic}"
	}
	gatewayToken, err := fromTopic(gatewayID)
	if err != nil {
		return subject{}, err
	}
	template = strings.ReplaceAll(template, "{gateway}", gatewayToken)
	var s subject
	s.before, s.behind, s.byTopic = strings.Cut(template, "{topic}")
	if strings.ContainsAny(s.before+s.behind, "{}") {
		return subject{}, gateway.BadKey("subject", "%q: only one {topic}, and {gateway}, are filled in", template)
	}
	if _, err := s.of("t"); err != nil {
		return subject{}, gateway.BadKey("subject", "%w", err)
	}
	return s, nil
}

// of returns the subject for a topic, or gateway.ErrInvalid if there is none.
func (s subject) of(topic string) (string, error) {
	if !s.byTopic {
		return s.before, checkSubject(s.before)
	}
	t, err := fromTopic(topic)
	if err != nil {
		return "", err
	}
	full := s.before + t + s.behind
	return full, checkSubject(full)
}

// fromTopic maps a topic as NATS' own MQTT gateway does, so that both can be used side by side: a
// level is a token, an empty level is "/", and a "." within a level is "//".
func fromTopic(topic string) (string, error) {
	levels := strings.Split(topic, "/")
	for i, level := range levels {
		switch level {
		case "":
			levels[i] = "/"
		case "*", ">":
			return "", gateway.Errorf(gateway.ErrInvalid, "topic %q: the level %q is a wildcard in NATS", topic, level)
		default:
			levels[i] = strings.ReplaceAll(level, ".", "//")
		}
	}
	if strings.ContainsAny(topic, " \t\r\n\f\x7f") {
		return "", gateway.Errorf(gateway.ErrInvalid, "topic %q: NATS has no white space in subjects", topic)
	}
	return strings.Join(levels, "."), nil
}

// checkSubject refuses what a server would, and what reaches its own services: a device that
// publishes on $JS/API/… must not manage streams.
func checkSubject(s string) error {
	bad := ""
	switch {
	case len(s) > maxSubject:
		return gateway.Errorf(gateway.ErrInvalid, "subject of %d bytes is longer than %d", len(s), maxSubject)
	case strings.ContainsAny(s, " \t\r\n\f\x00\x7f"):
		bad = "has white space"
	case strings.HasPrefix(s, "$"):
		bad = "is one of the server's own"
	}
	for token := range strings.SplitSeq(s, ".") {
		switch token {
		case "":
			bad = "has an empty token"
		case "*", ">":
			bad = "has a wildcard"
		}
	}
	if bad != "" {
		return gateway.Errorf(gateway.ErrInvalid, "subject %q %s", s, bad)
	}
	return nil
}
