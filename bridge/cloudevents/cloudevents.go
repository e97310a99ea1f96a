// Package cloudevents writes an event as a CloudEvent: version 1.0.2 of the CNCF specification,
// in the JSON format and structured mode, which every protocol binding takes and which is
// the same bytes on all of them.
package cloudevents

import (
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/gateway"
)

// ContentType is the media type of a structured event (JSON Event Format §3).
const ContentType = "application/cloudevents+json"

// Type is the type attribute of every event (§3.1.1): what a device said on a topic.
const Type = "io.weir.event"

// Event is the JSON format. Quality and Device are extension attributes (§3.2).
type Event struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`  // /weir/<gateway>
	Type            string          `json:"type"`    // Type
	Subject         string          `json:"subject"` // the topic
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype,omitempty"`
	Device          string          `json:"weirdevice,omitempty"`
	Quality         string          `json:"weirquality,omitempty"` // absent means good
	Data            json.RawMessage `json:"data,omitempty"`
	DataBase64      []byte          `json:"data_base64,omitempty"`
}

// Encode returns e as a structured CloudEvent.
func Encode(e *gateway.Event, gatewayID string) ([]byte, error) {
	face := e.Face(gatewayID)
	c := Event{
		SpecVersion: "1.0", ID: face.ID, Source: "/weir/" + gatewayID, Type: Type, Subject: e.Topic,
		Time: face.Time, Device: face.Device, Quality: face.Quality, DataContentType: mediaType(e.ContentType),
	}
	switch {
	case face.Payload != nil:
		c.Data = face.Payload
		if c.DataContentType == "" || !isJSON(c.DataContentType) { // data that is JSON needs a type that says so (§3.1.1)
			c.DataContentType = "application/json"
		}
	case utf8.Valid(e.Payload):
		text, err := json.Marshal(string(e.Payload))
		if err != nil {
			return nil, err
		}
		c.Data = text
		if c.DataContentType == "" || isJSON(c.DataContentType) { // a JSON string would be taken for JSON data
			c.DataContentType = "text/plain"
		}
	default:
		c.DataBase64 = e.Payload
		if c.DataContentType == "" {
			c.DataContentType = "application/octet-stream"
		}
	}
	return json.Marshal(c)
}

// mediaType passes what can be one: devices write what they like there.
func mediaType(s string) string {
	if kind, sub, ok := strings.Cut(s, "/"); !ok || kind == "" || sub == "" || strings.ContainsAny(s, "\x00\r\n") {
		return ""
	}
	return s
}

func isJSON(mediaType string) bool {
	base, _, _ := strings.Cut(mediaType, ";")
	base = strings.TrimSpace(base)
	return base == "application/json" || strings.HasSuffix(base, "+json")
}
