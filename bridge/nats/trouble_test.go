package nats_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/gateway"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// Without a stream nothing is lost and nothing is dead; the reason names the subject.
func TestMissingStream(t *testing.T) {
	s := start(t)
	u := startUplink(t, newSink(t, address(s)))
	u.add(20)
	u.isDownBecause(t, "no stream listens on the subject up.1")
	stream := newStream(t, connect(t, s.ClientURL()))
	u.delivered(t, 20)
	if st := u.Status(); st.Dead != 0 {
		t.Errorf("%d events are dead", st.Dead)
	}
	once(t, stored(t, stream), 20)
}

// A full stream that refuses new messages is waited for, and order survives its having room for
// some of what is in flight.
func TestFullStream(t *testing.T) {
	for name, mode := range map[string]func(*nats.Config){"shared": func(*nats.Config) {}, "exclusive": exclusive} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			nc := connect(t, s.ClientURL())
			limit := func(n int64) func(*jetstream.StreamConfig) {
				return func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = n, jetstream.DiscardNew }
			}
			stream := newStream(t, nc, limit(10))
			u := startUplink(t, newSink(t, address(s), mode))
			u.add(100)
			u.isDownBecause(t, "maximum messages exceeded (10077)")
			if c := u.Status().Circuit; c.State != bridge.LinkThrottled {
				t.Errorf("the circuit: %+v", c)
			}
			for n := int64(11); n <= 100; n++ { // room for one at a time, while the sink tries
				c := stream.CachedInfo().Config
				c.MaxMsgs = n
				if _, err := js(t, nc).UpdateStream(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			u.delivered(t, 100)
			if st := u.Status(); st.Dead != 0 {
				t.Errorf("%d events are dead", st.Dead)
			}
			once(t, stored(t, stream), 100)
		})
	}
}

// Another writer makes exclusive slow, not wrong.
func TestExclusiveIsNot(t *testing.T) {
	s := start(t)
	nc := connect(t, s.ClientURL())
	stream := newStream(t, nc)
	u := startUplink(t, newSink(t, address(s), exclusive))
	for range 10 {
		u.add(10)
		if _, err := js(t, nc).Publish(t.Context(), "up.other", []byte("0")); err != nil {
			t.Fatal(err)
		}
	}
	u.delivered(t, 100)
	var ours []bridgetest.Arrival
	for _, a := range stored(t, stream) {
		if a.ID != "" {
			ours = append(ours, a)
		}
	}
	once(t, ours, 100)
}

func TestPoison(t *testing.T) {
	s := start(t, func(o *server.Options) {
		o.MaxPayload = 8 << 10
		o.Users = []*server.User{{Username: "gw", Password: "pw", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"up.>", "$JS.API.>"}, Deny: []string{"up.secret.>"}},
		}}}
	})
	login := func(c *nats.Config) { c.Username, c.Password = "gw", "pw" }
	nc := connect(t, "nats://gw:pw@"+address(s))
	stream := newStream(t, nc, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 4 << 10 })

	of := func(size int) *gateway.Event { e := event("up/size", size); e.Payload = make([]byte, size); return e }
	all := outcomes(t, newSink(t, address(s), login),
		event("up/a", 1), of(9<<10), event("up/a", 2), of(5<<10), event("up/secret/x", 3), event("up/secret/x", 4), event("up/a", 5),
		event("up/a b", 6), event("$JS/API/STREAM/PURGE/UP", 7), event("up/*", 8), event("_INBOX/x/y", 9), event("up/"+strings.Repeat("x", 4000), 10), event("up/a", 11))
	for i, want := range []string{
		"", "larger than the 8192", "", "message size exceeds maximum allowed (10054)", "may not publish on the subject up.secret.x", "may not publish", "",
		"white space", "the server's own", "wildcard", "inbox", "longer than", "",
	} {
		switch err := all[i]; {
		case (err == nil) != (want == ""), err != nil && !contains(err.Error(), want):
			t.Errorf("event %d: %v, want %q", i, err, want)
		case contains(want, "may not") && !errors.Is(err, gateway.ErrDenied):
			t.Errorf("event %d: %v is not denied", i, err)
		case want != "" && !contains(want, "may not") && !errors.Is(err, gateway.ErrInvalid):
			t.Errorf("event %d: %v is not poison", i, err)
		}
	}
	if got := stored(t, stream); len(got) != 4 {
		t.Errorf("stored %+v", got)
	}
}

// With one subject for all, a denial is the uplink's trouble and not each event's.
func TestDeniedSubject(t *testing.T) {
	s := start(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "gw", Password: "pw", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"other"}},
		}}}
	})
	u := startUplink(t, newSink(t, address(s), func(c *nats.Config) { c.Username, c.Password, c.Subject = "gw", "pw", "up.all" }))
	u.add(3)
	u.isDownBecause(t, `Permissions Violation for Publish to "up.all"`)
	if st := u.Status(); st.Dead != 0 || st.Delivered != 0 {
		t.Errorf("%+v", st)
	}
}

// An account that may not listen on its inbox would wait for ever; the uplink says so at once.
func TestDeniedInbox(t *testing.T) {
	s := start(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "gw", Password: "pw", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_gw.>"}},
		}}}
	})
	newStream(t, connect(t, "nats://gw:pw@"+address(s), clientInbox))
	login := func(c *nats.Config) { c.Username, c.Password = "gw", "pw" }
	err := newSink(t, address(s), login).Send(t.Context(), nil, func() { t.Error("up") }, nil)
	if err == nil || !contains(err.Error(), "Permissions Violation for Subscription") {
		t.Error(err)
	}
	u := startUplink(t, newSink(t, address(s), login, func(c *nats.Config) { c.InboxPrefix = "_INBOX_gw" }))
	u.add(1)
	u.delivered(t, 1)
}

// What answers and is no stream has not accepted anything.
func TestNoStreamAnswers(t *testing.T) {
	s := start(t)
	nc := connect(t, s.ClientURL())
	for _, answer := range []string{"thanks", "{}", `{"stream":"UP"}`} {
		sub, err := nc.Subscribe("up.>", respond(answer))
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		in := make(chan *gateway.Event, 1)
		in <- event("up/a", 1)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err = newSink(t, address(s)).Send(ctx, in, func() {}, func(_ *gateway.Event, err error) { t.Errorf("%s: done(%v)", answer, err) })
		cancel()
		if err == nil || !contains(err.Error(), "is no stream") {
			t.Errorf("%s: %v", answer, err)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}

// A link that lies still is noticed by its pings when nothing is to be sent.
func TestIdleLinkLiesStill(t *testing.T) {
	p := bridgetest.NewProxy(t, address(start(t)))
	err := newSink(t, p.Addr(), impatient).Send(t.Context(), make(chan *gateway.Event), p.Stall, nil)
	if err == nil || !contains(err.Error(), "stale connection") {
		t.Error(err)
	}
}

// A server that goes away is followed by the next of the list.
func TestNextServer(t *testing.T) {
	a, b := start(t), start(t)
	for _, s := range []*server.Server{a, b} {
		newStream(t, connect(t, s.ClientURL()))
	}
	u := startUplink(t, newSink(t, address(a), func(c *nats.Config) { c.URLs = append(c.URLs, "nats://"+address(b)) }))
	u.add(10)
	u.delivered(t, 10)
	stop(a)
	u.add(10)
	u.delivered(t, 20)
}
