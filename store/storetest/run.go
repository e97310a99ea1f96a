package storetest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

// Journal is what the suite tests.
type Journal interface {
	gateway.Journal
	gateway.Log
	Run(ctx context.Context, to store.Releaser) error
	Next() uint64
	Last(want gateway.Matcher, n int) ([]*gateway.Event, error)
	Count(from, to uint64, want gateway.Matcher) (uint64, error)
	Replay(from uint64, fn func(*gateway.Event) error) error
	Close() error
}

// Open opens a journal, like store.Open.
type Open func(o store.Options) (Journal, error)

var all = gateway.Filters{gateway.MustFilter("#")}

// running is a journal that runs, and what it released.
type running struct {
	Journal
	t      testing.TB
	cancel context.CancelFunc
	ended  chan error

	mu       sync.Mutex
	events   []*gateway.Event // released
	next     uint64
	synced   uint64
	recovery gateway.Recovery
	damaged  []gateway.Gap
}

func (r *running) Released(batch []*gateway.Event, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range batch {
		if e.Offset < r.next {
			r.t.Errorf("offset %d was released after %d", e.Offset, r.next-1)
		}
		r.next = e.Offset + 1
		r.events = append(r.events, e)
	}
	if next < r.next {
		r.t.Errorf("next is %d after offset %d", next, r.next-1)
	}
	r.next = next
}

func (r *running) Synced(next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if next > r.next || next < r.synced {
		r.t.Errorf("synced up to %d, after %d, while %d is released", next, r.synced, r.next)
	}
	r.synced = next
}

func (r *running) syncedUpTo() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.synced
}

func (r *running) releasedUpTo() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

// start opens a journal and runs it. stop ends it.
func start(t testing.TB, open Open, o store.Options) *running {
	t.Helper()
	r := &running{t: t, ended: make(chan error, 1)}
	o.Observer.Recovered = func(rec gateway.Recovery) { r.recovery = rec }
	o.Observer.Damaged = func(g gateway.Gap) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.damaged = append(r.damaged, g)
	}
	o.MinFree = store.MinFree{Bytes: 1}
	if o.SegmentSize == 0 {
		o.SegmentSize = 256 << 10 // scanned quickly, also with the race detector
	}
	j, err := open(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Journal, r.next, r.synced = j, j.Next(), j.Next()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.ended <- j.Run(ctx, r) }()
	return r
}

// stop ends the journal properly and returns what Run returned.
func (r *running) stop() error {
	r.t.Helper()
	r.cancel()
	err := <-r.ended
	if cerr := r.Close(); cerr != nil {
		r.t.Error(cerr)
	}
	return err
}

// mustStop is stop for a journal that has not failed.
func (r *running) mustStop() {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatal(err)
	}
}

// put appends e and waits until it is as durable as need says.
func (r *running) put(e *gateway.Event, need gateway.Durability) error {
	done := make(chan error, 1)
	if err := r.Append(context.Background(), e, need, func(err error) { done <- err }); err != nil {
		return err
	}
	return <-done
}

func (r *running) mustPut(e *gateway.Event, need gateway.Durability) *gateway.Event {
	r.t.Helper()
	if err := r.put(e, need); err != nil {
		r.t.Fatal(err)
	}
	return e
}

// readAll reads everything that matches from offset from on, in batches of max.
func (r *running) readAll(from uint64, filters gateway.Filters, max int) (events []*gateway.Event, gaps []gateway.Gap) {
	r.t.Helper()
	for {
		b, err := r.Read(from, filters, max)
		if err != nil {
			r.t.Fatal(err)
		}
		at := from
		if b.Gap != nil {
			if b.Gap.From < at || b.Gap.To <= b.Gap.From || b.Gap.To > b.Next {
				r.t.Fatalf("gap %d to %d in a batch from %d to %d", b.Gap.From, b.Gap.To, from, b.Next)
			}
			gaps = append(gaps, *b.Gap)
			at = b.Gap.To
		}
		if len(b.Events) > max {
			r.t.Fatalf("%d events in a batch of %d", len(b.Events), max)
		}
		for _, e := range b.Events {
			if e.Offset < at || e.Offset >= b.Next {
				r.t.Fatalf("offset %d in a batch from %d to %d", e.Offset, at, b.Next)
			}
			at = e.Offset + 1
		}
		events = append(events, b.Events...)
		if b.Next == from && b.Gap == nil {
			return events, gaps
		}
		if b.Next < from {
			r.t.Fatalf("a batch from %d ends at %d", from, b.Next)
		}
		from = b.Next
	}
}

// differ says how two events differ, or nothing.
func differ(a, b *gateway.Event) string {
	switch {
	case a.Kind != b.Kind || a.Topic != b.Topic || a.QoS != b.QoS || a.Retain != b.Retain || a.UTF8 != b.UTF8 || a.Quality != b.Quality:
		return "kind, topic, QoS, retain, UTF8 or quality"
	case !bytes.Equal(a.Payload, b.Payload):
		return fmt.Sprintf("payload: %q and %q", a.Payload, b.Payload)
	case a.Expiry != b.Expiry || !a.Accepted.Equal(b.Accepted) || !a.Source.Equal(b.Source):
		return "expiry or a time"
	case a.ContentType != b.ContentType || a.ResponseTopic != b.ResponseTopic || !bytes.Equal(a.CorrelationData, b.CorrelationData):
		return "content type, response topic or correlation data"
	case a.Origin != b.Origin || a.PacketID != b.PacketID:
		return "origin or packet identifier"
	case a.Epoch != b.Epoch || a.Offset != b.Offset:
		return fmt.Sprintf("position: %s and %s", a.Position(), b.Position())
	case len(a.UserProperties) != len(b.UserProperties):
		return "number of user properties"
	}
	for i := range a.UserProperties {
		if a.UserProperties[i] != b.UserProperties[i] {
			return "user properties"
		}
	}
	return ""
}

func equal(t testing.TB, what string, got, want []*gateway.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d events, want %d", what, len(got), len(want))
	}
	for i := range got {
		if d := differ(got[i], want[i]); d != "" {
			t.Fatalf("%s: event %d of %d (offset %d) differs in %s", what, i, len(got), want[i].Offset, d)
		}
	}
}

func matching(events []*gateway.Event, from uint64, filters gateway.Filters) []*gateway.Event {
	var m []*gateway.Event
	for _, e := range events {
		if e.Kind == gateway.Data && e.Offset >= from && filters.Match(e.Topic) {
			m = append(m, e)
		}
	}
	return m
}

func event(topic, payload string) *gateway.Event {
	return &gateway.Event{Topic: topic, Payload: []byte(payload), Accepted: time.Unix(1_800_000_000, 123)}
}

func same(id string) func() string { return func() string { return id } }
