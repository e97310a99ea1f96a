package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// plug is a Tasmota socket, as much of it as the test needs, on a connection that comes back by itself.
type plug struct {
	*mqttclient.Client
	orders chan string // payloads on cmnd/plug/POWER
	stop   func()
}

func startPlug(t *testing.T, address string) *plug {
	p := &plug{orders: make(chan string, 10)}
	p.Client = mqttclient.New(mqttclient.Options{
		Address: address, ClientID: "DVES_A1B2C3", BackoffMax: 200 * time.Millisecond,
		Will:     &mqttclient.Message{Topic: "tele/plug/LWT", Payload: []byte("Offline"), QoS: 1, Retain: true},
		Received: func(m *mqttclient.Message) { p.orders <- string(m.Payload) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	p.stop = func() { cancel(); <-ended }
	t.Cleanup(p.stop)
	return p
}

func (p *plug) say(t *testing.T, topic, payload string, retain bool) {
	t.Helper()
	if err := p.PublishWait(t.Context(), &mqttclient.Message{Topic: topic, Payload: []byte(payload), QoS: 2, Retain: retain}); err != nil {
		t.Fatal(err)
	}
}

// cmdPublish is the script command "mqttpub CLIENT TOPIC PAYLOAD": a client of the broker at $MQTT publishes.
func cmdPublish(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 || neg {
		ts.Fatalf("usage: mqttpub CLIENT TOPIC PAYLOAD")
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c := mqttclient.New(mqttclient.Options{Address: ts.Getenv("MQTT"), ClientID: args[0], Clean: true})
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(ctx) }()
	ts.Check(c.PublishWait(ctx, &mqttclient.Message{Topic: args[1], Payload: []byte(args[2]), QoS: 1}))
	cancel()
	<-ended
}

// device waits until the device called id is as want says, and returns it.
func (w *rig) device(id, what string, want func(web.Device) bool) (d web.Device) {
	w.t.Helper()
	bridgetest.Until(w.t, what, func() bool {
		var all []web.Device
		get(w.t, "http://"+w.http+"/api/devices", &all)
		for _, d = range all {
			if d.ID == id && want(d) {
				return true
			}
		}
		return false
	})
	return d
}

// A socket publishes at QoS 2 while weir is killed again and again: what was accepted becomes readings, each once, in
// order. It takes commands, and its Last Will is its status.
func TestMQTTDeviceKilled(t *testing.T) {
	w := startRig(t, "devices:\n  plug: {driver: mqtt, profile: tasmota, name: Heater, commands: {power: {}}}\n")
	plug := startPlug(t, w.mqtt)
	plug.say(t, "tele/plug/LWT", "Online", true)
	const kills, each = 5, 40
	n := 0
	for range kills {
		for range each {
			n++
			plug.say(t, "tele/plug/SENSOR", fmt.Sprintf(`{"ENERGY":{"Power":%d,"Voltage":231}}`, n), false)
		}
		w.kill()
		w.start()
	}
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i+1))
	}
	bridgetest.Until(t, "the last reading", func() bool {
		got := w.history("plant1/plug/energy.power")
		return len(got) > 0 && got[len(got)-1] == want[n-1]
	})
	if got := w.history("plant1/plug/energy.power"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("readings are lost or come twice: %v", got)
	}
	// What it said before the kill is no sign of it.
	w.device("plug", "offline until it says something", func(d web.Device) bool { return !d.Up && strings.Contains(d.Reason, "nothing heard from it") })
	plug.say(t, "tele/plug/LWT", "Online", true)
	d := w.device("plug", "online", func(d web.Device) bool { return d.Up })
	if fmt.Sprint(d.Settings) != "[power]" || d.Name != "Heater" {
		t.Errorf("%+v", d)
	}
	for _, m := range d.Measurements {
		if m.Name == "energy.power" && (m.Unit != "W" || m.Kind != "power") {
			t.Errorf("%+v", m)
		}
	}

	if _, err := plug.Subscribe(t.Context(), mqttclient.Sub{Filter: "cmnd/plug/POWER", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if order := <-plug.orders; order != "ON" {
			t.Errorf("order %q", order)
		}
		plug.Publish(t.Context(), &mqttclient.Message{Topic: "stat/plug/RESULT", Payload: []byte(`{"POWER":"ON"}`), QoS: 1})
	}()
	var out bytes.Buffer
	if code := run(t.Context(), []string{"-c", w.conf, "devices", "set", "plug", "power", "on", "--timeout", "20s"}, nil, &out, &out); code != 0 || out.String() != "ON\n" {
		t.Errorf("%d, %s", code, &out)
	}
	<-answered
	plug.Cut()
	plug.stop()
	w.device("plug", "offline by its will", func(d web.Device) bool { return !d.Up && strings.Contains(d.Reason, "tele/plug/LWT") })
	if got := w.history("plant1/plug/status"); got[len(got)-1] != "offline" {
		t.Errorf("status %v", got)
	}
	w.end()
}

// The page shows who publishes and is no device, and its button writes one into the config.
func TestSeenOnThePage(t *testing.T) {
	b := newBrowser(t, 1280, 900)
	w := startRig(t, "")
	plug := startPlug(t, w.mqtt)
	plug.say(t, "tele/plug/LWT", "Online", true)
	plug.say(t, "tele/plug/SENSOR", `{"ENERGY":{"Power":5}}`, false)
	b.open("http://" + w.http + "/")
	b.wait(`/plug[^]*tasmota[^]*ENERGY/.test(document.querySelector('#seen')?.innerText)`)
	b.screenshot("seen")
	b.eval(`document.querySelector('#seen button').click()`)
	b.wait(`/Device plug is in .*devices.yaml. Restart/.test(document.querySelector('#notices').innerText)`)
	text, err := os.ReadFile(filepath.Join(w.dir, "conf.d", "devices.yaml"))
	if err != nil || !strings.Contains(string(text), `  plug: {driver: "mqtt", profile: "tasmota", base: "plug"}`) {
		t.Errorf("%v: %s", err, text)
	}
	w.end()
	w.start()
	plug.say(t, "tele/plug/LWT", "Online", true)
	b.wait(`document.querySelector('#seen-panel').hidden && /plug[^]*mqtt[^]*online/.test(document.querySelector('#devices').innerText)`)
	w.end()
}
