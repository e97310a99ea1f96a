package gateway

import (
	"sort"
	"sync"
)

// LastValues keeps the newest event of each topic: what a page shows before anything
// moves. It is bounded; at the bound new topics are not remembered, and Missed counts them.
type LastValues struct {
	max int

	mu     sync.RWMutex
	topics map[string]*Event
	missed uint64
}

// NewLastValues returns a table for at most max topics.
func NewLastValues(max int) *LastValues {
	return &LastValues{max: max, topics: map[string]*Event{}}
}

// Update is a [Tap]. Batches come in journal order.
func (l *LastValues) Update(batch []*Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range batch {
		if e.Kind != Data {
			continue
		}
		if _, known := l.topics[e.Topic]; !known && len(l.topics) >= l.max {
			l.missed++
			continue
		}
		l.topics[e.Topic] = e
	}
}

// Match returns the last event of each topic that matches, in order of topic.
func (l *LastValues) Match(filters Filters) []*Event {
	l.mu.RLock()
	var events []*Event
	for topic, e := range l.topics {
		if filters.Match(topic) {
			events = append(events, e)
		}
	}
	l.mu.RUnlock()
	sort.Slice(events, func(i, j int) bool { return events[i].Topic < events[j].Topic })
	return events
}

// Topics is how many topics the table holds; Missed how many events it had no room for.
func (l *LastValues) Topics() (held int, missed uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.topics), l.missed
}
