package store

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/weir-iot/weir/gateway"
)

// client is the gateway's end of the wire to one child process.
type client struct {
	w     *wire
	slots chan struct{} // one for each call that may be under way
	heard atomic.Bool   // something came since that was last asked

	mu    sync.Mutex
	calls map[uint64]*call
	next  uint64
	gone  error // why no call will be answered any more
}

// boxCalls are under way at a time; others wait.
const boxCalls = 256

func newClient(c io.ReadWriteCloser) *client {
	return &client{w: newWire(c), slots: make(chan struct{}, boxCalls), calls: map[uint64]*call{}}
}

// call is one that waits.
type call struct {
	ticks int // how often age was asked meanwhile
	parts [][]byte
	err   error
	done  chan struct{}
}

// do calls and waits.
func (c *client) do(v verb, body []byte) ([][]byte, error) {
	c.slots <- struct{}{}
	defer func() { <-c.slots }()
	w := &call{done: make(chan struct{})}
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return nil, c.gone
	}
	c.next++
	id := c.next
	c.calls[id] = w
	c.mu.Unlock()
	if err := c.w.send(id, v, body); err != nil {
		c.w.c.Close() // then receive ends, and with it this call
	}
	<-w.done
	return w.parts, w.err
}

// receive hands answers to who waits, until the wire ends.
func (c *client) receive() error {
	for {
		id, v, body, err := c.w.receive()
		if err != nil {
			return err
		}
		c.heard.Store(true)
		c.mu.Lock()
		w := c.calls[id]
		if w != nil && v != answerMore {
			delete(c.calls, id)
		}
		c.mu.Unlock()
		if w == nil {
			continue
		}
		switch v {
		case answerMore:
			w.parts = append(w.parts, body)
			continue
		case answerOK:
			w.parts = append(w.parts, body)
		default:
			w.err = decodeError(body)
		}
		close(w.done)
	}
}

// age tells for how many ticks, calls of age, the oldest call has waited; 0 if none waits.
func (c *client) age() (ticks int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.calls {
		w.ticks++
		ticks = max(ticks, w.ticks)
	}
	return ticks
}

// fail answers all that wait, and all that come.
func (c *client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = err
	for _, w := range c.calls {
		w.err = err
		close(w.done)
	}
	c.calls = nil
}

// BoxState is the State in a Box. What State says of its methods holds; besides, any of them fails with
// ErrTransient when the child process ends, or with ErrFull if it ended of a full disk, until there is another.
type BoxState struct{ b *Box }

func (s *BoxState) Get(bucket, key string) (value []byte, ok bool, err error) {
	answer, err := s.b.do(getValue, appendString(appendString(nil, bucket), key))
	if err != nil || len(answer[0]) == 0 {
		return nil, false, err
	}
	return answer[0][1:], true, nil
}

func (s *BoxState) Each(bucket, prefix string, fn func(key string, value []byte) error) error {
	parts, err := s.b.do(eachValue, appendString(appendString(nil, bucket), prefix))
	for _, part := range parts {
		if err == nil {
			err = decodeValues(&decoder{rest: part}, fn)
		}
	}
	return err
}

func (s *BoxState) Apply(bucket string, changes map[string][]byte) error {
	if len(changes) == 0 {
		return nil
	}
	body := appendString(nil, bucket)
	for key, value := range changes {
		body = appendValue(body, key, value)
	}
	_, err := s.b.do(applyChange, body)
	return err
}

func (s *BoxState) Lost() bool { return stateLost(filepath.Join(s.b.o.Dir, "state")) }

// BoxReservoir is the Reservoir in a Box, as BoxState is the State.
type BoxReservoir struct {
	b *Box

	mu      sync.Mutex // guards what was last heard
	stats   map[string]Stat
	holders []string
}

func (r *BoxReservoir) Put(holder string, upTo uint64, records []Record) error {
	if err := checkRecords(holder, upTo, records); err != nil {
		return err
	}
	for { // in parts, each with the mark that is right for it
		n, size := 0, 0
		for n < len(records) && (n == 0 || size+len(records[n].Body) < readBytes) {
			size += len(records[n].Body) + 64
			n++
		}
		mark := upTo
		if n < len(records) {
			mark = records[n].Offset
		}
		if _, err := r.b.do(putRecords, putBody(holder, mark, records[:n])); err != nil {
			return err
		}
		if records = records[n:]; len(records) == 0 {
			return nil
		}
	}
}

func (r *BoxReservoir) Read(holder string, from uint64, max int) (Backlog, error) {
	body := binary.AppendUvarint(appendString(nil, holder), from)
	answer, err := r.b.do(readRecord, binary.AppendUvarint(body, uint64(min(uint(max), readRecords))))
	if err != nil {
		return Backlog{Next: from}, err
	}
	l, err := decodeBacklog(answer[0])
	if err != nil {
		return Backlog{Next: from}, gateway.Errorf(gateway.ErrTransient, "answer of the box: %w", err)
	}
	return l, nil
}

func (r *BoxReservoir) Release(holder string, upTo uint64) error {
	_, err := r.b.do(releaseTo, binary.AppendUvarint(appendString(nil, holder), upTo))
	return err
}

func (r *BoxReservoir) Shrink(holder string, after uint64, p Policy, maxBytes, now int64) (more bool, err error) {
	body := binary.AppendUvarint(appendString(nil, holder), after)
	body = binary.AppendVarint(binary.AppendVarint(body, maxBytes), now)
	answer, err := r.b.do(shrinkTo, append(body, mustJSON(p)...))
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(answer[0], &more); err != nil {
		return false, gateway.Errorf(gateway.ErrTransient, "answer of the box: %w", err)
	}
	return more, nil
}

// Stat is what it was when it was last heard, while there is no child process.
func (r *BoxReservoir) Stat(holder string) Stat {
	if s, err := r.Ask(holder); err == nil {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats[holder]
}

// Ask is Stat for those to whom an old answer is of no use.
func (r *BoxReservoir) Ask(holder string) (s Stat, err error) {
	answer, err := r.b.do(statHolder, appendString(nil, holder))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(answer[0], &s); err != nil {
		return s, gateway.Errorf(gateway.ErrTransient, "answer of the box: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats[holder] = s
	return s, nil
}

// Holders are, like Stat, those that were last heard.
func (r *BoxReservoir) Holders() []string {
	answer, err := r.b.do(listHolders, appendString(nil, ""))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		var names []string
		if json.Unmarshal(answer[0], &names) == nil {
			r.holders = names
		}
	}
	return r.holders
}

func (r *BoxReservoir) Discard(holder string) error {
	_, err := r.b.do(discardHolder, appendString(nil, holder))
	return err
}
