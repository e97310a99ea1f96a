package mqttdev

import (
	"encoding/binary"
	"slices"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// wireOf is a message as a chunk of a recording: what follows the fixed header of a PUBLISH at QoS 0, that is its topic, with
// the length before it, and its payload (MQTT 3.1.1 §3.3).
func wireOf(e *gateway.Event) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(e.Topic)))
	return append(append(b, e.Topic...), e.Payload...)
}

func messageOf(b []byte) (e *gateway.Event, ok bool) {
	if len(b) < 2 {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, false
	}
	return &gateway.Event{Topic: string(b[2 : 2+n]), Payload: b[2+n:]}, true
}

// Play emits what would have been read of a recording of messages.
func (d *Driver) Play(chunks []codec.Chunk, emit func(codec.Frame)) {
	for _, c := range chunks {
		if c.Sent {
			continue
		}
		e, ok := messageOf(c.Bytes)
		switch {
		case !ok:
			emit(codec.Frame{Garbage: codec.Malformed, Raw: c.Bytes})
		case d.filters.Match(e.Topic) && !slices.Contains(d.availability, e.Topic):
			if f, ok := d.frame(e); ok {
				emit(f)
			}
		}
	}
}
