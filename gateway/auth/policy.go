package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/weir-iot/weir/gateway"
)

// User is one entry of users in the config.
type User struct {
	PasswordHash string `yaml:"password_hash"` // see Hash
	Role         string // empty: the user can log in and do nothing
}

// Role is one entry of roles in the config: the topic filters its users may publish
// and subscribe to. In them %u stands for the user name, %c for the client identifier
// and %% for a percent sign. A name with / + or # never widens a pattern; the pattern
// then matches nothing.
type Role struct {
	Publish, Subscribe []string
}

// ConfigError says which value New does not accept: Path is its place below the
// config's root, such as users, boiler, role or roles, sensor, publish, 0.
type ConfigError struct {
	Path []string
	Err  error
}

func (e *ConfigError) Error() string { return strings.Join(e.Path, ".") + ": " + e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// maxConcurrent is how many passwords are hashed at once: each takes its 19 MiB and a
// whole core for some tens of milliseconds, and the gateway has other things to do.
const maxConcurrent = 2

// Policy knows the users and roles. It is for concurrent use and never changes.
type Policy struct {
	users map[string]user
	roles map[string]*role
	decoy digest // what an unknown user's password is compared with

	slots chan struct{}
	key   []byte // random for each process; makes what is in proven useless elsewhere

	mu     sync.Mutex
	proven map[string][sha256.Size]byte // user name -> HMAC of the password that was right
}

type user struct {
	digest digest
	role   *role
}

// New returns the policy for users and roles. The error joins one *ConfigError for
// each value that is wrong.
func New(users map[string]User, roles map[string]Role) (*Policy, error) {
	p := &Policy{
		users:  map[string]user{},
		slots:  make(chan struct{}, maxConcurrent),
		key:    make([]byte, sha256.Size),
		proven: map[string][sha256.Size]byte{},
	}
	rand.Read(p.key) // never fails

	var errs []error
	wrong := func(err error, path ...string) { errs = append(errs, &ConfigError{path, err}) }

	parsed := map[string]*role{}
	p.roles = parsed
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		parse := func(field string, texts []string) (patterns []pattern) {
			for i, text := range texts {
				pt, err := parsePattern(text)
				if err != nil {
					wrong(err, "roles", name, field, fmt.Sprint(i))
				}
				patterns = append(patterns, pt)
			}
			return patterns
		}
		parsed[name] = &role{name, parse("publish", roles[name].Publish), parse("subscribe", roles[name].Subscribe)}
	}
	cost := map[params]int{}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		u := users[name]
		d, err := parseHash(u.PasswordHash)
		if err != nil {
			wrong(err, "users", name, "password_hash")
		}
		var r *role
		if u.Role != "" {
			if r = parsed[u.Role]; r == nil {
				wrong(fmt.Errorf("role %q does not exist", u.Role), "users", name, "role")
			}
		}
		p.users[name] = user{d, r}
		cost[d.params]++
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	p.decoy = decoy(cost)
	return p, nil
}

// decoy returns a digest that no password matches, as costly as most users' are.
func decoy(cost map[params]int) digest {
	d := digest{params: defaults, salt: make([]byte, defaultSalt), key: make([]byte, defaultKey)}
	most := 0
	for c, n := range cost {
		if n > most || n == most && c.String() > d.params.String() {
			d.params, most = c, n
		}
	}
	rand.Read(d.salt)
	rand.Read(d.key)
	return d
}

// Open tells that no users are configured: whoever reaches a listener may do
// everything. Package config lets an open gateway listen on loopback only.
func (p *Policy) Open() bool { return len(p.users) == 0 }

// Anonymous returns the account of somebody who gives no name: every right if the
// policy is open, else a gateway.ErrDenied.
func (p *Policy) Anonymous() (*Account, error) {
	if !p.Open() {
		return nil, gateway.Errorf(gateway.ErrDenied, "a user name and password are needed")
	}
	return &Account{all: true}, nil
}

// Authenticate returns the account of the user with that password. While the policy
// is open any name will do, and the account is Anonymous's: nobody has proved the name.
//
// The error is gateway.ErrDenied and does not tell whether the user exists, neither
// in its text nor by the time it takes; or gateway.ErrTransient when ctx ends while
// too many others are being checked. A password that was right once is known again
// without the cost, so that a thousand devices can come back at once.
func (p *Policy) Authenticate(ctx context.Context, name, password string) (*Account, error) {
	if p.Open() {
		return p.Anonymous()
	}
	u, exists := p.users[name]
	denied := gateway.Errorf(gateway.ErrDenied, "user name or password is wrong")
	if checkPassword(password) != nil {
		return nil, denied
	}
	tag := p.tag(name, password)
	p.mu.Lock()
	known, ok := p.proven[name]
	p.mu.Unlock()
	if ok && hmac.Equal(known[:], tag[:]) {
		return &Account{name: name, role: u.role}, nil
	}

	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, gateway.Errorf(gateway.ErrTransient, "wait to check a password: %w", context.Cause(ctx))
	}
	defer func() { <-p.slots }()
	if !exists {
		p.decoy.matches(password)
		return nil, denied
	}
	if !u.digest.matches(password) {
		return nil, denied
	}
	p.mu.Lock()
	p.proven[name] = tag
	p.mu.Unlock()
	return &Account{name: name, role: u.role}, nil
}

// Account returns the account of the user without asking for a password: to show what
// somebody may do. The error is a gateway.ErrInvalid.
func (p *Policy) Account(name string) (*Account, error) {
	u, ok := p.users[name]
	if !ok {
		return nil, gateway.Errorf(gateway.ErrInvalid, "user %q does not exist", name)
	}
	return &Account{name: name, role: u.role}, nil
}

// Named returns an account with a role for somebody who has no password, such as an MQTT-SN client. Nobody can log
// in as it, so the name must not be a user's. The error is a gateway.ErrInvalid.
func (p *Policy) Named(name, role string) (*Account, error) {
	r := p.roles[role]
	if r == nil {
		return nil, gateway.Errorf(gateway.ErrInvalid, "role %q does not exist", role)
	}
	if _, taken := p.users[name]; taken {
		return nil, gateway.Errorf(gateway.ErrInvalid, "%q is a user already", name)
	}
	return &Account{name: name, role: r}, nil
}

func (p *Policy) tag(name, password string) (tag [sha256.Size]byte) {
	mac := hmac.New(sha256.New, p.key)
	fmt.Fprintf(mac, "%d:%s%s", len(name), name, password)
	mac.Sum(tag[:0])
	return tag
}
