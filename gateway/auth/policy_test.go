package auth

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/gateway"
)

func policy(t *testing.T) *Policy {
	t.Helper()
	p, err := New(map[string]User{
		"boiler": {cheap("secret"), "sensor"},
		"alice":  {cheap("Secret"), ""},
	}, map[string]Role{"sensor": {Publish: []string{"plant1/%u/#"}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAuthenticate(t *testing.T) {
	p := policy(t)
	if p.Open() {
		t.Error("a policy with users is open")
	}
	if a, err := p.Anonymous(); a != nil || !errors.Is(err, gateway.ErrDenied) {
		t.Errorf("Anonymous: %v, %v", a, err)
	}
	tests := []struct {
		name, password string
		want           bool
	}{
		{"boiler", "secret", true},
		{"boiler", "secret", true}, // from memory
		{"boiler", "Secret", false},
		{"boiler", "", false},
		{"boiler", "secret ", false},
		{"boiler", strings.Repeat("x", MaxPassword+1), false},
		{"alice", "secret", false},
		{"alice", "Secret", true},
		{"boilers", "ecret", false}, // the same letters, put together otherwise
		{"boile", "rsecret", false},
		{"Boiler", "secret", false},
		{"", "secret", false},
		{"", "", false},
	}
	for _, test := range tests {
		a, err := p.Authenticate(t.Context(), test.name, test.password)
		switch {
		case test.want && (err != nil || a.Name() != test.name):
			t.Errorf("%q, %q: %v, %v", test.name, test.password, a, err)
		case !test.want && (a != nil || !errors.Is(err, gateway.ErrDenied)):
			t.Errorf("%q, %q: got %v, %v, want ErrDenied", test.name, test.password, a, err)
		case !test.want && err.Error() != "user name or password is wrong":
			t.Errorf("%q, %q: the error tells more than it may: %v", test.name, test.password, err)
		}
	}
	a, err := p.Authenticate(t.Context(), "boiler", "secret")
	if err != nil || a.Role() != "sensor" || a.CanPublish("plant1/boiler/t", "") != nil || a.CanPublish("plant1/alice/t", "") == nil {
		t.Errorf("boiler's account is %v, %v", a, err)
	}
}

func TestOpen(t *testing.T) {
	p, err := New(nil, map[string]Role{"sensor": {Publish: []string{"a"}}})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Open() {
		t.Error("a policy without users is not open")
	}
	anonymous, err := p.Anonymous()
	if err != nil {
		t.Fatal(err)
	}
	named, err := p.Authenticate(t.Context(), "somebody", "something")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Account{anonymous, named} {
		if a.Name() != "" {
			t.Errorf("the name %q was never proved", a.Name())
		}
		if err := errors.Join(a.CanPublish("a/b", ""), a.CanRead("$SYS/x", "")); err != nil {
			t.Error(err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	h := cheap("x")
	tests := []struct {
		name  string
		users map[string]User
		roles map[string]Role
		want  []string
	}{
		{"unknown role", map[string]User{"a": {h, "sensr"}}, map[string]Role{"sensor": {}}, []string{`users.a.role: role "sensr" does not exist`}},
		{"hash", map[string]User{"a": {"hunter2", ""}}, nil, []string{"users.a.password_hash: password hash is not of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash"}},
		{"filter", nil, map[string]Role{"r": {Publish: []string{"ok", "a/#/b"}}}, []string{`roles.r.publish.1: filter "a/#/b": # stands only as the last level`}},
		{"mixed", nil, map[string]Role{"r": {Subscribe: []string{"a%u+"}}}, []string{`roles.r.subscribe.0: filter "au+": level "au+" mixes a wildcard with text`}},
		{"percent", nil, map[string]Role{"r": {Publish: []string{"a/%d"}}}, []string{`roles.r.publish.0: pattern "a/%d": % stands only in %u (user name), %c (client id) and %% (a percent sign)`}},
		{"percent at the end", nil, map[string]Role{"r": {Publish: []string{"a/%"}}}, []string{`roles.r.publish.0: pattern "a/%": % stands only in %u (user name), %c (client id) and %% (a percent sign)`}},
		{"empty", nil, map[string]Role{"r": {Publish: []string{""}}}, []string{`roles.r.publish.0: filter is empty`}},
		{"shared", nil, map[string]Role{"r": {Subscribe: []string{"$share/g/a"}}}, []string{`roles.r.subscribe.0: pattern "$share/g/a" matches nothing: shared subscriptions are decided by their filter, leave $share and the group out`}},
		{"all of them", map[string]User{"b": {h, "x"}, "a": {"", "y"}}, map[string]Role{"r": {Publish: []string{"#/"}}}, []string{
			`roles.r.publish.0: filter "#/": # stands only as the last level`,
			"users.a.password_hash: password_hash is missing; `weir user add` makes one",
			`users.a.role: role "y" does not exist`,
			`users.b.role: role "x" does not exist`,
		}},
	}
	for _, test := range tests {
		p, err := New(test.users, test.roles)
		if p != nil || err == nil {
			t.Errorf("%s: no error", test.name)
			continue
		}
		var got []string
		for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
			var placed *ConfigError
			if !errors.As(err, &placed) {
				t.Errorf("%s: %v is no ConfigError", test.name, err)
			}
			got = append(got, err.Error())
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, strings.Join(got, "\n     "), strings.Join(test.want, "\n     "))
		}
	}
}

// fill takes all places for hashing, as other logins would, until the test gives them back.
func fill(p *Policy) (free func()) {
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	return func() {
		for range cap(p.slots) {
			<-p.slots
		}
	}
}

func TestAtMostTwoAtOnce(t *testing.T) {
	if cap(policy(t).slots) != 2 {
		t.Error("more than two passwords are hashed at once")
	}
	synctest.Test(t, func(t *testing.T) {
		p := policy(t)
		free := fill(p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := p.Authenticate(ctx, "boiler", "secret")
		if !errors.Is(err, gateway.ErrTransient) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with no place free: %v", err)
		}
		if waited := time.Since(begin); waited != time.Second {
			t.Errorf("gave up after %v, not when its context ended", waited)
		}

		done := make(chan error, 1)
		go func() {
			_, err := p.Authenticate(t.Context(), "boiler", "secret")
			done <- err
		}()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("did not wait for a place: %v", err)
		default:
		}
		free()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(p.slots) != 0 {
			t.Errorf("%d places were not given back", len(p.slots))
		}
	})
}

// A password that was right costs nothing the next time, so it needs no place; a wrong
// one, and one for somebody else, does.
func TestReconnectStorm(t *testing.T) {
	p := policy(t)
	if _, err := p.Authenticate(t.Context(), "boiler", "secret"); err != nil {
		t.Fatal(err)
	}
	defer fill(p)()
	ended, cancel := context.WithCancel(t.Context()) // so that whoever needs a place is refused
	cancel()
	for range 1000 {
		if _, err := p.Authenticate(ended, "boiler", "secret"); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range [][2]string{{"boiler", "Secret"}, {"alice", "Secret"}, {"alice", "secret"}, {"nobody", "secret"}} {
		if _, err := p.Authenticate(ended, test[0], test[1]); !errors.Is(err, gateway.ErrTransient) {
			t.Errorf("%q: got %v, want that it has to be computed", test, err)
		}
	}
}

// An unknown user takes a computation of the same cost as a known one's wrong password.
func TestUnknownUserCostsTheSame(t *testing.T) {
	costly := digest{params: params{memory: 64, passes: 3, threads: 1}, salt: make([]byte, 16), key: make([]byte, 32)}.String()
	p, err := New(map[string]User{"a": {costly, ""}, "b": {costly, ""}, "c": {cheap("x"), ""}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.decoy.params != (params{memory: 64, passes: 3, threads: 1}) {
		t.Errorf("an unknown user costs %v, most users cost m=64,t=3,p=1", p.decoy.params)
	}
	defer fill(p)()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Authenticate(ended, "nobody", "x"); !errors.Is(err, gateway.ErrTransient) {
		t.Errorf("an unknown user is refused without a computation: %v", err)
	}
	free, _ := New(nil, nil)
	if free.decoy.params != defaults {
		t.Errorf("without users the decoy costs %v", free.decoy.params)
	}
}

func TestUnknownUserTakesTheTime(t *testing.T) {
	h, err := Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(map[string]User{"boiler": {h, ""}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// What takes the time is argon2id, and that allocates its memory at each turn: a
	// clock would tell the same and be wrong on a busy machine.
	work := func(name string) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := p.Authenticate(t.Context(), name, "wrong"); !errors.Is(err, gateway.ErrDenied) {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) >> 20
	}
	if wrong, unknown := work("boiler"), work("nobody"); wrong == 0 || unknown != wrong {
		t.Errorf("an unknown user takes %d MiB of argon2id, a wrong password %d", unknown, wrong)
	}
}

// Somebody without a password has a role, and is nobody who could log in.
func TestNamed(t *testing.T) {
	hash, err := Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(map[string]User{"alice": {PasswordHash: hash}}, map[string]Role{"sensor": {Publish: []string{"a/%u/%c"}}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Named("node7", "sensor")
	if err != nil || a.Name() != "node7" || a.Role() != "sensor" || a.CanPublish("a/node7/x", "x") != nil || a.CanPublish("a/alice/x", "x") == nil {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := p.Authenticate(t.Context(), "node7", ""); !errors.Is(err, gateway.ErrDenied) {
		t.Errorf("logged in: %v", err)
	}
	for name, role := range map[string]string{"alice": "sensor", "node7": "none"} {
		if a, err := p.Named(name, role); !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%s with role %s: %+v, %v", name, role, a, err)
		}
	}
}
