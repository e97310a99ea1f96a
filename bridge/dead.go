package bridge

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// deadLetters is the bucket of State for events that a far end will never take. Keys are
// "<uplink>/<route>/<offset, 16 digits>", so they sort in journal order and a repeat
// after a crash meets its own key.
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
	ID     string         `json:"id"`
	Reason string         `json:"reason"`
	Time   time.Time      `json:"time"` // when it was refused
	Event  *gateway.Event `json:"event"`
}

// graveyard keeps the dead letters of one route.
type graveyard struct {
	state  State
	holder string

	mu    sync.Mutex
	count int
	bytes int
}

func openGraveyard(state State, holder string) (*graveyard, error) {
	g := &graveyard{state: state, holder: holder}
	err := state.Each(deadLetters, holder+"/", func(_ string, value []byte) error {
		g.count++
		g.bytes += len(value)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count the dead letters of %q: %w", holder, err)
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

func letterKey(holder string, offset uint64) string { return fmt.Sprintf("%s/%016d", holder, offset) }

// drop forgets the dead letter at offset; it is no error if there is none.
func (g *graveyard) drop(offset uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := letterKey(g.holder, offset)
	old, known, err := g.state.Get(deadLetters, key)
	if err == nil && known {
		err = g.state.Apply(deadLetters, map[string][]byte{key: nil})
	}
	if err != nil {
		return fmt.Errorf("drop dead letter: %w", err)
	}
	if known {
		g.count--
		g.bytes -= len(old)
	}
	return nil
}

func (g *graveyard) kept() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// DeadLetters returns the events that the far end refused for ever, of one route, "uplink/route", or of all
// of an uplink, oldest first in each route.
func DeadLetters(state State, holder string) ([]DeadLetter, error) {
	var letters []DeadLetter
	err := state.Each(deadLetters, holder+"/", func(key string, value []byte) error {
		var l DeadLetter
		if err := json.Unmarshal(value, &l); err != nil {
			return fmt.Errorf("dead letter %q: %w", key, err)
		}
		letters = append(letters, l)
		return nil
	})
	return letters, err
}
