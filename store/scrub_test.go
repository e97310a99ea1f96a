package store

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Damage that nobody reads is found within a day.
func TestScrub(t *testing.T) {
	dir := t.TempDir()
	var told []gateway.Gap
	o := Options{
		Dir: dir, MaxSize: 1 << 20, SegmentSize: 16 << 10, MinFree: MinFree{Bytes: 1},
		Observer: gateway.Observer{Damaged: func(g gateway.Gap) { told = append(told, g) }},
	}
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- j.Run(ctx, nowhere{}) }()
	stored := make(chan error, 200)
	for range 200 {
		if err := j.Append(ctx, &gateway.Event{Topic: "a", Payload: make([]byte, 300)}, gateway.Synced, func(err error) { stored <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	segs, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	if len(segs) < 4 {
		t.Fatalf("%d segments", len(segs))
	}
	for _, path := range []string{segs[0], segs[2]} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- j.Scrub(ctx) }()
		time.Sleep(scrubPass + time.Minute)
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	list := *j.segs.Load()
	in := func(g gateway.Gap) int { return segmentOf(list, g.From) }
	places := []int{}
	for _, g := range told {
		if g.To != g.From+1 || g.Reason != gateway.GapDamaged {
			t.Errorf("told %+v", g)
		}
		places = append(places, in(g))
	}
	slices.Sort(places)
	if places = slices.Compact(places); !slices.Equal(places, []int{0, 2}) {
		t.Errorf("told %v, in segments %v", told, places)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}
