package bridgetest

import (
	"context"
	"errors"
	"sync"

	"github.com/weir-iot/weir/gateway"
)

// MemorySource is a source and its far end in one, without a network: a queue that keeps what is sent until
// it is acknowledged.
type MemorySource struct {
	mu      sync.Mutex
	queue   []Message
	mode    mode
	cuts    int
	changed chan struct{}
}

// Send puts messages to the far end.
func (m *MemorySource) Send(all ...Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = append(m.queue, all...)
	m.wake()
	return nil
}

// FarSource is m for the suite.
func (m *MemorySource) FarSource() *FarSource {
	return &FarSource{
		Source: m, Send: m.Send,
		Cut:    m.cut,
		Refuse: func() { m.set(refusing); m.cut() },
		Heal:   func() { m.set(healthy) },
	}
}

func (m *MemorySource) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cuts++
	m.wake()
}

func (m *MemorySource) set(to mode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mode = to
	m.wake()
}

func (m *MemorySource) wake() {
	if m.changed != nil {
		close(m.changed)
	}
	m.changed = make(chan struct{})
}

// window is how many messages a MemorySource has in flight.
const window = 16

// Receive is bridge.Source.
func (m *MemorySource) Receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	m.mu.Lock()
	began := m.cuts
	refused := m.mode == refusing
	m.mu.Unlock()
	if refused {
		return errors.New("connection refused")
	}
	up()
	type answer struct {
		taken *bool
		err   error
	}
	answers := make(chan answer, window)
	var flying []*bool // the first of the queue; true: its answer has come
	for {
		m.mu.Lock()
		cut, have, next := m.cuts != began, len(m.queue) > len(flying), Message{}
		if have {
			next = m.queue[len(flying)]
		}
		if m.changed == nil {
			m.changed = make(chan struct{})
		}
		changed := m.changed
		m.mu.Unlock()
		if cut {
			return errors.New("connection reset")
		}
		if have && len(flying) < window && ctx.Err() == nil {
			answered := new(bool)
			flying = append(flying, answered)
			e := &gateway.Event{Topic: next.Topic, Payload: []byte(next.Payload), QoS: 1}
			take(e, next.ID, func(err error) { answers <- answer{answered, err} })
			continue
		}
		select {
		case a := <-answers:
			if a.err != nil && !errors.Is(a.err, gateway.ErrDenied) && !errors.Is(a.err, gateway.ErrInvalid) {
				return a.err
			}
			*a.taken = true
			m.mu.Lock()
			for len(flying) > 0 && *flying[0] {
				flying, m.queue = flying[1:], m.queue[1:]
			}
			m.mu.Unlock()
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
