package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Cursor is a route's place in what it still has to send. One goroutine calls Next and
// Position, another may call Commit.
type Cursor interface {
	// Next waits for events behind those it returned before, oldest first, and
	// only for events that are on stable storage. A gap in the batch lies before its
	// events and has been passed. A batch without either says that Position may
	// have grown. The error is ctx's, or the store's, and then Next may be
	// called again; io.EOF says that there will never be more.
	Next(ctx context.Context) (gateway.Batch, error)
	// Position is the last place that Next has passed.
	Position() gateway.Position
	// Commit stores that everything up to and including c.Position is done with, and what has
	// become of it. After a restart the cursor goes on behind it. It may be called
	// late or not at all, which costs repeats; it must never be called early, which costs events.
	Commit(c Commit) error
}

// Commit is what a cursor remembers. Counts are of all time.
type Commit struct {
	Position  gateway.Position `json:"-"`
	At        string           `json:"at"`              // Position as text
	Since     uint64           `json:"since,omitempty"` // the offset at which the route began; 0: not known
	Delivered uint64           `json:"delivered"`
	Expired   uint64           `json:"expired,omitempty"`
	// Filtered came down the uplink that they would have gone up.
	Filtered uint64 `json:"filtered,omitempty"`
	Dead     uint64 `json:"dead,omitempty"`    // moved to the dead letters
	Damaged  uint64 `json:"damaged,omitempty"` // lost to damage of the journal
	// Unsure says that damage took more than could be counted: the index was gone too.
	Unsure bool `json:"unsure,omitempty"`
}

// State is keyed and small and survives: store.State is one.
type State interface {
	Get(bucket, key string) ([]byte, bool, error)
	Each(bucket, prefix string, fn func(key string, value []byte) error) error
	// Apply is atomic, and synced when it returns nil. A nil value deletes.
	Apply(bucket string, changes map[string][]byte) error
}

// Backlog is where what a holder needs goes when the journal's window has passed. All of it lies
// before what the journal still has.
type Backlog interface {
	// Read returns the holder's events from offset from on, oldest first. If it has none
	// left, the batch is empty and its Next is Mark or from. What was lost to damage is a gap.
	Read(holder string, from uint64) (gateway.Batch, error)
	// Mark is the offset below which all that the holder needs is in the backlog, or was dropped by
	// its policy. It grows before the journal lets go of anything.
	Mark(holder string) uint64
	// Release says that everything up to and including upTo is done with.
	Release(holder string, upTo uint64) error
	// Count is how many events the holder has there, their bytes, and the age of the oldest. With
	// an error it is the last that was heard.
	Count(holder string) (BacklogCount, error)
}

// BacklogCount is how much of a holder is in the backlog.
type BacklogCount struct {
	Mark    uint64 // as it was when this was counted
	First   uint64 // no event lies before this offset
	Events  uint64
	Bytes   int64
	Oldest  time.Duration     // gateway.Event.Age of the first
	Dropped map[string]uint64 // by reason, of all time
}

// cursors is the bucket of State that holds a Commit for each "<uplink>/<route>".
const cursors = "cursors"

// passEvery is how often a cursor whose events do not come looks up, so that its position
// moves over what others write.
const passEvery = 30 * time.Second

// storeCursor reads the backlog first and then the journal, through the hub.
type storeCursor struct {
	holder  string
	state   State
	hub     *gateway.Hub
	backlog Backlog
	want    gateway.Matcher
	gap     *gateway.Gap // what the stored position could not be continued over
	reader  *gateway.Reader
	next    atomic.Uint64 // everything below was returned
}

// openCursor returns the cursor of a holder: where it was, or, for one that has none, at the
// journal's end; or at the oldest there is if cursors were lost, for then the holder may not be
// new, and repeats are better than loss. That first position is stored before
// openCursor returns, so that nothing of what is accepted afterwards is missed, whatever happens.
func openCursor(hub *gateway.Hub, state State, backlog Backlog, lost bool, holder string, want gateway.Matcher, log *slog.Logger) (*storeCursor, Commit, error) {
	c := &storeCursor{holder: holder, state: state, hub: hub, backlog: backlog, want: want}
	value, ok, err := state.Get(cursors, holder)
	if err != nil {
		return nil, Commit{}, fmt.Errorf("read the cursor of %q: %w", holder, err)
	}
	var at Commit
	var from uint64
	switch {
	case ok:
		if at, err = ParseCommit(value); err != nil {
			return nil, Commit{}, fmt.Errorf("cursor of %q: %w", holder, err)
		}
		// What is released is not synced. After a crash the backlog has again what was committed.
		if err := backlog.Release(holder, at.Position.Offset); err != nil {
			return nil, Commit{}, fmt.Errorf("backlog of %q: %w", holder, err)
		}
		from, c.gap = hub.Resume(at.Position)
		if mark := backlog.Mark(holder); c.gap != nil && mark > at.Position.Offset {
			// It is older than the journal; the backlog goes on behind it.
			from, c.gap = at.Position.Offset+1, nil
		}
	case lost:
		log.Warn("the place was lost with the state; all that is kept is sent again, under the same ids", "holder", holder)
	default:
		from, _ = hub.Next()
		log.Info("a new route sends from now on", "holder", holder, "offset", from)
	}
	c.next.Store(max(from, 1)) // offsets begin at 1
	if !ok {
		at = Commit{Position: c.Position(), Since: c.next.Load()}
		if err := c.Commit(at); err != nil {
			return nil, Commit{}, err
		}
	}
	at.Position = c.Position()
	return c, at, nil
}

func (c *storeCursor) Next(ctx context.Context) (gateway.Batch, error) {
	if gap := c.gap; gap != nil {
		c.gap = nil
		return gateway.Batch{Next: c.next.Load(), Gap: gap}, nil
	}
	for {
		next := c.next.Load()
		if c.backlog.Mark(c.holder) > next {
			b, err := c.backlog.Read(c.holder, next)
			if err != nil {
				return gateway.Batch{}, err
			}
			c.reader = nil
			c.next.Store(max(next, b.Next))
			if len(b.Events) == 0 && b.Gap == nil && b.Next <= next { // it was set aside, damaged, and does not know
				mark := c.backlog.Mark(c.holder)
				c.next.Store(mark)
				b = gateway.Batch{Next: mark, Gap: &gateway.Gap{From: next, To: mark, Reason: gateway.GapUnknown}}
			}
			return b, nil
		}
		if c.reader == nil {
			c.reader = c.hub.Reader(next, c.want, gateway.Synced)
		}
		b, err := c.reader.NextWithin(ctx, passEvery)
		if err == nil && b.Gap != nil && b.Gap.Reason == gateway.GapTrimmed && c.backlog.Mark(c.holder) > next {
			c.reader = nil // it went to the backlog while it was being read
			continue
		}
		c.next.Store(c.reader.Offset())
		return b, err
	}
}

// Position is also for the keeper of the journal, which leaves alone what was read.
func (c *storeCursor) Position() gateway.Position {
	return gateway.Position{Epoch: c.hub.Epoch(), Offset: c.next.Load() - 1}
}

func (c *storeCursor) Commit(at Commit) error {
	at.At = at.Position.String()
	value, err := json.Marshal(at)
	if err == nil {
		err = c.state.Apply(cursors, map[string][]byte{c.holder: value})
	}
	if err != nil {
		return fmt.Errorf("store the cursor of %q: %w", c.holder, err)
	}
	if err := c.backlog.Release(c.holder, at.Position.Offset); err != nil {
		return fmt.Errorf("release the backlog of %q: %w", c.holder, err)
	}
	return nil
}

// ParseCommit reads what a cursor stored.
func ParseCommit(value []byte) (c Commit, err error) {
	if err := json.Unmarshal(value, &c); err != nil {
		return c, gateway.Errorf(gateway.ErrInvalid, "%w", err)
	}
	c.Position, err = gateway.ParsePosition(c.At)
	return c, err
}

// noBacklog is the Backlog of those who have none.
type noBacklog struct{}

func (noBacklog) Read(string, uint64) (gateway.Batch, error) { return gateway.Batch{}, nil }
func (noBacklog) Mark(string) uint64                         { return 0 }
func (noBacklog) Release(string, uint64) error               { return nil }
func (noBacklog) Count(string) (BacklogCount, error)         { return BacklogCount{}, nil }
