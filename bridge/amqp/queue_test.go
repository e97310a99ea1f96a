package amqp_test

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
)

// queueInMemory is a scripted far end's one queue: what is in flight on a connection that ends goes back to
// its place. Its connections come one after the other.
type queueInMemory struct {
	mu      sync.Mutex
	waiting []queued // in order
	last    int      // number that was given
	excess  bool     // sends more than was asked for
	changed chan struct{}
}

type queued struct {
	n     int
	id    string
	key   string
	body  []byte
	again byte
}

func newQueueInMemory() *queueInMemory { return &queueInMemory{changed: make(chan struct{}, 1)} }

func (q *queueInMemory) send(id, key string, body []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last++
	q.waiting = append(q.waiting, queued{n: q.last, id: id, key: key, body: body})
	q.wake()
}

func (q *queueInMemory) wake() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// consumer is one connection of a queueInMemory.
type consumer struct {
	q         *queueInMemory
	out       chan<- []byte
	quit      chan struct{}
	work      sync.WaitGroup
	prefetch  int // these belong to the queue's mu
	consuming bool
	tag       uint64
	flying    map[uint64]queued
}

func (q *queueInMemory) connect(out chan<- []byte) *consumer {
	c := &consumer{q: q, out: out, quit: make(chan struct{}), flying: map[uint64]queued{}}
	c.work.Go(c.run)
	return c
}

func (c *consumer) end() {
	close(c.quit)
	c.work.Wait()
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	for _, m := range c.flying {
		m.again = 1
		c.q.waiting = append(c.q.waiting, m)
	}
	slices.SortFunc(c.q.waiting, func(a, b queued) int { return cmp.Compare(a.n, b.n) })
	c.q.wake()
}

// run sends heartbeats, and what is in the queue.
func (c *consumer) run() {
	beat := time.NewTicker(200 * time.Millisecond)
	defer beat.Stop()
	for {
		frames := c.next()
		if frames == nil {
			select {
			case <-c.q.changed:
			case <-beat.C:
				frames = []byte{8, 0, 0, 0, 0, 0, 0, 0xCE}
			case <-c.quit:
				return
			}
		}
		if frames != nil {
			select {
			case c.out <- frames:
			case <-c.quit:
				return
			}
		}
	}
}

// next puts a message in flight: basic.deliver, its content header with a message-id, its body.
func (c *consumer) next() []byte {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if !c.consuming || len(c.q.waiting) == 0 || len(c.flying) >= c.prefetch && !c.q.excess {
		return nil
	}
	m := c.q.waiting[0]
	c.q.waiting = c.q.waiting[1:]
	c.tag++
	c.flying[c.tag] = m
	deliver := append([]byte{4}, "weir"...)
	deliver = append(binary.BigEndian.AppendUint64(deliver, c.tag), m.again, 0) // no exchange
	b := frame(1, 60, 60, append(append(deliver, byte(len(m.key))), m.key...)...)
	content := binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, uint64(len(m.body)))
	if m.id == "" {
		content = append(content, 0, 0)
	} else {
		content = append(append(content, 0, 0x80, byte(len(m.id))), m.id...)
	}
	part := func(kind byte, payload []byte) {
		b = binary.BigEndian.AppendUint32(append(b, kind, 0, 1), uint32(len(payload)))
		b = append(append(b, payload...), 0xCE)
	}
	part(2, content)
	for body := range slices.Chunk(m.body, 100_000) {
		part(3, body)
	}
	return b
}

// method is what a source asks for.
func (c *consumer) method(class, method byte, arguments []byte) {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	switch [2]byte{class, method} {
	case [2]byte{50, 10}: // queue.declare
		c.out <- frame(1, 50, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	case [2]byte{50, 20}: // queue.bind
		c.out <- frame(1, 50, 21)
	case [2]byte{60, 10}: // basic.qos
		c.prefetch = int(binary.BigEndian.Uint16(arguments[4:]))
		c.out <- frame(1, 60, 11)
	case [2]byte{60, 20}: // basic.consume
		c.consuming = true
		c.out <- frame(1, 60, 21, append([]byte{4}, "weir"...)...)
	case [2]byte{60, 80}, [2]byte{60, 90}: // basic.ack, basic.reject, both of one message
		delete(c.flying, binary.BigEndian.Uint64(arguments))
	}
	c.q.wake()
}

// The suite, where no RabbitMQ is installed: with ids, and without.
func TestSourceScripted(t *testing.T) {
	for name, ids := range map[string]bool{"ids": true, "none": false} {
		t.Run(name, func(t *testing.T) {
			bridgetest.RunSource(t, func(t *testing.T) *bridgetest.FarSource {
				q := newQueueInMemory()
				p := bridgetest.NewProxy(t, scriptWith(t, q).addr)
				return &bridgetest.FarSource{
					Source: newSource(t, p.Addr(), impatient), NoIDs: !ids,
					Send: func(all ...bridgetest.Message) error {
						for _, m := range all {
							if !ids {
								m.ID = ""
							}
							q.send(m.ID, strings.ReplaceAll(m.Topic, "/", "."), []byte(m.Payload))
						}
						return nil
					},
					Cut: p.Cut, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
				}
			})
		})
	}
}

// A message that is larger than a gateway takes is not gathered: it comes with one byte more than that, or
// with the rest of the frame that this is in, to be refused. What is behind it comes whole.
func TestSourceLargeMessage(t *testing.T) {
	const most = 1 << 20
	q := newQueueInMemory()
	c := receive(t, newSource(t, scriptWith(t, q).addr, func(c *amqp.Config) { c.Heartbeat = time.Minute })) // none comes while a message does
	q.send("", "down.a", make([]byte, 8*most))
	q.send("", "down.a", []byte("small"))
	if n := len(c.next(t).e.Payload); n <= most || n > most+128<<10 {
		t.Errorf("the large one came with %d bytes", n)
	}
	if m := c.next(t); string(m.e.Payload) != "small" {
		t.Errorf("%d bytes", len(m.e.Payload))
	}
}

// A far end that sends more than it was asked for is given up, instead of being kept in memory.
func TestSourceOfAFlood(t *testing.T) {
	q := newQueueInMemory()
	q.excess = true
	for range 10 {
		q.send("", "down.a", nil)
	}
	c := receive(t, newSource(t, scriptWith(t, q).addr, func(c *amqp.Config) { c.Window = 5 }))
	err := c.end(t)
	if want := "the far end sent more than the 5 messages that were asked for"; err == nil || err.Error() != want || len(c.got) != 5 {
		t.Errorf("%v after %d, not %s", err, len(c.got), want)
	}
}
