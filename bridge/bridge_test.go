package bridge_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// load returns a bridge for the uplinks and routes of a file.
func load(t *testing.T, text string, log *bridgetest.Log, hub *gateway.Hub, state *bridgetest.State) (*bridge.Bridge, error) {
	t.Helper()
	return bridge.New(options(t, text, log, hub, state))
}

func options(t *testing.T, text string, log *bridgetest.Log, hub *gateway.Hub, state *bridgetest.State) bridge.Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return bridge.Options{
		GatewayID: gw, Uplinks: c.Uplinks, Routes: c.Routes, Hub: hub, Count: log.Count, State: state, Age: bridgetest.Age,
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"uplinks:\n  cloud: {url: mqtt://h}\n", "weir.yaml:2:3: cloud has no sink"},
		{"uplinks:\n  cloud: {sink: mqt, url: mqtt://h}\n", `weir.yaml:2:17: there is no sink "mqt", did you mean "mqtt"?`},
		{"uplinks:\n  cloud: {sink: mqtt}\n", "weir.yaml:2:3: url: url is missing: mqtt://host, mqtts://host, ws://host/path or wss://host/path"},
		{"uplinks:\n  cloud:\n    sink: mqtt\n    url: http://h\n", `weir.yaml:4:10: url: unknown scheme "http": mqtt://host, mqtts://host, ws://host/path or wss://host/path`},
		{"uplinks:\n  cloud: {sink: mqtt, url: mqtt://h, windw: 5}\n", `weir.yaml:2:38: unknown key "windw", did you mean "window"?`},
		{"uplinks:\n  cloud: {sink: mqtt, url: mqtt://h, keep_alive: 30}\n", `weir.yaml:2:50: "30": expected a duration such as 500ms, 5s, 10m, 2h or 7d`},
		{"uplinks:\n  cloud: {sink: mqtt, url: mqtt://h, version: 4}\n", `weir.yaml:2:47: version: unknown MQTT version "4": 5 or 3.1.1`},
	} {
		log, hub := bridgetest.NewLog("e1")
		_, err := load(t, c.text+"routes:\n  all: {topics: [\"#\"], uplink: cloud}\n", log, hub, bridgetest.NewState())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, not %s", c.text, err, c.want)
		}
	}
	log, hub := bridgetest.NewLog("e1")
	if b, err := load(t, "", log, hub, bridgetest.NewState()); err != nil || len(b.Status()) != 0 {
		t.Errorf("no uplinks: %v", err)
	}
	_, err := bridge.New(bridge.Options{Routes: map[string]config.Route{"r": {Uplink: "nowhere"}}})
	if err == nil || err.Error() != `route "r" leads to uplink "nowhere", which does not exist` {
		t.Error(err)
	}
}

// Two uplinks, each with what its routes say; a topic that two routes of one uplink match
// goes there once.
func TestRoutes(t *testing.T) {
	var north, south bridgetest.Broker
	north.Start(t)
	south.Start(t)
	log, hub := bridgetest.NewLog("e1")
	b, err := load(t, `
uplinks:
  north: {sink: mqtt, url: "mqtt://`+north.Addr()+`"}
  south: {sink: mqtt, url: "mqtt://`+south.Addr()+`", version: 3.1.1}
routes:
  all: {topics: ["plant/#"], uplink: north}
  hot: {topics: ["plant/+/temperature"], uplink: north}
  some: {topics: ["plant/b/#"], uplink: south}
`, log, hub, bridgetest.NewState())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- b.Run(ctx) }()
	for _, topic := range []string{"plant/a/temperature", "plant/b/temperature", "elsewhere", "plant/b/humidity"} {
		log.Append(&gateway.Event{Topic: topic, Accepted: time.Now()})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for {
		s := b.Status()
		if s[0].Delivered == 3 && s[1].Delivered == 2 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%+v", s)
		}
	}
	s := b.Status()
	if s[0].Uplink != "north" || s[0].Sink != "mqtt" || s[1].Uplink != "south" || !s[0].Up || !s[1].Up {
		t.Errorf("%+v", s)
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
	topics := func(b *bridgetest.Broker) (all string) {
		for _, p := range b.Published() {
			all += p.Topic + " "
		}
		return all
	}
	if got := topics(&north); got != "plant/a/temperature plant/b/temperature plant/b/humidity " {
		t.Errorf("north got %s", got)
	}
	if got := topics(&south); got != "plant/b/temperature plant/b/humidity " {
		t.Errorf("south got %s", got)
	}
}
