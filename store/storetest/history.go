package storetest

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

// testHistories plays seeded histories of appends, reads, stops, kills, power cuts, full disks and moves
// against a model: the list of what was appended.
func testHistories(t *testing.T, open Open) {
	seeds := 40
	if testing.Short() {
		seeds = 10
	}
	for seed := range int64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{t: t, open: open, rnd: rand.New(rand.NewSource(seed)), disk: NewDisk(), given: map[uint64]bool{}}
			h.o = store.Options{
				Dir: t.TempDir(), Disk: h.disk, FlushInterval: time.Hour,
				SegmentSize: int64(4<<10 + h.rnd.Intn(60<<10)),
				BootID:      func() string { return fmt.Sprint("boot", h.boot) },
				MachineID:   func() string { return fmt.Sprint("machine", h.machine) },
			}
			h.r = start(t, open, h.o)
			for range 40 {
				h.step()
			}
			h.check()
			h.r.mustStop()
		})
	}
}

type history struct {
	t             *testing.T
	open          Open
	rnd           *rand.Rand
	disk          *Disk
	o             store.Options
	boot, machine int
	r             *running
	events        []*gateway.Event // released and not lost, Change entries included
	given         map[uint64]bool
	n             int
}

func (h *history) step() {
	switch k := h.rnd.Intn(20); {
	case k < 8:
		h.append(1 + h.rnd.Intn(80))
	case k < 14:
		h.check()
	case k < 16:
		epoch := h.r.Epoch()
		h.r.mustStop()
		if h.rnd.Intn(2) == 0 {
			h.boot++
		}
		h.r = start(h.t, h.open, h.o)
		if h.r.Epoch() != epoch {
			h.t.Fatalf("a new epoch after a clean stop: %+v", h.r.recovery)
		}
	case k == 16:
		epoch := h.r.Epoch()
		h.kill()
		h.r = start(h.t, h.open, h.o)
		if h.r.Epoch() != epoch {
			h.t.Fatalf("a new epoch after kill -9: %+v", h.r.recovery)
		}
	case k == 17:
		epoch, synced := h.r.Epoch(), h.r.syncedUpTo()
		h.kill()
		if err := h.disk.PowerCut(h.rnd, h.rnd.Float64()); err != nil {
			h.t.Fatal(err)
		}
		h.boot++
		h.r = start(h.t, h.open, h.o)
		if h.r.Epoch() == epoch {
			h.t.Fatal("the epoch goes on after a power cut")
		}
		h.forget(synced)
	case k == 18:
		h.r.mustStop()
		h.machine++
		epoch := h.r.Epoch()
		h.r = start(h.t, h.open, h.o)
		if h.r.Epoch() == epoch {
			h.t.Fatal("the epoch goes on on another machine")
		}
	case k == 19:
		allow := h.rnd.Float64()
		h.disk.OnWrite(func(path string, n int) (int, error) { return int(allow * float64(n)), fmt.Errorf("no luck") })
		e := h.event()
		if err := h.r.put(e, gateway.Synced); err == nil {
			h.t.Fatal("a write that failed was acknowledged")
		}
		h.disk.OnWrite(nil)
	}
}

func (h *history) kill() {
	h.disk.Kill()
	h.r.stop()
	h.disk.Revive()
}

// forget drops from the model what a power cut took: nothing below synced.
func (h *history) forget(synced uint64) {
	got := map[uint64]bool{}
	if err := h.r.Replay(0, func(e *gateway.Event) error { got[e.Offset] = true; return nil }); err != nil {
		h.t.Fatal(err)
	}
	var left []*gateway.Event
	for _, e := range h.events {
		switch {
		case got[e.Offset]:
			left = append(left, e)
		case e.Offset < synced:
			h.t.Fatalf("%s was synced and is gone", e.Position())
		}
	}
	// What is gone must be told. A reader of everything checks it here, once: the model forgets it.
	read, gaps := h.r.readAll(1, all, 100)
	checkServed(h.t, "after a power cut", matching(h.events, 1, all), read, gaps)
	h.events = left
}

func (h *history) event() *gateway.Event {
	h.n++
	e := event(fmt.Sprintf("t/%d", h.rnd.Intn(6)), fmt.Sprintf("%d %s", h.n, strings.Repeat("h", h.rnd.Intn(400))))
	if h.rnd.Intn(8) == 0 {
		e.Kind = gateway.Change
	}
	return e
}

func (h *history) append(n int) {
	answers := make(chan error, n)
	for range n {
		e := h.event()
		if err := h.r.Append(h.t.Context(), e, gateway.Durability(h.rnd.Intn(10)/9), func(err error) { answers <- err }); err != nil {
			h.t.Fatal(err)
		}
		h.events = append(h.events, e)
	}
	for range n {
		if err := <-answers; err != nil {
			h.t.Fatal(err)
		}
	}
	for _, e := range h.events[len(h.events)-n:] {
		if h.given[e.Offset] {
			h.t.Fatalf("offset %d was given out twice", e.Offset)
		}
		h.given[e.Offset] = true
	}
}

func (h *history) check() {
	from := uint64(0)
	if len(h.events) > 0 {
		from = h.events[h.rnd.Intn(len(h.events))].Offset - uint64(h.rnd.Intn(2))
	}
	filters := gateway.Filters{gateway.MustFilter([]string{"#", "t/1", "t/+", "none"}[h.rnd.Intn(4)])}
	want := matching(h.events, from, filters)
	got, gaps := h.r.readAll(from, filters, 1+h.rnd.Intn(100))
	for _, g := range gaps {
		if g.Reason != gateway.GapLost && g.Reason != gateway.GapDamaged { // sectors of the unsynced end may be missing in between
			h.t.Fatalf("gap %+v", g)
		}
	}
	equal(h.t, "read", got, want)
	to := from + uint64(h.rnd.Intn(len(h.events)+2))
	between := 0
	for _, e := range want {
		if e.Offset < to {
			between++
		}
	}
	if n, err := h.r.Count(from, to, filters); err != nil || n != uint64(between) {
		h.t.Fatalf("count from %d to %d: %d, %v; want %d", from, to, n, err, between)
	}
	n := h.rnd.Intn(200)
	want = matching(h.events, 0, filters)
	last, err := h.r.Last(filters, n)
	if err != nil {
		h.t.Fatal(err)
	}
	equal(h.t, "last", last, want[max(0, len(want)-n):])
	if len(h.events) > 0 {
		e := h.events[h.rnd.Intn(len(h.events))]
		if from, gap := h.r.Resume(e.Position()); from != e.Offset+1 || gap != nil {
			h.t.Fatalf("resume after %s: %d, %+v", e.Position(), from, gap)
		}
	}
	i := 0
	err = h.r.Replay(0, func(e *gateway.Event) error {
		if i < len(h.events) {
			if d := differ(e, h.events[i]); d != "" {
				h.t.Fatalf("replay %d differs in %s", i, d)
			}
		}
		i++
		return nil
	})
	if err != nil || i != len(h.events) {
		h.t.Fatalf("replayed %d of %d: %v", i, len(h.events), err)
	}
}
