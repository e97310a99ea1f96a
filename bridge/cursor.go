package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Cursor is an uplink's place in what it still has to send. One goroutine calls Next and
// Position, another may call Commit.
type Cursor interface {
	// Next waits for events behind those it returned before, oldest first, and
	// only for events that are on stable storage. A gap in the batch lies before its
	// events and has been passed. A batch without either says that Position may
	// have grown. The error is ctx's, or the journal's, and then Next may be
	// called again.
	Next(ctx context.Context) (gateway.Batch, error)
	// Position is the last place that Next has passed.
	Position() gateway.Position
	// Commit stores that everything up to and including at is done with. After a restart
	// the cursor goes on behind it. It may be called late or not at all, which
	// costs repeats; it must never be called early, which costs events.
	Commit(at gateway.Position) error
}

// State is keyed and small and survives: store.State is one.
type State interface {
	Get(bucket, key string) ([]byte, bool, error)
	Each(bucket, prefix string, fn func(key string, value []byte) error) error
	// Apply is atomic, and synced when it returns nil. A nil value deletes.
	Apply(bucket string, changes map[string][]byte) error
}

// cursors is the bucket of State that holds a position for each uplink id.
const cursors = "cursors"

// passEvery is how often a cursor whose events do not come looks up, so that its position
// moves over what others write.
const passEvery = 30 * time.Second

// journalCursor reads the journal through the hub.
type journalCursor struct {
	uplink string
	state  State
	reader *gateway.Reader
	gap    *gateway.Gap // what the stored position could not be continued over
}

// OpenCursor returns the uplink's cursor: where it was, or, for an uplink that has
// none, at the journal's end; or at its beginning if cursors were lost, for then the uplink may not be
// new, and repeats are better than loss. That first position is stored before
// OpenCursor returns, so an uplink misses nothing of what is accepted afterwards, whatever happens.
func OpenCursor(hub *gateway.Hub, state State, lost bool, uplink string, filters gateway.Filters, log *slog.Logger) (Cursor, gateway.Position, error) {
	c := &journalCursor{uplink: uplink, state: state}
	value, ok, err := state.Get(cursors, uplink)
	if err != nil {
		return nil, gateway.Position{}, fmt.Errorf("read the cursor of uplink %q: %w", uplink, err)
	}
	var from uint64
	if ok {
		at, err := gateway.ParsePosition(string(value))
		if err != nil {
			return nil, gateway.Position{}, fmt.Errorf("cursor of uplink %q: %w", uplink, err)
		}
		from, c.gap = hub.Resume(at)
	} else if lost {
		log.Warn("the uplink's place was lost with the state; it sends the whole journal again, under the same ids", "uplink", uplink)
	} else {
		from, _ = hub.Next()
		log.Info("uplink is new and sends from now on", "offset", from)
	}
	c.reader = hub.Reader(max(from, 1), filters, gateway.Synced) // offsets begin at 1
	if !ok {
		if err := c.Commit(c.reader.Position()); err != nil {
			return nil, gateway.Position{}, err
		}
	}
	return c, c.reader.Position(), nil
}

func (c *journalCursor) Next(ctx context.Context) (gateway.Batch, error) {
	if gap := c.gap; gap != nil {
		c.gap = nil
		return gateway.Batch{Next: c.reader.Offset(), Gap: gap}, nil
	}
	return c.reader.NextWithin(ctx, passEvery)
}

func (c *journalCursor) Position() gateway.Position { return c.reader.Position() }

func (c *journalCursor) Commit(at gateway.Position) error {
	if err := c.state.Apply(cursors, map[string][]byte{c.uplink: []byte(at.String())}); err != nil {
		return fmt.Errorf("store the cursor of uplink %q: %w", c.uplink, err)
	}
	return nil
}
