package serial

import (
	"time"

	"github.com/weir-iot/weir/devices/codec"
)

// pause is what no device makes inside a frame. Adapters hand bytes on every 16 ms or so; 5 characters at slow rates.
func (d *Driver) pause() time.Duration {
	return 100*time.Millisecond + 50*time.Second/time.Duration(d.port.Baud())
}

// Play emits what would have been read of a recording.
func (d *Driver) Play(chunks []codec.Chunk, emit func(codec.Frame)) {
	s := d.codec.Stream()
	s.SkipPartial()
	last := time.Duration(0)
	for i, c := range chunks {
		if c.Sent {
			continue
		}
		silent := c.At-last >= d.pause()
		switch {
		case silent && i == 0: // nobody was sending when it began
			s = d.codec.Stream()
		case silent && s.Pending():
			s.Idle(emit)
		}
		s.Feed(c.Bytes, emit)
		last = c.At
	}
	if s.Pending() {
		s.Idle(emit)
	}
}
