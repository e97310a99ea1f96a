package mqttdev

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// zigbee is a device behind Zigbee2MQTT: JSON on BASE/FRIENDLY_NAME, {"state":"online"} or the bare word on
// …/availability, commands on …/set. If the bridge is offline so is the device.
type zigbee struct{ base string }

func newZigbee(base string) profile { return zigbee{base} }

func (z zigbee) filters() gateway.Filters { return filters(z.base) }

func (z zigbee) availability() []string {
	root, _, _ := strings.Cut(z.base, "/")
	return []string{z.base + "/availability", root + "/bridge/state"}
}

func (z zigbee) available(_ string, payload []byte) (on, known bool) { return word(payload) }

var zigbeeUnits = units{
	"temperature": "°C", "device_temperature": "°C", "local_temperature": "°C", "soil_temperature": "°C", "current_heating_setpoint": "°C",
	"occupied_heating_setpoint": "°C", "occupied_cooling_setpoint": "°C", "local_temperature_calibration": "°C", "external_temperature": "°C",
	"humidity": "%", "soil_moisture": "%", "battery": "%", "position": "%", "tilt": "%", "pi_heating_demand": "%", "valve_opening_degree": "%",
	"pressure": "hPa", "illuminance": "lx", "illuminance_lux": "lx",
	"power": "W", "power_phase_b": "W", "power_phase_c": "W", "power_apparent": "VA", "power_reactive": "var", "current": "A", "current_phase_b": "A", "current_phase_c": "A",
	"voltage": "V", "voltage_phase_b": "V", "voltage_phase_c": "V", "ac_frequency": "Hz", "energy": "kWh", "produced_energy": "kWh",
	"co2": "ppm", "eco2": "ppm", "voc": "ppb", "pm25": "µg/m³", "pm10": "µg/m³", "pm1": "µg/m³", "hcho": "mg/m³", "formaldehyd": "mg/m³",
	"color_temp": "mired", "device_age": "s", "noise": "dBA", "water_consumed": "m³", "linkquality": "lqi",
}

var zigbeeSkip = []string{"last_seen", "elapsed", "update_available", "update", "device"}

// cellVoltage: a battery's voltage is in mV, a socket's in V, and nothing says which.
const cellVoltage = 500

func (z zigbee) decode(_ string, payload []byte, add func(codec.Reading)) string {
	readings, garbage := jsonFormat.Decode(payload)
	var seen time.Time
	for _, r := range readings {
		if r.Name == "last_seen" {
			seen = parseSeen(r.Value)
		}
	}
	for _, r := range readings {
		first, _, _ := strings.Cut(r.Name, ".")
		if slices.Contains(zigbeeSkip, first) || r.Value == "" { // an action is over
			continue
		}
		r.Source = seen
		zigbeeUnits.give(&r)
		if n, err := strconv.ParseFloat(r.Value, 64); r.Name == "voltage" && err == nil && n >= cellVoltage {
			r.Unit = "mV"
		}
		add(r)
	}
	return garbage
}

// parseSeen reads last_seen as it can be configured: ISO 8601 or the milliseconds of the epoch.
func parseSeen(s string) time.Time {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.UnixMilli(ms)
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05-0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	return time.Time{}
}

// command sets one attribute.
func (z zigbee) command(name string) (command, bool) {
	if strings.ContainsAny(name, "./") {
		return command{}, false
	}
	c := command{topic: z.base + "/set", reply: name, payload: func(value string) []byte { return object(name, value) }}
	if name == "state" || strings.HasPrefix(name, "state_") {
		c.options = []string{"ON", "OFF"}
	}
	return c, true
}
