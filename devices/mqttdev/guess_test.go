package mqttdev

import "testing"

func TestGuessOf(t *testing.T) {
	for topic, want := range map[string]Guess{
		"tele/plug/LWT":                               {"tasmota", "plug"},
		"tele/hall/plug/SENSOR":                       {"tasmota", "hall/plug"},
		"garden/tele/shed/STATE":                      {"tasmota", "garden/%prefix%/shed"},
		"shed/tele/LWT":                               {"tasmota", "shed/%prefix%"},
		"tele/LWT":                                    {},
		"cellar/sensor/air_temperature/state":         {"esphome", "cellar"},
		"home/cellar/fan/vent/speed_level/state":      {"esphome", "home/cellar"},
		"shellies/shelly1-A4CF12/relay/0":             {"shelly_gen1", "shellies/shelly1-A4CF12"},
		"shellies/announce":                           {},
		"shellyplus1-08b61fcc0011/events/rpc":         {"shelly", "shellyplus1-08b61fcc0011"},
		"hall/shellyplus1-08b61fcc0011/status/em1:10": {"shelly", "hall/shellyplus1-08b61fcc0011"},
		"zigbee2mqtt/hall/door":                       {"zigbee2mqtt", "zigbee2mqtt/hall/door"},
		"zigbee2mqtt/hall/door/availability":          {"zigbee2mqtt", "zigbee2mqtt/hall/door"},
		"zigbee2mqtt/bridge/devices":                  {},
		"farm/level":                                  {},
	} {
		got, ok := GuessOf(topic)
		if ok != (want != Guess{}) || ok && got != want {
			t.Errorf("%s: %+v, %t", topic, got, ok)
		}
		if ok {
			if _, err := New("x", Config{Profile: got.Profile, Base: got.Base}, nil, nil, &Broker{}); err != nil {
				t.Errorf("%s: %v", topic, err)
			}
		}
	}
}

func TestIsCommand(t *testing.T) {
	for topic, want := range map[string]bool{
		"cmnd/plug/POWER": true, "shed/cmnd/POWER": true, "zigbee2mqtt/lamp/set": true, "shellies/s/relay/0/command": true, "s/rpc": true, "homeassistant/status": true,
		"s/events/rpc": false, "tele/plug/LWT": false, "rpc": true,
	} {
		if IsCommand(topic) != want {
			t.Errorf("%s is not %t", topic, want)
		}
	}
}
