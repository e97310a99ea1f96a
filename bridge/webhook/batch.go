package webhook

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/gateway"
)

// item is an event as it is sent.
type item struct {
	event       *gateway.Event
	body        []byte
	contentType string
}

// encoder makes the body of one event and its content type. An error means that there is no way
// to say this event.
type encoder func(e *gateway.Event) (body []byte, contentType string, err error)

func (s *Sink) encodeEvent(e *gateway.Event) ([]byte, string, error) {
	b, err := json.Marshal(e.Face(s.gatewayID))
	return b, "application/json", err
}

func (s *Sink) encodeCloudEvent(e *gateway.Event) ([]byte, string, error) {
	b, err := cloudevents.Encode(e, s.gatewayID)
	return b, cloudevents.ContentType, err
}

func (s *Sink) encodePayload(e *gateway.Event) ([]byte, string, error) {
	if _, _, err := mime.ParseMediaType(e.ContentType); err == nil { // devices write what they like there
		return e.Payload, e.ContentType, nil
	}
	switch {
	case len(e.Payload) > 0 && json.Valid(e.Payload):
		return e.Payload, "application/json", nil
	case utf8.Valid(e.Payload):
		return e.Payload, textType, nil
	}
	return e.Payload, "application/octet-stream", nil
}

func (s *Sink) encodeTemplate(e *gateway.Event) ([]byte, string, error) {
	var b bytes.Buffer
	err := s.template.Execute(&b, newFields(e, s.gatewayID))
	return b.Bytes(), textType, err
}

const textType = "text/plain; charset=utf-8"

// list tells whether bodies are JSON arrays.
func (s *Sink) list() bool {
	return s.c.MaxEvents > 1 && s.template == nil && s.c.Format != "payload"
}

// join makes one body of a batch.
func (s *Sink) join(batch []item) []byte {
	if s.c.MaxEvents == 1 {
		return batch[0].body
	}
	before, between, behind := "", s.c.BatchSeparator, ""
	if s.list() {
		before, between, behind = "[", ",", "]"
	}
	b := []byte(before)
	for i, it := range batch {
		if i > 0 {
			b = append(b, between...)
		}
		b = append(b, it.body...)
	}
	return append(b, behind...)
}

// contentType is that of the whole body.
func (s *Sink) contentType(batch []item) string {
	if given := s.header.Get("Content-Type"); given != "" {
		return given
	}
	switch {
	case s.list() && s.c.Format == "cloudevents":
		return "application/cloudevents-batch+json" // HTTP Protocol Binding for CloudEvents §3.3
	case s.c.MaxEvents > 1 && s.c.Format == "payload":
		return textType
	}
	return batch[0].contentType
}

// batchID is the webhook-id: the event's own id, or for several the first one's, the last
// one's place and their number, as in gw/e1-5/e1-20/12. It has no full stop that the gateway's
// id does not have, and nobody outside can choose any part of it (Standard Webhooks, "Signature scheme").
func (s *Sink) batchID(batch []item) string {
	id := batch[0].event.ID(s.gatewayID)
	if len(batch) == 1 {
		return id
	}
	last := batch[len(batch)-1].event
	return id + "/" + last.Epoch + "-" + strconv.FormatUint(last.Offset, 10) + "/" + strconv.Itoa(len(batch))
}

// request makes the header and the body of one attempt at now.
func (s *Sink) request(batch []item, now time.Time) (http.Header, []byte, error) {
	h := s.header.Clone()
	h.Set("Content-Type", s.contentType(batch))
	if s.c.Format == "payload" && len(batch) == 1 {
		describe(h, batch[0].event)
	}
	body := s.join(batch)
	if s.c.Compression == "gzip" {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(body); err != nil {
			return nil, nil, err
		}
		if err := z.Close(); err != nil {
			return nil, nil, err
		}
		body = b.Bytes()
	}
	id := s.batchID(batch)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	if len(s.keys) > 0 {
		h.Set("Webhook-Signature", sign(s.keys, id, now, body))
	}
	return h, body, nil
}

// describe puts into headers what a bare payload does not say. What devices choose is
// percent-encoded, because a topic may have any character.
func describe(h http.Header, e *gateway.Event) {
	h.Set("Weir-Topic", strings.ReplaceAll(url.PathEscape(e.Topic), "%2F", "/"))
	h.Set("Weir-Accepted", e.Accepted.UTC().Format(time.RFC3339Nano))
	if !e.Source.IsZero() {
		h.Set("Weir-Source-Time", e.Source.UTC().Format(time.RFC3339Nano))
	}
	if e.Quality != gateway.Good {
		h.Set("Weir-Quality", e.Quality.String())
	}
	if e.Origin.ID != "" {
		h.Set("Weir-Device", url.PathEscape(e.Origin.ID))
	}
	for _, p := range e.UserProperties {
		h.Add("Weir-User-Property", url.QueryEscape(p.Key)+"="+url.QueryEscape(p.Value))
	}
}
