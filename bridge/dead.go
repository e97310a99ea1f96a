package bridge

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// deadLetters is the bucket of State for events that a far end will never take. Keys are
// "<uplink>/<offset, 16 digits>", so they sort in journal order and a repeat
// after a crash meets its own key.
const deadLetters = "dead"

// Bounds on the dead letters of one uplink. At the bound nothing is thrown away: the pump
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

// graveyard keeps the dead letters of one uplink. Its methods are not for concurrent use.
type graveyard struct {
	state  State
	uplink string
	count  int
	bytes  int
}

func openGraveyard(state State, uplink string) (*graveyard, error) {
	g := &graveyard{state: state, uplink: uplink}
	err := state.Each(deadLetters, uplink+"/", func(_ string, value []byte) error {
		g.count++
		g.bytes += len(value)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count the dead letters of uplink %q: %w", uplink, err)
	}
	return g, nil
}

// bury stores e. It is gateway.ErrFull at the bound.
func (g *graveyard) bury(e *gateway.Event, id, reason string, now time.Time) error {
	value, err := json.Marshal(DeadLetter{ID: id, Reason: reason, Time: now.UTC(), Event: e})
	if err != nil {
		return fmt.Errorf("encode dead letter: %w", err)
	}
	key := fmt.Sprintf("%s/%016d", g.uplink, e.Offset)
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

// DeadLetters returns the events that uplink's far end refused for ever, oldest first.
func DeadLetters(state State, uplink string) ([]DeadLetter, error) {
	var letters []DeadLetter
	err := state.Each(deadLetters, uplink+"/", func(key string, value []byte) error {
		var l DeadLetter
		if err := json.Unmarshal(value, &l); err != nil {
			return fmt.Errorf("dead letter %q: %w", key, err)
		}
		letters = append(letters, l)
		return nil
	})
	return letters, err
}
