package nats_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/gateway"
)

// uplink is a sink behind a real pump, and how many events it was given.
type uplink struct {
	*bridgetest.Running
	n int
}

func startUplink(t *testing.T, s *nats.Sink) *uplink {
	t.Helper()
	return &uplink{Running: bridgetest.RunPump(t, s)}
}

// add appends n events with numbers as payloads, over the topics up/0 to up/4.
func (u *uplink) add(n int) {
	for range n {
		u.n++
		u.Log.Append(&gateway.Event{Topic: "up/" + strconv.Itoa(u.n%5), Payload: []byte(strconv.Itoa(u.n)), Accepted: time.Now()})
	}
}

func (u *uplink) delivered(t *testing.T, n int) {
	t.Helper()
	bridgetest.Until(t, fmt.Sprint(n, " events are delivered"), func() bool { return u.Status().Delivered >= uint64(n) })
}

func (u *uplink) isDownBecause(t *testing.T, reason string) {
	t.Helper()
	bridgetest.Until(t, "the uplink is down because "+reason, func() bool { return !u.Status().Up && contains(u.Status().Reason, reason) })
}

// inOrder checks that nothing is there twice, and that the payloads of a topic, which are numbers, grow.
func inOrder(t *testing.T, got []bridgetest.Arrival) {
	t.Helper()
	seen, last := map[string]bool{}, map[string]int{}
	for _, a := range got {
		i, err := strconv.Atoi(a.Payload)
		switch {
		case err != nil:
			t.Fatal(err)
		case seen[a.ID]:
			t.Errorf("%+v is there twice", a)
		case i <= last[a.Topic]:
			t.Errorf("%+v is behind %d", a, last[a.Topic])
		}
		seen[a.ID], last[a.Topic] = true, i
	}
}

// once checks that just the n events of add are there, each once and in order.
func once(t *testing.T, got []bridgetest.Arrival, n int) {
	t.Helper()
	inOrder(t, got)
	if len(got) != n {
		t.Errorf("%d of %d events are there", len(got), n)
	}
	for _, a := range got {
		if a.ID != bridgetest.GatewayID+"/e1-"+a.Payload {
			t.Errorf("%+v has a wrong id", a)
		}
	}
}

// outcomes sends events over one connection and returns what became of each.
func outcomes(t *testing.T, s *nats.Sink, events ...*gateway.Event) (all []error) {
	t.Helper()
	done, err := bridgetest.Send(t, s, events...).Finish()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		i := slices.IndexFunc(done, func(o bridgetest.Outcome) bool { return o.Event == e })
		if i < 0 {
			t.Fatalf("no outcome of %s", e.ID(bridgetest.GatewayID))
		}
		all = append(all, done[i].Err)
	}
	return all
}
