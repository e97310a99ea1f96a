package kinesis

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/gateway"
)

// What one call and one record may have (PutRecords, API reference): a record counts with its key.
const (
	maxRecords     = 500
	maxCallBytes   = 5 << 20
	maxRecordBytes = 1 << 20
	maxKey         = 256
)

// item is an event as it is sent.
type item struct {
	event *gateway.Event
	key   string
	data  []byte
}

func (i *item) size() int { return len(i.key) + len(i.data) }

// item makes the record of e, or says why there cannot be one.
func (s *Sink) item(e *gateway.Event) (item, error) {
	data, err := s.encode(e)
	if err != nil {
		return item{}, gateway.Errorf(gateway.ErrInvalid, "%w", err)
	}
	i := item{e, partitionKey(s.key(e)), data}
	if i.size() > maxRecordBytes {
		return item{}, gateway.Errorf(gateway.ErrInvalid, "record of %d bytes is larger than the %d that kinesis takes", i.size(), maxRecordBytes)
	}
	return i, nil
}

// partitionKey fits an ordering key into what Kinesis takes: 1 to 256 characters.
func partitionKey(key string) string {
	switch {
	case key == "":
		return "-"
	case len(key) > maxKey:
		sum := sha256.Sum256([]byte(key))
		return hex.EncodeToString(sum[:])
	}
	return key
}

func (s *Sink) setFormat() error {
	switch s.c.Format {
	case "", "event":
		s.encode = func(e *gateway.Event) ([]byte, error) { return json.Marshal(e.Face(s.gatewayID)) }
	case "cloudevents":
		s.encode = func(e *gateway.Event) ([]byte, error) { return cloudevents.Encode(e, s.gatewayID) }
	case "payload":
		s.encode = func(e *gateway.Event) ([]byte, error) { return e.Payload, nil }
	default:
		return gateway.BadKey("format", "unknown format %q: event, payload or cloudevents", s.c.Format)
	}
	return nil
}
