package web

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLog is a journal in memory, with a hub over it. Its offsets are sparse: every
// third is a Change, as in a real journal.
type fakeLog struct {
	hub  *gateway.Hub
	last *gateway.LastValues

	release sync.Mutex // one release order

	mu      sync.Mutex
	epoch   string
	first   uint64 // of the epoch
	entries []*gateway.Event
	oldest  uint64 // below is trimmed
	damaged *gateway.Gap
	broken  error
	limit   int // entries one Read looks at
}

func newFakeLog(epoch string) *fakeLog {
	l := &fakeLog{epoch: epoch, first: 1, oldest: 1, limit: 100, last: gateway.NewLastValues(10000)}
	l.hub = gateway.NewHub(l, 1, l.last.Update)
	return l
}

// restart is what a new process sees of the same journal, after a power loss if epoch
// is a new one: then a reserve of offsets is left out.
func (l *fakeLog) restart(epoch string) *fakeLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := &fakeLog{epoch: epoch, first: l.first, oldest: l.oldest, damaged: l.damaged, limit: l.limit, last: l.last, entries: l.entries}
	next := n.next()
	if epoch != l.epoch {
		next += 100
		n.first = next
	}
	n.hub = gateway.NewHub(n, next, n.last.Update)
	return n
}

func (l *fakeLog) next() uint64 {
	if len(l.entries) == 0 {
		return l.first
	}
	return max(l.first, l.entries[len(l.entries)-1].Offset+1)
}

// data is how many of the first n entries are events.
func (l *fakeLog) data(n int) (events int) {
	for _, e := range l.entries[:n] {
		if e.Kind == gateway.Data {
			events++
		}
	}
	return events
}

// add stores and releases e.
func (l *fakeLog) add(e *gateway.Event) {
	l.release.Lock()
	defer l.release.Unlock()
	l.mu.Lock()
	var batch []*gateway.Event
	if l.next()%3 == 0 {
		change := &gateway.Event{Kind: gateway.Change, Topic: "owner", Epoch: l.epoch, Offset: l.next()}
		l.entries, batch = append(l.entries, change), append(batch, change)
	}
	e.Epoch, e.Offset = l.epoch, l.next()
	if e.Accepted.IsZero() {
		e.Accepted = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	}
	l.entries, batch = append(l.entries, e), append(batch, e)
	next := l.next()
	l.mu.Unlock()
	l.hub.Released(batch, next)
	l.hub.Synced(next)
}

// put adds n events of topic with payloads from, from+1, …, and returns the last.
func (l *fakeLog) put(topic string, from, n int) (last *gateway.Event) {
	for i := range n {
		last = &gateway.Event{Topic: topic, Payload: fmt.Appendf(nil, "%d", from+i)}
		l.add(last)
	}
	return last
}

func (l *fakeLog) Read(from uint64, filters gateway.Matcher, max int) (gateway.Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := gateway.Batch{Next: from}
	if l.broken != nil {
		return b, l.broken
	}
	if from < l.oldest {
		b.Gap = &gateway.Gap{From: from, To: l.oldest, Reason: gateway.GapTrimmed}
		from = l.oldest
	}
	if d := l.damaged; d != nil && from >= d.From && from < d.To {
		b.Gap, from = d, d.To
	}
	b.Next = l.next()
	looked := 0
	for _, e := range l.entries {
		if e.Offset < from {
			continue
		}
		if d := l.damaged; d != nil && e.Offset >= d.From && e.Offset < d.To {
			b.Next = d.From
			break
		}
		if looked == l.limit || len(b.Events) == max {
			b.Next = e.Offset
			break
		}
		looked++
		if e.Kind == gateway.Data && filters.Match(e.Topic) {
			b.Events = append(b.Events, e)
		}
	}
	return b, nil
}

func (l *fakeLog) Resume(after gateway.Position) (uint64, *gateway.Gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := after.Offset + 1
	known := after.Epoch == l.epoch || slices.ContainsFunc(l.entries, func(e *gateway.Event) bool { return e.Epoch == after.Epoch })
	switch {
	case !known || from > l.next():
		return l.next(), &gateway.Gap{Asked: after, From: l.oldest, To: l.next(), Reason: gateway.GapUnknown}
	case from < l.oldest:
		return l.oldest, &gateway.Gap{Asked: after, From: from, To: l.oldest, Reason: gateway.GapTrimmed}
	}
	return from, nil
}

func (l *fakeLog) Epoch() string { return l.epoch }

func (l *fakeLog) history(filters gateway.Matcher, n int) ([]*gateway.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var events []*gateway.Event
	for _, e := range l.entries {
		if e.Kind == gateway.Data && e.Offset >= l.oldest && filters.Match(e.Topic) {
			events = append(events, e)
		}
	}
	return slices.Clone(events[max(0, len(events)-n):]), l.broken
}

func (l *fakeLog) ingest(_ context.Context, e *gateway.Event) error {
	switch {
	case strings.HasPrefix(e.Topic, "full/"):
		return gateway.Errorf(gateway.ErrFull, "journal is full")
	case strings.HasPrefix(e.Topic, "busy/"):
		return gateway.Errorf(gateway.ErrTransient, "journal has stopped")
	case strings.HasPrefix(e.Topic, "odd/"):
		return errors.New("disk said: secret detail")
	case e.QoS > 2:
		return gateway.Errorf(gateway.ErrInvalid, "QoS %d does not exist", e.QoS)
	}
	l.add(e)
	return nil
}

// running is a server on a loopback port.
type running struct {
	*Server
	url, addr string
	stop      func() // as often as you like; waits
}

// serve runs a server over l; change adjusts its options.
func serve(t *testing.T, l *fakeLog, change ...func(*Options)) *running {
	t.Helper()
	return serveOn(t, l, "127.0.0.1:0", change...)
}

func serveOn(t *testing.T, l *fakeLog, addr string, change ...func(*Options)) *running {
	t.Helper()
	o := Options{
		GatewayID: "gw", Version: "test", Feed: l.hub, History: l.history, Last: l.last, Ingest: l.ingest,
		Auth: openPolicy(t), Logger: slog.New(slog.DiscardHandler), StopTimeout: 3 * time.Second,
	}
	for _, c := range change {
		c(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln, Network) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve did not return")
		}
	})
	t.Cleanup(func() {
		stop()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return &running{Server: s, url: "http://" + ln.Addr().String(), addr: ln.Addr().String(), stop: stop}
}

func openPolicy(t *testing.T) *auth.Policy {
	t.Helper()
	p, err := auth.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// closedPolicy knows viewer, who may read plant1/#, and sensor, who may publish to
// plant1/sensor/#; both have the password "secret".
func closedPolicy(t *testing.T) *auth.Policy {
	t.Helper()
	hash, err := auth.Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	p, err := auth.New(map[string]auth.User{
		"viewer": {PasswordHash: hash, Role: "view"},
		"sensor": {PasswordHash: hash, Role: "sense"},
	}, map[string]auth.Role{
		"view":  {Subscribe: []string{"plant1/#"}},
		"sense": {Publish: []string{"plant1/%u/#"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func basic(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":secret"))
}
