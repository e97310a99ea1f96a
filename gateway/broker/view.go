package broker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// The broker's durable state is a view of the journal: apply is the one function that
// makes it, from live entries and from those read at start. A checkpoint writes what
// changed into State together with the offset it reflects; a start loads that and
// applies what came after.

const (
	bucket       = "broker"
	via          = "mqtt" // Origin.Via of what MQTT clients publish, and the topic of our Change entries
	keyView      = "view"
	prefixSess   = "session/"
	prefixRetain = "retained/"
	viewVersion  = 1
)

// Kinds of change.
const (
	opOpen        = "open"        // a durable session begins, in place of any before it
	opResume      = "resume"      // a client is back
	opClose       = "close"       // its connection ended
	opEnd         = "end"         // the session is over
	opSubscribe   = "subscribe"   //
	opUnsubscribe = "unsubscribe" //
	opRelease     = "release"     // a QoS 2 identifier is free; it is the entry's PacketID
)

// change is the payload of a Change entry. The session is named by Origin.ID, the
// account by Origin.User.
type change struct {
	Op      string         `json:"op"`
	Version byte           `json:"version,omitempty"`
	Expiry  uint32         `json:"expiry,omitempty"`  // seconds
	At      time.Time      `json:"at,omitzero"`       // close: when
	Session uint64         `json:"session,omitempty"` // end: which of that name, by the offset of its open
	Subs    []subscription `json:"subs,omitempty"`
	Filters []string       `json:"filters,omitempty"`
}

func (ch change) encode() []byte {
	b, err := json.Marshal(ch)
	if err != nil {
		panic(err) // numbers, strings and times marshal
	}
	return b
}

var releasePayload = change{Op: opRelease}.encode()

func changeEvent(clientID string, payload []byte) *gateway.Event {
	return &gateway.Event{Kind: gateway.Change, Topic: via, Payload: payload, Origin: gateway.Origin{Via: via, ID: clientID}}
}

func (c *conn) change(ch change) *gateway.Event {
	e := changeEvent(c.id, ch.encode())
	e.Origin.User = c.account.Name()
	return e
}

// apply brings the view up to e. Broker.mu is held.
func (b *Broker) apply(e *gateway.Event) {
	b.next = e.Offset + 1
	switch {
	case e.Kind == gateway.Data:
		if e.Retain {
			b.retain(e)
		}
		if e.PacketID != 0 && e.Origin.Via == via {
			b.update(e.Origin.ID, func(s *session) { s.stored[e.PacketID] = struct{}{} })
		}
	case e.Topic != via:
	case e.PacketID != 0:
		b.update(e.Origin.ID, func(s *session) { delete(s.stored, e.PacketID) })
	default:
		var ch change
		if err := json.Unmarshal(e.Payload, &ch); err != nil {
			b.log.Error("unreadable change of a session", "position", e.Position(), "error", err)
			return
		}
		b.change(e, ch)
	}
}

// update changes the durable session called id, if there is one.
func (b *Broker) update(id string, fn func(s *session)) {
	s := b.sessions[id]
	if s == nil || !s.durable {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(s)
	b.dirty[sessionKey(id)] = id
}

func (b *Broker) change(e *gateway.Event, ch change) {
	id := e.Origin.ID
	switch ch.Op {
	case opOpen:
		if old := b.sessions[id]; old != nil {
			old.mu.Lock()
			b.drop(old)
			old.mu.Unlock()
		}
		s := newSession(b, id, true)
		s.opened, s.user, s.version, s.expiry = e.Offset, e.Origin.User, ch.Version, ch.Expiry
		b.sessions[id] = s
		b.durable++
		b.dirty[sessionKey(id)] = id
	case opResume:
		b.update(id, func(s *session) {
			s.user, s.version, s.expiry, s.closedAt, s.closed = e.Origin.User, ch.Version, ch.Expiry, time.Time{}, 0
		})
	case opClose:
		b.update(id, func(s *session) { s.expiry, s.closedAt, s.closed = ch.Expiry, ch.At, e.Age })
	case opEnd:
		b.update(id, func(s *session) {
			if s.opened == ch.Session {
				b.drop(s)
			}
		})
	case opSubscribe:
		b.update(id, func(s *session) {
			for _, sub := range ch.Subs {
				b.subscribe(s, sub)
			}
		})
	case opUnsubscribe:
		b.update(id, func(s *session) {
			for _, f := range ch.Filters {
				b.unsubscribe(s, f)
			}
		})
	}
}

func (b *Broker) subscribe(s *session, sub subscription) {
	s.subs[sub.Filter] = sub
	b.index.add(s, sub)
}

func (b *Broker) unsubscribe(s *session, filter string) {
	delete(s.subs, filter)
	b.index.remove(filter, s)
}

// retain makes e its topic's retained message, or removes the one there is: MQTT 5
// §3.3.1.3.
func (b *Broker) retain(e *gateway.Event) {
	_, known := b.retained[e.Topic]
	switch {
	case len(e.Payload) == 0:
		if !known {
			return
		}
		delete(b.retained, e.Topic)
	case !known && len(b.retained) >= b.o.MaxRetained:
		b.o.Observer.Dropped("too many retained")
		return
	default:
		b.retained[e.Topic] = e
	}
	b.dirty[retainedKey(e.Topic)] = e.Topic
}

// sessionRecord is how a session is kept in State.
type sessionRecord struct {
	ID       string         `json:"id"`
	Opened   uint64         `json:"opened"`
	User     string         `json:"user,omitempty"`
	Version  byte           `json:"version"`
	Expiry   uint32         `json:"expiry"`
	ClosedAt time.Time      `json:"closed_at,omitzero"`
	Closed   time.Duration  `json:"closed_age,omitzero"`
	Subs     []subscription `json:"subs,omitempty"`
	Stored   []uint16       `json:"stored,omitempty"` // QoS 2 identifiers not released
}

// viewRecord says what the records beside it reflect.
type viewRecord struct {
	Version int    `json:"version"`
	Next    uint64 `json:"next"` // entries below this offset are applied
}

// Keys of State are bounded; names that MQTT allows are not. A long one is replaced by
// its hash: the record holds the name.
func stateKey(prefix, name string) string {
	if len(name) <= 256 {
		return prefix + name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.TrimSuffix(prefix, "/") + "#" + hex.EncodeToString(sum[:])
}

func sessionKey(id string) string     { return stateKey(prefixSess, id) }
func retainedKey(topic string) string { return stateKey(prefixRetain, topic) }

// record returns what State is to hold under key, which is dirty; nil if nothing.
func (b *Broker) record(key, name string) any {
	if strings.HasPrefix(key, strings.TrimSuffix(prefixRetain, "/")) {
		if e := b.retained[name]; e != nil {
			return e
		}
		return nil
	}
	s := b.sessions[name]
	if s == nil || !s.durable {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := sessionRecord{ID: s.id, Opened: s.opened, User: s.user, Version: s.version, Expiry: s.expiry, ClosedAt: s.closedAt, Closed: s.closed,
		Stored: slices.Sorted(maps.Keys(s.stored))}
	for _, filter := range slices.Sorted(maps.Keys(s.subs)) {
		r.Subs = append(r.Subs, s.subs[filter])
	}
	return r
}

// checkpoint brings State up to date.
func (b *Broker) checkpoint() error {
	b.mu.Lock()
	next, dirty := b.next, b.dirty
	if next == b.saved {
		b.mu.Unlock()
		return nil
	}
	b.dirty = map[string]string{}
	changes := make(map[string][]byte, len(dirty)+1)
	records := make(map[string]any, len(dirty)+1)
	for key, name := range dirty {
		if r := b.record(key, name); r != nil {
			records[key] = r
		} else {
			changes[key] = nil
		}
	}
	b.mu.Unlock()

	records[keyView] = viewRecord{viewVersion, next}
	var err error
	for key, r := range records {
		if changes[key], err = json.Marshal(r); err != nil {
			break
		}
	}
	if err == nil {
		err = b.o.State.Apply(bucket, changes)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		maps.Copy(b.dirty, dirty) // names are the same; newer values win
		return fmt.Errorf("checkpoint of the broker: %w", err)
	}
	b.saved = next
	return nil
}

// load makes the view from State and the journal.
func (b *Broker) load(now time.Time) error {
	var view viewRecord
	switch v, ok, err := b.o.State.Get(bucket, keyView); {
	case err != nil:
		return fmt.Errorf("load the broker's state: %w", err)
	case ok:
		if err := json.Unmarshal(v, &view); err != nil {
			return fmt.Errorf("load the broker's state: %w", err)
		}
		if view.Version > viewVersion {
			return fmt.Errorf("load the broker's state: it is of version %d, this build reads up to %d", view.Version, viewVersion)
		}
	}
	err := b.o.State.Each(bucket, strings.TrimSuffix(prefixRetain, "/"), func(key string, value []byte) error {
		e := &gateway.Event{}
		if err := json.Unmarshal(value, e); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		b.retained[e.Topic] = e
		return nil
	})
	if err == nil {
		err = b.o.State.Each(bucket, strings.TrimSuffix(prefixSess, "/"), func(key string, value []byte) error {
			var r sessionRecord
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			b.restore(r)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("load the broker's state: %w", err)
	}
	b.next, b.saved = view.Next, view.Next
	err = b.o.Replay(view.Next, func(e *gateway.Event) error {
		b.apply(e)
		return nil
	})
	if err != nil {
		return fmt.Errorf("roll the broker's state forward: %w", err)
	}
	for _, s := range b.sessions {
		since := now // connected when the process ended
		if !s.closedAt.IsZero() {
			since = now.Add(s.closed - b.o.Age())
		}
		s.deadline = since.Add(time.Duration(s.expiry) * time.Second)
	}
	return nil
}

func (b *Broker) restore(r sessionRecord) {
	s := newSession(b, r.ID, true)
	s.opened, s.user, s.version, s.expiry, s.closedAt, s.closed = r.Opened, r.User, r.Version, r.Expiry, r.ClosedAt, r.Closed
	for _, id := range r.Stored {
		s.stored[id] = struct{}{}
	}
	for _, sub := range r.Subs {
		b.subscribe(s, sub)
	}
	b.sessions[r.ID] = s
	b.durable++
}

// sweep forgets retained messages that have expired. Their removal is no change of
// the view: whoever reads one looks at its expiry.
func (b *Broker) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	age := b.o.Age()
	for topic, e := range b.retained {
		if e.Expired(age) {
			delete(b.retained, topic)
			b.dirty[retainedKey(topic)] = topic
		}
	}
}
