package serial

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/devices/codec"
)

// taps are those who listen to what goes over the line.
type taps struct {
	mu  sync.Mutex
	all atomic.Pointer[map[*func(bool, []byte)]bool] // nil: nobody
}

// Tap has f called with what comes from the device and what is sent to it, until release is called. F must neither
// block nor keep what it is given.
func (t *taps) Tap(f func(sent bool, p []byte)) (release func()) {
	key := &f
	t.change(func(all map[*func(bool, []byte)]bool) { all[key] = true })
	return func() { t.change(func(all map[*func(bool, []byte)]bool) { delete(all, key) }) }
}

func (t *taps) change(do func(map[*func(bool, []byte)]bool)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[*func(bool, []byte)]bool{}
	if all := t.all.Load(); all != nil {
		for f := range *all {
			next[f] = true
		}
	}
	do(next)
	t.all.Store(&next)
}

func (t *taps) tell(sent bool, p []byte) {
	if all := t.all.Load(); all != nil && len(p) > 0 {
		for f := range *all {
			(*f)(sent, p)
		}
	}
}

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
