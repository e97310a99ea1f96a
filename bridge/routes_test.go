package bridge_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

func TestKeys(t *testing.T) {
	e := &gateway.Event{Topic: "plant1/oven/temperature", Origin: gateway.Origin{ID: "oven-7"}}
	for _, c := range []struct{ template, want string }{
		{"", "plant1/oven/temperature"}, {"{topic}", "plant1/oven/temperature"}, {"{device}", "oven-7"},
		{"{2}", "oven"}, {"{1}.{3}", "plant1.temperature"}, {"{9}", ""}, {"one", "one"}, {"a{2}b", "aovenb"},
	} {
		key, err := bridge.ParseKey(c.template)
		if err != nil || key(e) != c.want {
			t.Errorf("%q: %v, %v; not %q", c.template, key(e), err, c.want)
		}
	}
	for _, bad := range []string{"{", "}", "{topic", "{x}", "{0}", "{33}", "a}b"} {
		if _, err := bridge.ParseKey(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// lanesRig is a rig with n connections and a route that spreads its topics over them.
func lanesRig(r *rig, n int) (far []*bridgetest.Memory) {
	r.opts.Sinks = nil
	for range n {
		m := &bridgetest.Memory{GatewayID: gw, Patience: 20 * time.Second}
		far = append(far, m)
		r.opts.Sinks = append(r.opts.Sinks, m)
	}
	r.opts.Routes[0].Lanes = n
	return far
}

func TestLanes(t *testing.T) {
	bubble(t, "each key meets one connection, in order", func(t *testing.T, r *rig) {
		far := lanesRig(r, 3)
		r.run()
		for i := range 300 {
			r.add(1, fmt.Sprintf("up/%d", i%10))
			if i%50 == 20 {
				far[i%3].Cut()
			}
		}
		settle(5 * time.Minute)
		seen := map[string]int{} // topic -> lane
		got := map[string]bool{}
		for lane, m := range far {
			last := map[string]string{}
			if len(m.Arrivals()) == 0 {
				t.Errorf("lane %d carries nothing", lane)
			}
			for _, a := range m.Arrivals() {
				if l, ok := seen[a.Topic]; ok && l != lane {
					t.Fatalf("%s came over lane %d and lane %d", a.Topic, l, lane)
				}
				seen[a.Topic] = lane
				if first := !got[a.Payload]; first && len(a.Payload) <= len(last[a.Topic]) && a.Payload < last[a.Topic] {
					t.Errorf("%s: first arrival of %s after %s", a.Topic, a.Payload, last[a.Topic])
				} else if first {
					last[a.Topic] = a.Payload
				}
				got[a.Payload] = true
			}
		}
		if s := r.pump.Status(); len(got) != 300 || s.Delivered != 300 || s.Queued != 0 || s.Position.Offset != 300 {
			t.Errorf("%d arrived; %+v", len(got), s)
		}
	})
	bubble(t, "a lane that is down holds up its own keys only, and the mark", func(t *testing.T, r *rig) {
		far := lanesRig(r, 2)
		far[1].FarEnd().Refuse()
		r.run()
		for i := range 100 {
			r.add(1, fmt.Sprintf("up/%d", i%10))
		}
		settle(time.Minute)
		s := r.pump.Status()
		n := len(far[0].Arrivals())
		if n == 0 || n == 100 || s.Up || s.Reason != "connection refused" || len(far[1].Arrivals()) != 0 {
			t.Errorf("%d over lane 0; %+v", n, s)
		}
		r.stop() // what lane 0 delivered behind the mark comes again, with the same ids
		r.run()
		settle(time.Minute)
		far[1].FarEnd().Heal()
		settle(time.Minute)
		if s := r.pump.Status(); s.Queued != 0 || s.Position.Offset != 100 {
			t.Errorf("%+v", s)
		}
	})
}

func TestSeveralRoutes(t *testing.T) {
	two := func(r *rig) {
		r.opts.Routes = []bridge.Route{
			{ID: "alarms", Match: gateway.MustFilter("up/alarm/#"), Weight: 16},
			{ID: "rest", Match: gateway.MustFilter("up/#"), Weight: 1},
		}
	}
	bubble(t, "a backlog does not stand before what is urgent", func(t *testing.T, r *rig) {
		two(r)
		r.new()
		r.far.FarEnd().Refuse()
		r.run()
		r.add(3000, "up/bulk")
		settle(time.Minute)
		r.far.FarEnd().Heal()
		r.add(5, "up/alarm/fire")
		settle(10 * time.Minute)
		place := -1
		for i, a := range r.far.Arrivals() {
			if strings.HasPrefix(a.Topic, "up/alarm") {
				place = i
			}
		}
		if place < 0 || place > 64+32 { // what the sink had been given already
			t.Errorf("the last alarm is number %d of %d", place, len(r.far.Arrivals()))
		}
		s := r.pump.Status()
		if s.Delivered != 3005 || s.Routes[0].Delivered != 5 || s.Routes[1].Delivered != 3000 || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
		r.stop()
		r.restart("")
		settle(time.Minute)
		if s := r.pump.Status(); s.Routes[0].Delivered != 5 || s.Routes[1].Delivered != 3000 {
			t.Errorf("the counters did not survive: %+v", s)
		}
	})
	bubble(t, "limits", func(t *testing.T, r *rig) {
		two(r)
		r.opts.Routes[1].Events = 10
		r.run()
		began := time.Now()
		r.add(110, "up/bulk")
		settle(5 * time.Second)
		if n := len(r.far.Arrivals()); n < 55 || n > 65 { // 10 at once and 10 a second
			t.Errorf("%d in 5 s", n)
		}
		r.add(1, "up/alarm/fire")
		settle(100 * time.Millisecond)
		if a := r.far.Arrivals(); a[len(a)-1].Topic != "up/alarm/fire" && a[len(a)-2].Topic != "up/alarm/fire" {
			t.Error("one route's limit holds up another")
		}
		settle(time.Minute)
		if s := r.pump.Status(); s.Queued != 0 {
			t.Errorf("%v later: %+v", time.Since(began), s)
		}
	})
	bubble(t, "a time to live is the route's", func(t *testing.T, r *rig) {
		two(r)
		r.opts.Routes[1].TTL = time.Minute
		r.far.FarEnd().Refuse()
		r.run()
		r.add(10, "up/bulk")
		r.add(10, "up/alarm/fire")
		settle(2 * time.Minute)
		r.far.FarEnd().Heal()
		settle(2 * time.Minute)
		if s := r.pump.Status(); s.Routes[0].Delivered != 10 || s.Routes[1].Expired != 10 || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
	})
	bubble(t, "poison is believed after as often as the route says", func(t *testing.T, r *rig) {
		r.opts.Routes[0].DeadAfter = 3
		asked := 0
		r.far.Answer = func(e *gateway.Event) error {
			if string(e.Payload) == "2" {
				asked++
				return gateway.Errorf(gateway.ErrDenied, "not authorized")
			}
			return nil
		}
		r.run()
		r.add(3, "up/a")
		settle(5 * time.Minute)
		if s := r.pump.Status(); asked != 3 || s.Dead != 1 || s.Delivered != 2 {
			t.Errorf("asked %d times: %+v", asked, s)
		}
	})
	bubble(t, "a drill", func(t *testing.T, r *rig) {
		r.run()
		settle(time.Second)
		r.pump.Drill(10 * time.Minute)
		settle(time.Second)
		r.add(10, "up/a")
		settle(9 * time.Minute)
		if s := r.pump.Status(); s.Up || !strings.HasPrefix(s.Reason, "a drill") || s.Delivered != 0 {
			t.Errorf("%+v", s)
		}
		settle(2 * time.Minute)
		if s := r.pump.Status(); !s.Up || s.Delivered != 10 {
			t.Errorf("%+v", s)
		}
		r.pump.Drill(time.Hour)
		settle(time.Second)
		r.pump.Drill(0)
		settle(time.Minute)
		if s := r.pump.Status(); !s.Up {
			t.Errorf("a drill that was ended goes on: %+v", s)
		}
	})
}
