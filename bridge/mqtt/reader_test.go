package mqtt_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway"
)

// A Reader at a real mosquitto sees what a sink sends: id, topic as it was before it was rewritten,
// payload, in order; and nothing that was retained before. Over TCP, TLS and WebSocket.
func TestReader(t *testing.T) {
	authority := bridgetest.NewAuthority(t)
	cert, key := authority.ServerFiles("127.0.0.1")
	tls, ws := freePort(t), freePort(t)
	m := bridgetest.StartMosquitto(t,
		fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\ncertfile %s\nkeyfile %s", tls, cert, key),
		fmt.Sprintf("listener %s 127.0.0.1\nprotocol websockets\nallow_anonymous true", ws))
	for name, c := range map[string]mqtt.Config{
		"TCP":       {URL: "mqtt://" + m.Addr},
		"TLS":       {URL: "mqtts://127.0.0.1:" + tls, Config: dial.Config{CAFile: authority.File}},
		"WebSocket": {URL: "ws://127.0.0.1:" + ws},
	} {
		t.Run(name, func(t *testing.T) {
			sink, err := mqtt.New(mqtt.Config{URL: "mqtt://" + m.Addr, Topic: name + "/{topic}"}, "test-gw", "far", 0, func() time.Duration { return 0 })
			if err != nil {
				t.Fatal(err)
			}
			p := bridgetest.RunPump(t, sink)
			p.Log.Append(&gateway.Event{Topic: "plant1/0", Payload: []byte("old"), Retain: true})
			bridgetest.Until(t, "the retained one is there", func() bool { return p.Status().Delivered == 1 })

			c.KeepAlive = 500 * time.Millisecond // so that pings are seen to work
			r, err := mqtt.NewReader(c, name+"/#")
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var got []string
			ready, over := make(chan struct{}), make(chan error, 1)
			ctx, stop := context.WithCancel(t.Context())
			go func() {
				over <- r.Read(ctx, func() { close(ready) }, func(topic, id string, payload []byte) {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, fmt.Sprintf("%s %s %s", id, topic, payload))
				})
			}()
			select {
			case <-ready:
			case err := <-over:
				t.Fatal(err)
			}
			count := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }
			for i := range 5 {
				p.Log.Append(&gateway.Event{Topic: "plant1/x", Payload: fmt.Append(nil, i)})
				bridgetest.Until(t, "it arrives", func() bool { return count() == i+1 })
			}
			select { // a silence that is longer than it would bear without pings
			case err := <-over:
				t.Fatal(err)
			case <-time.After(3 * c.KeepAlive):
			}
			stop()
			if err := <-over; err != nil {
				t.Error(err)
			}
			for i, line := range got {
				if want := fmt.Sprintf("test-gw/e1-%d plant1/x %d", i+2, i); line != want {
					t.Errorf("got %q, want %q", line, want)
				}
			}
		})
	}
}

func TestReaderIsRefused(t *testing.T) {
	closed := bridgetest.StartMosquitto(t, "allow_anonymous false")
	for name, c := range map[string]struct{ broker, says string }{
		"account": {closed.Addr, "the broker refused the connection: not authorized"},
		"nobody":  {"127.0.0.1:" + freePort(t), "connection refused"},
	} {
		r, err := mqtt.NewReader(mqtt.Config{URL: "mqtt://" + c.broker}, "#")
		if err != nil {
			t.Fatal(err)
		}
		err = r.Read(t.Context(), func() { t.Errorf("%s: it is ready", name) }, nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := mqtt.NewReader(mqtt.Config{URL: "mqtt://127.0.0.1"}, "a/#/b"); err == nil {
		t.Error("a wrong filter is taken")
	}
}

// A broker that falls silent is noticed, and one that sends nonsense harms nobody.
func TestReaderOfABadBroker(t *testing.T) {
	silent := bridgetest.NewProxy(t, bridgetest.StartMosquitto(t).Addr)
	r, err := mqtt.NewReader(mqtt.Config{URL: "mqtt://" + silent.Addr(), KeepAlive: 100 * time.Millisecond}, "#")
	if err != nil {
		t.Fatal(err)
	}
	if err = r.Read(t.Context(), silent.Stall, nil); err == nil || !strings.Contains(err.Error(), "silent") {
		t.Errorf("a silent broker: %v", err)
	}
	b := &bridgetest.Broker{}
	b.Start(t)
	r, err = mqtt.NewReader(mqtt.Config{URL: "mqtt://" + b.Addr(), Config: dial.Config{ConnectTimeout: 300 * time.Millisecond}}, "#")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Read(t.Context(), nil, nil); err == nil { // it knows no SUBSCRIBE
		t.Error("a broker without subscriptions is no error")
	}
}
