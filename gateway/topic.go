package gateway

import (
	"strings"
	"unicode/utf8"
)

// Limits on topic names and filters. MaxTopicLevels is ours: a name of 65,000
// levels costs any subscription tree seconds of CPU.
const (
	MaxTopicBytes  = 65535 // MQTT 5 §1.5.4
	MaxTopicLevels = 128
)

// ValidateTopic checks a topic name: MQTT 5 §4.7.1 and §4.7.3.
func ValidateTopic(topic string) error {
	if err := validateLevels("topic", topic); err != nil {
		return err
	}
	if i := strings.IndexAny(topic, "+#"); i >= 0 {
		return Errorf(ErrInvalid, "topic %q: %q is a wildcard and stands in filters only", topic, topic[i])
	}
	return nil
}

func validateLevels(what, s string) error {
	switch {
	case s == "":
		return Errorf(ErrInvalid, "%s is empty", what)
	case len(s) > MaxTopicBytes:
		return Errorf(ErrInvalid, "%s is longer than %d bytes", what, MaxTopicBytes)
	case strings.IndexByte(s, 0) >= 0:
		return Errorf(ErrInvalid, "%s %q has a NUL character", what, s)
	case !utf8.ValidString(s):
		return Errorf(ErrInvalid, "%s %q is not valid UTF-8", what, s)
	case strings.Count(s, "/") >= MaxTopicLevels:
		return Errorf(ErrInvalid, "%s has more than %d levels", what, MaxTopicLevels)
	}
	return nil
}

// Filter is a validated topic filter: MQTT 5 §4.7.
type Filter struct{ s string }

// ParseFilter validates s as a topic filter.
func ParseFilter(s string) (Filter, error) {
	if err := validateLevels("filter", s); err != nil {
		return Filter{}, err
	}
	for rest, more := s, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case level == "#" && more:
			return Filter{}, Errorf(ErrInvalid, "filter %q: # stands only as the last level", s)
		case len(level) > 1 && strings.ContainsAny(level, "+#"):
			return Filter{}, Errorf(ErrInvalid, "filter %q: level %q mixes a wildcard with text", s, level)
		}
	}
	return Filter{s}, nil
}

// MustFilter is ParseFilter for filters written in the program.
func MustFilter(s string) Filter {
	f, err := ParseFilter(s)
	if err != nil {
		panic(err)
	}
	return f
}

func (f Filter) String() string { return f.s }

// Match tells whether topic, a valid topic name, matches f. A filter that begins
// with a wildcard does not match a topic that begins with $ (§4.7.2).
func (f Filter) Match(topic string) bool {
	filter := f.s
	if filter == "" || topic == "" {
		return false
	}
	if topic[0] == '$' && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for {
		fl, frest, fmore := strings.Cut(filter, "/")
		if fl == "#" {
			return true
		}
		tl, trest, tmore := strings.Cut(topic, "/")
		if fl != "+" && fl != tl {
			return false
		}
		switch {
		case !fmore && !tmore:
			return true
		case fmore && !tmore:
			return frest == "#" // "a/#" matches its parent "a", §4.7.1.2
		case !fmore:
			return false
		}
		filter, topic = frest, trest
	}
}

// Covers tells whether f matches every topic that g can match, the rule about $
// included.
func (f Filter) Covers(g Filter) bool {
	wide, narrow := f.s, g.s
	if wide == "" || narrow == "" {
		return false
	}
	if narrow[0] == '$' && (wide[0] == '+' || wide[0] == '#') {
		return false
	}
	if wide == "+/#" { // a topic has a first level, so this is "#"
		return true
	}
	for {
		wl, wrest, wmore := strings.Cut(wide, "/")
		if wl == "#" {
			return true
		}
		nl, nrest, nmore := strings.Cut(narrow, "/")
		if nl == "#" || wl != "+" && wl != nl {
			return false
		}
		switch {
		case !wmore && !nmore:
			return true
		case wmore && !nmore:
			return wrest == "#"
		case !wmore:
			return false
		}
		wide, narrow = wrest, nrest
	}
}

// Overlaps tells whether there is a topic that both f and g match, the rule about $ left aside.
func (f Filter) Overlaps(g Filter) bool {
	a, b := f.s, g.s
	for {
		al, arest, amore := strings.Cut(a, "/")
		bl, brest, bmore := strings.Cut(b, "/")
		switch {
		case al == "#" || bl == "#":
			return true
		case al != bl && al != "+" && bl != "+":
			return false
		case !amore && !bmore:
			return true
		case !amore:
			return brest == "#"
		case !bmore:
			return arest == "#"
		}
		a, b = arest, brest
	}
}

// Matcher chooses topics: which events a reader wants. Filters is one.
type Matcher interface {
	// Match is asked for topic names; the answer for a topic never changes.
	Match(topic string) bool
}

// Filters is a set of filters; it matches what any of them matches.
type Filters []Filter

// ParseFilters validates every string of ss.
func ParseFilters(ss ...string) (Filters, error) {
	fs := make(Filters, 0, len(ss))
	for _, s := range ss {
		f, err := ParseFilter(s)
		if err != nil {
			return nil, err
		}
		fs = append(fs, f)
	}
	return fs, nil
}

// Match tells whether any filter matches topic.
func (fs Filters) Match(topic string) bool {
	for _, f := range fs {
		if f.Match(topic) {
			return true
		}
	}
	return false
}
