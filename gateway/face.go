package gateway

import (
	"encoding/base64"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Face is the one shape an event has outside: in SSE, in Centrifugo publications, in
// the HTTP API and in weir tail --json. Exactly one of the payload fields is set.
type Face struct {
	ID      string          `json:"id"`
	Topic   string          `json:"topic"`
	Time    time.Time       `json:"time"` // when the device measured, if it says so; else when accepted
	Device  string          `json:"device,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"` // a payload that is JSON, as it is
	Text    *string         `json:"payload_text,omitempty"`
	Base64  *string         `json:"payload_base64,omitempty"`

	Retained bool   `json:"retained,omitempty"`
	Quality  string `json:"quality,omitempty"` // absent means good
}

// Face returns e as it is shown outside.
func (e *Event) Face(gatewayID string) Face {
	f := Face{ID: e.ID(gatewayID), Topic: e.Topic, Time: e.Accepted.UTC(), Device: e.Origin.ID, Retained: e.Retain}
	if !e.Source.IsZero() {
		f.Time = e.Source.UTC()
	}
	if e.Quality != Good {
		f.Quality = e.Quality.String()
	}
	switch {
	case len(e.Payload) > 0 && json.Valid(e.Payload) && utf8.Valid(e.Payload):
		f.Payload = e.Payload
	case utf8.Valid(e.Payload):
		text := string(e.Payload)
		f.Text = &text
	default:
		b64 := base64.StdEncoding.EncodeToString(e.Payload)
		f.Base64 = &b64
	}
	return f
}

// Bytes is the payload as it was published.
func (f Face) Bytes() ([]byte, error) {
	switch {
	case f.Payload != nil:
		return f.Payload, nil
	case f.Text != nil:
		return []byte(*f.Text), nil
	case f.Base64 != nil:
		return base64.StdEncoding.DecodeString(*f.Base64)
	}
	return nil, nil
}
