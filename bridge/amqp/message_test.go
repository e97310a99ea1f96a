package amqp

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/gateway"
)

func TestRoutingKey(t *testing.T) {
	for _, c := range []struct{ template, topic, want string }{
		{"{topic}", "a/b/c", "a.b.c"},
		{"{topic}", "v1.2/b", "v1/2.b"},
		{"{topic}", "/a//b/", ".a..b."},
		{"{topic}", "a*/ü b", "a*.ü b"},
		{"in.{gateway}.{device}.{topic}.x", "a/b", "in.gw/1.oven.a.b.x"},
		{"telemetry", "a/b", "telemetry"},
	} {
		tpl, err := parseTemplate(c.template)
		if err != nil {
			t.Fatal(err)
		}
		got := tpl.of(&gateway.Event{Topic: c.topic, Origin: gateway.Origin{ID: "oven"}}, "gw.1")
		if got != c.want {
			t.Errorf("%s of %s: %s, not %s", c.template, c.topic, got, c.want)
		}
		if c.template == "{topic}" && swap.Replace(got) != c.topic {
			t.Errorf("%s does not turn back into %s", got, c.topic)
		}
	}
}

func TestBindingKey(t *testing.T) {
	for filter, want := range map[string]string{"a/+/c": "a.*.c", "a/#": "a.#", "#": "#", "v1.2/+": "v1/2.*", "/a//+": ".a..*", "a*/b": "a*.b"} {
		if got, err := bindingKey(filter); got != want || err != nil {
			t.Errorf("%s: %s, not %s, %v", filter, got, want, err)
		}
	}
}

// What would break the connection again and again is refused before it is sent.
func TestUnsendable(t *testing.T) {
	s, err := New(Config{URL: "amqp://h"}, "gw", "far", func() time.Duration { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 256)
	for _, e := range []gateway.Event{
		{Topic: long},
		{Topic: "t", ContentType: long},
		{Topic: "t", UserProperties: []gateway.UserProperty{{Key: long[:251]}}},
		{Topic: "t", UserProperties: []gateway.UserProperty{{Key: "k", Value: strings.Repeat("x", frameSize)}}},
		{Topic: "t", CorrelationData: make([]byte, frameSize)},
	} {
		if _, _, err := s.message(&e, frameSize); !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%.60v: %v", e, err)
		}
	}
	e := gateway.Event{Topic: long[:255], ContentType: long[:255], UserProperties: []gateway.UserProperty{{Key: long[:250]}}}
	if _, _, err := s.message(&e, frameSize); err != nil {
		t.Error(err)
	}
}

func TestCloudEvent(t *testing.T) {
	s, err := New(Config{URL: "amqp://h", Format: "cloudevents"}, "gw", "far", func() time.Duration { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := s.message(&gateway.Event{Topic: "a/b", Payload: []byte("7"), Epoch: "e1", Offset: 3}, frameSize)
	if err != nil {
		t.Fatal(err)
	}
	var c cloudevents.Event
	if err := json.Unmarshal(p.Body, &c); err != nil {
		t.Fatal(err)
	}
	if p.ContentType != cloudevents.ContentType || c.ID != "gw/e1-3" || c.Subject != "a/b" || string(c.Data) != "7" || p.MessageId != c.ID {
		t.Errorf("%+v %s", p, p.Body)
	}
}
