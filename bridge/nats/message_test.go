package nats_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/gateway"
)

// Each topic goes to the subject to which the server's own MQTT gateway brings it.
func TestSubjectsAreThoseOfTheMQTTGateway(t *testing.T) {
	port := freePort(t)
	s := start(t, func(o *server.Options) { o.ServerName, o.MQTT.Host, o.MQTT.Port = "one", "127.0.0.1", port })
	nc := connect(t, s.ClientURL())
	newStream(t, nc)
	topics := []string{"up/a", "up/a/b", "up//b", "up/", "up//", "up///x", "up/a.b/c", "up/.", "up/..x./y", "up/Halle/Öl", "up/a*b", "up/>x", "up/$x"}
	var events []*gateway.Event
	for i, topic := range topics {
		events = append(events, event(topic, i+1))
	}
	sub, err := nc.SubscribeSync("up.>")
	if err != nil {
		t.Fatal(err)
	}
	subjects := func() (got []string) {
		for range topics {
			m, err := sub.NextMsg(10 * time.Second)
			if err != nil {
				t.Fatalf("after %q: %v", got, err)
			}
			got = append(got, m.Subject)
		}
		return got
	}
	for i, err := range outcomes(t, newSink(t, address(s)), events...) {
		if err != nil {
			t.Errorf("%s: %v", topics[i], err)
		}
	}
	ours := subjects()

	publishMQTT(t, fmt.Sprint("127.0.0.1:", port), topics)
	if diff := cmp.Diff(subjects(), ours); diff != "" {
		t.Errorf("the gateway's subjects and ours:\n%s", diff)
	}
}

// publishMQTT publishes on each topic with QoS 0, in a session of bare bytes (MQTT 3.1.1 §3.1, §3.3).
func publishMQTT(t *testing.T, address string, topics []string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	all := []byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c")
	for _, topic := range topics {
		all = append(all, 0x30, byte(2+len(topic)), 0, byte(len(topic)))
		all = append(all, topic...)
	}
	if _, err := conn.Write(append(all, 0xe0, 0)); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || !bytes.Equal(answer, []byte{0x20, 2, 0, 0}) {
		t.Fatalf("%x, %v", answer, err)
	}
}

// received sends e and returns the message that arrives.
func received(t *testing.T, e *gateway.Event, change ...func(*nats.Config)) *client.Msg {
	t.Helper()
	s := start(t)
	nc := connect(t, s.ClientURL())
	stream := newStream(t, nc)
	if err := outcomes(t, newSink(t, address(s), change...), e)[0]; err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return &client.Msg{Subject: m.Subject, Data: m.Data, Header: m.Header}
}

func full() *gateway.Event {
	at := time.Date(2026, 11, 24, 12, 0, 0, 5, time.UTC)
	return &gateway.Event{
		Topic: "up/Öl/1", Payload: []byte("21.5"), Accepted: at, Source: at.Add(-time.Second), Quality: gateway.Uncertain,
		ContentType: "text/plain", Origin: gateway.Origin{ID: "boiler"}, Epoch: "e1", Offset: 7,
		UserProperties: []gateway.UserProperty{
			{Key: "unit", Value: "°C"}, {Key: "tag", Value: "b"}, {Key: "tag", Value: "a"}, {Key: "two words", Value: "x"},
			{Key: "a:b", Value: "x"}, {Key: "Nats-Rollup", Value: "all"}, {Key: "nats-msg-id", Value: "x"}, {Key: "Weir-Topic", Value: "x"},
			{Key: "Content-Type", Value: "x"}, {Key: "line", Value: "a\r\nNats-Rollup: all"}, {Key: "", Value: "x"},
		},
	}
}

func TestHeaders(t *testing.T) {
	m := received(t, full())
	want := client.Header{
		"Nats-Msg-Id": {bridgetest.GatewayID + "/e1-7"}, "content-type": {"text/plain"}, "weir-topic": {"up/Öl/1"}, "weir-device": {"boiler"},
		"weir-accepted": {"2026-11-24T12:00:00.000000005Z"}, "weir-source-time": {"2026-11-24T11:59:59.000000005Z"}, "weir-quality": {"uncertain"},
		"unit": {"°C"}, "tag": {"b", "a"}, "line": {"a  Nats-Rollup: all"},
	}
	if diff := cmp.Diff(want, m.Header); diff != "" || m.Subject != "up.Öl.1" || string(m.Data) != "21.5" {
		t.Errorf("%s %q\n%s", m.Subject, m.Data, diff)
	}
}

func TestCloudEvent(t *testing.T) {
	m := received(t, full(), func(c *nats.Config) { c.Format, c.Subject = "cloudevents", "up.{gateway}.{topic}.raw" })
	var c cloudevents.Event
	if err := json.Unmarshal(m.Data, &c); err != nil {
		t.Fatal(err)
	}
	if c.ID != m.Header.Get(client.MsgIdHdr) || c.Subject != "up/Öl/1" || m.Header.Get("content-type") != cloudevents.ContentType || m.Subject != "up.test-gw.up.Öl.1.raw" {
		t.Errorf("%s %v %+v", m.Subject, m.Header, c)
	}
}

// However a topic looks, its subject is one that a server takes for what it is, or it is poison.
func FuzzSubject(f *testing.F) {
	for _, topic := range []string{"a/b", "/", "//a", "a.b", "$JS/API", "*", ">", "a/>", "a b", "."} {
		f.Add(topic)
	}
	s, err := nats.New(nats.Config{URLs: []string{"nats://127.0.0.1:1"}}, "gw", "far", byTopic)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		if gateway.ValidateTopic(topic) != nil {
			return
		}
		m, err := s.Message(event(topic, 1))
		if err != nil {
			return
		}
		if !server.IsValidLiteralSubject(m.Subject) || strings.HasPrefix(m.Subject, "$") || slices.Contains(strings.Split(m.Subject, "."), ">") {
			t.Errorf("%q: %q", topic, m.Subject)
		}
		back := strings.Split(m.Subject, ".")
		for i, token := range back {
			if back[i] = strings.ReplaceAll(token, "//", "."); token == "/" {
				back[i] = ""
			}
		}
		if again := strings.Join(back, "/"); again != topic {
			t.Errorf("%q becomes %q, and that %q", topic, m.Subject, again)
		}
	})
}

// Nothing of a connection is left when its context ends while the server says nothing at all.
func TestEndWhileConnecting(t *testing.T) {
	s := start(t)
	p := bridgetest.NewProxy(t, address(s))
	p.LoseAnswers()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := newSink(t, p.Addr()).Send(ctx, nil, func() { t.Error("up") }, nil); err != context.DeadlineExceeded {
		t.Errorf("%v", err)
	}
}
