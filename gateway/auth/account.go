package auth

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/weir-iot/weir/gateway"
)

// Account is who somebody is and what they may do. It is for concurrent use.
//
// The client id given to its methods is the MQTT client identifier; whoever has
// none, such as a browser, gives "", and patterns with %c then match nothing.
type Account struct {
	name string
	role *role // nil: no rights
	all  bool  // every right

	last atomic.Pointer[rights] // an account mostly serves one client
}

// role is a role with its patterns parsed.
type role struct {
	name               string
	publish, subscribe []pattern
}

// rights are a role's patterns filled in for one client.
type rights struct {
	clientID           string
	publish, subscribe gateway.Filters
	void               error // why a pattern matches nothing, if one does
}

// Local is the account with every right: the peer of the unix socket, the gateway itself.
func Local() *Account { return &Account{all: true} }

// Name is the user name; empty for Local and Anonymous.
func (a *Account) Name() string { return a.name }

// Role is the name of the role; empty if the account has none.
func (a *Account) Role() string {
	if a.role == nil {
		return ""
	}
	return a.role.name
}

// CanPublish tells whether a may publish to topic, a valid topic name. The error is a
// gateway.ErrDenied that names the role and what it allows.
func (a *Account) CanPublish(topic, clientID string) error {
	if a.all {
		return nil
	}
	if r := a.rights(clientID); !r.publish.Match(topic) {
		return a.denied("publish to", topic, r.publish, r.void)
	}
	return nil
}

// CanSubscribe tells whether a may subscribe to f: one pattern of its role must match
// every topic that f can match. The error is a gateway.ErrDenied as for CanPublish.
func (a *Account) CanSubscribe(f gateway.Filter, clientID string) error {
	if a.all {
		return nil
	}
	r := a.rights(clientID)
	for _, allowed := range r.subscribe {
		if allowed.Covers(f) {
			return nil
		}
	}
	return a.denied("subscribe to", f.String(), r.subscribe, r.void)
}

// CanRead tells whether a may see an event of topic. It is CanSubscribe for one event
// of a stream or of history.
func (a *Account) CanRead(topic, clientID string) error {
	if a.all {
		return nil
	}
	if r := a.rights(clientID); !r.subscribe.Match(topic) {
		return a.denied("read", topic, r.subscribe, r.void)
	}
	return nil
}

// CanManage tells whether a may do what concerns the whole gateway, such as sending dead letters again: who
// may publish and subscribe to everything may.
func (a *Account) CanManage() error {
	all := gateway.MustFilter("#")
	covers := func(f gateway.Filter) bool { return f.Covers(all) }
	if a.all {
		return nil
	}
	if r := a.rights(""); !slices.ContainsFunc(r.publish, covers) || !slices.ContainsFunc(r.subscribe, covers) {
		return gateway.Errorf(gateway.ErrDenied, "user %q may not do this: it needs a role that may publish and subscribe to #", a.name)
	}
	return nil
}

func (a *Account) rights(clientID string) *rights {
	if r := a.last.Load(); r != nil && r.clientID == clientID {
		return r
	}
	r := &rights{clientID: clientID}
	if a.role != nil {
		fill := func(patterns []pattern) (filters gateway.Filters) {
			for _, p := range patterns {
				f, err := p.fill(a.name, clientID)
				if err != nil {
					r.void = fmt.Errorf("pattern %q matches nothing, %w", p.text, err)
					continue
				}
				filters = append(filters, f)
			}
			return filters
		}
		r.publish, r.subscribe = fill(a.role.publish), fill(a.role.subscribe)
	}
	a.last.Store(r)
	return r
}

func (a *Account) denied(verb, what string, allowed gateway.Filters, void error) error {
	var why strings.Builder
	switch {
	case a.role == nil:
		why.WriteString("it has no role")
	case len(allowed) == 0:
		fmt.Fprintf(&why, "role %q allows none", a.role.name)
	default:
		fmt.Fprintf(&why, "role %q allows", a.role.name)
		for i, f := range allowed {
			if i > 0 {
				why.WriteByte(',')
			}
			if i == 8 { // one line
				why.WriteString(" …")
				break
			}
			fmt.Fprintf(&why, " %q", f.String())
		}
	}
	if void != nil {
		fmt.Fprintf(&why, "; %v", void)
	}
	return gateway.Errorf(gateway.ErrDenied, "user %q may not %s %q: %s", a.name, verb, what, &why)
}
