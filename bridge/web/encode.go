package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/weir-iot/weir/gateway"
)

// encoded is an event in the bytes that streams send; nobody changes them.
type encoded struct {
	epoch  string
	offset uint64
	sse    []byte // the whole SSE block
	face   []byte // the gateway.Face in it
}

// The cache of encodings. It covers what a hub's readers have in hand at one time, and
// is bounded by both: 8 MiB at most.
const (
	cachedEvents = 1024
	cachedBytes  = 8 << 10 // larger encodings are made for each stream
)

// faces encodes each event once, however many streams send it. Slots are found by
// offset; a newer event takes an older one's slot, never the other way round, so that
// a stream that reads old history does not evict what all the others want.
type faces struct {
	gatewayID string
	slots     [cachedEvents]atomic.Pointer[encoded]
}

func (f *faces) of(e *gateway.Event) (*encoded, error) {
	slot := &f.slots[e.Offset%cachedEvents]
	have := slot.Load()
	if have != nil && have.offset == e.Offset && have.epoch == e.Epoch {
		return have, nil
	}
	made, err := encode(e, f.gatewayID)
	if err != nil {
		return nil, err
	}
	if len(made.sse) <= cachedBytes && (have == nil || have.offset < e.Offset) {
		slot.CompareAndSwap(have, made) // whoever lost the race made the same bytes
	}
	return made, nil
}

func encode(e *gateway.Event, gatewayID string) (*encoded, error) {
	var b bytes.Buffer
	b.Grow(192 + len(e.Topic) + len(e.Payload))
	b.WriteString("id: " + e.Epoch + ":" + strconv.FormatUint(e.Offset, 10) + "\ndata: ")
	start := b.Len()
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // a payload that is JSON stays as it is, but for space between its tokens
	if err := enc.Encode(e.Face(gatewayID)); err != nil {
		return nil, fmt.Errorf("encode event %v: %w", e.Position(), err)
	}
	end := b.Len() - 1 // Encode ends its one line
	b.WriteByte('\n')
	return &encoded{e.Epoch, e.Offset, b.Bytes(), b.Bytes()[start:end:end]}, nil
}
