package devices

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// writer hands on what is written, when somebody takes it.
type writer chan string

func (w writer) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

// A watcher sees everything, in order, or how much it missed; the device is not held up by it.
func TestWatcherThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal()
		d := fake(t, driverFunc(func(context.Context, func(codec.Frame)) error { return nil }), j.Ingest)
		s := &Supervisor{devices: []*device{d}}
		if err := s.Watch(t.Context(), "x", &bytes.Buffer{}); !errors.Is(err, gateway.ErrInvalid) {
			t.Error(err)
		}
		out := make(writer)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Watch(ctx, "d", out) }()
		synctest.Wait()
		if first := <-out; !strings.Contains(first, `"online":false`) {
			t.Errorf("first %s", first)
		}
		const all = 2 * watchQueue
		d.driver = driverFunc(func(ctx context.Context, emit func(codec.Frame)) error {
			for range all {
				emit(codec.Frame{Garbage: codec.Binary, Raw: []byte{0xff}})
			}
			return errors.New("end")
		})
		d.once(t.Context(), "") // nobody reads yet
		synctest.Wait()
		// Online comes before the first; what comes now says how many there were since the queue was full. The watcher
		// may have taken one out of it early, or late.
		seen, missed := 0, 0
		take := func() {
			var s Sight
			if err := json.Unmarshal([]byte(<-out), &s); err != nil {
				t.Fatal(err)
			}
			if seen++; seen <= watchQueue && s.Missed > 0 {
				t.Errorf("sight %d: %d are missed", seen, s.Missed)
			}
			missed += int(s.Missed)
		}
		for range watchQueue {
			take()
		}
		go func() { d.watchers.state(true, "") }()
		for seen+missed < 1+all+1 {
			take()
		}
		if missed == 0 || seen+missed > 1+all+1 {
			t.Errorf("%d sights and %d missed of %d", seen, missed, 1+all+1)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if d.watchers.n.Load() != 0 || len(d.watchers.all) != 0 {
			t.Error("a watcher stays")
		}
	})
}
