package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/gateway"
)

// The headers that a record has. Those that say nothing are left out.
const (
	headerID          = "weir-id"
	headerTopic       = "weir-topic"
	headerDevice      = "weir-device"
	headerSourceTime  = "weir-source-time" // RFC 3339, if the device says when it measured
	headerQuality     = "weir-quality"     // uncertain or bad; absent means good
	headerContentType = "content-type"     // as the CloudEvents Kafka binding §3.3 has it, too
)

// record returns e as it goes to Kafka. Its error is gateway.ErrInvalid.
func (s *Sink) record(e *gateway.Event, now time.Time) (*kgo.Record, error) {
	topic, err := s.topic.name(e.Topic)
	if err != nil {
		return nil, err
	}
	r := &kgo.Record{
		Topic: topic,
		Key:   []byte(s.key(e)),
		Value: e.Payload,
		// A clock that was put back must not make records from the future: Kafka refuses them.
		Timestamp: earlier(e.Accepted, now),
	}
	if r.Value == nil {
		r.Value = []byte{} // none at all would be a tombstone, and delete the key from a compacted topic
	}
	contentType := e.ContentType
	if s.c.Format == "cloudevents" {
		if r.Value, err = cloudevents.Encode(e, s.gatewayID); err != nil {
			return nil, gateway.Errorf(gateway.ErrInvalid, "encode: %w", err)
		}
		contentType = cloudevents.ContentType
	}
	ours := []kgo.RecordHeader{{Key: headerID, Value: []byte(e.ID(s.gatewayID))}, {Key: headerTopic, Value: []byte(e.Topic)}}
	add := func(key, value string) {
		if value != "" {
			ours = append(ours, kgo.RecordHeader{Key: key, Value: []byte(value)})
		}
	}
	add(headerDevice, e.Origin.ID)
	if !e.Source.IsZero() {
		add(headerSourceTime, e.Source.UTC().Format(time.RFC3339Nano))
	}
	if e.Quality != gateway.Good {
		add(headerQuality, e.Quality.String())
	}
	add(headerContentType, contentType)
	r.Headers = ours
	for _, p := range e.UserProperties {
		if !isOurs(p.Key) {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: p.Key, Value: []byte(p.Value)})
		}
	}
	return r, nil
}

// isOurs tells whether a user property has the name of one of our headers. It came from a gateway
// before this one, or from somebody who would like to be one, and does not go on: a
// record with two ids has none.
func isOurs(key string) bool {
	switch key {
	case headerID, headerTopic, headerDevice, headerSourceTime, headerQuality, headerContentType:
		return true
	}
	return false
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
