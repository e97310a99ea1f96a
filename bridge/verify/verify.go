// Package verify judges what has arrived at a far end by the ids alone: what came twice, what
// came too late, which ids name two things, and, given what a gateway says it has sent, what is not there.
// It knows no protocol; the sinks' packages have readers.
package verify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
)

// maxNamed bounds how many of each kind of problem are named; all are counted.
const maxNamed = 20

// ID is an event's id taken apart: "<gateway>/<epoch>-<offset>".
type ID struct {
	Gateway, Epoch string
	Offset         uint64
}

func (i ID) String() string {
	return i.Gateway + "/" + i.Epoch + "-" + strconv.FormatUint(i.Offset, 10)
}

// ParseID reads what gateway.Event.ID wrote.
func ParseID(s string) (id ID, ok bool) {
	gateway, rest, ok := strings.Cut(s, "/")
	epoch, number, found := strings.Cut(rest, "-")
	offset, err := strconv.ParseUint(number, 10, 64)
	id = ID{gateway, epoch, offset}
	return id, ok && found && err == nil && gateway != "" && epoch != "" && offset > 0 && id.String() == s
}

// Finding is one thing that is wrong.
type Finding struct {
	ID    string `json:"id"`
	Topic string `json:"topic"`
	Note  string `json:"note,omitempty"`
}

// Findings are all of a kind: how many, and the first of them.
type Findings struct {
	Count uint64    `json:"count"`
	First []Finding `json:"first,omitempty"`
}

func (f *Findings) add(id ID, topic, note string, args ...any) {
	f.Count++
	if len(f.First) < maxNamed {
		f.First = append(f.First, Finding{id.String(), topic, fmt.Sprintf(note, args...)})
	}
}

// Epoch is one history that was seen.
type Epoch struct {
	Gateway string `json:"gateway"`
	Epoch   string `json:"epoch"`
	First   uint64 `json:"first"` // the least and the greatest offset
	Last    uint64 `json:"last"`
	IDs     uint64 `json:"ids"`
}

// Report is what was found. Repeats are no mistake: Weir sends at least once.
type Report struct {
	Arrivals  uint64   `json:"arrivals"`   // with an id
	WithoutID uint64   `json:"without_id"` // not from a Weir, or sent without a place for it
	Others    uint64   `json:"others"`     // from other gateways than the one that was asked for
	IDs       uint64   `json:"ids"`
	Topics    int      `json:"topics"`
	Repeats   uint64   `json:"repeats"`
	Epochs    []Epoch  `json:"epochs"`    // in the order in which they came
	Reordered Findings `json:"reordered"` // an id that was first seen after a newer one of its topic, and of its key in Kafka
	Twofold   Findings `json:"twofold"`   // an id with two topics or payloads

	// Against what a gateway says it has sent; nil if none was asked.
	Sent *Sent `json:"sent,omitempty"`
}

// Wrong tells whether anything is.
func (r *Report) Wrong() bool {
	return r.Reordered.Count+r.Twofold.Count > 0 || r.IDs == 0 || r.Sent != nil && (r.Sent.Due == 0 || r.Sent.Missing.Count > 0)
}

// Checker takes arrivals in the order in which the far end has them. It needs about 50 bytes of memory for
// each id.
type Checker struct {
	gateway string // the only one to look at; empty: all
	seed    maphash.Seed
	epochs  map[[2]string]*history
	order   []*history
	newest  map[place]mark
	topics  map[[2]string]bool // by gateway
	r       Report
}

type history struct {
	Epoch
	rank int               // in order of first sight
	seen map[uint64]uint64 // offset -> sum of topic and payload
}

// place is what order is kept within: a topic of a gateway, or what of it lies in one place of the far end's.
type place struct{ gateway, within, topic string }

// mark is the newest that was first seen of a place.
type mark struct {
	rank   int
	offset uint64
}

// New returns a Checker that looks at one gateway's events, or at those of all if it is empty.
func New(gateway string) *Checker {
	return &Checker{gateway: gateway, seed: maphash.MakeSeed(), epochs: map[[2]string]*history{}, newest: map[place]mark{}, topics: map[[2]string]bool{}}
}

// Add takes an arrival. Without an id it looks for one in a payload that is JSON. within is the place of the far
// end's that keeps an order of its own, such as a partition; empty if all of it has one order.
func (c *Checker) Add(within, topic, id string, payload []byte) {
	if id == "" {
		topic, id = inside(topic, payload)
	}
	at, ok := ParseID(id)
	switch {
	case !ok:
		c.r.WithoutID++
		return
	case c.gateway != "" && at.Gateway != c.gateway:
		c.r.Others++
		return
	}
	c.r.Arrivals++
	h := c.history(at)
	sum := c.sum(topic, payload)
	if was, seen := h.seen[at.Offset]; seen {
		c.r.Repeats++
		if was != sum {
			c.r.Twofold.add(at, topic, "came before with another topic or payload")
		}
		return
	}
	h.seen[at.Offset] = sum
	h.IDs++
	h.First, h.Last = min(h.First, at.Offset), max(h.Last, at.Offset)

	c.topics[[2]string{at.Gateway, topic}] = true
	key := place{at.Gateway, within, topic}
	newest, now := c.newest[key], mark{h.rank, at.Offset}
	if cmp.Or(cmp.Compare(now.rank, newest.rank), cmp.Compare(now.offset, newest.offset)) < 0 {
		newer := c.order[newest.rank-1]
		c.r.Reordered.add(at, topic, "first seen after %s", ID{newer.Gateway, newer.Epoch.Epoch, newest.offset})
		return
	}
	c.newest[key] = now
}

func (c *Checker) history(at ID) *history {
	key := [2]string{at.Gateway, at.Epoch}
	h := c.epochs[key]
	if h == nil {
		h = &history{Epoch: Epoch{Gateway: at.Gateway, Epoch: at.Epoch, First: at.Offset}, seen: map[uint64]uint64{}}
		c.epochs[key] = h
		c.order = append(c.order, h)
		h.rank = len(c.order) // from 1, so that the zero mark is before everything
	}
	return h
}

func (c *Checker) sum(topic string, payload []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	h.WriteString(topic)
	h.WriteByte(0) // no topic has one
	h.Write(payload)
	return h.Sum64()
}

// inside finds the id in the formats that have it in the payload: event and cloudevents.
func inside(topic string, payload []byte) (string, string) {
	var e struct{ ID, Topic, Subject string }
	if json.Unmarshal(payload, &e) != nil || e.ID == "" {
		return topic, ""
	}
	return cmp.Or(e.Topic, e.Subject, topic), e.ID
}

// Report returns what was found until now.
func (c *Checker) Report() *Report {
	r := c.r
	r.Topics = len(c.topics)
	for _, h := range c.order {
		r.Epochs = append(r.Epochs, h.Epoch)
		r.IDs += h.IDs
	}
	r.Reordered.First, r.Twofold.First = slices.Clone(r.Reordered.First), slices.Clone(r.Twofold.First)
	return &r
}
