// Package bridgetest holds what every sink is tested with: one suite of scenarios, far ends
// that can be made to fail, and the journal and state that a pump needs, in memory.
//
// A sink's test is short: say how to make a far end and what can go wrong with it ([FarEnd]),
// and call [Run].
package bridgetest

import (
	"errors"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Log is a journal in memory. Events are released when appended, and synced then too,
// unless Hold is called.
type Log struct {
	hub *gateway.Hub

	mu     sync.Mutex
	epoch  string
	events []*gateway.Event
	next   uint64
	from   uint64 // what lies before is trimmed
	hold   bool
}

// NewLog returns an empty log of epoch and the hub over it. Its first offset is 1.
func NewLog(epoch string) (*Log, *gateway.Hub) {
	l := &Log{epoch: epoch, next: 1, from: 1}
	l.hub = gateway.NewHub(l, 1)
	return l, l.hub
}

// Age is the clock of every Log; in a synctest bubble it is the bubble's.
func Age() time.Duration { return time.Duration(time.Now().UnixNano()) }

// Append stores the events in order, stamped with Age unless they have one.
func (l *Log) Append(events ...*gateway.Event) {
	l.mu.Lock()
	for _, e := range events {
		e.Epoch, e.Offset = l.epoch, l.next
		if e.Age == 0 {
			e.Age = Age()
		}
		l.next++
		l.events = append(l.events, e)
	}
	next, hold := l.next, l.hold
	l.mu.Unlock()
	l.hub.Released(events, next)
	if !hold {
		l.hub.Synced(next)
	}
}

// Hold keeps what is appended from now on released but not synced, until Sync.
func (l *Log) Hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = true
}

// Sync ends Hold.
func (l *Log) Sync() {
	l.mu.Lock()
	l.hold = false
	next := l.next
	l.mu.Unlock()
	l.hub.Synced(next)
}

// SyncBelowEnd makes all but the last n offsets synced.
func (l *Log) SyncBelowEnd(n uint64) {
	l.mu.Lock()
	next := l.next
	l.mu.Unlock()
	l.hub.Synced(next - n)
}

// Trim forgets the events below from.
func (l *Log) Trim(from uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.from = from
}

// Restart is the log as the next process finds it, in a new epoch if that is not empty, with
// a hub whose tail is empty.
func (l *Log) Restart(epoch string, taps ...gateway.Tap) *gateway.Hub {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != "" {
		l.epoch = epoch
		l.next += 100 // offsets in reserve are never used again
	}
	l.hub = gateway.NewHub(l, l.next, taps...)
	return l.hub
}

// Read is gateway.Log.
func (l *Log) Read(from uint64, want gateway.Matcher, max int) (gateway.Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := gateway.Batch{Next: l.next}
	if from < l.from {
		b.Gap = &gateway.Gap{From: from, To: l.from, Reason: gateway.GapTrimmed}
		from = l.from
	}
	i := sort.Search(len(l.events), func(i int) bool { return l.events[i].Offset >= from })
	for _, e := range l.events[i:] {
		if len(b.Events) == max {
			b.Next = e.Offset
			break
		}
		if want.Match(e.Topic) {
			b.Events = append(b.Events, e)
		}
	}
	return b, nil
}

// Resume is gateway.Log. Every position below the end is one of this log.
func (l *Log) Resume(after gateway.Position) (uint64, *gateway.Gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after.Offset >= l.next {
		return l.next, &gateway.Gap{Asked: after, From: l.next, To: after.Offset + 1, Reason: gateway.GapUnknown}
	}
	if from := after.Offset + 1; from < l.from {
		return l.from, &gateway.Gap{Asked: after, From: from, To: l.from, Reason: gateway.GapTrimmed}
	}
	return after.Offset + 1, nil
}

// Epoch is gateway.Log.
func (l *Log) Epoch() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// Count counts as store.Journal does.
func (l *Log) Count(from, to uint64, want gateway.Matcher) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := uint64(0)
	for _, e := range l.events {
		if e.Offset >= max(from, l.from) && e.Offset < to && want.Match(e.Topic) {
			n++
		}
	}
	return n, nil
}

// State is keyed state in memory.
type State struct {
	// Applied, if set, is told of each change before it takes effect. Set it before use.
	Applied func(bucket string, changes map[string][]byte)
	// Gate, if set, is asked before each Apply whether it may work. Set it while nothing is written.
	Gate func(bucket string) bool

	mu      sync.Mutex
	buckets map[string]map[string][]byte
	broken  bool
	writes  int
}

// NewState returns an empty State.
func NewState() *State { return &State{buckets: map[string]map[string][]byte{}} }

// Break makes every Apply fail, as if the process or the disk had died, until Mend.
func (s *State) Break() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
}

// Mend ends Break.
func (s *State) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = false
}

// Writes is how often Apply worked.
func (s *State) Writes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

// Get is bridge.State.
func (s *State) Get(bucket, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.buckets[bucket][key]
	return v, ok, nil
}

// Each is bridge.State.
func (s *State) Each(bucket, prefix string, fn func(key string, value []byte) error) error {
	s.mu.Lock()
	found := map[string][]byte{}
	var keys []string
	for k, v := range s.buckets[bucket] {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
			found[k] = v
		}
	}
	s.mu.Unlock()
	sort.Strings(keys)
	for _, k := range keys {
		if err := fn(k, found[k]); err != nil {
			return err
		}
	}
	return nil
}

// Apply is bridge.State.
func (s *State) Apply(bucket string, changes map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken || s.Gate != nil && !s.Gate(bucket) {
		return errors.New("the state is broken on purpose")
	}
	if s.Applied != nil {
		s.Applied(bucket, changes)
	}
	s.writes++
	for k, v := range changes {
		if v == nil {
			delete(s.buckets[bucket], k)
			continue
		}
		if s.buckets[bucket] == nil {
			s.buckets[bucket] = map[string][]byte{}
		}
		s.buckets[bucket][k] = v
	}
	return nil
}
