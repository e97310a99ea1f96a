package amqp

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/gateway"
)

// maxShort is the most that a short string holds (AMQP 0-9-1 §4.2.5.3): routing keys, names of
// headers, content types. The library breaks the connection at a longer one.
const maxShort = 255

// maxExpiration is the longest that RabbitMQ takes; it closes the channel at a longer one.
const maxExpiration = math.MaxUint32 * time.Millisecond

// message returns e as it is published, and its routing key. It fails with gateway.ErrInvalid
// at what the protocol cannot say. frame is the size of a frame: properties have to fit into one.
func (s *Sink) message(e *gateway.Event, frame int) (amqp.Publishing, string, error) {
	p := amqp.Publishing{
		MessageId: e.ID(s.gatewayID), DeliveryMode: amqp.Persistent, Timestamp: e.Accepted,
		ContentType: e.ContentType, Headers: headers(e), Body: e.Payload,
	}
	key := s.key.of(e, s.gatewayID)
	if s.c.Format == "cloudevents" {
		body, err := cloudevents.Encode(e, s.gatewayID)
		if err != nil {
			return p, key, gateway.Errorf(gateway.ErrInvalid, "encode: %w", err)
		}
		p.Body, p.ContentType = body, cloudevents.ContentType
	}
	// One that RabbitMQ cannot count is left out: kept for ever is better than gone too early.
	if left := e.Left(s.age()); e.Expiry > 0 && left <= maxExpiration {
		p.Expiration = strconv.FormatInt(max(left.Milliseconds(), 1), 10)
	}
	for _, t := range []struct{ what, value string }{{"routing key", key}, {"content type", p.ContentType}, {"message id", p.MessageId}} {
		if len(t.value) > maxShort {
			return p, key, gateway.Errorf(gateway.ErrInvalid, "%s of %d bytes; AMQP has room for %d", t.what, len(t.value), maxShort)
		}
	}
	size := 4 * (maxShort + 1) // more than all but the headers take
	for name, value := range p.Headers {
		if len(name) > maxShort {
			return p, key, gateway.Errorf(gateway.ErrInvalid, "user property with a name of %d bytes; AMQP has room for %d", len(name)-len(userPrefix), maxShort-len(userPrefix))
		}
		size += 1 + len(name) + fieldSize(value)
	}
	if frame > 0 && size > frame {
		return p, key, gateway.Errorf(gateway.ErrInvalid, "headers of about %d bytes; they have to fit into a frame of %d", size, frame)
	}
	return p, key, nil
}

// userPrefix keeps what devices send apart from the headers that RabbitMQ obeys (CC, BCC, x-…).
const userPrefix = "user-"

// headers carries what AMQP has no property for. A user property that comes more than once
// becomes a list.
func headers(e *gateway.Event) amqp.Table {
	h := amqp.Table{"weir-topic": e.Topic, "weir-time": e.Accepted.UTC().Format(time.RFC3339Nano)}
	if !e.Source.IsZero() {
		h["weir-source-time"] = e.Source.UTC().Format(time.RFC3339Nano)
	}
	if e.Origin.ID != "" {
		h["weir-device"] = e.Origin.ID
	}
	if e.Quality != gateway.Good {
		h["weir-quality"] = e.Quality.String()
	}
	if e.Retain {
		h["weir-retain"] = true
	}
	// An MQTT topic is no queue, so this is not AMQP's reply-to.
	if e.ResponseTopic != "" {
		h["weir-response-topic"] = e.ResponseTopic
	}
	if len(e.CorrelationData) > 0 {
		h["weir-correlation-data"] = e.CorrelationData
	}
	for _, p := range e.UserProperties {
		name := userPrefix + p.Key
		switch was := h[name].(type) {
		case nil:
			h[name] = p.Value
		case string:
			h[name] = []any{was, p.Value}
		case []any:
			h[name] = append(was, p.Value)
		}
	}
	return h
}

// fieldSize is how many bytes a header's value takes (§4.2.5.5).
func fieldSize(value any) int {
	switch v := value.(type) {
	case string:
		return 5 + len(v)
	case []byte:
		return 5 + len(v)
	case []any:
		n := 5
		for _, each := range v {
			n += fieldSize(each)
		}
		return n
	}
	return 2
}

// template is a routing key with places for what differs between events.
type template []part

type part struct {
	text  string // as it is
	place string // or a name in braces
}

const places = "{topic}, {device}, {gateway}"

func parseTemplate(s string) (template, error) {
	var t template
	for s != "" {
		text, rest, found := strings.Cut(s, "{")
		if strings.Contains(text, "}") {
			return nil, fmt.Errorf("%q: a } without its {", s)
		}
		if text != "" {
			t = append(t, part{text: text})
		}
		if !found {
			return t, nil
		}
		place, after, closed := strings.Cut(rest, "}")
		switch {
		case !closed:
			return nil, fmt.Errorf("%q: a { without its }", s)
		case place != "topic" && place != "device" && place != "gateway":
			return nil, fmt.Errorf("there is no {%s}, only %s", place, places)
		}
		t = append(t, part{place: place})
		s = after
	}
	return t, nil
}

// swap turns a topic into a routing key: levels become words. A dot within a level becomes a
// slash, which no level has, so that no two topics share a key and it can be turned back.
var swap = strings.NewReplacer("/", ".", ".", "/")

func (t template) of(e *gateway.Event, gatewayID string) string {
	var b strings.Builder
	for _, p := range t {
		switch p.place {
		case "topic":
			swap.WriteString(&b, e.Topic)
		case "device":
			swap.WriteString(&b, e.Origin.ID)
		case "gateway":
			swap.WriteString(&b, gatewayID)
		default:
			b.WriteString(p.text)
		}
	}
	return b.String()
}
