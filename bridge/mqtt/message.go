package mqtt

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/gateway"
)

// message is an event as it goes to the far end.
type message struct {
	event       *gateway.Event
	id          string
	topic       string
	payload     []byte
	contentType string
	utf8        bool
	retain      bool

	user  []gateway.UserProperty // of properties, which makes it anew
	props []byte                 // of a codec
}

// shaper makes messages of events.
type shaper struct {
	gatewayID string
	topics    *topics
	format    format
	retain    bool
	// check, where the far end is known, refuses what would end its connection.
	check func(*message) error
	// address puts what a far end wants to have in a topic there.
	address func(*message)
}

// format fills in what a message carries.
type format func(m *message, gatewayID string) error

var formats = map[string]format{
	"payload":             asPayload,
	"event":               asEvent,
	"cloudevents":         asCloudEvent,
	"thingsboard-gateway": asThingsBoardGateway,
	"thingsboard-device":  asThingsBoardDevice,
}

// shape makes m what e is for the far end, or fails with gateway.ErrInvalid if there is no way.
func (s *shaper) shape(m *message, e *gateway.Event) (err error) {
	*m = message{event: e, id: e.ID(s.gatewayID), retain: e.Retain && s.retain, user: m.user, props: m.props}
	if m.topic, err = s.topics.of(e); err != nil {
		return err
	}
	if err := s.format(m, s.gatewayID); err != nil {
		return err
	}
	if s.address != nil {
		s.address(m)
		if err := gateway.ValidateTopic(m.topic); err != nil {
			return err
		}
	}
	if s.check != nil {
		return s.check(m)
	}
	return nil
}

// asPayload is the payload as it was published.
func asPayload(m *message, _ string) error {
	m.payload, m.contentType, m.utf8 = m.event.Payload, m.event.ContentType, m.event.UTF8
	return nil
}

// asEvent is the one shape that events have outside Weir, with the id in it.
func asEvent(m *message, gatewayID string) (err error) {
	m.contentType, m.utf8 = "application/json", true
	if m.payload, err = json.Marshal(m.event.Face(gatewayID)); err != nil {
		return gateway.Errorf(gateway.ErrInvalid, "encode: %w", err)
	}
	return nil
}

// asCloudEvent is a structured CloudEvent (MQTT Protocol Binding §3.2).
func asCloudEvent(m *message, gatewayID string) (err error) {
	m.contentType, m.utf8 = cloudevents.ContentType, true
	m.payload, err = cloudevents.Encode(m.event, gatewayID)
	return err
}

// properties are what Weir says of an event, in user properties of version 5 or in a property
// bag. Their names begin with "weir-", and exactly one of each leaves: what came with the event under
// such a name, from a gateway before this one, is left out.
func (m *message) properties() []gateway.UserProperty {
	e := m.event
	at := e.Accepted
	if !e.Source.IsZero() {
		at = e.Source
	}
	all := append(m.user[:0], gateway.UserProperty{Key: idProperty, Value: m.id})
	if !at.IsZero() {
		all = append(all, gateway.UserProperty{Key: "weir-time", Value: at.UTC().Format(time.RFC3339Nano)})
	}
	if e.Origin.ID != "" {
		all = append(all, gateway.UserProperty{Key: "weir-device", Value: e.Origin.ID})
	}
	if e.Quality != gateway.Good {
		all = append(all, gateway.UserProperty{Key: "weir-quality", Value: e.Quality.String()})
	}
	if m.topic != e.Topic {
		all = append(all, gateway.UserProperty{Key: topicProperty, Value: e.Topic})
	}
	for _, p := range e.UserProperties {
		if !strings.HasPrefix(p.Key, "weir-") {
			all = append(all, p)
		}
	}
	m.user = all
	return all
}
