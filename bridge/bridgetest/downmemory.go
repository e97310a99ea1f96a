package bridgetest

import (
	"context"
	"errors"

	"github.com/weir-iot/weir/gateway"
)

// MemorySource is a source and its far end in one, without a network: a queue that keeps what is sent until
// it is acknowledged.
type MemorySource struct {
	memoryLink
	queue []Message
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
		Cut:    m.Cut,
		Refuse: func() { m.set(refusing); m.Cut() },
		Heal:   func() { m.set(healthy) },
	}
}

// window is how many messages a MemorySource has in flight.
const window = 16

// Receive is bridge.Source.
func (m *MemorySource) Receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	now, began, _ := m.state()
	if now == refusing {
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
		_, cuts, changed := m.state() // before the look at the queue, of which it tells too
		m.mu.Lock()
		have, next := len(m.queue) > len(flying), Message{}
		if have {
			next = m.queue[len(flying)]
		}
		m.mu.Unlock()
		if cuts != began {
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
