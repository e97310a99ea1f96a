package kafka_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/gateway"
)

func headers(r *kgo.Record) (out []string) {
	for _, h := range r.Headers {
		out = append(out, h.Key+"="+string(h.Value))
	}
	return out
}

func TestRecord(t *testing.T) {
	c, _ := startFake(t)
	accepted := time.Now().Add(-30 * 24 * time.Hour).Truncate(time.Millisecond)
	full := event("plant1/oven/°C", `{"t":7}`)
	full.Accepted, full.Source = accepted, time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.FixedZone("", 3600))
	full.ContentType, full.Quality, full.Origin.ID = "application/json", gateway.Uncertain, "oven"
	full.UserProperties = []gateway.UserProperty{{Key: "line", Value: "4"}, {Key: "weir-id", Value: "forged"}, {Key: "line", Value: "5"}, {Key: "weir-topic", Value: "forged"}}
	bare := event("plant1/oven/°C", "")
	bare.Payload = nil
	early := event("plant1/oven/°C", "from the future")
	early.Accepted = time.Now().Add(48 * time.Hour)

	topic := c.newTopic(t, 4)
	began := time.Now().Truncate(time.Millisecond)
	if got, err := send(t, newSink(t, c.link.Addr(), topic), full, bare, early); err != nil || len(got.events) != 3 {
		t.Fatalf("settled %v, ended with %v", got.errs, err)
	}
	records := (&reader{c: c, t: t, topic: topic}).all()
	if len(records) != 3 {
		t.Fatalf("%d records", len(records))
	}
	for i, want := range []struct {
		value   string
		headers []string
	}{
		{`{"t":7}`, []string{"weir-id=" + full.ID(bridgetest.GatewayID), "weir-topic=plant1/oven/°C", "weir-device=oven",
			"weir-source-time=2026-01-02T02:04:05.006Z", "weir-quality=uncertain", "content-type=application/json", "line=4", "line=5"}},
		{"", []string{"weir-id=" + bare.ID(bridgetest.GatewayID), "weir-topic=plant1/oven/°C"}},
		{"from the future", []string{"weir-id=" + early.ID(bridgetest.GatewayID), "weir-topic=plant1/oven/°C"}},
	} {
		r := records[i]
		if string(r.Key) != "plant1/oven/°C" || r.Value == nil || string(r.Value) != want.value || fmt.Sprint(headers(r)) != fmt.Sprint(want.headers) {
			t.Errorf("record %d: key %q, value %q (nil: %t), headers %q", i, r.Key, r.Value, r.Value == nil, headers(r))
		}
	}
	if at := records[0].Timestamp; !at.Equal(accepted) { // and a backlog of 30 days is not too old to send
		t.Errorf("timestamp %v, want %v", at, accepted)
	}
	if at := records[2].Timestamp; at.Before(began) || at.After(time.Now()) {
		t.Errorf("an event from the future has the timestamp %v", at)
	}
}

func TestCloudEvents(t *testing.T) {
	c, _ := startFake(t)
	topic := c.newTopic(t, 1)
	e := event("a/b", "21.5")
	if got, err := send(t, newSink(t, c.link.Addr(), topic, func(c *kafka.Config) { c.Format = "cloudevents" }), e); err != nil || got.errs[e] != nil {
		t.Fatalf("settled %v, ended with %v", got.errs, err)
	}
	r := (&reader{c: c, t: t, topic: topic}).all()[0]
	var ce struct {
		SpecVersion, ID, Subject string
		Data                     float64
	}
	if err := json.Unmarshal(r.Value, &ce); err != nil || ce.SpecVersion != "1.0" || ce.ID != e.ID(bridgetest.GatewayID) || ce.Subject != "a/b" || ce.Data != 21.5 {
		t.Errorf("%s: %v", r.Value, err)
	}
	if header(r, "content-type") != "application/cloudevents+json" || header(r, "weir-id") != ce.ID {
		t.Errorf("headers %q", headers(r))
	}
}

// checkCompression sends with each codec what compresses well.
func checkCompression(t *testing.T, c *cluster) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		topic := c.newTopic(t, 1)
		all := numbers("a", 200)
		if got, err := send(t, newSink(t, c.link.Addr(), topic, func(c *kafka.Config) { c.Compression = codec }), all...); err != nil || len(got.events) != 200 {
			t.Errorf("%s: settled %v, ended with %v", codec, got.errs, err)
		}
		records := (&reader{c: c, t: t, topic: topic}).all()
		if len(records) != 200 || string(records[199].Value) != "199" || (records[199].Attrs.CompressionType() == 0) != (codec == "none") {
			t.Errorf("%s: %d records", codec, len(records))
		}
	}
}

func TestCompression(t *testing.T) {
	c, _ := startFake(t)
	checkCompression(t, c)
}
