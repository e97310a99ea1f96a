package devices

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/mqttdev"
	"github.com/weir-iot/weir/gateway"
)

// note has a client say something, as if it were the time-th thing that is said.
func note(w *watch, client, topic, payload string, at int) {
	w.note(&gateway.Event{Topic: topic, Payload: []byte(payload), Accepted: time.Unix(int64(1e9+at), 0), Age: time.Duration(at) * time.Second, Origin: gateway.Origin{Via: "mqtt", ID: client, User: "u"}})
}

func TestWhoIsSeen(t *testing.T) {
	s, err := New(Options{Sections: sections(t, boiler), Site: "plant1"})
	if err != nil {
		t.Fatal(err)
	}
	w := s.watch
	note(w, "DVES_1", "tele/boiler/SENSOR", `{"a":1}`, 1) // of a device
	note(w, "ha", "cmnd/boiler/POWER", "ON", 1)           // a command
	note(w, "ha", "plant1/boiler/level/set", "1", 1)
	note(w, "ha", "homeassistant/sensor/x/y/config", "{}", 1)
	note(w, "x", "gone", "", 1) // takes back
	w.note(&gateway.Event{Topic: "a/b", Payload: []byte("1"), Origin: gateway.Origin{Via: "serial", ID: "scale"}})
	note(w, "DVES_2", "tele/plug/LWT", "Online", 2)
	note(w, "DVES_2", "tele/plug/SENSOR", `{"ENERGY":{"Power":5,"Total":[1,2]},"On":true,"N":null,"Id":"x"}`, 3)
	note(w, "z2m", "zigbee2mqtt/kitchen/lamp", `{"state":"ON"}`, 4)
	note(w, "z2m", "zigbee2mqtt/door/availability", `{"state":"online"}`, 5)
	note(w, "z2m", "zigbee2mqtt/bridge/state", "online", 6)
	note(w, "own", "farm/level", " 71.5 ", 7)
	w.note(&gateway.Event{Topic: "farm/level", Payload: []byte("x"), Age: 7500 * time.Millisecond, Origin: gateway.Origin{Via: "mqtt", ID: "own"}}) // too soon to look at
	got := s.Seen()
	want := []Seen{
		{Client: "DVES_2", User: "u", First: time.Unix(1e9+2, 0), Last: time.Unix(1e9+3, 0), Messages: 2, Topics: []string{"tele/plug/LWT", "tele/plug/SENSOR"}, Topic: "tele/plug/SENSOR",
			Shape: `{"ENERGY": {"Power": number, "Total": [number, number]}, "On": true or false, "N": null, "Id": text}`, Guesses: []mqttdev.Guess{{Profile: "tasmota", Base: "plug"}}},
		{Client: "own", User: "u", First: time.Unix(1e9+7, 0), Last: time.Unix(1e9+7, 0), Messages: 2, Topics: []string{"farm/level"}, Topic: "farm/level", Shape: "number"},
		{Client: "z2m", User: "u", First: time.Unix(1e9+4, 0), Last: time.Unix(1e9+6, 0), Messages: 3, Topics: []string{"zigbee2mqtt/bridge/state", "zigbee2mqtt/door/availability", "zigbee2mqtt/kitchen/lamp"},
			Topic: "zigbee2mqtt/bridge/state", Shape: "text", Guesses: []mqttdev.Guess{{Profile: "zigbee2mqtt", Base: "zigbee2mqtt/kitchen/lamp"}, {Profile: "zigbee2mqtt", Base: "zigbee2mqtt/door"}}},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}

	for _, c := range []struct {
		a                  Adoption
		id, section, fails string
	}{
		{a: Adoption{Client: "DVES_2", Name: "Heater"}, id: "plug", section: "[{driver mqtt} {name Heater} {profile tasmota} {base plug}]"},
		{a: Adoption{Client: "DVES_2", ID: "heater"}, id: "heater", section: "[{driver mqtt} {profile tasmota} {base plug}]"},
		{a: Adoption{Client: "own"}, id: "own", section: "[{driver mqtt} {from [farm/level]} {format raw} {as {2}}]"},
		{a: Adoption{Client: "z2m"}, fails: "speaks for several devices; say which base: zigbee2mqtt/kitchen/lamp, zigbee2mqtt/door"},
		{a: Adoption{Client: "z2m", Base: "zigbee2mqtt/door"}, id: "door", section: "[{driver mqtt} {profile zigbee2mqtt} {base zigbee2mqtt/door}]"},
		{a: Adoption{Client: "z2m", Base: "zigbee2mqtt/none"}, fails: `has published nothing below "zigbee2mqtt/none"`},
		{a: Adoption{Client: "DVES_1"}, fails: `no client "DVES_1" was seen that is not a device yet`},
	} {
		id, section, err := Adopt(got, c.a)
		if id != c.id || c.fails == "" && fmt.Sprint(section) != c.section || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%+v: %s, %v, %v", c.a, id, section, err)
		}
	}
}

// What strangers make the gateway remember is bounded.
func TestSeenIsBounded(t *testing.T) {
	s, err := New(Options{Site: "plant1"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxSeen + 3 {
		note(s.watch, fmt.Sprint("c", i), "a", "1", i)
	}
	for i := range maxSeenTopics + 3 {
		note(s.watch, "c100", fmt.Sprintf("zigbee2mqtt/%03d", i), "{"+strings.Repeat(`"long":{`, 100)+strings.Repeat("}", 100)+"}", 1000)
	}
	for i := range 100 {
		note(s.watch, "c101", fmt.Sprintf("zigbee2mqtt/%03d", i), "{"+strings.Repeat(`"a":{`, 100)+strings.Repeat("}", 101), 1000)
	}
	clients, forgotten := s.SeenCount()
	if clients != maxSeen || forgotten != 3 {
		t.Errorf("%d clients, %d forgotten", clients, forgotten)
	}
	for _, c := range s.Seen() {
		if c.Client == "c0" || c.Client == "c2" {
			t.Errorf("%s is remembered", c.Client)
		}
		if len(c.Topics) > maxSeenTopics || len(c.Guesses) > maxGuesses || len(c.Shape) > maxShape+3 || (c.Client == "c101") != (len(c.Guesses) == maxGuesses) || c.Client == "c100" != (c.More && len(c.Guesses) < maxGuesses) {
			t.Errorf("%+v", c)
		}
	}
}

// A client that publishes is seen while the gateway runs, and what is retained of it before.
func TestSeenLive(t *testing.T) {
	l := newLedge()
	retained := &gateway.Event{Topic: "tele/plug/LWT", Payload: []byte("Online"), Retain: true, Origin: gateway.Origin{Via: "mqtt", ID: "DVES_2"}}
	s, err := New(Options{Site: "plant1", Ingest: l.Ingest, State: &store{m: memory{}}, Feed: l.hub, Age: l.age,
		Retained: func(gateway.Filters) []*gateway.Event { return []*gateway.Event{retained} }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		l.publish("farm/level", "7", nil)
		if seen := s.Seen(); len(seen) == 2 && seen[0].Client == "DVES_2" && seen[1].Client == "panel" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", s.Seen())
		}
	}
}
