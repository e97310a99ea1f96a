package bridge_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/gateway"
)

func TestReplay(t *testing.T) {
	at := func(offset uint64) bridge.Edge {
		return bridge.Edge{Position: gateway.Position{Epoch: "e1", Offset: offset}}
	}
	// quiet is an office that refuses nothing and has sent what it was given.
	quiet := func(o *office, n int) {
		o.refuses.Store(false)
		o.open()
		o.add(n, "up/a")
		settle(5 * time.Second)
	}
	replayed := func(o *office) uint64 {
		a, err := o.bridge.Accounts()
		if err != nil || a.Unaccounted != 0 {
			t.Errorf("%+v, %v", a, err)
		}
		return a.Routes[0].Replayed
	}
	inOffice(t, "a stretch, with the same ids, and the ledger stays", func(t *testing.T, o *office) {
		quiet(o, 6)
		r, err := o.bridge.Replay(bridge.Stretch{Uplink: "far", Since: at(2), Until: at(4)})
		if err != nil || r.From != 2 || r.To != 5 || r.Missing != "" {
			t.Fatalf("%+v, %v", r, err)
		}
		settle(3 * time.Second)
		o.want("1 2 3 4 5 6 2 3 4")
		if a := o.far.Arrivals(); a[6].ID != a[1].ID {
			t.Errorf("sent as %s and again as %s", a[1].ID, a[6].ID)
		}
		o.account("after", 6, 6, 0, 0)
		if n := replayed(o); n != 3 {
			t.Errorf("%d replayed", n)
		}
		if r := o.bridge.Replays()[0]; r.Delivered != 3 || r.Ended.IsZero() || r.At != 5 {
			t.Errorf("%+v", r)
		}
		o.stop()
		o.open()
		if n := replayed(o); n != 3 || len(o.bridge.Replays()) != 0 {
			t.Errorf("after a restart: %d replayed, %+v", n, o.bridge.Replays())
		}
	})
	inOffice(t, "by the wall clock, also over a jump of it", func(t *testing.T, o *office) {
		o.refuses.Store(false)
		o.open()
		noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		for _, minute := range []int{0, 1, 2, -50, 3, 4} {
			o.n++
			o.log.Append(&gateway.Event{Topic: "up/a", Payload: []byte{byte('0' + o.n)}, Accepted: noon.Add(time.Duration(minute) * time.Minute)})
		}
		settle(5 * time.Second)
		_, err := o.bridge.Replay(bridge.Stretch{Uplink: "far", Since: bridge.Edge{Time: noon.Add(time.Minute)}, Until: bridge.Edge{Time: noon.Add(4 * time.Minute)}})
		if err != nil {
			t.Fatal(err)
		}
		settle(3 * time.Second)
		o.want("1 2 3 4 5 6 2 3 5")
	})
	inOffice(t, "what the journal no longer has is said", func(t *testing.T, o *office) {
		quiet(o, 9)
		o.log.Trim(4)
		o.stop()
		o.open() // nothing is in memory now
		for _, c := range []struct {
			since bridge.Edge
			want  string
		}{
			{at(2), "trimmed: offsets 2 to 3"},
			{bridge.Edge{}, "what is older than 2000-01-01T00:00:00Z (e1:4): the journal begins there"},
			{bridge.Edge{Time: time.Now().Add(-time.Hour)}, "what is older than 2000-01-01T00:00:00Z (e1:4): the journal begins there"},
			{at(5), ""},
		} {
			r, err := o.bridge.Replay(bridge.Stretch{Uplink: "far", Since: c.since})
			if err != nil || r.Missing != c.want {
				t.Errorf("%+v: %+v, %v", c.since, r, err)
			}
			settle(3 * time.Second)
		}
	})
	inOffice(t, "what is let go of before its turn is said", func(t *testing.T, o *office) {
		quiet(o, 2000)
		o.stop()
		o.far.FarEnd().Refuse()
		o.open()
		if _, err := o.bridge.Replay(bridge.Stretch{Uplink: "far", Since: at(1)}); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		o.log.Trim(1501) // it has read ahead, but not as far as that
		o.far.FarEnd().Heal()
		settle(time.Minute)
		r := o.bridge.Replays()[0]
		if r.Ended.IsZero() || r.Missing != "trimmed: offsets 513 to 1500" || r.Delivered != 512+500 {
			t.Errorf("%+v", r)
		}
		o.account("after", 2000, 2000, 0, 0)
	})
	inOffice(t, "one at a time, and cancelled", func(t *testing.T, o *office) {
		quiet(o, 5)
		o.far.FarEnd().Stall()
		r, err := o.bridge.Replay(bridge.Stretch{Uplink: "far"})
		if err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		if _, err := o.bridge.Replay(bridge.Stretch{Uplink: "far"}); !errors.Is(err, gateway.ErrInvalid) || !strings.Contains(err.Error(), r.ID) {
			t.Error(err)
		}
		if _, err := o.bridge.CancelReplay(r.ID); err != nil {
			t.Error(err)
		}
		settle(time.Minute) // the connection is lost, and what was in it forgotten
		o.far.FarEnd().Heal()
		o.add(1, "up/a")
		settle(time.Minute)
		if got := o.arrived(); !strings.HasPrefix(got, "1 2 3 4 5") || !strings.HasSuffix(got, "6") {
			t.Errorf("arrived %s", got)
		}
		o.account("after", 6, 6, 0, 0)
	})
	inOffice(t, "live events come first, and both end", func(t *testing.T, o *office) {
		o.opts.Routes[0].Weight = 4
		var slow atomic.Bool
		o.far.Answer = func(*gateway.Event) error {
			if slow.Load() {
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		}
		quiet(o, 2000)
		slow.Store(true)
		o.add(500, "up/live")
		settle(time.Second)
		if _, err := o.bridge.Replay(bridge.Stretch{Uplink: "far", Until: at(2000)}); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		live, again, before := 0, 0, 0 // replayed events that came before the last live one
		for _, a := range o.far.Arrivals()[2000:] {
			if a.Topic == "up/live" {
				live, before = live+1, again
			} else {
				again++
			}
		}
		if live != 500 || again != 2000 || before < 50 || before > 150 { // a fifth of the link, and what the sink has in hand
			t.Errorf("%d live, %d again, %d of them before the last live one", live, again, before)
		}
		o.account("after", 2500, 2500, 0, 0)
	})
	inOffice(t, "what the live route has in hand at the same moment", func(t *testing.T, o *office) {
		o.refuses.Store(false)
		o.opts.Routes[0].Events = 10 // so the live route is at 11 when the replay is at 40
		o.open()
		o.add(50, "up/a")
		settle(100 * time.Millisecond)
		if _, err := o.bridge.Replay(bridge.Stretch{Uplink: "far", Since: at(40)}); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		if n := len(o.far.Arrivals()); n != 61 {
			t.Errorf("%d arrived", n)
		}
		if r := o.bridge.Replays()[0]; r.Delivered != 11 || r.Ended.IsZero() {
			t.Errorf("%+v", r)
		}
		o.account("after", 50, 50, 0, 0)
	})
	inOffice(t, "refused ones are counted, filters hold", func(t *testing.T, o *office) {
		o.opts.Routes = append(o.opts.Routes, bridge.Route{ID: "b", Match: gateway.MustFilter("b/#")})
		o.refuses.Store(false)
		o.open()
		for range 3 {
			o.add(1, "up/a")
			o.add(1, "up/c")
			o.add(1, "b/a")
			o.add(1, "elsewhere")
		}
		settle(5 * time.Second)
		first := o.arrived() // two routes, so in some order
		o.refuses.Store(true)
		filters, _ := gateway.ParseFilters("+/a", "elsewhere")
		if _, err := o.bridge.Replay(bridge.Stretch{Uplink: "far", Filters: filters}); err != nil {
			t.Fatal(err)
		}
		settle(3 * time.Second)
		o.want(first + " 1 3 5 7 9 11")
		if r := o.bridge.Replays()[0]; r.Refused != 6 || r.Delivered != 0 || r.LastReason != "no odd ones" {
			t.Errorf("%+v", r)
		}
		if _, err := o.bridge.Replay(bridge.Stretch{Uplink: "far", Route: "b"}); err != nil {
			t.Fatal(err)
		}
		settle(3 * time.Second)
		o.want(first + " 1 3 5 7 9 11 3 7 11")
	})
	inOffice(t, "what cannot be", func(t *testing.T, o *office) {
		quiet(o, 5)
		for _, w := range []bridge.Stretch{
			{}, {Uplink: "near"}, {Uplink: "far", Route: "x"}, {Uplink: "far", Since: at(77)}, {Uplink: "far", Until: at(77)},
			{Uplink: "far", Since: at(4), Until: at(3)}, {Uplink: "far", Since: bridge.Edge{Time: time.Now()}, Until: bridge.Edge{Time: time.Now()}},
		} {
			if _, err := o.bridge.Replay(w); !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("%+v: %v", w, err)
			}
		}
	})
}
