// Package devicetest executes what devices.Driver promises, on every driver. A driver's test
// describes in a Rig how its device is played, and calls Conformance.
package devicetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Rig is a driver and its device, which the suite plays.
type Rig struct {
	Driver devices.Driver
	// Say has the device say that the measurement "seq" is n.
	Say func(n int)
	// Noise has the device say something that is no frame.
	Noise func()
	// Unplug takes the device away, Plug brings it back. It is there at first.
	Unplug, Plug func()
	// Stream: everything the device says arrives, in order. Without it only the newest
	// value does, as from a register that is polled, and perhaps again and again.
	Stream bool

	// Of a driver that takes commands: something that can be set to a number from 1 to 100, and what the device
	// was told so far, in order. Mute has it answer nothing from now on; nil: it never answers.
	Setting string
	Told    func() []string
	Mute    func()
}

const (
	promised = time.Second      // how soon Run returns
	patience = 20 * time.Second // how long the suite waits for what must come
)

// Conformance runs the suite. Make makes a fresh rig and cleans up by t.
func Conformance(t *testing.T, makeRig func(t *testing.T) *Rig) {
	run := func(name string, test func(t *testing.T, rig *Rig)) {
		t.Run(name, func(t *testing.T) {
			leaks := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, leaks) }) // after the rig's own
			test(t, makeRig(t))
		})
	}
	run("connected is said first", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		if f := r.next(); len(f.values) > 0 && !rig.Stream || f.garbage != "" {
			t.Errorf("the first frame is %+v", f)
		}
		r.end()
	})
	run("what the device says arrives", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		r.next()
		r.settle()
		for n := 1; n <= 20; n++ {
			rig.Say(n)
			r.await(n)
		}
		r.end()
	})
	run("noise is counted and then it goes on", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		r.next()
		r.settle()
		for n := 1; n <= 3; n++ {
			rig.Noise()
			for r.next().garbage == "" {
			}
			rig.Say(n)
			r.await(n)
		}
		r.end()
	})
	run("a flood and a slow reader", func(t *testing.T, rig *Rig) {
		const last = 1000
		busy := make(chan struct{})
		r := start(t, rig, func(ctx context.Context) {
			select {
			case <-busy: // closed: the journal has room again
			case <-ctx.Done():
			}
		})
		<-r.entered
		said := make(chan struct{})
		go func() {
			defer close(said)
			for n := 1; n <= last; n++ {
				rig.Say(n)
			}
		}()
		time.Sleep(300 * time.Millisecond) // the time the journal is busy: the input
		close(busy)
		<-said
		rig.Say(last + 1)
		r.await(last + 1)
		r.end()
	})
	run("cancel while nothing comes", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		r.next()
		r.settle()
		r.end()
	})
	run("cancel while emit blocks", func(t *testing.T, rig *Rig) {
		r := start(t, rig, func(ctx context.Context) { <-ctx.Done() })
		<-r.entered
		r.end()
	})
	run("cancel before it began", func(t *testing.T, rig *Rig) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		rig.Driver.Run(ctx, func(codec.Frame) {})
		if took := time.Since(began); took > promised {
			t.Errorf("returned after %v", took)
		}
	})
	run("unplugged, missing, and back", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		r.next()
		rig.Unplug()
		if err := r.ends(); err == nil {
			t.Error("unplugged, and Run returned no error")
		}
		r = start(t, rig, nil)
		if err := r.ends(); err == nil || strings.TrimSpace(err.Error()) == "" {
			t.Errorf("there is no device, and Run returned %v", err)
		}
		rig.Plug()
		r = start(t, rig, nil)
		r.next()
		r.settle()
		rig.Say(7)
		r.await(7)
		r.end()
	})
	run("nothing is left behind", func(t *testing.T, rig *Rig) {
		for range 5 { // a lock or a descriptor that stays would keep the next one out
			r := start(t, rig, nil)
			r.next()
			r.end()
		}
	})
	run("what was recorded is played", func(t *testing.T, rig *Rig) {
		wire, ok := rig.Driver.(devices.Wire)
		if !ok {
			t.Skip("it has no wire")
		}
		var mu sync.Mutex
		var chunks []codec.Chunk
		began := time.Now()
		release := wire.Tap(func(sent bool, p []byte) {
			mu.Lock()
			defer mu.Unlock()
			chunks = append(chunks, codec.Chunk{At: time.Since(began), Sent: sent, Bytes: slices.Clone(p)})
		})
		r := start(t, rig, nil)
		r.next()
		r.settle()
		for n := 1; n <= 10; n++ {
			rig.Say(n)
			r.await(n)
		}
		release()
		mu.Lock()
		recorded := slices.Clone(chunks)
		mu.Unlock()
		rig.Say(11)
		r.await(11)
		r.end()
		var played []string
		wire.Play(recorded, func(f codec.Frame) {
			for _, v := range f.Readings {
				if v.Name == "seq" && v.Value != "0" && !slices.Contains(played, v.Value) {
					played = append(played, v.Value)
				}
			}
		})
		if got := strings.Join(played, " "); got != "1 2 3 4 5 6 7 8 9 10" {
			t.Errorf("played %s of %d chunks", got, len(recorded))
		}
		for _, c := range recorded { // cut short anywhere, it plays on
			wire.Play([]codec.Chunk{{Sent: c.Sent, Bytes: c.Bytes[:len(c.Bytes)/2]}, {Bytes: c.Bytes[len(c.Bytes)/2:]}}, func(codec.Frame) {})
		}
	})
	conformWriter(func(name string, test func(*testing.T, *Rig)) {
		run("commands: "+name, func(t *testing.T, rig *Rig) {
			w, writes := rig.Driver.(devices.Writer)
			if !writes || len(w.Settings()) == 0 {
				t.Skip("it takes none")
			}
			test(t, rig)
		})
	})
}

// conformWriter runs the part of the suite that is for drivers that take commands.
func conformWriter(run func(string, func(*testing.T, *Rig))) {
	type answer struct {
		err  error
		took time.Duration
	}
	// write waits no longer than the promise, though the driver breaks it.
	write := func(t *testing.T, rig *Rig, limit time.Duration, name, value string) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		answered := make(chan answer, 1)
		began := time.Now()
		go func() {
			_, err := rig.Driver.(devices.Writer).Write(ctx, name, value)
			answered <- answer{err, time.Since(began)}
		}()
		select {
		case a := <-answered:
			if a.took > limit+promised {
				t.Errorf("Write returned after %v; its deadline was %v", a.took, limit)
			}
			return a.err
		case <-time.After(limit + patience):
			t.Fatal("Write does not return")
			return nil
		}
	}
	// told waits until the device was told n things: one that answers nothing is told later than sent.
	told := func(rig *Rig, n int) []string {
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			if got := rig.Told(); len(got) >= n || time.Now().After(end) {
				return got
			}
		}
	}
	run("what is set arrives, in order, while readings go on", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		r.next()
		r.settle()
		var want []string
		for n := 1; n <= 10; n++ {
			rig.Say(n)
			if err := write(t, rig, patience, rig.Setting, fmt.Sprint(n)); err != nil {
				t.Fatal(err)
			}
			r.await(n)
			want = append(want, fmt.Sprint(n))
		}
		if got := told(rig, len(want)); !slices.Equal(got, want) {
			t.Errorf("the device was told %v, want %v", got, want)
		}
		r.end()
	})
	run("several at once are told whole", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		r.next()
		r.settle()
		var all sync.WaitGroup
		want := map[string]bool{}
		for n := 11; n <= 18; n++ {
			want[fmt.Sprint(n)] = true
			all.Go(func() {
				if err := write(t, rig, patience, rig.Setting, fmt.Sprint(n)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		got := told(rig, len(want))
		for _, v := range got {
			if !want[v] {
				t.Errorf("the device was told %q", v)
			}
			delete(want, v)
		}
		if len(want) > 0 {
			t.Errorf("the device was not told %v", want)
		}
		r.end()
	})
	run("what cannot be set is refused and never sent", func(t *testing.T, rig *Rig) {
		settings := rig.Driver.(devices.Writer).Settings()
		if !slices.IsSortedFunc(settings, func(a, b codec.Setting) int { return strings.Compare(a.Name, b.Name) }) ||
			!slices.ContainsFunc(settings, func(s codec.Setting) bool { return s.Name == rig.Setting }) {
			t.Errorf("settings %v", settings)
		}
		r := start(t, rig, nil)
		r.next()
		r.settle()
		for name, value := range map[string]string{"no such thing": "1", rig.Setting: "many"} {
			if err := write(t, rig, patience, name, value); !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
		if got := rig.Told(); len(got) > 0 {
			t.Errorf("the device was told %v", got)
		}
		r.end()
	})
	run("nobody is there to be told", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		r.next()
		rig.Unplug()
		r.ends()
		if err := write(t, rig, 5*time.Second, rig.Setting, "1"); !errors.Is(err, gateway.ErrTransient) {
			t.Errorf("unplugged: %v", err)
		}
	})
	run("a device that says nothing any more", func(t *testing.T, rig *Rig) {
		if rig.Mute == nil {
			t.Skip("it never does")
		}
		r := start(t, rig, nil)
		r.next()
		r.settle()
		rig.Mute()
		for range 2 {
			if err := write(t, rig, 300*time.Millisecond, rig.Setting, "1"); err == nil {
				t.Error("nothing was said, and it is done")
			}
		}
		if got := rig.Told(); len(got) > 2 {
			t.Errorf("two writes, and the device was told %v", got)
		}
		r.cancel()
		r.ends()
	})
	run("cancelled before it began", func(t *testing.T, rig *Rig) {
		r := start(t, rig, nil)
		r.next()
		r.settle()
		if err := write(t, rig, 0, rig.Setting, "1"); err == nil {
			t.Error("no error")
		}
		if got := rig.Told(); len(got) > 0 {
			t.Errorf("the device was told %v", got)
		}
		r.end()
	})
}

type frame struct {
	values  string // "name=value …"
	garbage string
}

// runner is a driver that runs.
type runner struct {
	t       *testing.T
	rig     *Rig
	cancel  context.CancelFunc
	entered chan struct{} // closed at the first emit

	mu     sync.Mutex
	frames []frame
	more   chan struct{}

	ended chan struct{}
	err   error
}

// start runs rig's driver. Block, if not nil, is called in every emit.
func start(t *testing.T, rig *Rig, block func(context.Context)) *runner {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r := &runner{t: t, rig: rig, cancel: cancel, entered: make(chan struct{}), more: make(chan struct{}, 1), ended: make(chan struct{})}
	var one sync.Mutex
	var first sync.Once
	over := false
	go func() {
		err := rig.Driver.Run(ctx, func(f codec.Frame) {
			if !one.TryLock() {
				t.Error("two goroutines emit at once")
				return
			}
			defer one.Unlock()
			if over {
				t.Error("emits after Run has returned")
			}
			first.Do(func() { close(r.entered) })
			if block != nil {
				block(ctx)
			}
			if f.Garbage != "" && len(f.Readings) > 0 {
				t.Errorf("a frame with both readings and garbage: %+v", f)
			}
			values := make([]string, len(f.Readings))
			for i, v := range f.Readings {
				values[i] = v.Name + "=" + v.Value
			}
			if len(f.Readings) == 1 && f.Readings[0].Name == rig.Setting { // not what the device was made to say
				return
			}
			r.mu.Lock()
			r.frames = append(r.frames, frame{strings.Join(values, " "), f.Garbage})
			r.mu.Unlock()
			select {
			case r.more <- struct{}{}:
			default:
			}
		})
		one.Lock()
		over = true
		one.Unlock()
		r.err = err
		close(r.ended)
	}()
	return r
}

// next waits for the next frame.
func (r *runner) next() frame {
	r.t.Helper()
	limit := time.After(patience)
	for {
		r.mu.Lock()
		if len(r.frames) > 0 {
			f := r.frames[0]
			r.frames = r.frames[1:]
			r.mu.Unlock()
			return f
		}
		r.mu.Unlock()
		select {
		case <-r.more:
		case <-r.ended:
			r.t.Fatalf("Run returned: %v", r.err)
		case <-limit:
			r.t.Fatal("nothing came")
		}
	}
}

// settle gets a stream in step: a driver may drop the first line, whose beginning it cannot
// have seen.
func (r *runner) settle() {
	r.t.Helper()
	if !r.rig.Stream {
		return
	}
	r.rig.Noise()
	r.rig.Say(0)
	r.await(0)
}

// await waits until the device's word n arrives. Nothing else may: of a stream, the numbers
// come one after the other; else they never go back.
func (r *runner) await(n int) {
	r.t.Helper()
	want := fmt.Sprintf("seq=%d", n)
	last := -1
	for {
		f := r.next()
		if f.values == want {
			return
		}
		if f.values == "" {
			continue
		}
		var got int
		if _, err := fmt.Sscanf(f.values, "seq=%d", &got); err != nil || got > n || got < last {
			r.t.Fatalf("got %q after %d, want %q", f.values, last, want)
		}
		if r.rig.Stream && last >= 0 && got != last+1 {
			r.t.Fatalf("got %q after %d: something was left out", f.values, last)
		}
		last = got
	}
}

// end cancels and checks that Run returns in time.
func (r *runner) end() {
	r.t.Helper()
	r.cancel()
	r.ends()
}

func (r *runner) ends() error {
	r.t.Helper()
	began := time.Now()
	select {
	case <-r.ended:
	case <-time.After(patience):
		r.t.Fatal("Run does not return")
	}
	if took := time.Since(began); took > promised {
		r.t.Errorf("Run returned after %v, promised is %v", took, promised)
	}
	return r.err
}

// Served runs what it is sent, one after the other until t ends, in a goroutine that is there before the suite looks for
// leaks: for the far end of a Rig.
func Served(t *testing.T) (serve chan<- func()) {
	work := make(chan func())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for f := range work {
			f()
		}
	}()
	t.Cleanup(func() { close(work); <-done })
	return work
}

// Recorded is what the device said in a recording (weir devices record), for Play.
func Recorded(t *testing.T, file string) (wire []byte) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, chunks, err := codec.ReadRecording(f)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, c := range chunks {
		if !c.Sent {
			wire = append(wire, c.Bytes...)
		}
	}
	return wire
}

// Play has the device say wire, bytes recorded from a real one, and
// returns the frames as text, one a line. End is the last frame's text, at which it stops.
func Play(t *testing.T, rig *Rig, say func(wire []byte), wire []byte, end string) string {
	t.Helper()
	r := start(t, rig, nil)
	r.next()
	r.settle()
	go say(wire)
	var out strings.Builder
	for {
		f := r.next()
		line := f.values
		if f.garbage != "" {
			line = "! " + f.garbage
		}
		out.WriteString(line + "\n")
		if line == end {
			r.end()
			return out.String()
		}
	}
}
