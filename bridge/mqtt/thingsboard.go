package mqtt

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/gateway"
)

// reading is ThingsBoard's telemetry with a time. It stores one value for each device, key and
// millisecond, so a repeat changes nothing there.
type reading struct {
	TS     int64                      `json:"ts"` // milliseconds since 1970
	Values map[string]json.RawMessage `json:"values"`
}

// asThingsBoardGateway is the gateway API: telemetry for the device that the event came from, which
// ThingsBoard creates if it is new. What has no device goes to one named like this gateway.
func asThingsBoardGateway(m *message, gatewayID string) error {
	r, err := thingsBoardReading(m.event)
	if err != nil {
		return err
	}
	device := m.event.Origin.ID
	if device == "" {
		device = gatewayID
	}
	return m.json(map[string][]reading{device: {r}})
}

// asThingsBoardDevice is the device API: telemetry for the device whose access token is used.
func asThingsBoardDevice(m *message, _ string) error {
	r, err := thingsBoardReading(m.event)
	if err != nil {
		return err
	}
	return m.json(r)
}

func (m *message) json(v any) (err error) {
	m.contentType, m.utf8 = "application/json", true
	if m.payload, err = json.Marshal(v); err != nil {
		return gateway.Errorf(gateway.ErrInvalid, "encode: %w", err)
	}
	return nil
}

// thingsBoardReading takes the members of a JSON object as they are; any other payload is one value
// under the last level of its topic. A null is no value to ThingsBoard, so those are left out.
func thingsBoardReading(e *gateway.Event) (reading, error) {
	at := e.Accepted
	if !e.Source.IsZero() {
		at = e.Source
	}
	r := reading{TS: at.UnixMilli()}
	valid := utf8.Valid(e.Payload)
	if valid && json.Unmarshal(e.Payload, &r.Values) == nil && r.Values != nil {
		for k, v := range r.Values {
			if string(v) == "null" {
				delete(r.Values, k)
			}
		}
		if len(r.Values) == 0 {
			return r, gateway.Errorf(gateway.ErrInvalid, "the payload has no value that ThingsBoard takes")
		}
		return r, nil
	}
	key := e.Topic[strings.LastIndexByte(e.Topic, '/')+1:]
	if key == "" {
		return r, gateway.Errorf(gateway.ErrInvalid, "the topic ends with /, so the value has no name")
	}
	value := json.RawMessage(e.Payload)
	switch {
	case len(e.Payload) == 0 || string(bytes.TrimSpace(e.Payload)) == "null":
		return r, gateway.Errorf(gateway.ErrInvalid, "the payload has no value that ThingsBoard takes")
	case valid && json.Valid(e.Payload):
	case valid:
		value, _ = json.Marshal(string(e.Payload)) // text always has a JSON form
	default:
		value, _ = json.Marshal(e.Payload) // base64
	}
	r.Values = map[string]json.RawMessage{key: value}
	return r, nil
}
