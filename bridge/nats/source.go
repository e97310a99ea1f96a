package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/gateway"
)

// Source brings messages of a JetStream down: bridge.Source. It reads with a durable consumer, which
// is its place in the stream, one message at a time: only so they keep their order when one has
// to come again.
type Source struct {
	s        *Sink
	durable  string
	subjects []string
}

// NewSource returns a source for a downlink of uplink, which asks for topics. A wrong value is a
// gateway.KeyError, as New says.
func NewSource(c Config, gatewayID, uplink, downlink string, topics gateway.Filters) (*Source, error) {
	s, err := New(c, gatewayID, uplink, nil)
	if err != nil {
		return nil, err
	}
	s.name += "-" + downlink + "-down"
	d := &Source{s: s, durable: strings.ReplaceAll(s.name, ".", "_")} // a name has no dots
	for _, f := range topics {
		subjects, err := fromFilter(f.String())
		if err != nil {
			return nil, err
		}
		d.subjects = append(d.subjects, subjects...)
	}
	return d, nil
}

// fromFilter maps a filter as fromTopic does a topic. "a/#" matches "a" as well, "a.>" does not.
func fromFilter(filter string) ([]string, error) {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch level {
		case "+":
			levels[i] = "*"
		case "#":
			levels[i] = ">"
		default:
			token, err := fromTopic(level)
			if err != nil {
				return nil, err
			}
			levels[i] = token
		}
	}
	subjects := []string{strings.Join(levels, ".")}
	if n := len(levels) - 1; n > 0 && levels[n] == ">" {
		subjects = append(subjects, strings.Join(levels[:n], "."))
	}
	return subjects, nil
}

// toTopic is fromTopic the other way round.
func toTopic(subject string) string {
	tokens := strings.Split(subject, ".")
	for i, t := range tokens {
		if t == "/" {
			tokens[i] = ""
			continue
		}
		tokens[i] = strings.ReplaceAll(t, "//", ".")
	}
	return strings.Join(tokens, "/")
}

// Receive is bridge.Source.
func (d *Source) Receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	err := d.receive(ctx, up, take)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.s.next = (d.s.next + 1) % len(d.s.servers)
	return err
}

// grace is how long a source waits at its end for what it has taken.
const grace = time.Second

func (d *Source) receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	at := d.s.servers[d.s.next]
	// What is under way when ctx ends may still be acknowledged.
	link, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace+grace/2, end) })()
	l := newLink(d.s, nil)
	nc, err := d.s.connect(link, at, l)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", at.address, err)
	}
	defer func() {
		close(l.quit)
		end() // before Close, which would wait for a link that takes nothing
		nc.Close()
		<-l.closed
	}()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := d.consumer(ctx, js)
	if err != nil {
		return err
	}
	up()
	for ctx.Err() == nil {
		m, err := d.next(ctx, l, consumer)
		if err != nil {
			return err
		}
		if m == nil {
			continue
		}
		if err := d.handle(ctx, m, take); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// consumer finds or makes the place in the stream. A new one begins now.
func (d *Source) consumer(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, d.s.dialer.Timeout())
	defer cancel()
	stream, err := js.StreamNameBySubject(ctx, d.subjects[0])
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("no stream has the subject %s", d.subjects[0])
	}
	if err != nil {
		return nil, fmt.Errorf("find the stream of %s: %w", d.subjects[0], err)
	}
	c := jetstream.ConsumerConfig{
		Durable: d.durable, FilterSubjects: d.subjects, DeliverPolicy: jetstream.DeliverNewPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: d.s.c.AckTimeout, MaxAckPending: 1,
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, stream, c)
	if err != nil {
		return nil, fmt.Errorf("consumer %s of stream %s: %w", d.durable, stream, err)
	}
	return consumer, nil
}

// next waits for a message. Without one for some time it returns nil, and the server is known to be there.
func (d *Source) next(ctx context.Context, l *link, c jetstream.Consumer) (got jetstream.Msg, err error) {
	wait := d.s.c.AckTimeout
	asking, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	batch, err := c.Fetch(1, jetstream.FetchContext(asking), jetstream.FetchHeartbeat(wait/4))
	if err != nil {
		return nil, fmt.Errorf("ask for messages: %w", err)
	}
	messages := batch.Messages()
	for open := true; open; { // until it is closed, or the library is still waiting when we have left
		var m jetstream.Msg
		select {
		case m, open = <-messages:
			if open {
				got = m
			}
		case <-l.closed:
			cancel()
			for m := range messages {
				got = m
			}
			return nil, l.why(nats.ErrConnectionClosed)
		}
	}
	switch err := batch.Error(); {
	case got != nil && ctx.Err() != nil: // it is for the next connection
		got.Nak()
		return nil, context.Cause(ctx)
	case got != nil:
		return got, nil
	case errors.Is(err, jetstream.ErrNoHeartbeat) || errors.Is(err, context.DeadlineExceeded):
		return nil, errors.New("the server lies still: no heartbeat")
	case err != nil:
		return nil, fmt.Errorf("wait for messages: %w", err)
	}
	return nil, nil
}

// handle takes one message and says what has become of it.
func (d *Source) handle(ctx context.Context, m jetstream.Msg, take func(*gateway.Event, string, func(error))) error {
	e, id, err := event(m)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	take(e, id, func(err error) { done <- err })
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, func() { close(stopped) }) })()
	tick := time.NewTicker(d.s.c.AckTimeout / 3)
	defer tick.Stop()
	for {
		select {
		case err = <-done:
		case <-tick.C:
			if err := m.InProgress(); err != nil {
				return fmt.Errorf("say that a message is being stored: %w", err)
			}
			continue
		case <-stopped:
			return context.Cause(ctx)
		}
		break
	}
	switch {
	case err == nil:
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(grace, d.s.c.AckTimeout))
		defer cancel()
		// The server's word for it: what goes on is only the next message.
		if err := m.DoubleAck(wait); err != nil {
			return fmt.Errorf("acknowledge a message: %w", err)
		}
		return nil
	case errors.Is(err, gateway.ErrDenied):
		return m.TermWithReason("not authorized")
	case errors.Is(err, gateway.ErrInvalid):
		return m.TermWithReason("not valid here")
	}
	m.Nak() // without it the message comes after AckWait, which is late and no harm
	return fmt.Errorf("a message could not be stored: %w", err)
}

// event is a message as it came, and its id: the sender's, or the place in the stream with its time,
// for a stream that is made anew counts from one again.
func event(m jetstream.Msg) (*gateway.Event, string, error) {
	at, err := m.Metadata()
	if err != nil {
		return nil, "", fmt.Errorf("a message that is not of a stream: %w", err)
	}
	h := m.Headers()
	e := &gateway.Event{Topic: toTopic(m.Subject()), Payload: m.Data(), QoS: 1, ContentType: h.Get("content-type")}
	for key, values := range h {
		if !free(key) && !strings.HasPrefix(key, "weir-") {
			continue
		}
		for _, v := range values {
			e.UserProperties = append(e.UserProperties, gateway.UserProperty{Key: key, Value: v})
		}
	}
	id := h.Get(nats.MsgIdHdr)
	if id == "" {
		id = at.Stream + "/" + strconv.FormatUint(at.Sequence.Stream, 10) + "/" + strconv.FormatInt(at.Timestamp.UnixNano(), 10)
	}
	return e, id, nil
}
