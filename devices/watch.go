package devices

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Sight is what is seen of a device at a moment: readings, garbage, or that it came or went.
type Sight struct {
	Time     time.Time `json:"time,omitzero"`
	Online   *bool     `json:"online,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why it is not online
	Readings []SeenOf  `json:"readings,omitempty"`
	Garbage  string    `json:"garbage,omitempty"` // why bytes were no frame
	Raw      string    `json:"raw,omitempty"`     // the first of them, if they are text
	RawHex   string    `json:"raw_hex,omitempty"` // or else
	Missed   uint64    `json:"missed,omitempty"`  // sights before this one that the watcher was too slow for
}

// SeenOf is one value.
type SeenOf struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Unit    string `json:"unit,omitempty"`
	Quality string `json:"quality,omitempty"` // absent means good
}

// watchers are those who look at a device. One that is slow misses something, and holds nobody up.
type watchers struct {
	n   atomic.Int32 // so that nothing is done while there is none
	mu  sync.Mutex
	all map[*watcher]bool
}

type watcher struct {
	sights chan Sight
	missed uint64
}

const watchQueue = 256

func (w *watchers) see(sight func() Sight) {
	if w.n.Load() == 0 {
		return
	}
	s := sight()
	s.Time = time.Now().UTC()
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		s.Missed = one.missed
		select {
		case one.sights <- s:
			one.missed = 0
		default:
			one.missed++
		}
	}
}

func (w *watchers) frame(f codec.Frame) {
	if f.Garbage == "" && len(f.Readings) == 0 {
		return
	}
	w.see(func() Sight { return SightOf(f) })
}

// SightOf is a frame as it is seen.
func SightOf(f codec.Frame) Sight {
	s := Sight{Garbage: f.Garbage}
	switch {
	case f.Garbage == "":
		for _, r := range f.Readings {
			one := SeenOf{Name: r.Name, Value: r.Value, Unit: r.Unit}
			if r.Quality != gateway.Good {
				one.Quality = r.Quality.String()
			}
			s.Readings = append(s.Readings, one)
		}
	case utf8.Valid(f.Raw):
		s.Raw = string(f.Raw)
	default:
		s.RawHex = fmt.Sprintf("%x", f.Raw)
	}
	return s
}

func (w *watchers) state(up bool, reason string) {
	w.see(func() Sight { return Sight{Online: &up, Reason: reason} })
}

// Watch writes what is seen of a device to out, a line of JSON each, until ctx ends or out fails. The first says
// how it is.
func (s *Supervisor) Watch(ctx context.Context, id string, out io.Writer) error {
	d, err := s.device(id)
	if err != nil {
		return err
	}
	me := &watcher{sights: make(chan Sight, watchQueue)}
	w := &d.watchers
	w.mu.Lock()
	if w.all == nil {
		w.all = map[*watcher]bool{}
	}
	w.all[me] = true
	w.mu.Unlock()
	w.n.Add(1)
	defer func() {
		w.n.Add(-1)
		w.mu.Lock()
		delete(w.all, me)
		w.mu.Unlock()
	}()
	st := d.state.snapshot()
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for next := (Sight{Time: time.Now().UTC(), Online: &st.Up, Reason: st.Reason}); ; {
		if err := enc.Encode(next); err != nil {
			return err
		}
		select {
		case next = <-me.sights:
		case <-ctx.Done():
			return nil
		}
	}
}

// recordQueue bounds the chunks that wait for who records them.
const recordQueue = 1024

// Record writes what goes over a device's wire to out, as a recording (codec.Chunk), until ctx ends or out
// fails. The driver does not notice.
func (s *Supervisor) Record(ctx context.Context, id string, out io.Writer) error {
	d, err := s.device(id)
	if err != nil {
		return err
	}
	wire, ok := d.driver.(Wire)
	if !ok {
		return gateway.Errorf(gateway.ErrInvalid, "device %q has no wire that could be recorded: driver %s", id, d.kind)
	}
	begun := time.Now()
	if _, err := io.WriteString(out, codec.RecordingOf(id, d.kind, begun)); err != nil {
		return err
	}
	chunks := make(chan codec.Chunk, recordQueue)
	var missed atomic.Uint64
	release := wire.Tap(func(sent bool, p []byte) {
		select {
		case chunks <- codec.Chunk{At: time.Since(begun), Sent: sent, Bytes: slices.Clone(p)}:
		default:
			missed.Add(uint64(len(p)))
		}
	})
	defer release()
	for {
		select {
		case c := <-chunks:
			line := c.String()
			if n := missed.Swap(0); n > 0 {
				line += fmt.Sprintf("# %d bytes are missing about here: whoever writes this is too slow\n", n)
			}
			if _, err := io.WriteString(out, line); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Play emits what would have been read of a recording if it had come from a device.
func (s *Supervisor) Play(id string, chunks []codec.Chunk, emit func(codec.Frame)) error {
	d, err := s.device(id)
	if err != nil {
		return err
	}
	wire, ok := d.driver.(Wire)
	if !ok {
		return gateway.Errorf(gateway.ErrInvalid, "device %q has no wire of which a recording could be played: driver %s", id, d.kind)
	}
	wire.Play(chunks, emit)
	return nil
}
