package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		j, err := Open(Options{Dir: dir, SegmentSize: 8 << 10, Observer: gateway.Observer{Recovered: func(r gateway.Recovery) { t.Logf("%+v", r) }}})
		if err != nil {
			t.Fatal(err)
		}
		hub := gateway.NewHub(j, j.Next())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- j.Run(ctx, hub) }()
		n := 200
		got := make(chan error, n)
		for i := range n {
			e := &gateway.Event{Topic: fmt.Sprintf("a/%d", i%7), Payload: []byte(fmt.Sprint(round, i))}
			if err := j.Append(ctx, e, gateway.Synced, func(err error) { got <- err }); err != nil {
				t.Fatal(err)
			}
		}
		for range n {
			if err := <-got; err != nil {
				t.Fatal(err)
			}
		}
		seen := 0
		for from := uint64(1); ; {
			b, err := j.Read(from, gateway.Filters{gateway.MustFilter("#")}, 50)
			if err != nil {
				t.Fatal(err)
			}
			if b.Gap != nil {
				t.Fatal(b.Gap)
			}
			for _, e := range b.Events {
				seen++
				if e.Offset != uint64(seen) {
					t.Fatal(e.Offset, seen)
				}
			}
			if b.Next == from {
				break
			}
			from = b.Next
		}
		if seen != n*(round+1) {
			t.Fatal(seen)
		}
		last, err := j.Last(gateway.Filters{gateway.MustFilter("a/3")}, 40)
		c, err2 := j.Count(1, gateway.Filters{gateway.MustFilter("a/3")})
		t.Log(len(last), err, c, err2, j.Stats())
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		j.Close()
	}
}
