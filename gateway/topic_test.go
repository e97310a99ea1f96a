package gateway

import (
	"errors"
	"strings"
	"testing"
)

// The examples of MQTT 5 §4.7.1 to §4.7.3, and what they imply.
func TestMatch(t *testing.T) {
	tests := []struct {
		filter, topic string
		want          bool
	}{
		// §4.7.1.2
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player2", false},
		{"sport/#", "sport", true},
		{"sport/#", "sports", false},
		{"#", "sport", true},
		{"#", "a/b/c/d", true},
		{"sport/tennis/#", "sport/tennis/player1", true},
		// §4.7.1.3
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player2", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+", "sport", true},
		{"+/tennis/#", "sport/tennis", true},
		{"+/tennis/#", "sport/tennis/x", true},
		{"+/tennis/#", "tennis", false},
		{"sport/+/player1", "sport/tennis/player1", true},
		{"sport/+/player1", "sport//player1", true},
		{"sport/+/player1", "sport/player1", false},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		// §4.7.2
		{"#", "$SYS/monitor/Clients", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/monitor/Clients", true},
		{"$SYS/#", "$SYS", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"a/#", "a/$SYS", true},
		{"a/+", "a/$SYS", true},
		// §4.7.3
		{"ACCOUNTS", "Accounts", false},
		{"Accounts payable", "Accounts payable", true},
		{"/finance", "finance", false},
		{"finance", "/finance", false},
		{"finance/", "finance", false},
		{"finance", "finance/", false},
		{"/", "/", true},
		{"/", "//", false},
		{"+/+/+", "//", true},
		{"#", "/", true},
		{"a//b", "a//b", true},
		{"a/b", "a//b", false},
		{"\u00e5", "a\u030a", false}, // no normalisation
		{"", "a", false},
		{"#", "", false},
	}
	for _, test := range tests {
		f := Filter{test.filter}
		if test.filter != "" {
			f = MustFilter(test.filter)
		}
		if got := f.Match(test.topic); got != test.want {
			t.Errorf("filter %q, topic %q: %v", test.filter, test.topic, got)
		}
	}
}

func TestCovers(t *testing.T) {
	tests := []struct {
		wide, narrow string
		want         bool
	}{
		{"#", "#", true},
		{"#", "+", true},
		{"#", "+/#", true},
		{"#", "a/+/c", true},
		{"+/#", "#", true}, // every topic has a first level
		{"+/#", "+", true},
		{"+/+/#", "#", false},
		{"+/+/#", "+/#", false},
		{"+", "#", false},
		{"a/#", "a", true},
		{"a/#", "a/#", true},
		{"a/#", "a/+/#", true},
		{"a/+/#", "a/#", false}, // not a itself
		{"a/+/#", "a/b", true},
		{"a/+", "a/b", true},
		{"a/+", "a/+", true},
		{"a/+", "a/#", false},
		{"a/+", "a", false},
		{"a/b", "a/+", false},
		{"a/b", "a/b", true},
		{"a/b", "a/b/c", false},
		{"a/b/c", "a/b", false},
		{"+/b", "a/b", true},
		{"a/b", "+/b", false},
		{"+/+", "/", true},
		{"/+", "/a", true},
		{"/+", "+/a", false},
		{"#", "$SYS/#", false},
		{"+/#", "$SYS", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/+/x", true},
		{"$SYS/#", "#", false},
		{"$SYS/#", "+/x", false},
		{"a/#", "a/$x", true},
		{"", "a", false},
		{"#", "", false},
	}
	for _, test := range tests {
		if got := (Filter{test.wide}).Covers(Filter{test.narrow}); got != test.want {
			t.Errorf("%q covers %q: %v", test.wide, test.narrow, got)
		}
	}
}

func TestParseFilterRefuses(t *testing.T) {
	tests := []struct{ filter, want string }{
		{"", "filter is empty"},
		{"sport/tennis#", `filter "sport/tennis#": level "tennis#" mixes a wildcard with text`},
		{"sport/tennis/#/ranking", `filter "sport/tennis/#/ranking": # stands only as the last level`},
		{"#/", `filter "#/": # stands only as the last level`},
		{"sport+", `filter "sport+": level "sport+" mixes a wildcard with text`},
		{"##", `filter "##": level "##" mixes a wildcard with text`},
		{"++", `filter "++": level "++" mixes a wildcard with text`},
		{"a/+b/c", `filter "a/+b/c": level "+b" mixes a wildcard with text`},
		{"a\x00b", `filter "a\x00b" has a NUL character`},
		{"a\xffb", `filter "a\xffb" is not valid UTF-8`},
		{"\xed\xa0\x80", `filter "\xed\xa0\x80" is not valid UTF-8`}, // a surrogate, §1.5.4
		{strings.Repeat("x", MaxTopicBytes+1), "filter is longer than 65535 bytes"},
		{strings.Repeat("/", MaxTopicLevels), "filter has more than 128 levels"},
	}
	for _, test := range tests {
		f, err := ParseFilter(test.filter)
		if err == nil || err.Error() != test.want || !errors.Is(err, ErrInvalid) || f.String() != "" {
			t.Errorf("%.40q: got %q, %v, want %s", test.filter, f, err, test.want)
		}
	}
	for _, filter := range []string{"#", "+", "/", "+/tennis/#", "a/ /b", strings.Repeat("/", MaxTopicLevels-1), strings.Repeat("x", MaxTopicBytes)} {
		if f, err := ParseFilter(filter); err != nil || f.String() != filter {
			t.Errorf("%.40q: %v", filter, err)
		}
	}
	if fs, err := ParseFilters("a", "b#"); fs != nil || err == nil {
		t.Errorf("ParseFilters took b#: %v", fs)
	}
}

func TestMustFilterPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("MustFilter took a#")
		}
	}()
	MustFilter("a#")
}

func TestValidateTopic(t *testing.T) {
	tests := []struct{ topic, want string }{
		{"a", ""},
		{"/", ""},
		{"$SYS/a b/ü", ""},
		{strings.Repeat("/", MaxTopicLevels-1), ""},
		{strings.Repeat("x", MaxTopicBytes), ""},
		{"", "topic is empty"},
		{"a/+", `topic "a/+": '+' is a wildcard and stands in filters only`},
		{"a#", `topic "a#": '#' is a wildcard and stands in filters only`},
		{"a\x00", `topic "a\x00" has a NUL character`},
		{"\xff", `topic "\xff" is not valid UTF-8`},
		{strings.Repeat("x", MaxTopicBytes+1), "topic is longer than 65535 bytes"},
		{strings.Repeat("/", MaxTopicLevels), "topic has more than 128 levels"},
	}
	for _, test := range tests {
		err := ValidateTopic(test.topic)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%.40q: %v", test.topic, err)
		case test.want != "" && (err == nil || err.Error() != test.want || !errors.Is(err, ErrInvalid)):
			t.Errorf("%.40q: got %v, want %s", test.topic, err, test.want)
		}
	}
}

func TestFilters(t *testing.T) {
	fs, err := ParseFilters("a/+", "b/#")
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]bool{"a/x": true, "b": true, "a": false, "c": false} {
		if got := fs.Match(topic); got != want {
			t.Errorf("%q: %v", topic, got)
		}
	}
	if (Filters)(nil).Match("a") {
		t.Error("no filter matches something")
	}
}

// naiveMatch is §4.7 as it reads, level by level, with the levels still in a slice.
func naiveMatch(filter, topic []string) bool {
	switch {
	case len(filter) == 1 && filter[0] == "#":
		return true // also when no level is left: the parent
	case len(filter) == 0 || len(topic) == 0:
		return len(filter) == 0 && len(topic) == 0
	case filter[0] == "+" || filter[0] == topic[0]:
		return naiveMatch(filter[1:], topic[1:])
	}
	return false
}

func reference(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && strings.ContainsAny(filter[:1], "+#") {
		return false
	}
	return naiveMatch(strings.Split(filter, "/"), strings.Split(topic, "/"))
}

// samples are topics that f matches, chosen so that a filter which does not cover f
// misses one: each + becomes a level nobody writes, an empty one and one of others'.
func samples(f Filter, levels []string) (topics []string) {
	topics = []string{""}
	for i, level := range strings.Split(f.String(), "/") {
		if level == "#" {
			for _, topic := range topics {
				for _, tail := range append([]string{"~", "~/~", "~/~/~", "~/~/~/~/~/~"}, levels...) {
					if i == 0 {
						topics = append(topics, tail)
					} else {
						topics = append(topics, topic+"/"+tail)
					}
				}
			}
			if i == 0 {
				topics = topics[1:] // "" is no topic
			}
			break
		}
		choices := []string{level}
		if level == "+" {
			choices = append([]string{"~"}, levels...)
		}
		var longer []string
		for _, topic := range topics {
			for _, c := range choices {
				if i > 0 {
					c = topic + "/" + c
				}
				longer = append(longer, c)
			}
		}
		topics = longer
		if len(topics) > 3000 {
			topics = topics[:3000]
		}
	}
	return topics
}

// FuzzFilters compares Match with the standard's words, and Covers with Match on
// topics that tell filters apart.
func FuzzFilters(f *testing.F) {
	for _, s := range [][3]string{
		{"#", "+/#", "a"}, {"a/#", "a/+", "a"}, {"$SYS/#", "#", "$SYS/x"}, {"+/+", "/+", "//"},
		{"a/+/c", "a/b/#", "a/b/c"}, {"+/#", "#", "$a"}, {"a/+/#", "a/#", "a"}, {"a/b", "+/b/#", "a/b"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, wide, narrow, topic string) {
		w, err := ParseFilter(wide)
		if err != nil {
			return
		}
		if ValidateTopic(topic) == nil {
			if got, want := w.Match(topic), reference(wide, topic); got != want {
				t.Errorf("filter %q, topic %q: Match says %v, §4.7 says %v", wide, topic, got, want)
			}
		}
		n, err := ParseFilter(narrow)
		if err != nil || strings.Count(narrow, "+") > 4 {
			return
		}
		levels := []string{"", "$~"}
		for _, level := range strings.Split(wide, "/") {
			if !strings.ContainsAny(level, "+#") && len(levels) < 5 {
				levels = append(levels, level)
			}
		}
		covers := true
		for _, topic := range samples(n, levels) {
			if topic == "" || !reference(narrow, topic) {
				continue
			}
			if !reference(wide, topic) {
				covers = false
				if w.Covers(n) {
					t.Errorf("%q does not cover %q: it misses %q", wide, narrow, topic)
				}
				break
			}
		}
		if covers && !w.Covers(n) && len(narrow) < 100 && !strings.Contains(wide+narrow, "~") &&
			strings.Count(wide, "/") < 5 {
			t.Errorf("%q covers %q, but Covers says no", wide, narrow)
		}
	})
}
