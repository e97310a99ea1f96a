package bridge

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// viaUplink is the Origin.Via of what came down an uplink; Origin.ID is the uplink's.
const viaUplink = "uplink"

// cameDown tells whether e came down uplink: then it does not go up it.
func cameDown(e *gateway.Event, uplink string) bool {
	return e.Origin.Via == viaUplink && e.Origin.ID == uplink
}

// commandID is the user property that holds the id which the far end gave a message. It is stored
// in the event's own frame, so that the event and its id are there or not there together.
const commandID = "weir-command-id"

const (
	commandsBucket = "commands"
	commandsAt     = "/at" // no uplink can have this id
	maxCommands    = 1000  // ids of one uplink
)

// Commands remembers the ids of the last messages that came down, a thousand for each uplink: one that
// comes again, because its acknowledgement was lost or the process was killed before it, is
// not a second event. What is stored in State is a view of the journal up to an offset; what lies
// behind is read again at the start. So it is exact, and no message costs a sync of its own.
type Commands struct {
	state State
	hub   *gateway.Hub
	log   *slog.Logger
	hurry chan struct{} // asks to be stored; one signal

	mu      sync.Mutex
	at      uint64 // what lies below is in known
	saved   uint64 // at as it is stored
	known   map[string]*recent
	flying  map[messageKey][]func(error) // being stored; who waits for it
	pending map[string][]byte            // what is stored next, when all below pendingAt is synced
	ready   uint64                       // the offset of pending; 0: there is none
}

// digest stands for an id and the topic under which it came.
type digest [16]byte

type messageKey struct {
	uplink string
	digest digest
}

func digestOf(topic, id string) (d digest) {
	sum := sha256.Sum256([]byte(topic + "\x00" + id))
	copy(d[:], sum[:])
	return d
}

// recent is the last ids of an uplink, as a ring.
type recent struct {
	ring    []digest
	oldest  int
	has     map[digest]bool
	changed bool // not stored like this
}

func (r *recent) add(d digest) {
	switch {
	case r.has[d]:
		return
	case len(r.ring) < maxCommands:
		r.ring = append(r.ring, d)
	default:
		delete(r.has, r.ring[r.oldest])
		r.ring[r.oldest] = d
		r.oldest = (r.oldest + 1) % maxCommands
	}
	r.has[d], r.changed = true, true
}

// bytes is r from the oldest to the newest.
func (r *recent) bytes() []byte {
	b := make([]byte, 0, len(r.ring)*len(digest{}))
	for i := range r.ring {
		d := r.ring[(r.oldest+i)%len(r.ring)]
		b = append(b, d[:]...)
	}
	return b
}

// OpenCommands goes on from what is stored and reads the journal from there. If State was lost
// it reads all there is.
func OpenCommands(hub *gateway.Hub, state State, lost bool, log *slog.Logger) (*Commands, error) {
	next, _ := hub.Next()
	c := &Commands{
		state: state, hub: hub, log: log, hurry: make(chan struct{}, 1), at: next,
		known: map[string]*recent{}, flying: map[messageKey][]func(error){},
	}
	if lost {
		c.at = 1
	}
	err := state.Each(commandsBucket, "", func(key string, value []byte) (err error) {
		if key == commandsAt {
			c.at, err = strconv.ParseUint(string(value), 10, 64)
			return err
		}
		r := c.of(key)
		for ; len(value) >= len(digest{}); value = value[len(digest{}):] {
			r.add(digest(value[:len(digest{})]))
		}
		r.changed = false
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read which commands were taken: %w", err)
	}
	for r := hub.Reader(c.at, every{}, gateway.Written); r.Offset() < next; {
		b, err := r.NextWithin(context.Background(), 0)
		if err != nil {
			return nil, fmt.Errorf("read which commands were taken: %w", err)
		}
		for _, e := range b.Events {
			c.learn(e)
		}
	}
	c.at = next
	return c, c.save() // also so that the next start has a place to begin at
}

// forgetCommands lets a later OpenCommands begin at the journal's end, if nobody keeps the ids up to date.
func forgetCommands(state State) error {
	_, known, err := state.Get(commandsBucket, commandsAt)
	if err == nil && known {
		err = state.Apply(commandsBucket, map[string][]byte{commandsAt: nil})
	}
	return err
}

func (c *Commands) of(uplink string) *recent {
	r := c.known[uplink]
	if r == nil {
		r = &recent{has: map[digest]bool{}}
		c.known[uplink] = r
	}
	return r
}

func (c *Commands) learn(e *gateway.Event) {
	if e.Origin.Via != viaUplink {
		return
	}
	if id := property(e, commandID); id != "" {
		c.of(e.Origin.ID).add(digestOf(e.Topic, id))
	}
}

func property(e *gateway.Event, key string) string {
	for _, p := range e.UserProperties {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}

// Released is a gateway.Tap.
func (c *Commands) Released(batch []*gateway.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range batch {
		c.at = e.Offset + 1
		c.learn(e)
	}
}

// begin says what is to be done with a message: store it and call landed, or, if landed is nil, nothing:
// it is known, or its first copy is being stored, and done is called.
func (c *Commands) begin(uplink, topic, id string, done func(error)) (landed func(error)) {
	if id == "" {
		return done
	}
	k := messageKey{uplink, digestOf(topic, id)}
	c.mu.Lock()
	waiting, flies := c.flying[k]
	known := !flies && c.of(uplink).has[k.digest]
	if !known {
		c.flying[k] = append(waiting, done)
	}
	c.mu.Unlock()
	switch {
	case known:
		done(nil)
		return nil
	case flies:
		return nil
	}
	return func(err error) {
		c.mu.Lock()
		waiting := c.flying[k]
		delete(c.flying, k)
		c.mu.Unlock()
		for _, done := range waiting {
			done(err)
		}
	}
}

// Saved is the offset from which the journal is needed at the next start.
func (c *Commands) Saved() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saved
}

// Save asks for it to be stored soon. It does not wait.
func (c *Commands) Save() { signal(c.hurry) }

// Run stores it now and then until ctx ends, and once more then.
func (c *Commands) Run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-tick.C:
		case <-c.hurry:
		case <-ctx.Done():
		}
		err := c.save()
		if ctx.Err() != nil {
			return err
		}
		if err != nil && !failed {
			c.log.Error("cannot store which commands were taken; a restart reads more of the journal", "error", err)
		}
		failed = err != nil
	}
}

// save stores what is known, once all of it is on stable storage: an id must not outlive its event.
func (c *Commands) save() error {
	_, synced := c.hub.Next()
	c.mu.Lock()
	if c.ready == 0 && c.at != c.saved {
		c.ready, c.pending = c.at, map[string][]byte{commandsAt: strconv.AppendUint(nil, c.at, 10)}
		for uplink, r := range c.known {
			if r.changed {
				c.pending[uplink], r.changed = r.bytes(), false
			}
		}
	}
	at, changes := c.ready, c.pending
	c.mu.Unlock()
	if at == 0 || at > synced {
		return nil
	}
	if err := c.state.Apply(commandsBucket, changes); err != nil {
		return fmt.Errorf("store which commands were taken: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saved, c.ready, c.pending = at, 0, nil
	return nil
}
