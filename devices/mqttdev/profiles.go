package mqttdev

import (
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// profiles is THE list of firmwares. A device's base is by default base and the device's id.
var profiles = map[string]struct {
	base string
	make func(base string) profile
}{
	"esphome":     {"", newESPHome},
	"shelly":      {"", newShelly},
	"shelly_gen1": {"shellies/", newShellyGen1},
	"tasmota":     {"", newTasmota},
	"zigbee2mqtt": {"zigbee2mqtt/", newZigbee},
}

// Profiles are the names of the known firmwares, sorted.
func Profiles() []string { return slices.Sorted(maps.Keys(profiles)) }

var jsonFormat = func() *codec.Format {
	f, err := codec.NewFormat("json", nil)
	if err != nil {
		panic(err) // there is such a format
	}
	return f
}()

// isJSON tells whether payload may be an object.
func isJSON(payload []byte) bool { return len(payload) > 0 && payload[0] == '{' }

// text is a payload that is one value.
func text(payload []byte) (value, garbage string) {
	for _, r := range string(payload) {
		if r == unicode.ReplacementChar || unicode.IsControl(r) && r != '\t' && r != '\n' && r != '\r' {
			return "", codec.Binary
		}
	}
	if len(payload) > codec.MaxFrame {
		return "", codec.Overlong
	}
	return strings.TrimSpace(string(payload)), ""
}

// word reads what an availability topic says, in the words that firmwares use.
func word(payload []byte) (on, known bool) {
	said := strings.ToLower(strings.TrimSpace(string(payload)))
	if isJSON(payload) { // {"state":"online"}
		readings, _ := jsonFormat.Decode(payload)
		for _, r := range readings {
			if r.Name == "state" {
				said = r.Value
			}
		}
	}
	switch said {
	case "online", "true", "on", "1", "connected", "up", "alive", "available":
		return true, true
	case "offline", "false", "off", "0", "disconnected", "down", "dead", "unavailable", "lost":
		return false, true
	}
	return false, false
}

// units are by the last part of a measurement's name that is no number, or by the last two.
type units map[string]string

// give gives r its unit, if r is a number and has one.
func (u units) give(r *codec.Reading) {
	parts := strings.Split(r.Name, ".")
	for len(parts) > 1 && isNumber(parts[len(parts)-1]) {
		if unit, ok := u[parts[len(parts)-2]+"."+parts[len(parts)-1]]; ok { // pm2.5
			r.Measure(unit, true)
			return
		}
		parts = parts[:len(parts)-1]
	}
	if _, number := codec.Number(r.Value); number || strings.EqualFold(r.Value, "nan") {
		r.Measure(u[parts[len(parts)-1]], false)
	}
}

func isNumber(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return s != ""
}

func filters(all ...string) (fs gateway.Filters) {
	for _, s := range all {
		f, err := gateway.ParseFilter(s)
		if err != nil { // of a base that is a topic: cannot be
			panic(err)
		}
		fs = append(fs, f)
	}
	return fs
}
