package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Ledger is what the simulated devices know: what they sent, how often, and what they
// were told. Check compares it with what arrived at the far end of the gateway. It is for
// concurrent use.
type Ledger struct {
	mu      sync.Mutex
	entries map[key]*Entry
	order   []*Entry // as first published
}

type key struct {
	topic string
	seq   uint64
}

// Entry is one message.
type Entry struct {
	Topic string    `json:"topic"`
	Seq   uint64    `json:"seq"`
	QoS   byte      `json:"qos"`
	First time.Time `json:"first"`
	// Sends is how often it was written to a connection, and Copies how many of
	// these the gateway could not know for repeats: every one at QoS 1, and at QoS 2 those
	// that were the first of their session. So many events it may become.
	Sends  int `json:"sends"`
	Copies int `json:"copies"`

	Answered time.Time `json:"answered,omitzero"`
	Reason   byte      `json:"reason"` // 0x80 and above: refused
}

// Acked tells whether the gateway has said that it took the message.
func (e *Entry) Acked() bool { return !e.Answered.IsZero() && e.Reason < 0x80 }

// NewLedger returns an empty one.
func NewLedger() *Ledger { return &Ledger{entries: map[key]*Entry{}} }

func (l *Ledger) entry(topic string, seq uint64, qos byte) *Entry {
	k := key{topic, seq}
	e := l.entries[k]
	if e == nil {
		e = &Entry{Topic: topic, Seq: seq, QoS: qos, First: time.Now()}
		l.entries[k] = e
		l.order = append(l.order, e)
	}
	return e
}

// Sent notes that a message is about to be written to a connection. Dup: it went before in
// this session.
func (l *Ledger) Sent(topic string, seq uint64, qos byte, dup bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(topic, seq, qos)
	e.Sends++
	if qos < 2 || !dup {
		e.Copies++
	}
}

// Answered notes what the gateway said of a message.
func (l *Ledger) Answered(topic string, seq uint64, reason byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[key{topic, seq}]
	e.Answered, e.Reason = time.Now(), reason
}

// Totals counts the messages, those the gateway took, and those that were sent more than once.
func (l *Ledger) Totals() (sent, acked, resent int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.order {
		sent++
		if e.Acked() {
			acked++
		}
		if e.Sends > 1 {
			resent++
		}
	}
	return sent, acked, resent
}

// WriteTo writes the ledger as a JSON object a line, in the order of first publishing.
func (l *Ledger) WriteTo(w io.Writer) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, e := range l.order {
		line, err := json.Marshal(e)
		if err != nil {
			return n, err
		}
		m, err := w.Write(append(line, '\n'))
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Arrival is one message as the far end received it.
type Arrival struct {
	Topic string
	Seq   uint64
	ID    string // the event's id
	// Offset is the event's place in the gateway's journal, from its id.
	Offset uint64
}

// Report is what Check found wrong. Each list is capped; Count is not.
type Report struct {
	Arrivals, Repeats int // all that came, and those whose id had come before

	Count                                         int
	Lost, Foreign, SharedIDs, Doubled, OutOfOrder []string
}

// reportMax caps each list of a report.
const reportMax = 10

func (r *Report) add(list *[]string, format string, args ...any) {
	r.Count++
	if len(*list) < reportMax {
		*list = append(*list, fmt.Sprintf(format, args...))
	}
}

func (r *Report) String() string {
	s := fmt.Sprintf("%d arrivals, %d of them repeats, %d violations", r.Arrivals, r.Repeats, r.Count)
	for _, l := range []struct {
		what string
		list []string
	}{{"lost", r.Lost}, {"never sent", r.Foreign}, {"one id for two events", r.SharedIDs}, {"doubled", r.Doubled}, {"out of order", r.OutOfOrder}} {
		for _, line := range l.list {
			s += "\n  " + l.what + ": " + line
		}
	}
	return s
}

// Check compares what arrived at the far end, in order of arrival, with the ledger:
//
//   - Lost: acknowledged by the gateway and never arrived.
//   - Foreign: arrived and was never sent.
//   - SharedIDs: one id came with two different messages.
//   - Doubled: a message came under more ids than the copies its device made, so the
//     gateway made an event of its own. (A QoS 1 message that is resent because its
//     acknowledgement was lost makes a second event; that is MQTT.)
//   - OutOfOrder: of one topic, a message arrived for the first time after a later
//     one had, or an event after one with a higher offset. Repeats of an id do not count.
func (l *Ledger) Check(arrivals []Arrival) *Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &Report{Arrivals: len(arrivals)}
	byID := map[string]key{}
	ids := map[key]int{}
	lastSeq, lastOffset := map[string]uint64{}, map[string]uint64{}
	for _, a := range arrivals {
		k := key{a.Topic, a.Seq}
		e := l.entries[k]
		if e == nil {
			r.add(&r.Foreign, "%s %d as %s", a.Topic, a.Seq, a.ID)
			continue
		}
		if before, seen := byID[a.ID]; seen {
			r.Repeats++
			if before != k {
				r.add(&r.SharedIDs, "%s: %s %d and %s %d", a.ID, before.topic, before.seq, a.Topic, a.Seq)
			}
			continue
		}
		byID[a.ID] = k
		if ids[k]++; ids[k] == e.Copies+1 {
			r.add(&r.Doubled, "%s %d (QoS %d) came under %d ids, its device made %d copies; the last is %s", a.Topic, a.Seq, e.QoS, ids[k], e.Copies, a.ID)
		}
		if ids[k] == 1 {
			if a.Seq < lastSeq[a.Topic] {
				r.add(&r.OutOfOrder, "%s %d came first after %d", a.Topic, a.Seq, lastSeq[a.Topic])
			}
			lastSeq[a.Topic] = a.Seq
		}
		if a.Offset < lastOffset[a.Topic] {
			r.add(&r.OutOfOrder, "%s: %s came first after offset %d", a.Topic, a.ID, lastOffset[a.Topic])
		}
		lastOffset[a.Topic] = a.Offset
	}
	for _, e := range l.order {
		if e.Acked() && ids[key{e.Topic, e.Seq}] == 0 {
			r.add(&r.Lost, "%s %d (QoS %d), acknowledged at %s", e.Topic, e.Seq, e.QoS, e.Answered.Format("15:04:05.000"))
		}
	}
	return r
}
