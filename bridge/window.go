package bridge

import (
	"sort"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// The pump reads ahead up to these bounds; one batch of a reader may go beyond them once.
const (
	windowEvents = 512
	windowBytes  = 1 << 20
)

// outcome is what has become of an event in the window.
type outcome uint8

const (
	waiting  outcome = iota // not sent, or sent and not answered
	accepted                // the far end has it
	expired                 // no longer worth sending
	poison                  // refused for ever; its dead letter is not stored yet
	dead                    // its dead letter is stored
)

// entry is one event that the cursor has passed and the uplink is not done with. An entry
// without an event is a place: behind it lies nothing for this uplink up to at.
type entry struct {
	event   *gateway.Event
	at      gateway.Position
	outcome outcome
	reason  string // why it is poison
}

func (e *entry) settled() bool {
	return e.event == nil || e.outcome == accepted || e.outcome == expired || e.outcome == dead
}

// window holds, in order, what lies between the first event that is not settled and the
// reader. Its low-water mark, done, is what may be committed: everything up to there is
// settled, whatever was settled out of order behind it.
type window struct {
	entries []entry
	popped  uint64 // entries ever removed: the sequence number of entries[0]
	next    uint64 // the sequence number of what is to be sent next
	sent    uint64 // no entry from this sequence number on was ever handed to the sink
	bytes   int
	done    gateway.Position
}

// full tells whether reading ahead has to wait.
func (w *window) full() bool { return len(w.entries) >= windowEvents || w.bytes >= windowBytes }

// add appends what the cursor returned; end is the place it has passed.
func (w *window) add(events []*gateway.Event, end gateway.Position) {
	last := w.done
	if n := len(w.entries); n > 0 {
		last = w.entries[n-1].at
	}
	for _, e := range events {
		w.entries = append(w.entries, entry{event: e, at: e.Position()})
		w.bytes += e.Size()
		last = e.Position()
	}
	if end.Offset > last.Offset {
		w.entries = append(w.entries, entry{at: end})
	}
}

// take returns the next event that is to be sent at age, or nil, and whether it was handed
// to the sink before. What has expired is not worth the link and is passed over.
func (w *window) take(age time.Duration) (event *gateway.Event, again bool) {
	for ; w.next < w.popped+uint64(len(w.entries)); w.next++ {
		e := &w.entries[w.next-w.popped]
		switch {
		case e.event == nil || e.outcome != waiting:
		case e.event.Expired(age):
			e.outcome = expired
		default:
			again = w.next < w.sent
			w.next++
			w.sent = max(w.sent, w.next)
			return e.event, again
		}
	}
	return nil, false
}

// rewind makes take begin again at the first entry that is not settled. What was accepted
// behind it is sent again too: so the last arrival of each topic is its newest event,
// also at a far end that refused one and took the next.
func (w *window) rewind() {
	w.next = w.popped
	for i := range w.entries {
		if w.entries[i].outcome == accepted {
			w.entries[i].outcome = waiting
		}
	}
}

// find returns the entry of e, or nil. Offsets grow along the window.
func (w *window) find(e *gateway.Event) *entry {
	i := sort.Search(len(w.entries), func(i int) bool { return w.entries[i].at.Offset >= e.Offset })
	if i < len(w.entries) && w.entries[i].event == e {
		return &w.entries[i]
	}
	return nil
}

// poisoned returns the first entry that waits for its dead letter, or nil.
func (w *window) poisoned() *entry {
	for i := range w.entries {
		if w.entries[i].outcome == poison {
			return &w.entries[i]
		}
	}
	return nil
}

// pop removes the settled entries at the front, tells fn of each event among them, and
// moves the low-water mark.
func (w *window) pop(fn func(outcome)) {
	n := 0
	for n < len(w.entries) && w.entries[n].settled() {
		e := &w.entries[n]
		w.done = e.at
		if e.event != nil {
			w.bytes -= e.event.Size()
			fn(e.outcome)
		}
		n++
	}
	if n == 0 {
		return
	}
	clear(w.entries[:n]) // let go of the events; append moves the rest when it must
	w.entries = w.entries[n:]
	w.popped += uint64(n)
	w.next = max(w.next, w.popped)
	w.sent = max(w.sent, w.popped)
}

// first returns the oldest event that is not settled, or nil.
func (w *window) first() *gateway.Event {
	for i := range w.entries {
		if e := &w.entries[i]; e.event != nil && !e.settled() {
			return e.event
		}
	}
	return nil
}
