package amqp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/gateway"
)

// placeholder stands for the downlink's id in the name of a queue.
const placeholder = "{downlink}"

// grace is how long a source waits at its end for what it has taken.
const grace = time.Second

// Source brings messages of one queue down: bridge.Source. Each is acknowledged on its own, when it
// is stored.
type Source struct {
	s     *Sink
	queue string
	keys  []string // by which the queue is bound to DownExchange; nil if somebody else has made it
}

// NewSource returns a source for a downlink of uplink, which asks for topics. It has a connection of
// its own. A wrong value is a gateway.KeyError, as New says.
func NewSource(c Config, gatewayID, uplink, downlink string, topics gateway.Filters) (*Source, error) {
	s, err := New(c, gatewayID, uplink, nil)
	if err != nil {
		return nil, err
	}
	s.name += " " + downlink
	if c.DownQueue != "" {
		return &Source{s: s, queue: strings.Replace(c.DownQueue, placeholder, downlink, 1)}, nil
	}
	d := &Source{s: s, queue: "weir-" + gatewayID + "-" + uplink + "-" + downlink + "-down"}
	if s.c.DownExchange == "" {
		s.c.DownExchange = s.exchange
	}
	if s.c.DownExchange == "" {
		return nil, gateway.BadKey("down_exchange", "a downlink needs an exchange, or a down_queue; nothing can be bound to AMQP's default exchange")
	}
	for _, f := range topics {
		key, err := bindingKey(f.String())
		if err != nil {
			return nil, fmt.Errorf("downlink %q: %w", downlink, err)
		}
		d.keys = append(d.keys, key)
	}
	return d, nil
}

// bindingKey maps a filter as a routing key does a topic. "#" is any number of words there too, none included.
func bindingKey(filter string) (string, error) {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch level {
		case "+":
			levels[i] = "*"
		case "*":
			return "", fmt.Errorf("filter %q: a level * would be any level to AMQP", filter)
		default:
			levels[i] = swap.Replace(level)
		}
	}
	key := strings.Join(levels, ".")
	if len(key) > maxShort {
		return "", fmt.Errorf("filter %q has %d bytes; AMQP has room for %d", filter, len(key), maxShort)
	}
	return key, nil
}

// Receive is bridge.Source.
func (d *Source) Receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	err := d.receive(ctx, up, take)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// answer is what has become of a message.
type answer struct {
	tag uint64
	err error
}

func (d *Source) receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	var deliveries <-chan amqp.Delivery
	l, err := d.s.connect(ctx, func(l *link) (err error) {
		deliveries, err = d.open(l)
		return err
	})
	if err != nil {
		return err
	}
	defer l.end()
	// What is under way when ctx ends may still be acknowledged.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace+grace/2, l.wire.kill) })()
	up()
	window := d.s.c.Window
	answers := make(chan answer, window) // has room for all that are waited for
	for waiting := 0; ; {
		select {
		case m, ok := <-deliveries:
			switch {
			case !ok && l.ch.IsClosed():
				return l.reason(<-l.closed)
			case !ok:
				return fmt.Errorf("the far end sends no more of queue %s: is it deleted?", d.queue)
			case waiting == window:
				return fmt.Errorf("the far end sent more than the %d messages that were asked for", window)
			}
			waiting++
			e, tag := event(&m), m.DeliveryTag
			take(e, m.MessageId, func(err error) { answers <- answer{tag, err} })
		case a := <-answers:
			waiting--
			if err := l.answer(a); err != nil {
				l.leave(answers, waiting)
				return err
			}
		case e := <-l.closed:
			return l.reason(e)
		case e := <-l.lost:
			return l.reason(e)
		case <-l.blocked: // is of publishes
		case <-ctx.Done():
			l.leave(answers, waiting)
			return context.Cause(ctx)
		}
	}
}

// open makes the queue if it is the source's own, and begins to consume it. Of several consumers RabbitMQ sends to
// the first one only, and to the next when it has what the first did not acknowledge: without
// that a new connection would get what lies behind it, while the lost one before is not missed yet.
func (d *Source) open(l *link) (<-chan amqp.Delivery, error) {
	if err := l.openChannel(); err != nil {
		return nil, err
	}
	if d.keys != nil {
		if _, err := l.ch.QueueDeclare(d.queue, true, false, false, false, amqp.Table{amqp.SingleActiveConsumerArg: true}); err != nil {
			return nil, err
		}
	}
	for _, key := range d.keys {
		if err := l.ch.QueueBind(d.queue, key, d.s.c.DownExchange, false, nil); err != nil {
			return nil, err
		}
	}
	if err := l.ch.Qos(d.s.c.Window, 0, false); err != nil {
		return nil, err
	}
	return l.ch.Consume(d.queue, "weir", false, false, false, false, nil)
}

// answer tells the far end what has become of a message. What is refused is gone from the queue, into its
// dead letter exchange if it has one.
func (l *link) answer(a answer) (err error) {
	switch {
	case a.err == nil:
		err = l.ch.Ack(a.tag, false)
	case errors.Is(a.err, gateway.ErrDenied) || errors.Is(a.err, gateway.ErrInvalid):
		err = l.ch.Reject(a.tag, false)
	default:
		return fmt.Errorf("a message could not be stored: %w", a.err)
	}
	if err != nil {
		return l.reason(err)
	}
	return nil
}

// leave answers for what was taken, within a grace, and ends the channel before the connection: the far
// end has worked off all answers when it says that it has. What has none goes back into the queue, at its place.
func (l *link) leave(answers <-chan answer, waiting int) {
	defer time.AfterFunc(grace+grace/2, l.wire.kill).Stop()
	end := time.NewTimer(grace)
	defer end.Stop()
	for waiting > 0 {
		select {
		case a := <-answers:
			waiting--
			l.answer(a) // one that could not be stored comes again
		case <-l.lost:
			return
		case <-end.C:
			waiting = 0
		}
	}
	l.ch.Close()
	l.conn.Close()
}

// event is a message as it came, its headers as the uplink writes them. Its expiration is what the sender
// said, however long of that it has lain in the queue. A message that may have come before, and has nothing by
// which that could be known, says so.
func event(m *amqp.Delivery) *gateway.Event {
	e := &gateway.Event{Topic: swap.Replace(m.RoutingKey), Payload: m.Body, QoS: 1, ContentType: m.ContentType}
	if ms, err := strconv.ParseInt(m.Expiration, 10, 64); err == nil && ms >= 0 {
		e.Expiry = time.Duration(min(max(ms, 1), math.MaxInt64/int64(time.Millisecond))) * time.Millisecond // 0 is none to an event
	}
	if !text(e.ContentType) {
		e.ContentType = ""
	}
	if m.CorrelationId != "" {
		e.CorrelationData = []byte(m.CorrelationId)
	}
	identified := m.MessageId != ""
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		user, is := strings.CutPrefix(name, userPrefix)
		switch value := m.Headers[name].(type) {
		case string:
			if name == "weir-response-topic" && gateway.ValidateTopic(value) == nil {
				e.ResponseTopic = value
			}
		case []byte:
			if name == "weir-correlation-data" {
				e.CorrelationData = value
			}
		}
		if strings.HasPrefix(name, "x-") || is && strings.HasPrefix(user, "weir-") || !text(user) {
			continue
		}
		for _, v := range texts(m.Headers[name]) {
			e.UserProperties = append(e.UserProperties, gateway.UserProperty{Key: user, Value: v})
			identified = identified || name == "weir-command-id" || name == "weir-id"
		}
	}
	if m.Redelivered && !identified {
		e.UserProperties = append(e.UserProperties, gateway.UserProperty{Key: "redelivered", Value: "true"})
	}
	return e
}

// texts is a header's value as user properties have it; what is no text is left out.
func texts(value any) []string {
	switch v := value.(type) {
	case []any:
		var all []string
		for _, each := range v {
			if _, nested := each.([]any); !nested {
				all = append(all, texts(each)...)
			}
		}
		return all
	case string:
		if !text(v) {
			return nil
		}
		return []string{v}
	case bool, int, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64:
		return []string{fmt.Sprint(v)}
	}
	return nil
}

// text tells whether MQTT can carry s as text (§1.5.4).
func text(s string) bool {
	return utf8.ValidString(s) && !strings.Contains(s, "\x00") && len(s) <= math.MaxUint16
}
