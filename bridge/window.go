package bridge

import (
	"hash/fnv"
	"sort"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// A source reads ahead up to these bounds; one batch of a reader may go beyond them once.
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
	filtered                // it came down this uplink, so it does not go up it
	poison                  // refused for ever; its dead letter is not stored yet
	dead                    // its dead letter is stored
)

// entry is one event that the cursor has passed and the uplink is not done with. An entry
// without an event is a place: behind it lies nothing for this route up to at, or what was
// there is lost.
type entry struct {
	event   *gateway.Event
	lost    lost
	at      gateway.Position
	lane    int
	outcome outcome
	refused int    // how often it was refused for ever
	reason  string // why it is poison, or dead
}

func (e *entry) settled() bool {
	return e.event == nil || e.outcome == accepted || e.outcome == expired || e.outcome == filtered || e.outcome == dead
}

// window holds, in order, what lies between the first event that is not settled and the
// reader. Its low-water mark, done, is what may be committed: everything up to there is
// settled, whatever was settled out of order behind it. Each lane has its own place in it, so
// that a connection that is lost takes back only what it carried.
type window struct {
	key     func(*gateway.Event) string
	ttl     time.Duration
	entries []entry
	popped  uint64 // entries ever removed: the sequence number of entries[0]
	lanes   []laneMark
	bytes   int
	done    gateway.Position
}

// laneMark is where a lane is, as sequence numbers.
type laneMark struct {
	next uint64 // what is to be sent next is here or behind
	sent uint64 // nothing from here on was ever handed to the sink
}

func newWindow(r Route, done gateway.Position) window {
	return window{key: r.Key, ttl: r.TTL, lanes: make([]laneMark, r.Lanes), done: done}
}

// full tells whether reading ahead has to wait.
func (w *window) full() bool { return len(w.entries) >= windowEvents || w.bytes >= windowBytes }

// lost is what damage took of a stretch: how many events, and whether that is all.
type lost struct {
	events uint64
	unsure bool
	to     uint64 // the first offset behind it
}

// add appends what the cursor returned for uplink; end is the place it has passed. What was lost lies
// before the events.
func (w *window) add(uplink string, l lost, events []*gateway.Event, end gateway.Position) {
	last := w.done
	if n := len(w.entries); n > 0 {
		last = w.entries[n-1].at
	}
	if l != (lost{}) {
		w.entries = append(w.entries, entry{lost: l, at: last})
	}
	for _, e := range events {
		added := entry{event: e, at: e.Position(), lane: w.laneOf(e)}
		if cameDown(e, uplink) {
			added.outcome = filtered
		}
		w.entries = append(w.entries, added)
		w.bytes += e.Size()
		last = e.Position()
	}
	if end.Offset > last.Offset {
		w.entries = append(w.entries, entry{at: end})
	}
}

func (w *window) laneOf(e *gateway.Event) int {
	if len(w.lanes) == 1 {
		return 0
	}
	h := fnv.New32a()
	h.Write([]byte(w.key(e)))
	return int(h.Sum32() % uint32(len(w.lanes)))
}

func (w *window) expired(e *gateway.Event, age func() time.Duration) bool {
	if e.Expiry == 0 && w.ttl == 0 { // most: the clock is a system call
		return false
	}
	now := age()
	return e.Expired(now) || w.ttl > 0 && now-e.Age >= w.ttl
}

// peek returns the event that the lane sends next, at the time of the clock age, or nil. What has expired is not
// worth the link and is passed over.
func (w *window) peek(lane int, age func() time.Duration) *gateway.Event {
	if lane >= len(w.lanes) {
		return nil
	}
	for m := &w.lanes[lane]; m.next < w.popped+uint64(len(w.entries)); m.next++ {
		e := &w.entries[m.next-w.popped]
		switch {
		case e.event == nil || e.outcome != waiting || e.lane != lane:
		case w.expired(e.event, age):
			e.outcome = expired
		default:
			return e.event
		}
	}
	return nil
}

// take passes what peek returned, and tells whether it was handed to the sink before.
func (w *window) take(lane int) (again bool) {
	m := &w.lanes[lane]
	again = m.next < m.sent
	m.next++
	m.sent = max(m.sent, m.next)
	return again
}

// rewind makes the lane begin again at its first event that is not settled. What was accepted
// behind it is sent again too: so the last arrival of each key is its newest event,
// also at a far end that refused one and took the next.
func (w *window) rewind(lane int) {
	if lane >= len(w.lanes) {
		return
	}
	w.lanes[lane].next = w.popped
	behind := false
	for i := range w.entries {
		if e := &w.entries[i]; e.event != nil && e.lane == lane {
			behind = behind || !e.settled()
			if behind && e.outcome == accepted {
				e.outcome = waiting
			}
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

// sight is an entry as it is at a moment.
type sight struct {
	found, sent bool
	outcome     outcome
	reason      string
	event       *gateway.Event
}

// look tells how the event at offset does, if it is here.
func (w *window) look(offset uint64) sight {
	i := sort.Search(len(w.entries), func(i int) bool { return w.entries[i].at.Offset >= offset })
	if i == len(w.entries) || w.entries[i].at.Offset != offset || w.entries[i].event == nil {
		return sight{}
	}
	e := &w.entries[i]
	return sight{found: true, sent: w.popped+uint64(i) < w.lanes[e.lane].next, outcome: e.outcome, reason: e.reason, event: e.event}
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

// pop removes the settled entries at the front, tells fn of each event or loss among them, and
// moves the low-water mark.
func (w *window) pop(fn func(*entry)) {
	n := 0
	for n < len(w.entries) && w.entries[n].settled() {
		e := &w.entries[n]
		w.done = e.at
		if e.event != nil {
			w.bytes -= e.event.Size()
		}
		if e.event != nil || e.lost != (lost{}) {
			fn(e)
		}
		n++
	}
	if n == 0 {
		return
	}
	clear(w.entries[:n]) // let go of the events; append moves the rest when it must
	w.entries = w.entries[n:]
	w.popped += uint64(n)
	for i := range w.lanes {
		w.lanes[i].next = max(w.lanes[i].next, w.popped)
		w.lanes[i].sent = max(w.lanes[i].sent, w.popped)
	}
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
