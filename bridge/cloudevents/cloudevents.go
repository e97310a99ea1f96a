// Package cloudevents writes an event as a CloudEvent: version 1.0.2 of the CNCF specification,
// in the JSON format and structured mode, which every protocol binding takes and which is
// the same bytes on all of them.
package cloudevents

import (
	"bytes"
	"encoding/json"
	"mime"
	"strings"
	"time"
	"unicode"
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

// Encode returns e as a structured CloudEvent. A payload that is JSON is embedded as it is, unless
// e's content type says that it is something else; text becomes a string, and the rest base64. The
// error is gateway.ErrInvalid: JSON has no way to write a time beyond the year 9999.
func Encode(e *gateway.Event, gatewayID string) ([]byte, error) {
	face := e.Face(gatewayID)
	c := Event{
		SpecVersion: "1.0", ID: face.ID, Source: "/weir/" + gatewayID, Type: Type, Subject: plain(e.Topic),
		Time: face.Time, Device: plain(face.Device), Quality: face.Quality,
	}
	declared, isJSON := mediaType(e.ContentType)
	switch {
	case face.Payload != nil && (declared == "" || isJSON):
		c.Data, c.DataContentType = face.Payload, declared
		if declared == "" {
			c.DataContentType = "application/json"
		}
	case utf8.Valid(e.Payload):
		var err error
		if c.Data, err = marshal(string(e.Payload)); err != nil {
			return nil, err
		}
		c.DataContentType = declared
		if declared == "" || isJSON { // a JSON string would be taken for JSON data (JSON Event Format §3.1)
			c.DataContentType = "text/plain"
		}
	default:
		c.DataBase64, c.DataContentType = e.Payload, declared
		if declared == "" {
			c.DataContentType = "application/octet-stream"
		}
	}
	return marshal(c)
}

// marshal is json.Marshal without the escapes that only HTML needs.
func marshal(v any) ([]byte, error) {
	var out bytes.Buffer
	encode := json.NewEncoder(&out)
	encode.SetEscapeHTML(false)
	if err := encode.Encode(v); err != nil {
		return nil, gateway.Errorf(gateway.ErrInvalid, "cloudevents: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// mediaType passes what is one (RFC 2046, as §3.1.1 asks), and tells whether it declares JSON (JSON
// Event Format §3.1). Devices write what they like there.
func mediaType(s string) (declared string, isJSON bool) {
	kind, _, err := mime.ParseMediaType(s)
	if _, sub, ok := strings.Cut(kind, "/"); err == nil && ok && sub != "" && plain(s) == s {
		return s, sub == "json" || strings.HasSuffix(sub, "+json")
	}
	return "", false
}

// plain replaces the characters that an attribute must not have (§3.3.1, String): controls and
// noncharacters, which MQTT allows in topics and client ids. Invalid UTF-8 is replaced too.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE {
			return utf8.RuneError
		}
		return r
	}, s)
}
