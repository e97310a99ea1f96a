package auth

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

// account returns the account of name with a role r of these patterns, for both verbs.
func account(t testing.TB, name string, patterns ...string) *Account {
	t.Helper()
	p, err := New(map[string]User{name: {cheap("x"), "r"}}, map[string]Role{"r": {Publish: patterns, Subscribe: patterns}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Account(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestCan(t *testing.T) {
	tests := []struct {
		user, clientID, pattern string
		topic                   string
		want                    bool
	}{
		{"boiler", "c", "plant1/%u/#", "plant1/boiler/t", true},
		{"boiler", "c", "plant1/%u/#", "plant1/boiler", true},
		{"boiler", "c", "plant1/%u/#", "plant1/boiler2/t", false},
		{"boiler", "c", "plant1/%u/#", "plant1", false},
		{"boiler", "c", "plant1/%u-%c", "plant1/boiler-c", true},
		{"boiler", "c", "%c/%u", "c/boiler", true},
		{"boiler", "", "plant1/%u", "plant1/boiler", true}, // no client id, none asked for
		{"boiler", "c", "100%%/%u", "100%/boiler", true},
		{"boiler", "c", "100%%u", "100%u", true},
		{"boiler", "c", "100%%u", "100%boiler", false},
		{"boiler", "c", "#", "a/b", true},
		{"boiler", "c", "#", "$SYS/x", false}, // §4.7.2
		{"boiler", "c", "$SYS/#", "$SYS/x", true},
		{"", "c", "a/%u", "a/", false},

		// Names cannot widen a pattern.
		{"+", "c", "plant1/%u/#", "plant1/boiler/t", false},
		{"+", "c", "plant1/%u/#", "plant1/+/t", false},
		{"#", "c", "plant1/%u", "plant1/a", false},
		{"a/b", "c", "plant1/%u", "plant1/a/b", false},
		{"a/#", "c", "plant1/%u", "plant1/a/b", false},
		{"$SYS", "c", "%u/#", "$SYS/x", false},
		{"$SYS", "c", "x/%u/#", "x/$SYS/x", true},
		{"boiler", "+", "plant1/%c/#", "plant1/x/t", false},
		{"boiler", "#", "plant1/%c", "plant1/x", false},
		{"boiler", "a/b", "plant1/%c", "plant1/a/b", false},
		{"boiler", "$SYS", "%c/#", "$SYS/x", false},
		{"boiler", "", "plant1/%c/#", "plant1//t", false},
		{"boiler", "%u", "plant1/%c", "plant1/boiler", false}, // filled in once
		{"boiler", "%u", "plant1/%c", "plant1/%u", true},
		{"%c", "x", "plant1/%u", "plant1/x", false},
		{"boiler", "a\x00b", "plant1/%c", "plant1/a", false},
		{"boiler", "\xff", "plant1/%c/#", "plant1/a", false},
	}
	for _, test := range tests {
		a := account(t, test.user, test.pattern)
		for verb, err := range map[string]error{
			"publish": a.CanPublish(test.topic, test.clientID),
			"read":    a.CanRead(test.topic, test.clientID),
		} {
			if got := err == nil; got != test.want {
				t.Errorf("user %q, client %q, pattern %q: %s %q: %v", test.user, test.clientID, test.pattern, verb, test.topic, err)
			}
			if err != nil && !errors.Is(err, gateway.ErrDenied) {
				t.Errorf("%v is no ErrDenied", err)
			}
		}
	}
}

func TestCanManage(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		want     bool
	}{
		{[]string{"#"}, true}, {[]string{"a", "#"}, true}, {[]string{"+/#"}, true},
		{nil, false}, {[]string{"plant1/#"}, false}, {[]string{"%c/#", "+"}, false},
	} {
		if err := account(t, "boiler", c.patterns...).CanManage(); (err == nil) != c.want || err != nil && !errors.Is(err, gateway.ErrDenied) {
			t.Errorf("%q: %v", c.patterns, err)
		}
	}
	if err := Local().CanManage(); err != nil {
		t.Error(err)
	}
	for _, half := range []Role{{Publish: []string{"#"}}, {Subscribe: []string{"#"}}} {
		p, err := New(map[string]User{"u": {cheap("x"), "r"}}, map[string]Role{"r": half})
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := p.Account("u"); a.CanManage() == nil {
			t.Errorf("%+v may", half)
		}
	}
}

func TestCanSubscribe(t *testing.T) {
	tests := []struct {
		patterns []string
		filter   string
		want     bool
	}{
		{[]string{"plant1/%u/#"}, "plant1/boiler/#", true},
		{[]string{"plant1/%u/#"}, "plant1/boiler/+/x", true},
		{[]string{"plant1/%u/#"}, "plant1/+/#", false},
		{[]string{"plant1/%u/#"}, "plant1/#", false},
		{[]string{"plant1/%u/#"}, "#", false},
		{[]string{"plant1/+/t"}, "plant1/+/t", true},
		{[]string{"plant1/+/t"}, "plant1/x/t", true},
		{[]string{"plant1/+/t"}, "plant1/+/+", false},
		{[]string{"plant1/+"}, "plant1/#", false},
		{[]string{"plant1/+/#"}, "plant1/#", false},
		{[]string{"a/b", "a/c"}, "a/c", true},
		{[]string{"a/b", "a/c"}, "a/+", false}, // one pattern has to cover it
		{[]string{"#"}, "#", true},
		{[]string{"#"}, "+/+", true},
		{[]string{"#"}, "$SYS/#", false},
		{[]string{"$SYS/#"}, "#", false},
		{[]string{"plant1/%c"}, "plant1/cl", true},
		{nil, "a", false},
	}
	for _, test := range tests {
		err := account(t, "boiler", test.patterns...).CanSubscribe(gateway.MustFilter(test.filter), "cl")
		if got := err == nil; got != test.want {
			t.Errorf("patterns %q: subscribe %q: %v", test.patterns, test.filter, err)
		}
		if err != nil && !errors.Is(err, gateway.ErrDenied) {
			t.Errorf("%v is no ErrDenied", err)
		}
	}
}

// The two verbs have their own patterns, and nothing is allowed that no pattern allows.
func TestDenyByDefault(t *testing.T) {
	p, err := New(map[string]User{
		"in":   {cheap("x"), "writer"},
		"out":  {cheap("x"), "reader"},
		"none": {cheap("x"), ""},
		"bare": {cheap("x"), "empty"},
	}, map[string]Role{"writer": {Publish: []string{"#"}}, "reader": {Subscribe: []string{"#"}}, "empty": {}, "": {Publish: []string{"#"}, Subscribe: []string{"#"}}})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		user                     string
		publish, subscribe, read string
	}{
		{"in", "", `user "in" may not subscribe to "a": role "writer" allows none`, `user "in" may not read "a": role "writer" allows none`},
		{"out", `user "out" may not publish to "a": role "reader" allows none`, "", ""},
		{"none", `user "none" may not publish to "a": it has no role`, `user "none" may not subscribe to "a": it has no role`, `user "none" may not read "a": it has no role`},
		{"bare", `user "bare" may not publish to "a": role "empty" allows none`, `user "bare" may not subscribe to "a": role "empty" allows none`, `user "bare" may not read "a": role "empty" allows none`},
	}
	for _, test := range tests {
		a, err := p.Account(test.user)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			got  error
			want string
		}{
			{a.CanPublish("a", "c"), test.publish},
			{a.CanSubscribe(gateway.MustFilter("a"), "c"), test.subscribe},
			{a.CanRead("a", "c"), test.read},
		} {
			got := ""
			if c.got != nil {
				got = c.got.Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		}
	}
}

func TestDenialSaysWhy(t *testing.T) {
	many := make([]string, 20)
	for i := range many {
		many[i] = "t/" + strings.Repeat("x", i+1)
	}
	tests := []struct {
		patterns        []string
		topic, clientID string
		want            string
	}{
		{[]string{"plant1/%u/#", "tele/%u"}, "plant1/x", "c", `user "boiler" may not publish to "plant1/x": role "r" allows "plant1/boiler/#", "tele/boiler"`},
		{[]string{"plant1/%c/#"}, "plant1/x", "a/b", `user "boiler" may not publish to "plant1/x": role "r" allows none; pattern "plant1/%c/#" matches nothing, client id "a/b" has one of / + #`},
		{[]string{"plant1/%c/#", "y"}, "plant1/x", "", `user "boiler" may not publish to "plant1/x": role "r" allows "y"; pattern "plant1/%c/#" matches nothing, client id "" is empty`},
		{many, "a\nb", "c", `user "boiler" may not publish to "a\nb": role "r" allows "t/x", "t/xx", "t/xxx", "t/xxxx", "t/xxxxx", "t/xxxxxx", "t/xxxxxxx", "t/xxxxxxxx", …`},
	}
	for _, test := range tests {
		err := account(t, "boiler", test.patterns...).CanPublish(test.topic, test.clientID)
		if err == nil || err.Error() != test.want {
			t.Errorf("got  %v\nwant %s", err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %v", err)
		}
	}
}

// An account keeps what it worked out for the last client; another client of the
// same account must not profit from it.
func TestAccountServesManyClients(t *testing.T) {
	a := account(t, "boiler", "plant1/%c")
	var wg sync.WaitGroup
	for _, id := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			for range 500 {
				if err := a.CanPublish("plant1/"+id, id); err != nil {
					t.Error(err)
				}
				if err := a.CanPublish("plant1/"+id, id+"x"); err == nil {
					t.Errorf("client %q was given the rights of %q", id+"x", id)
				}
			}
		})
	}
	wg.Wait()
}

func TestLocal(t *testing.T) {
	a := Local()
	if a.Name() != "" || a.Role() != "" {
		t.Errorf("Local has name %q and role %q", a.Name(), a.Role())
	}
	for _, topic := range []string{"a", "$SYS/x"} {
		if err := errors.Join(a.CanPublish(topic, ""), a.CanRead(topic, ""), a.CanSubscribe(gateway.MustFilter(topic), "")); err != nil {
			t.Error(err)
		}
	}
}

// Whatever a user or a client calls itself, it gets one level of topics and no more.
func FuzzNamesNeverWiden(f *testing.F) {
	for _, s := range []string{"boiler", "+", "#", "a/b", "%u", "%c", "$SYS", "", "\x00", "\xff", "/"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, user, clientID string) {
		for _, text := range []string{"%u", "%c/#", "p/%u/#", "p/%u-%c", "p/%u/%c/+", "%u%c/x"} {
			p, err := parsePattern(text)
			if err != nil {
				t.Fatal(err)
			}
			filled, err := p.fill(user, clientID)
			if err != nil {
				continue
			}
			// The same text with both names as wildcards is as wide as it may get.
			var levels []string
			for _, level := range strings.Split(text, "/") {
				if strings.Contains(level, "%") {
					level = "+"
				}
				levels = append(levels, level)
			}
			most := gateway.MustFilter(strings.Join(levels, "/"))
			if !most.Covers(filled) || strings.Count(filled.String(), "+") > strings.Count(text, "+") {
				t.Errorf("pattern %q, user %q, client %q became %q", text, user, clientID, filled)
			}
		}
	})
}

func BenchmarkCanPublish(b *testing.B) {
	a := account(b, "boiler", "tele/%u/#", "plant1/%c/#")
	b.ReportAllocs()
	for b.Loop() {
		if err := a.CanPublish("plant1/esp32-0042/temperature", "esp32-0042"); err != nil {
			b.Fatal(err)
		}
	}
}
