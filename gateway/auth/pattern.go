package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// A pattern is a topic filter in which %u stands for the user name, %c for the client
// identifier and %% for a percent sign.
type pattern struct {
	text string
	user bool // has %u
	id   bool // has %c
}

func parsePattern(s string) (pattern, error) {
	p := pattern{text: s}
	if strings.HasPrefix(s, "$share/") {
		return p, fmt.Errorf("pattern %q matches nothing: shared subscriptions are decided by their filter, leave $share and the group out", s)
	}
	for rest := s; ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			break
		}
		switch {
		case strings.HasPrefix(after, "u"):
			p.user = true
		case strings.HasPrefix(after, "c"):
			p.id = true
		case strings.HasPrefix(after, "%"):
		default:
			return p, fmt.Errorf("pattern %q: %% stands only in %%u (user name), %%c (client id) and %%%% (a percent sign)", s)
		}
		rest = after[1:]
	}
	_, err := p.fill("u", "c")
	return p, err
}

// fill returns the filter for a user and a client. A name goes in as text of one
// level. One that could mean more, such as "+" or "a/b", yields an error, and the
// pattern then matches nothing: clients choose their identifiers themselves.
func (p pattern) fill(user, clientID string) (gateway.Filter, error) {
	if p.user {
		if err := literal(user, strings.HasPrefix(p.text, "%u")); err != nil {
			return gateway.Filter{}, fmt.Errorf("user name %q %w", user, err)
		}
	}
	if p.id {
		if err := literal(clientID, strings.HasPrefix(p.text, "%c")); err != nil {
			return gateway.Filter{}, fmt.Errorf("client id %q %w", clientID, err)
		}
	}
	// One pass: what was put in is not looked at again.
	return gateway.ParseFilter(strings.NewReplacer("%%", "%", "%u", user, "%c", clientID).Replace(p.text))
}

// literal tells why name cannot be a literal part of a topic level. At the start of
// a pattern $ would open the server's own topics, which wildcards do not (§4.7.2).
func literal(name string, first bool) error {
	switch {
	case name == "":
		return errors.New("is empty")
	case strings.ContainsAny(name, "/+#"):
		return errors.New("has one of / + #")
	case first && name[0] == '$':
		return errors.New("begins with $")
	}
	return nil
}
