package mqttdev

import (
	"regexp"
	"slices"
	"strings"
)

// Guess is what a client may be that nobody has configured: a firmware and where its topics begin.
type Guess struct {
	Profile string `json:"profile"`
	Base    string `json:"base"`
}

var (
	espTopic    = regexp.MustCompile(`^(.+)/(?:sensor|binary_sensor|text_sensor|switch|light|fan|cover|climate|number|select|lock|valve)/[^/]+/(?:[^/]+/)?state$`)
	gen2Topic   = regexp.MustCompile(`^(.+)/(?:events/rpc|status/[a-z0-9]+:[0-9]+)$`)
	gen1Topic   = regexp.MustCompile(`^(shellies/[^/]+)/`)
	zigbeeTopic = regexp.MustCompile(`^(zigbee2mqtt/.+?)(?:/availability)?$`)
)

// GuessOf tells from a topic what publishes there.
func GuessOf(topic string) (g Guess, ok bool) {
	levels := strings.Split(topic, "/")
	last := levels[len(levels)-1]
	if i := slices.Index(levels, "tele"); i >= 0 && len(levels) > 2 && slices.Contains([]string{"LWT", "STATE", "SENSOR"}, last) {
		if levels = levels[:len(levels)-1]; i == 0 {
			return Guess{"tasmota", strings.Join(levels[1:], "/")}, true
		}
		levels[i] = "%prefix%"
		return Guess{"tasmota", strings.Join(levels, "/")}, true
	}
	if m := gen1Topic.FindStringSubmatch(topic); m != nil {
		return Guess{"shelly_gen1", m[1]}, true
	}
	if m := zigbeeTopic.FindStringSubmatch(topic); m != nil {
		return Guess{"zigbee2mqtt", m[1]}, !strings.HasPrefix(topic, "zigbee2mqtt/bridge/")
	}
	if m := espTopic.FindStringSubmatch(topic); m != nil {
		return Guess{"esphome", m[1]}, true
	}
	if m := gen2Topic.FindStringSubmatch(topic); m != nil {
		return Guess{"shelly", m[1]}, true
	}
	return Guess{}, false
}

// IsCommand tells whether topic looks as those do on which devices are commanded, or described to others: what is
// published there says nothing of who publishes.
func IsCommand(topic string) bool {
	levels := strings.Split(topic, "/")
	switch levels[len(levels)-1] {
	case "set", "get", "command", "config":
		return true
	case "rpc":
		return len(levels) < 2 || levels[len(levels)-2] != "events"
	}
	return slices.Contains(levels, "cmnd") || levels[0] == "homeassistant" || strings.HasPrefix(topic, "$")
}
