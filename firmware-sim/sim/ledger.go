// Package sim is devices that do not exist, and the account of what they sent. Everything
// random comes from a seed, so that a run can be repeated.
//
// The account is a Ledger: every message with how often it was sent and how it was
// answered. At the far end of the gateway a test collects what arrived, and Ledger.Check
// holds the two against each other.
package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Entry is one message in the ledger. A line of a ledger's file is one.
type Entry struct {
	Topic string `json:"topic"`
	Seq   uint64 `json:"seq"` // counts on its topic, in the order of sending
	QoS   byte   `json:"qos"`
	Via   string `json:"via"` // mqtt or serial

	Sent  time.Time `json:"sent"` // the first time
	Sends int       `json:"sends"`
	// Fresh is how many of the sends said nothing of an earlier one (no DUP in a session that
	// the server kept): each of them may rightly become an event of its own.
	Fresh int `json:"fresh"`

	Acked  time.Time `json:"acked,omitzero"` // PUBACK or PUBREC
	Reason byte      `json:"reason"`         // of the answer; 0x80 and above: refused
}

// Taken tells whether the gateway has said that it stored the message.
func (e *Entry) Taken() bool { return !e.Acked.IsZero() && e.Reason < 0x80 }

// Refused tells whether the gateway has said that it did not.
func (e *Entry) Refused() bool { return !e.Acked.IsZero() && e.Reason >= 0x80 }

// events is how many events the message may rightly have become.
func (e *Entry) events() int {
	if e.QoS == 1 { // a server keeps no QoS 1 ids: each resend may be stored again
		return e.Sends
	}
	return e.Fresh
}

type key struct {
	topic string
	seq   uint64
}

// Ledger is what was sent and what was answered. It is for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	entries map[key]*Entry
	order   []*Entry
	file    *bufio.Writer

	mayRefuse bool
	err       error
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger { return &Ledger{entries: map[key]*Entry{}} }

// MayRefuse tells Check that the gateway had reason to refuse messages for a while, such as a full disk.
func (l *Ledger) MayRefuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mayRefuse = true
}

// Log has the ledger append every change to w: the entry as it then is, as a line of
// JSON. The last line of an entry counts. Flush before w is closed.
func (l *Ledger) Log(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file = bufio.NewWriter(w)
}

// Flush writes what is held back, and returns the first error of the log.
func (l *Ledger) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.err == nil {
		l.err = l.file.Flush()
	}
	return l.err
}

// Sent notes that a message is being sent, once more if it is there already. Dup: in a
// form that says so.
func (l *Ledger) Sent(via, topic string, seq uint64, qos byte, dup bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[key{topic, seq}]
	if e == nil {
		e = &Entry{Topic: topic, Seq: seq, QoS: qos, Via: via, Sent: time.Now()}
		l.add(e)
	}
	e.Sends++
	if !dup {
		e.Fresh++
	}
	l.log(e)
}

// Answered notes the answer to a message. For a serial line, which nobody answers, a test
// may note with it that the line was seen.
func (l *Ledger) Answered(topic string, seq uint64, reason byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[key{topic, seq}]
	if e == nil || e.Taken() {
		return
	}
	e.Acked, e.Reason = time.Now(), reason
	l.log(e)
}

func (l *Ledger) add(e *Entry) {
	l.entries[key{e.Topic, e.Seq}] = e
	l.order = append(l.order, e)
}

func (l *Ledger) log(e *Entry) {
	if l.file == nil || l.err != nil {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = l.file.Write(append(line, '\n'))
	}
	l.err = err
}

// Entries returns all messages, in the order they were first sent.
func (l *Ledger) Entries() []Entry { return l.entriesThat(func(*Entry) bool { return true }) }

// Acked returns the messages the gateway has said it stored.
func (l *Ledger) Acked() []Entry { return l.entriesThat((*Entry).Taken) }

func (l *Ledger) entriesThat(ok func(*Entry) bool) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Entry
	for _, e := range l.order {
		if ok(e) {
			out = append(out, *e)
		}
	}
	return out
}

// ReadLedger reads what a ledger has logged. A torn last line, of a process that was killed,
// is left out.
func ReadLedger(r io.Reader) (*Ledger, error) {
	l := NewLedger()
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			return l, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read ledger: %w", err)
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read ledger: line %d: %w", n, err)
		}
		if known := l.entries[key{e.Topic, e.Seq}]; known != nil {
			*known = e
		} else {
			l.add(&e)
		}
	}
}
