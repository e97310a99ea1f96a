package broker

import (
	"context"
	"sync"
)

// answers is the ordered queue of what one connection's publishes and releases are to
// be told. An answer leaves when it is known and all before it have left: MQTT 5
// §4.6. What is never known, or must not be said, holds back all behind it.
type answers struct {
	max   int
	write func(packets []byte) // called with the lock held; must not block

	room chan struct{} // one token: the queue became shorter

	mu     sync.Mutex
	slots  []answer
	first  uint64 // number of slots[0]
	closed bool
	out    []byte
}

type answer struct {
	kind  byte // the packet type to answer with
	known bool
	code  byte
	id    uint16
}

func newAnswers(max int, write func([]byte)) *answers {
	return &answers{max: max, write: write, room: make(chan struct{}, 1)}
}

// wait blocks while the queue is at its bound and ctx lives. It is for one goroutine.
func (a *answers) wait(ctx context.Context) {
	for a.waiting() >= a.max {
		select {
		case <-a.room:
		case <-ctx.Done():
			return
		}
	}
}

// add appends an answer that is not known yet and returns its number.
func (a *answers) add(kind byte, id uint16) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slots = append(a.slots, answer{kind: kind, id: id})
	return a.first + uint64(len(a.slots)) - 1
}

// resolve makes answer n known and sends what may leave.
func (a *answers) resolve(n uint64, code byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || n < a.first {
		return
	}
	s := &a.slots[n-a.first]
	s.known, s.code = true, code
	sent := 0
	for sent < len(a.slots) && a.slots[sent].known {
		s := a.slots[sent]
		a.out = appendAck(a.out, s.kind, s.id, s.code)
		sent++
	}
	if sent == 0 {
		return
	}
	a.first += uint64(sent)
	if a.slots = a.slots[sent:]; len(a.slots) == 0 {
		a.slots = nil
	}
	a.write(a.out)
	a.out = a.out[:0]
	select {
	case a.room <- struct{}{}:
	default:
	}
}

// close makes every later resolve do nothing.
func (a *answers) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.slots = nil
}

// waiting is how many answers have not left yet.
func (a *answers) waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.slots)
}
