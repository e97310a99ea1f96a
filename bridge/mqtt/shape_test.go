package mqtt_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway"
)

// Where 3.1.1 has no place for an event's id, a format puts it into the payload.
func TestFormats(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		for _, c := range []struct{ format, contentType, id string }{
			{"event", "application/json", "id"}, {"cloudevents", "application/cloudevents+json", "id"},
		} {
			b := start(t, &bridgetest.Broker{})
			deliver(t, newSink(t, b.Addr(), version, func(m *mqtt.Config) { m.Format = c.format }),
				gateway.Event{Topic: "up/a", Payload: []byte("21.5"), ContentType: "application/json"})
			p := b.Published()[0]
			var body map[string]any
			if err := json.Unmarshal(p.Payload, &body); err != nil || body[c.id] != "test-gw/e1-1" {
				t.Errorf("%s: %s, %v", c.format, p.Payload, err)
			}
			if version == "5" && (p.Properties.ContentType != c.contentType || !p.Properties.UTF8 || p.Properties.ID() != "test-gw/e1-1") {
				t.Errorf("%s: %+v", c.format, p.Properties)
			}
			if p.Topic != "up/a" {
				t.Errorf("%s: at %s", c.format, p.Topic)
			}
		}
		b := start(t, &bridgetest.Broker{})
		c := bridgetest.Send(t, newSink(t, b.Addr(), version, func(m *mqtt.Config) { m.Format = "event" }))
		c.Event(gateway.Event{Topic: "up/a", Source: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)})
		if err := c.Outcome(); !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("a year that JSON has no form for: %v", err)
		}
	}
}

func TestRewrites(t *testing.T) {
	b := start(t, &bridgetest.Broker{})
	c := bridgetest.Send(t, newSink(t, b.Addr(), "5", func(m *mqtt.Config) {
		m.Topic, m.StripPrefix, m.Retain, m.MaxPacket = "plants/{gateway}/{device}/{topic}", "hall", "never", 1000
	}))
	for _, e := range []struct {
		e    gateway.Event
		kind error
	}{
		{gateway.Event{Topic: "hall/oven", Retain: true, Origin: gateway.Origin{ID: "d"}}, nil},
		{gateway.Event{Topic: "hall", Origin: gateway.Origin{ID: "d"}}, gateway.ErrInvalid},
		{gateway.Event{Topic: "hall/oven"}, gateway.ErrInvalid},
		{gateway.Event{Topic: "hall/oven", Origin: gateway.Origin{ID: "a/b"}}, gateway.ErrInvalid},
		{gateway.Event{Topic: "hall/oven", Origin: gateway.Origin{ID: "d"}, Payload: make([]byte, 1000)}, gateway.ErrInvalid},
		{gateway.Event{Topic: "other", Origin: gateway.Origin{ID: "d"}}, nil},
	} {
		c.Event(e.e)
		if err := c.Outcome(); !errors.Is(err, e.kind) {
			t.Errorf("%s: %v", e.e.Topic, err)
		}
	}
	got := b.Published()
	if len(got) != 2 || got[0].Topic != "plants/test-gw/d/oven" || got[0].Retain || got[1].Topic != "plants/test-gw/d/other" {
		t.Fatalf("published %+v", got)
	}
	user := got[0].Properties.User
	if last := user[len(user)-1]; last != [2]string{"weir-topic", "hall/oven"} {
		t.Errorf("user properties %v", user)
	}
}

// Parallel connections of an uplink differ in their client ids.
func TestLanes(t *testing.T) {
	b := start(t, &bridgetest.Broker{})
	for lane, want := range []string{"weir-test-gw-far", "weir-test-gw-far-1", "weir-test-gw-far-2", "mine-3"} {
		c := mqtt.Config{URL: "mqtt://" + b.Addr()}
		if lane == 3 {
			c.ClientID = "mine"
		}
		s, err := mqtt.New(c, bridgetest.GatewayID, "far", lane, bridgetest.Age)
		if err != nil {
			t.Fatal(err)
		}
		deliver(t, s)
		if got := b.Connects()[lane].ClientID; got != want {
			t.Errorf("lane %d is %q", lane, got)
		}
	}
}
