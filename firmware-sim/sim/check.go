package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
)

// Received is one arrival at the far end.
type Received struct {
	Topic string
	Seq   uint64
	ID    string // the event's id, as the gateway gave it
}

// sumMark stands before a message's checksum, its last member, over all before it.
const sumMark = `,"sum":"`

func sum(topic string, payload []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE([]byte(topic)), crc32.IEEETable, payload)
}

// ParseReceived reads the sequence number of an arrival: the member seq of a JSON object,
// as in a Load, or the payload itself, as in the readings of a serial line. A checksum that
// does not fit is an error.
func ParseReceived(topic string, payload []byte, id string) (Received, error) {
	r := Received{Topic: topic, ID: id}
	if n, err := strconv.ParseUint(string(payload), 10, 64); err == nil {
		r.Seq = n
		return r, nil
	}
	var body struct {
		Seq *uint64
		Sum *string
	}
	if err := json.Unmarshal(payload, &body); err != nil || body.Seq == nil {
		return r, fmt.Errorf("%s: no sequence number in %.100q", topic, payload)
	}
	r.Seq = *body.Seq
	if body.Sum != nil {
		before := payload[:max(0, bytes.LastIndex(payload, []byte(sumMark)))]
		if want := fmt.Sprintf("%08x", sum(topic, before)); *body.Sum != want {
			return r, fmt.Errorf("%s %d: the checksum is %s, of what arrived it is %s: a wrong byte", topic, r.Seq, *body.Sum, want)
		}
	}
	return r, nil
}

// Report is what Check found. Each violation is a sentence.
type Report struct {
	Sent, Acked, Refused int // messages, of the ledger
	Received             int // arrivals
	Arrived              int // different messages among them
	Repeats              int // arrivals of an event that had arrived; allowed, they bear its id
	Explained            int // second events that a resend explains; allowed for the same reason as in MQTT

	Lost       []string // acknowledged, but it never arrived
	NoID       []string // an arrival without an id
	Reused     []string // an id that names two messages
	Doubled    []string // more events than sends explain
	Inverted   []string // a first arrival behind a later message or event of its topic
	Unknown    []string // never sent
	FalseNay   []string // refused, never resent, and yet it arrived
	violations int
}

// OK tells whether nothing is wrong.
func (r *Report) OK() bool { return r.violations == 0 }

// Err is nil if nothing is wrong, else it names the violations, the first few of each kind.
func (r *Report) Err() error {
	if r.OK() {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d violations in: %s", r.violations, r)
	for _, kind := range []struct {
		name string
		list []string
	}{
		{"lost", r.Lost}, {"without id", r.NoID}, {"id used twice", r.Reused}, {"doubled", r.Doubled},
		{"out of order", r.Inverted}, {"never sent", r.Unknown}, {"refused, but stored", r.FalseNay},
	} {
		for i, v := range kind.list {
			if i == 5 {
				fmt.Fprintf(&b, "\n%s: … and %d more", kind.name, len(kind.list)-i)
				break
			}
			fmt.Fprintf(&b, "\n%s: %s", kind.name, v)
		}
	}
	return errors.New(b.String())
}

func (r *Report) String() string {
	return fmt.Sprintf("%d sent, %d acknowledged, %d refused; %d arrivals of %d messages, %d repeats, %d second events after a resend",
		r.Sent, r.Acked, r.Refused, r.Received, r.Arrived, r.Repeats, r.Explained)
}

// Check holds what arrived at the far end, in order of arrival, against the ledger. It finds:
//
//   - Lost: a message that was acknowledged (PUBACK or PUBREC below 0x80, or noted by
//     Answered) did not arrive. Messages that were not acknowledged may arrive or not.
//   - NoID: an arrival bears no id.
//   - Reused: one id names two messages. A message is a topic and a sequence number.
//   - Doubled: a message arrived under more ids than it may have become events: QoS 1: as
//     often as it was sent; QoS 2: as often as it was sent without DUP, so once unless the
//     session was lost; QoS 0 and a serial line: once.
//   - Inverted: of one topic, the first arrival of a message comes after that of one with a
//     higher sequence number, or the first arrival of an event after that of one with a
//     higher offset (the number that ends its id). Repeats are not looked at, nor are second
//     events for their sequence number: they come late by nature.
//   - Unknown: the ledger has no such message.
//   - FalseNay: a message arrived that was sent once and refused.
//
// It looks only at what it is given, so arrivals of topics that the ledger does not know are
// to be left out before. The ledger must be at rest.
func (l *Ledger) Check(received []Received) Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{Sent: len(l.order), Received: len(received)}
	note := func(list *[]string, format string, args ...any) {
		r.violations++
		*list = append(*list, fmt.Sprintf(format, args...))
	}
	ids := map[key][]string{}
	named := map[string]key{}
	last, offset := map[string]uint64{}, map[string]uint64{}
	for n, a := range received {
		k := key{a.Topic, a.Seq}
		e := l.entries[k]
		if e == nil {
			note(&r.Unknown, "%s %d, arrival %d, id %s", a.Topic, a.Seq, n, a.ID)
			continue
		}
		if a.ID == "" {
			note(&r.NoID, "%s %d, arrival %d", a.Topic, a.Seq, n)
		}
		if other, used := named[a.ID]; used && other != k && a.ID != "" {
			note(&r.Reused, "%s names %s %d and %s %d", a.ID, other.topic, other.seq, a.Topic, a.Seq)
		}
		named[a.ID] = k
		switch {
		case len(ids[k]) == 0:
			if a.Seq < last[a.Topic] {
				note(&r.Inverted, "%s %d, arrival %d, after %d; id %s", a.Topic, a.Seq, n, last[a.Topic], a.ID)
			}
			last[a.Topic] = max(last[a.Topic], a.Seq)
		case slices.Contains(ids[k], a.ID):
			r.Repeats++
			continue
		}
		ids[k] = append(ids[k], a.ID)
		if n, err := strconv.ParseUint(a.ID[strings.LastIndexByte(a.ID, '-')+1:], 10, 64); err == nil {
			if n < offset[a.Topic] {
				note(&r.Inverted, "%s: event %s after offset %d", a.Topic, a.ID, offset[a.Topic])
			}
			offset[a.Topic] = max(offset[a.Topic], n)
		}
	}
	r.Arrived = len(ids)
	for _, e := range l.order {
		events := ids[key{e.Topic, e.Seq}]
		switch {
		case e.Taken():
			r.Acked++
			if len(events) == 0 {
				note(&r.Lost, "%s %d, QoS %d, acknowledged at %s, sent %d times", e.Topic, e.Seq, e.QoS, e.Acked.Format("15:04:05.000"), e.Sends)
			}
		case e.Refused():
			r.Refused++
			if len(events) > 0 && e.Sends == 1 {
				note(&r.FalseNay, "%s %d, reason 0x%02x, id %s", e.Topic, e.Seq, e.Reason, events[0])
			}
		}
		if most := e.events(); len(events) > most {
			note(&r.Doubled, "%s %d, QoS %d, sent %d times, %d without DUP: %s", e.Topic, e.Seq, e.QoS, e.Sends, e.Fresh, strings.Join(events, " "))
		} else if len(events) > 1 {
			r.Explained += len(events) - 1
		}
	}
	return r
}
