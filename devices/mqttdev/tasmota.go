package mqttdev

import (
	"slices"
	"strings"
	"unicode"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// tasmota speaks as Tasmota does: JSON on tele/TOPIC/SENSOR and STATE every TelePeriod, answers to commands and
// changes on stat/TOPIC/RESULT, Online or Offline on tele/TOPIC/LWT, commands on cmnd/TOPIC/NAME.
// A base with %prefix% in it is a FullTopic that has the prefix elsewhere.
type tasmota struct{ base string }

func newTasmota(base string) profile {
	if !strings.Contains(base, "%prefix%") {
		base = "%prefix%/" + base
	}
	return tasmota{base}
}

func (t tasmota) topic(prefix, last string) string {
	return strings.ReplaceAll(t.base, "%prefix%", prefix) + "/" + last
}

func (t tasmota) filters() gateway.Filters {
	return filters(t.topic("tele", "SENSOR"), t.topic("tele", "STATE"), t.topic("stat", "RESULT"), t.topic("stat", "STATUS8"), t.topic("stat", "STATUS10"))
}

func (t tasmota) availability() []string { return []string{t.topic("tele", "LWT")} }

func (t tasmota) available(_ string, payload []byte) (on, known bool) { return word(payload) }

var tasmotaUnits = units{
	"temperature": "°C", "dew_point": "°C", "humidity": "%", "pressure": "hPa", "sea_pressure": "hPa", "illuminance": "lx", "moisture": "%",
	"power": "W", "apparent_power": "VA", "reactive_power": "var", "voltage": "V", "current": "A", "frequency": "Hz",
	"total": "kWh", "yesterday": "kWh", "today": "kWh", "export_active": "kWh", "export_reactive": "kvarh", "period": "Wh",
	"carbon_dioxide": "ppm", "eco2": "ppm", "tvoc": "ppb", "distance": "cm", "noise": "dB",
	"pm1": "µg/m³", "pm2.5": "µg/m³", "pm10": "µg/m³", "cf1": "µg/m³", "cf2.5": "µg/m³", "cf10": "µg/m³",
	"signal": "dBm", "rssi": "%", "uptime_sec": "s", "vcc": "V", "heap": "KiB", "dimmer": "%", "weight": "kg",
}

// What is no measurement: names of things, text that another member has as a number, and what only
// matters to the firmware.
var tasmotaSkip = []string{"time", "uptime", "id", "ssid", "bssid", "ap", "mode", "channel", "downtime", "link_count", "mqtt_count", "sleep", "sleep_mode",
	"temp_unit", "pressure_unit", "total_start_time"}

// Of what comes as an answer, these are states; others are settings.
var tasmotaStates = []string{"power", "dimmer", "color", "hsb_color", "white", "ct", "fan_speed", "shutter", "button", "switch"}

func (t tasmota) decode(topic string, payload []byte, add func(codec.Reading)) string {
	readings, garbage := jsonFormat.Decode(payload)
	temperature, pressure := "°C", "hPa"
	for _, r := range readings {
		switch strings.TrimPrefix(r.Name, "StatusSNS.") {
		case "TempUnit":
			temperature = "°" + r.Value
		case "PressureUnit":
			pressure = codec.PlainUnit(r.Value)
		}
	}
	for _, r := range readings {
		r.Name = snake(strings.TrimPrefix(r.Name, "StatusSNS."))
		last := r.Name[strings.LastIndex(r.Name, ".")+1:]
		if slices.Contains(tasmotaSkip, last) || topic == t.topic("stat", "RESULT") && !isState(r.Name) {
			continue
		}
		if strings.HasPrefix(r.Name, "energy.factor") {
			r.Name = strings.Replace(r.Name, "factor", "power_factor", 1)
		}
		tasmotaUnits.give(&r)
		switch {
		case r.Unit == "°C":
			r.Unit = temperature
		case r.Unit == "hPa":
			r.Unit = pressure
		}
		add(r)
	}
	return garbage
}

func isState(name string) bool {
	first, _, _ := strings.Cut(name, ".")
	return slices.Contains(tasmotaStates, strings.TrimRight(first, "0123456789"))
}

// snake makes apparent_power of ApparentPower. Abbreviations stay together.
func snake(name string) string {
	var out strings.Builder
	var before rune
	run := 0 // of lower letters
	for _, r := range name {
		if unicode.IsUpper(r) && unicode.IsLower(before) && run > 1 {
			out.WriteByte('_')
		}
		if run++; !unicode.IsLower(r) {
			run = 0
		}
		out.WriteRune(unicode.ToLower(r))
		before = r
	}
	return out.String()
}

// command: power, power2, dimmer … are commands of Tasmota as they are measurements.
func (t tasmota) command(name string) (command, bool) {
	if strings.ContainsAny(name, "./") {
		return command{}, false
	}
	c := command{topic: t.topic("cmnd", strings.ToUpper(strings.ReplaceAll(name, "_", ""))), reply: name}
	if strings.TrimRight(name, "0123456789") == "power" {
		c.options = []string{"ON", "OFF"}
	}
	return c, true
}
