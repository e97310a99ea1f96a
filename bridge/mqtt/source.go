package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// sessionExpiry is for how long the far end keeps a source's session, and the messages in it, while
// there is no connection (§3.1.2.11.2). It may do so for less. A session of 3.1.1 has no end.
const sessionExpiry = 7 * 24 * time.Hour

// grace is how long a source waits at its end for what it has taken.
const grace = time.Second

// Source brings messages of one broker down: bridge.Source. It subscribes at QoS 1, so that a
// message has one acknowledgement, and that one leaves when the message is stored.
type Source struct {
	s       *Sink
	filters []string
}

// NewSource returns a source for a downlink of uplink, which asks for topics. It has a connection of its
// own, whose client id is the uplink's, the downlink's id and "down". A wrong value is a
// gateway.KeyError, as New says.
func NewSource(c Config, gatewayID, uplink, downlink string, topics gateway.Filters) (*Source, error) {
	s, err := New(c, gatewayID, uplink, 0, nil)
	if err != nil {
		return nil, err
	}
	if s.c.Preset == azure {
		return nil, gateway.BadKey("preset", "Azure IoT Hub takes one connection per device, so it has no downlinks")
	}
	s.c.ClientID += "-" + downlink + "-down"
	d := &Source{s: s}
	for _, f := range topics {
		d.filters = append(d.filters, f.String())
	}
	return d, nil
}

// Receive is bridge.Source.
func (d *Source) Receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	return d.s.with(ctx, grace+grace/2, newSourceLink, func(l *link) error { return l.receive(ctx, d.filters, up, take) })
}

func newSourceLink(s *Sink, conn net.Conn) *link {
	l := newLink(s, conn)
	l.source = true
	return l
}

// receive takes what comes until ctx ends or the link is lost.
func (l *link) receive(ctx context.Context, filters []string, up func(), take func(*gateway.Event, string, func(error))) error {
	answers := make(chan answer, 8)
	lost := make(chan error, 1)
	quit := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() { lost <- l.listen(answers, quit) })
	defer func() {
		close(quit)
		l.conn.Close()
		listening.Wait()
	}()

	keepAlive := l.keepAlive()
	tick := time.NewTicker(min(keepAlive, l.s.c.AckTimeout) / 4)
	defer tick.Stop()
	asked := time.Now()
	l.acked, l.wrote, l.heard = asked, asked, asked
	l.buf.Reset()
	id := l.nextID()
	if err := l.s.codec.subscribe(&l.buf, id, filters); err != nil {
		return err
	}
	if err := l.flush(l.buf.Bytes()); err != nil {
		return err
	}
	subscribed := false
	in := inbox{more: make(chan struct{}, 1)}
	for {
		from := answers
		if in.waiting() >= l.s.c.Window {
			from = nil
		}
		select {
		case a := <-from:
			switch {
			case a.kind == publish && a.event.QoS > 1:
				return fmt.Errorf("the far end sent a message with QoS %d, and 1 was asked for", a.event.QoS)
			case a.kind == publish:
				l.hear()
				take(a.event, "", in.add(a.packetID))
			case a.kind == suback && !subscribed && a.packetID == id:
				l.hear()
				if err := granted(filters, a.granted); err != nil {
					return err
				}
				subscribed = true
				up()
			default:
				if err := l.answered(a, nil); err != nil {
					return err
				}
			}
		case <-in.more:
			if err := l.acknowledge(&in); err != nil {
				return err
			}
		case err := <-lost:
			return l.why(err, answers)
		case <-tick.C:
			if from == nil { // we do not read, so we do not know
				continue
			}
			now := time.Now()
			if !subscribed && now.Sub(asked) > l.s.c.AckTimeout {
				return fmt.Errorf("no SUBACK for %v", l.s.c.AckTimeout)
			}
			if err := l.watch(now, keepAlive); err != nil {
				return err
			}
		case <-ctx.Done():
			l.leave(&in, answers, lost)
			return context.Cause(ctx)
		}
	}
}

// why is the end of a link: what the far end said last, if it said why.
func (l *link) why(err error, answers <-chan answer) error {
	for {
		select {
		case a := <-answers:
			if a.kind == disconnack {
				return l.answered(a, nil)
			}
		default:
			return err
		}
	}
}

// granted tells which filter the far end does not allow (§3.9.3).
func granted(filters []string, codes []byte) error {
	if len(codes) != len(filters) {
		return fmt.Errorf("the far end answered %d subscriptions, and %d were asked for", len(codes), len(filters))
	}
	for i, code := range codes {
		switch {
		case code >= 0x80:
			return fmt.Errorf("the far end refused to send %q: %w", filters[i], reason(code, nil))
		case code == 0:
			return fmt.Errorf("the far end sends %q with QoS 0 only, and that has no acknowledgement", filters[i])
		}
	}
	return nil
}

// acknowledge writes the answers that are due.
func (l *link) acknowledge(in *inbox) error {
	for _, m := range in.due() {
		if m.err != nil && !errors.Is(m.err, gateway.ErrDenied) && !errors.Is(m.err, gateway.ErrInvalid) {
			l.flush(nil) // those before it are stored
			return fmt.Errorf("a message could not be stored: %w", m.err)
		}
		if m.packetID == 0 {
			continue
		}
		l.buf.Reset()
		if err := l.s.codec.puback(&l.buf, m.packetID, m.err); err != nil {
			return err
		}
		if _, err := l.w.Write(l.buf.Bytes()); err != nil {
			return err
		}
	}
	return l.flush(nil)
}

// leave waits for what was taken, acknowledges it, says goodbye, and waits until the far end has heard
// that: it closes the connection then (§3.14.4). Else a quick next connection might overtake the last
// acknowledgements. If any of this fails nobody is there to mind.
func (l *link) leave(in *inbox, answers <-chan answer, lost <-chan error) {
	end := time.NewTimer(grace)
	defer end.Stop()
	for in.waiting() > 0 {
		select {
		case <-in.more:
			if l.acknowledge(in) != nil {
				return
			}
		case <-answers: // comes again
		case <-end.C:
			l.flush(disconnect)
			return
		}
	}
	if l.flush(disconnect) != nil {
		return
	}
	for {
		select {
		case <-answers:
		case <-lost:
			return
		case <-end.C:
			return
		}
	}
}

// inbox holds what was taken, in the order in which it has to be acknowledged (§4.6).
type inbox struct {
	more chan struct{} // something may be due; one signal

	mu    sync.Mutex
	taken []*taken
}

type taken struct {
	packetID uint16 // 0: QoS 0, there is nothing to say
	done     bool
	err      error
}

// add returns the done of the next message.
func (in *inbox) add(packetID uint16) func(error) {
	m := &taken{packetID: packetID}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.taken = append(in.taken, m)
	return func(err error) {
		in.mu.Lock()
		m.done, m.err = true, err
		in.mu.Unlock()
		select {
		case in.more <- struct{}{}:
		default:
		}
	}
}

func (in *inbox) waiting() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.taken)
}

// due removes what is done and has nothing before it that is not.
func (in *inbox) due() []*taken {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := 0
	for n < len(in.taken) && in.taken[n].done {
		n++
	}
	due := in.taken[:n:n]
	in.taken = in.taken[n:]
	return due
}
