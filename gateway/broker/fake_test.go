package broker

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// fakeJournal stores in memory, and can hold back, fail and forget.
type fakeJournal struct {
	deliver func([]*gateway.Event)

	mu      sync.Mutex
	wake    sync.Cond // and moved: something was queued, or something was stored
	moved   sync.Cond
	queue   []fakeEntry
	kept    []*gateway.Event
	next    uint64
	held    bool // nothing is stored
	refuse  error
	fail    func(e *gateway.Event) error // the append is taken and fails later
	panics  string                       // the payload that makes Append panic
	dead    bool
	stopped chan struct{}
}

type fakeEntry struct {
	e    *gateway.Event
	need gateway.Durability
	done func(error)
}

// fakeAge is the journal's clock; in a synctest bubble it is the bubble's.
func fakeAge() time.Duration { return time.Duration(time.Now().UnixNano()) }

func newFakeJournal(kept []*gateway.Event) *fakeJournal {
	j := &fakeJournal{kept: kept, next: 1, stopped: make(chan struct{})}
	if n := len(kept); n > 0 {
		j.next = kept[n-1].Offset + 1
	}
	j.wake.L, j.moved.L = &j.mu, &j.mu
	return j
}

func (j *fakeJournal) Append(_ context.Context, e *gateway.Event, need gateway.Durability, done func(error)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.panics != "" && string(e.Payload) == j.panics {
		panic("as asked for")
	}
	if j.refuse != nil {
		return j.refuse
	}
	e.Age = fakeAge()
	j.queue = append(j.queue, fakeEntry{e, need, done})
	j.wake.Signal()
	j.moved.Broadcast()
	return nil
}

func (j *fakeJournal) run() {
	defer close(j.stopped)
	for {
		j.mu.Lock()
		for !j.dead && (j.held || len(j.queue) == 0) {
			j.wake.Wait()
		}
		if j.dead && (j.held || len(j.queue) == 0) {
			j.mu.Unlock()
			return
		}
		var batch []*gateway.Event
		results := map[int]error{}
		queue := j.queue
		j.queue = nil
		for i, entry := range queue {
			if j.fail != nil {
				if err := j.fail(entry.e); err != nil {
					results[i] = err
					continue
				}
			}
			entry.e.Epoch, entry.e.Offset = "e1", j.next
			j.next++
			j.kept = append(j.kept, entry.e)
			batch = append(batch, entry.e)
		}
		j.moved.Broadcast()
		j.mu.Unlock()
		j.deliver(batch)
		for i, entry := range queue {
			entry.done(results[i])
		}
	}
}

func (j *fakeJournal) set(fn func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	fn()
	j.wake.Broadcast()
}

func (j *fakeJournal) hold(held bool) { j.set(func() { j.held = held }) }

func (j *fakeJournal) waiting() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.queue)
}

// awaitQueued waits until n appends are held back.
func (j *fakeJournal) awaitQueued(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.queue) < n {
		j.moved.Wait()
	}
}

// awaitData waits until n events are stored.
func (j *fakeJournal) awaitData(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.events()) < n {
		j.moved.Wait()
	}
}

// data returns the stored events, without the broker's own changes.
func (j *fakeJournal) data() []*gateway.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.events()
}

func (j *fakeJournal) events() (events []*gateway.Event) {
	for _, e := range j.kept {
		if e.Kind == gateway.Data {
			events = append(events, e)
		}
	}
	return events
}

type fakeState struct {
	mu      sync.Mutex
	kept    map[string][]byte
	applied int
	refuse  error
}

func (s *fakeState) Get(bucket, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.kept[bucket+"\x00"+key]
	return v, ok, nil
}

func (s *fakeState) Each(bucket, prefix string, fn func(string, []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.kept {
		if b, key, _ := strings.Cut(k, "\x00"); b == bucket && strings.HasPrefix(key, prefix) {
			if err := fn(key, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *fakeState) Apply(bucket string, changes map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	for k, v := range changes {
		if v == nil {
			delete(s.kept, bucket+"\x00"+k)
		} else {
			s.kept[bucket+"\x00"+k] = v
		}
	}
	s.applied++
	return nil
}
