package nats

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/gateway"
)

// The header of JetStream's own that says which message must be the stream's last one.
const expectedLast = "Nats-Expected-Last-Msg-Id"

// message makes e a message for JetStream. Its errors are gateway.ErrInvalid.
func (s *Sink) message(e *gateway.Event) (*nats.Msg, error) {
	to, err := s.subject.of(e.Topic)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(to+".", s.c.InboxPrefix+".") || strings.HasPrefix(to, "_INBOX.") {
		return nil, gateway.Errorf(gateway.ErrInvalid, "subject %q is an inbox, where others wait for answers", to)
	}
	m := &nats.Msg{Subject: to, Data: e.Payload, Header: nats.Header{}}
	for _, p := range e.UserProperties {
		if free(p.Key) {
			m.Header[p.Key] = append(m.Header[p.Key], p.Value)
		}
	}
	set := func(key, value string) {
		if value != "" {
			m.Header[key] = []string{value}
		}
	}
	set(nats.MsgIdHdr, e.ID(s.gatewayID))
	set("content-type", e.ContentType)
	set("weir-topic", e.Topic)
	set("weir-device", e.Origin.ID)
	set("weir-accepted", e.Accepted.UTC().Format(time.RFC3339Nano))
	if !e.Source.IsZero() {
		set("weir-source-time", e.Source.UTC().Format(time.RFC3339Nano))
	}
	if e.Quality != gateway.Good {
		set("weir-quality", e.Quality.String())
	}
	if s.c.Format == "cloudevents" {
		if m.Data, err = cloudevents.Encode(e, s.gatewayID); err != nil {
			return nil, gateway.Errorf(gateway.ErrInvalid, "encode: %w", err)
		}
		set("content-type", cloudevents.ContentType)
	}
	return m, nil
}

// free tells whether a user property can have a header of its name: one that is a token (RFC 9110
// §5.6.2), and means nothing to the server or to us. Nats-Rollup, say, empties a stream.
func free(key string) bool {
	for _, c := range []byte(key) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	key = strings.ToLower(key)
	return key != "" && key != "content-type" && !strings.HasPrefix(key, "nats-") && !strings.HasPrefix(key, "weir-")
}
