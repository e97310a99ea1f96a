package bridgetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Arrival is an event as the far end has it.
type Arrival struct {
	ID      string // empty where the protocol has no place for it
	Topic   string
	Payload string
}

// Memory is a sink and its far end in one, without a network: what a pump is tested with. Its
// connection keeps up to Window events unanswered.
type Memory struct {
	GatewayID string
	Window    int                         // 0: 16
	Patience  time.Duration               // how long it bears a far end that lies still; 0: 50 ms
	Answer    func(*gateway.Event) error  // what the far end says to an event; nil: takes all
	Seen      func(Arrival, int) *Arrival // if set, changes what arrives; gets the number of the connection

	memoryLink
	arrivals []Arrival
	conns    int
}

// memoryLink is the link to a far end in memory. Its mu guards what lies there, too.
type memoryLink struct {
	mu      sync.Mutex
	mode    mode
	cuts    int
	changed chan struct{} // closed when mode changes or the connection is cut
}

type mode int

const (
	healthy mode = iota
	stalled
	refusing
	deaf // takes events, its answers get lost
)

// FarEnd is m for the suite.
func (m *Memory) FarEnd() *FarEnd {
	return &FarEnd{
		Sink: m, Arrivals: m.Arrivals,
		LoseAcks: func() { m.set(deaf) },
		Stall:    func() { m.set(stalled) },
		Refuse:   func() { m.set(refusing); m.Cut() },
		Heal:     func() { m.set(healthy) },
		Cut:      m.Cut,
	}
}

// Arrivals are the events in order of arrival, repeats included.
func (m *Memory) Arrivals() []Arrival {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Arrival(nil), m.arrivals...)
}

// Connections is how many there were.
func (m *Memory) Connections() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.conns
}

// Cut breaks the connection.
func (m *memoryLink) Cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cuts++
	m.wake()
}

func (m *memoryLink) set(to mode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mode = to
	m.wake()
}

func (m *memoryLink) wake() {
	if m.changed != nil {
		close(m.changed)
	}
	m.changed = make(chan struct{})
}

func (m *memoryLink) state() (now mode, cuts int, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.mode, m.cuts, m.changed
}

func (m *Memory) arrive(e *gateway.Event, conn int) {
	a := Arrival{ID: e.ID(m.GatewayID), Topic: e.Topic, Payload: string(e.Payload)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Seen != nil {
		changed := m.Seen(a, conn)
		if changed == nil {
			return
		}
		a = *changed
	}
	m.arrivals = append(m.arrivals, a)
}

// Send is bridge.Sink.
func (m *Memory) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	window, patience := m.Window, m.Patience
	if window == 0 {
		window = 16
	}
	if patience == 0 {
		patience = 50 * time.Millisecond
	}
	m.mu.Lock()
	m.conns++
	conn := m.conns
	m.mu.Unlock()

	_, began, _ := m.state()
	isUp := false
	var onTheWay, taken []*gateway.Event // sent; arrived but not answered
	dead := time.NewTimer(patience)
	defer dead.Stop()
	for {
		now, cuts, changed := m.state()
		switch {
		case cuts != began:
			return errors.New("connection reset")
		case now == refusing:
			return errors.New("connection refused")
		case now == healthy || now == deaf:
			if !isUp {
				isUp = true
				up()
			}
			for _, e := range onTheWay {
				m.arrive(e, conn)
			}
			taken = append(taken, onTheWay...)
			onTheWay = nil
			if now == healthy {
				m.answer(taken, done)
				taken = nil
				dead.Reset(patience)
			}
		}
		if events == nil && len(onTheWay)+len(taken) == 0 {
			return nil
		}
		in, timeout := events, dead.C
		if !isUp || len(onTheWay)+len(taken) >= window {
			in = nil
		}
		if isUp && len(onTheWay)+len(taken) == 0 {
			timeout = nil // nothing to be impatient about
			dead.Reset(patience)
		}
		select {
		case e, ok := <-in:
			if !ok {
				events = nil
				continue
			}
			onTheWay = append(onTheWay, e)
			for more := true; more && len(onTheWay)+len(taken) < window; { // fill the window
				select {
				case e, ok := <-events:
					if more = ok; ok {
						onTheWay = append(onTheWay, e)
					} else {
						events = nil
					}
				default:
					more = false
				}
			}
		case <-changed:
		case <-timeout:
			return errors.New("the far end lies still")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *Memory) answer(taken []*gateway.Event, done func(*gateway.Event, error)) {
	for _, e := range taken {
		var err error
		if m.Answer != nil {
			err = m.Answer(e)
		}
		done(e, err)
	}
}
