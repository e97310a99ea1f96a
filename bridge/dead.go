package bridge

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// deadLetters is the bucket of State for events that a far end will never take. Keys are
// "<uplink>/<route>/<offset, 16 digits>", so they sort in journal order and a repeat
// after a crash meets its own key. Beside them, under "=<uplink>/<route>", is what has become of those that are
// gone: one bucket, because a letter and the counter that it moves to change as one.
const deadLetters = "dead"

// Bounds on the dead letters of one route. At the bound nothing is thrown away: the pump
// stops at the event and says so, because an uplink that refuses this much is
// misconfigured and a person has to look.
const (
	maxDeadLetters = 1000
	maxDeadBytes   = 16 << 20
)

// DeadLetter is an event that the far end of an uplink refused for ever, with the reason
// it gave. The event is whole: the journal may have let go of it.
type DeadLetter struct {
	Uplink string         `json:"-"`
	Route  string         `json:"-"`
	ID     string         `json:"id"`
	Reason string         `json:"reason"`
	Time   time.Time      `json:"time"` // when it was refused, the last time
	Event  *gateway.Event `json:"event"`
}

// raised is what has become of dead letters that are gone, of all time. The route's Commit still counts
// them as dead, so the ledger takes them off there.
type raised struct {
	Delivered uint64 `json:"delivered,omitempty"` // the far end has taken them after all
	Dropped   uint64 `json:"dropped,omitempty"`   // by hand
}

// graveyard keeps the dead letters of one route.
type graveyard struct {
	state  State
	holder string

	mu      sync.Mutex
	count   int
	bytes   int
	raised  raised
	sending map[uint64]bool // offsets of those that are being sent again now
}

func openGraveyard(state State, holder string) (*graveyard, error) {
	g := &graveyard{state: state, holder: holder, sending: map[uint64]bool{}}
	err := state.Each(deadLetters, holder+"/", func(_ string, value []byte) error {
		g.count++
		g.bytes += len(value)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count the dead letters of %q: %w", holder, err)
	}
	value, ok, err := state.Get(deadLetters, raisedKey(holder))
	if err == nil && ok {
		err = json.Unmarshal(value, &g.raised)
	}
	if err != nil {
		return nil, fmt.Errorf("read what became of the dead letters of %q: %w", holder, err)
	}
	return g, nil
}

// bury stores e. It is gateway.ErrFull at the bound.
func (g *graveyard) bury(e *gateway.Event, id, reason string, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	value, err := json.Marshal(DeadLetter{ID: id, Reason: reason, Time: now.UTC(), Event: e})
	if err != nil {
		return fmt.Errorf("encode dead letter: %w", err)
	}
	key := letterKey(g.holder, e.Offset)
	old, known, err := g.state.Get(deadLetters, key)
	if err != nil {
		return fmt.Errorf("store dead letter: %w", err)
	}
	if !known && (g.count >= maxDeadLetters || g.bytes+len(value) > maxDeadBytes) {
		return gateway.Errorf(gateway.ErrFull, "no room for another dead letter beside %d of %d bytes", g.count, g.bytes)
	}
	if err := g.state.Apply(deadLetters, map[string][]byte{key: value}); err != nil {
		return fmt.Errorf("store dead letter: %w", err)
	}
	if !known {
		g.count++
	}
	g.bytes += len(value) - len(old)
	return nil
}

// fates are what has become of dead letters, by offset.
type fates struct {
	delivered, dropped []uint64
	refused            map[uint64]string // again, and why
}

// settle makes f so, all of it or nothing. A letter that is not there is not counted, so each is
// counted once however often it is told.
func (g *graveyard) settle(f fates, now time.Time) (gone int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	changes, counts, bytes := map[string][]byte{}, g.raised, g.bytes
	take := func(offsets []uint64, counter *uint64) error {
		for _, offset := range offsets {
			key := letterKey(g.holder, offset)
			old, known, err := g.state.Get(deadLetters, key)
			if err != nil {
				return err
			}
			if _, twice := changes[key]; !known || twice {
				continue
			}
			changes[key] = nil
			*counter++
			bytes -= len(old)
			gone++
		}
		return nil
	}
	if err = take(f.delivered, &counts.Delivered); err == nil {
		err = take(f.dropped, &counts.Dropped)
	}
	for offset, reason := range f.refused {
		var l DeadLetter
		key := letterKey(g.holder, offset)
		old, known, gerr := g.state.Get(deadLetters, key)
		if gerr != nil || !known || json.Unmarshal(old, &l) != nil {
			continue // it stays as it is
		}
		l.Reason, l.Time = reason, now.UTC()
		value, _ := json.Marshal(l) // it was JSON before
		changes[key] = value
		bytes += len(value) - len(old)
	}
	if gone > 0 && err == nil {
		changes[raisedKey(g.holder)], err = json.Marshal(counts)
	}
	if err == nil && len(changes) > 0 {
		err = g.state.Apply(deadLetters, changes)
	}
	if err != nil {
		return 0, fmt.Errorf("store what became of dead letters: %w", err)
	}
	g.raised, g.bytes, g.count = counts, bytes, g.count-gone
	return gone, nil
}

func letterKey(holder string, offset uint64) string { return fmt.Sprintf("%s/%016d", holder, offset) }
func raisedKey(holder string) string                { return "=" + holder }

// letter returns the dead letter at offset, or nil.
func (g *graveyard) letter(offset uint64) (*DeadLetter, error) {
	key := letterKey(g.holder, offset)
	value, ok, err := g.state.Get(deadLetters, key)
	if err != nil || !ok {
		return nil, err
	}
	l, err := parseLetter(key, value)
	return &l, err
}

func (g *graveyard) kept() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

func (g *graveyard) gone() raised {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.raised
}

// send marks those of offsets that are not being sent again already, and returns them.
func (g *graveyard) send(offsets []uint64) (mine []uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range offsets {
		if !g.sending[o] {
			g.sending[o] = true
			mine = append(mine, o)
		}
	}
	return mine
}

func (g *graveyard) sent(offsets []uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range offsets {
		delete(g.sending, o)
	}
}

func parseLetter(key string, value []byte) (l DeadLetter, err error) {
	if err := json.Unmarshal(value, &l); err != nil {
		return l, fmt.Errorf("dead letter %q: %w", key, err)
	}
	l.Uplink, key, _ = strings.Cut(key, "/")
	l.Route, _, _ = strings.Cut(key, "/")
	return l, nil
}

// EachDeadLetter calls fn with the events that far ends refused for ever: of one route, "uplink/route", of all
// of an uplink, or, for an empty holder, of all; oldest first in each route. fn must not change the state.
func EachDeadLetter(state State, holder string, fn func(DeadLetter) error) error {
	prefix := ""
	if holder != "" {
		prefix = holder + "/"
	}
	return state.Each(deadLetters, prefix, func(key string, value []byte) error {
		if strings.HasPrefix(key, "=") {
			return nil
		}
		l, err := parseLetter(key, value)
		if err != nil {
			return err
		}
		return fn(l)
	})
}
