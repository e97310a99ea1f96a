package broker

import (
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// index finds the subscriptions that match a topic: a tree of filter levels, MQTT 5
// §4.7. It is Weir's own because the engine's copies its maps for every message, and
// misses that "+/#" matches "a". Guarded by Broker.mu.
type index struct{ root level }

type level struct {
	below  map[string]*level
	subs   map[*session]subscription
	shared map[string]*group // by share name
}

// group is the members of one shared subscription, §4.8.2, in the order they came.
type group struct {
	members []member
	next    int
}

type member struct {
	s   *session
	sub subscription
}

// isShared tells whether filter is a shared subscription's.
func isShared(filter string) bool { return strings.HasPrefix(filter, "$share/") }

// splitShared returns the share name and the filter of a shared subscription, and the
// filter itself of any other.
func splitShared(filter string) (share, plain string) {
	if !isShared(filter) {
		return "", filter
	}
	share, plain, _ = strings.Cut(strings.TrimPrefix(filter, "$share/"), "/")
	return share, plain
}

// parseFilter validates what a client subscribes to and returns the filter that topics
// are matched with.
func parseFilter(filter string) (gateway.Filter, error) {
	share, plain := splitShared(filter)
	if filter == "$share" || isShared(filter) && (share == "" || strings.ContainsAny(share, "+#")) {
		return gateway.Filter{}, gateway.Errorf(gateway.ErrInvalid, "filter %q: the share name is missing or has a wildcard", filter)
	}
	return gateway.ParseFilter(plain)
}

// add makes s's subscription, in place of one to the same filter.
func (x *index) add(s *session, sub subscription) {
	share, plain := splitShared(sub.Filter)
	at := &x.root
	for rest, more := plain, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		next := at.below[name]
		if next == nil {
			next = &level{}
			if at.below == nil {
				at.below = map[string]*level{}
			}
			at.below[name] = next
		}
		at = next
	}
	if share == "" {
		if at.subs == nil {
			at.subs = map[*session]subscription{}
		}
		at.subs[s] = sub
		return
	}
	if at.shared == nil {
		at.shared = map[string]*group{}
	}
	g := at.shared[share]
	if g == nil {
		g = &group{}
		at.shared[share] = g
	}
	for i := range g.members {
		if g.members[i].s == s {
			g.members[i].sub = sub
			return
		}
	}
	g.members = append(g.members, member{s, sub})
}

// remove ends s's subscription to filter.
func (x *index) remove(filter string, s *session) {
	share, plain := splitShared(filter)
	x.root.remove(plain, true, share, s)
}

func (l *level) remove(rest string, more bool, share string, s *session) {
	if more {
		name, rest, more := strings.Cut(rest, "/")
		next := l.below[name]
		if next == nil {
			return
		}
		next.remove(rest, more, share, s)
		if len(next.below)+len(next.subs)+len(next.shared) == 0 {
			delete(l.below, name)
		}
		return
	}
	if share == "" {
		delete(l.subs, s)
		return
	}
	g := l.shared[share]
	if g == nil {
		return
	}
	for i := range g.members {
		if g.members[i].s == s {
			g.members = append(g.members[:i:i], g.members[i+1:]...)
			break
		}
	}
	if len(g.members) == 0 {
		delete(l.shared, share)
	}
}

// match calls fn for every subscription that matches topic: each member of none, and
// of a shared subscription the one whose turn it is.
func (x *index) match(topic string, fn func(*session, subscription)) {
	wild := !strings.HasPrefix(topic, "$") // §4.7.2
	x.root.match(topic, wild, fn)
}

func (l *level) match(rest string, wild bool, fn func(*session, subscription)) {
	if len(l.below) == 0 {
		return
	}
	if wild {
		if all := l.below["#"]; all != nil {
			all.found(fn)
		}
	}
	name, rest, more := strings.Cut(rest, "/")
	for _, next := range [2]*level{l.below[name], l.below["+"]} {
		switch {
		case next == nil || next == l.below["+"] && !wild:
		case more:
			next.match(rest, true, fn)
		default:
			next.found(fn)
			if all := next.below["#"]; all != nil { // "a/#" matches "a", §4.7.1.2
				all.found(fn)
			}
		}
		if name == "+" {
			return // a topic has no such level; do not go there twice
		}
	}
}

func (l *level) found(fn func(*session, subscription)) {
	for s, sub := range l.subs {
		fn(s, sub)
	}
	for _, g := range l.shared {
		m := g.turn()
		fn(m.s, m.sub)
	}
}

// turn is the next member that is connected, or the next if none is.
func (g *group) turn() member {
	n := len(g.members)
	pick := g.next % n
	for i := range n {
		if at := (g.next + i) % n; g.members[at].s.connected() {
			pick = at
			break
		}
	}
	g.next = pick + 1
	return g.members[pick]
}

func (s *session) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil
}
