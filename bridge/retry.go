package bridge

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Letters chooses dead letters: by id, by uplink, by route of an uplink, or by all of these.
type Letters struct{ ID, Uplink, Route string }

func (w Letters) holder() string {
	if w.Uplink != "" && w.Route != "" {
		return holderName(w.Uplink, w.Route)
	}
	return w.Uplink
}

// offsets are the chosen letters, by holder, oldest first.
func (w Letters) offsets(state State) (map[string][]uint64, error) {
	if w.ID == "" && w.Uplink == "" {
		return nil, gateway.Errorf(gateway.ErrInvalid, "say which dead letters: an id, or an uplink")
	}
	found := map[string][]uint64{}
	err := EachDeadLetter(state, w.holder(), func(l DeadLetter) error {
		if w.ID == "" || w.ID == l.ID {
			h := holderName(l.Uplink, l.Route)
			found[h] = append(found[h], l.Event.Offset)
		}
		return nil
	})
	if err == nil && len(found) == 0 && w.ID != "" {
		err = gateway.Errorf(gateway.ErrInvalid, "there is no dead letter %s", w.ID)
	}
	return found, err
}

// EachDead calls fn with the dead letters that w chooses by uplink and route; all if w is empty.
func (b *Bridge) EachDead(w Letters, fn func(DeadLetter) error) error {
	return EachDeadLetter(b.state, w.holder(), fn)
}

// chosen is a route of this gateway and some of its letters, oldest first.
type chosen struct {
	pump    *Pump
	source  *source
	offsets []uint64
}

// choose finds the letters that w chooses: by route, and by holder those whose route is gone.
func (b *Bridge) choose(w Letters) (routes []chosen, gone map[string][]uint64, err error) {
	if gone, err = w.offsets(b.state); err != nil {
		return nil, nil, err
	}
	for _, p := range b.pumps {
		for _, s := range p.routes() {
			if offsets := gone[s.holder]; len(offsets) > 0 {
				routes = append(routes, chosen{p, s, offsets})
				delete(gone, s.holder)
			}
		}
	}
	return routes, gone, nil
}

// errEarly is why a letter cannot be touched: after a kill its event would be sent again by its route, and
// be counted twice.
var errEarly = gateway.Errorf(gateway.ErrTransient, "the route is not past it yet: something before it still waits for the far end")

// RetryDead sends dead letters again, under the ids they have, beside the live routes and in their own order
// only. One that the far end takes now is no dead letter any more and counts as delivered; one that it refuses
// again stays, with the new reason. It returns what was begun, a replay for each route; those that are
// being sent already are left out.
func (b *Bridge) RetryDead(w Letters) (begun []Replay, err error) {
	routes, gone, err := b.choose(w)
	if err != nil {
		return nil, err
	}
	var skipped error
	for _, c := range routes {
		r, err := c.pump.retry(c.source, c.offsets)
		if err != nil {
			skipped = err
			continue
		}
		begun = append(begun, r)
	}
	for holder := range gone {
		skipped = gateway.Errorf(gateway.ErrInvalid, "%s is no route of this gateway any more: its dead letters can only be dropped", holder)
	}
	if len(begun) == 0 {
		return nil, skipped
	}
	return begun, nil
}

// retry begins to send the letters of s at offsets.
func (p *Pump) retry(s *source, offsets []uint64) (Replay, error) {
	offsets, err := p.passed(s, offsets)
	if err != nil {
		return Replay{}, err
	}
	mine := s.dead.send(offsets)
	if len(mine) == 0 {
		return Replay{}, gateway.Errorf(gateway.ErrInvalid, "already being sent again")
	}
	c := &letterCursor{g: s.dead, left: mine}
	r := &replay{
		Replay:  Replay{Route: s.route.ID, Dead: true, From: mine[0], To: mine[len(mine)-1] + 1, Events: uint64(len(mine))},
		settled: c.settled, over: func() { s.dead.sent(mine) },
	}
	begun, err := p.begin(r, Route{ID: s.route.ID, Key: s.route.Key, Events: s.route.Events, Bytes: s.route.Bytes}, c)
	if err != nil {
		s.dead.sent(mine)
	}
	return begun, err
}

// passed are the first of offsets, those that s is past, durably.
func (p *Pump) passed(s *source, offsets []uint64) ([]uint64, error) {
	err := p.commit() // or the newest would have to wait for the next
	p.mu.Lock()
	last := s.stored.Position.Offset
	p.mu.Unlock()
	n := 0
	for n < len(offsets) && offsets[n] <= last {
		n++
	}
	if n == 0 {
		return nil, errors.Join(errEarly, err)
	}
	return offsets[:n], nil
}

// DropDead forgets dead letters, and returns how many. They count as dropped.
func (b *Bridge) DropDead(w Letters) (dropped int, err error) {
	routes, gone, err := b.choose(w)
	if err != nil {
		return 0, err
	}
	var skipped error
	for _, c := range routes {
		n, err := c.pump.drop(c.source, c.offsets)
		dropped += n
		if err != nil {
			skipped = err
		}
	}
	for holder, offsets := range gone { // its account is gone with it
		changes := map[string][]byte{}
		for _, o := range offsets {
			changes[letterKey(holder, o)] = nil
		}
		if err := b.state.Apply(deadLetters, changes); err != nil {
			return dropped, err
		}
		dropped += len(offsets)
	}
	if dropped == 0 {
		return 0, skipped
	}
	return dropped, nil
}

func (p *Pump) drop(s *source, offsets []uint64) (int, error) {
	offsets, err := p.passed(s, offsets)
	if err != nil {
		return 0, err
	}
	mine := s.dead.send(offsets) // nobody sends them meanwhile
	defer s.dead.sent(mine)
	if len(mine) == 0 {
		return 0, gateway.Errorf(gateway.ErrTransient, "it is being sent again")
	}
	p.committing.Lock() // the ledger is not counted meanwhile
	defer p.committing.Unlock()
	return s.dead.settle(fates{dropped: mine}, time.Now())
}

// letterCursor reads dead letters. Its Commit is what makes their fates durable.
type letterCursor struct {
	g    *graveyard
	left []uint64 // one goroutine's
	at   gateway.Position

	mu   sync.Mutex
	told fates // since the last commit
}

// letterBatch bounds the letters in one batch.
const letterBatch = 16

// Next is Cursor's.
func (c *letterCursor) Next(context.Context) (gateway.Batch, error) {
	var b gateway.Batch
	for len(c.left) > 0 && len(b.Events) < letterBatch {
		l, err := c.g.letter(c.left[0])
		if err != nil && len(b.Events) == 0 {
			return b, err
		} else if err != nil {
			return b, nil
		}
		c.left = c.left[1:]
		if l != nil {
			b.Events = append(b.Events, l.Event)
			c.at = l.Event.Position()
		}
	}
	if len(b.Events) == 0 {
		return b, io.EOF
	}
	return b, nil
}

// Position is Cursor's.
func (c *letterCursor) Position() gateway.Position { return c.at }

// settled notes what has become of a letter. An expired one stays as it is.
func (c *letterCursor) settled(e *gateway.Event, o outcome, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch o {
	case accepted:
		c.told.delivered = append(c.told.delivered, e.Offset)
	case dead:
		if c.told.refused == nil {
			c.told.refused = map[uint64]string{}
		}
		c.told.refused[e.Offset] = reason
	}
}

// Commit is Cursor's.
func (c *letterCursor) Commit(Commit) error {
	c.mu.Lock()
	now := c.told
	c.told = fates{}
	c.mu.Unlock()
	_, err := c.g.settle(now, time.Now()) // the disk may be slow, and acknowledgements go on
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told.delivered = append(now.delivered, c.told.delivered...)
	for offset, reason := range c.told.refused {
		if now.refused == nil {
			now.refused = map[uint64]string{}
		}
		now.refused[offset] = reason
	}
	c.told.refused = now.refused
	return err
}
