package mqttdev

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// gen1 is a Shelly of the first generation: a bare value on each of shellies/ID/relay/0, …/relay/0/power,
// …/sensor/temperature and so on, true or false on …/online, commands on …/relay/0/command.
type gen1 struct{ base string }

func newShellyGen1(base string) profile { return gen1{base} }

func (g gen1) filters() gateway.Filters { return filters(g.base + "/#") }

func (g gen1) availability() []string { return []string{g.base + "/online"} }

func (g gen1) available(_ string, payload []byte) (on, known bool) { return word(payload) }

var gen1Units = units{
	"power": "W", "energy": "Wh", "returned_energy": "Wh", "total": "Wh", "total_returned": "Wh", "reactive_power": "var", "voltage": "V", "current": "A",
	"temperature": "°C", "ext_temperature": "°C", "humidity": "%", "ext_humidity": "%", "battery": "%", "lux": "lx", "pos": "%", "tilt": "°",
	"concentration": "ppm", "brightness": "%", "gain": "%", "overpower_value": "W",
}

// What a Shelly publishes beside values, and what is published to it.
var gen1Skip = []string{"announce", "info", "settings", "command", "set", "temperature_f", "ext_temperatures", "ext_humidities", "ext_switches"}

// Members of what a lamp says of itself that are no state.
var gen1Noise = []string{"source", "has_timer", "timer_started", "timer_duration", "timer_remaining", "transition"}

func (g gen1) decode(topic string, payload []byte, add func(codec.Reading)) string {
	name := strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(topic, g.base+"/"), "sensor/"), "/", ".")
	for _, part := range strings.Split(name, ".") {
		if slices.Contains(gen1Skip, part) {
			return ""
		}
	}
	if isJSON(payload) { // input_event/0: {"event":"S","event_cnt":2}, light/0/status: {"ison":true,"brightness":50}
		readings, garbage := jsonFormat.Decode(payload)
		for _, r := range readings {
			if !slices.Contains(gen1Noise, r.Name) {
				r.Name = strings.TrimSuffix(name, ".status") + "." + r.Name
				gen1Units.give(&r)
				add(r)
			}
		}
		return garbage
	}
	value, garbage := text(payload)
	if garbage != "" || value == "" {
		return garbage
	}
	r := codec.Reading{Name: name, Value: value}
	gen1Units.give(&r)
	if last := name[strings.LastIndex(name, ".")+1:]; last == "energy" || last == "returned_energy" {
		n, err := strconv.ParseFloat(r.Value, 64) // watt-minutes, which nobody else has
		if err != nil {
			return codec.Malformed
		}
		r.Value = strconv.FormatFloat(math.Round(n/60*1000)/1000, 'f', -1, 64)
	}
	add(r)
	return ""
}

func (g gen1) command(name string) (command, bool) {
	parts := strings.Split(name, ".")
	topic := g.base + "/" + strings.Join(parts, "/")
	switch {
	case len(parts) == 2 && parts[0] == "relay", len(parts) == 2 && parts[0] == "light", len(parts) == 2 && parts[0] == "color", len(parts) == 2 && parts[0] == "white":
		return command{topic: topic + "/command", reply: name, options: []string{"on", "off"}}, true
	case len(parts) == 2 && parts[0] == "roller":
		return command{topic: topic + "/command", reply: name, options: []string{"open", "close", "stop"}}, true
	case len(parts) == 3 && parts[0] == "roller" && parts[2] == "pos":
		return command{topic: g.base + "/roller/" + parts[1] + "/command/pos", reply: name}, true
	}
	return command{}, false
}

// gen2 is a Shelly of the second generation or later: changes as NotifyStatus on PREFIX/events/rpc, whole states on
// PREFIX/status/COMPONENT:ID if that is switched on, true or false on PREFIX/online, commands as JSON-RPC on
// PREFIX/rpc.
type gen2 struct{ base string }

func newShelly(base string) profile { return gen2{base} }

func (g gen2) filters() gateway.Filters { return filters(g.base+"/events/rpc", g.base+"/status/+") }

func (g gen2) availability() []string { return []string{g.base + "/online"} }

func (g gen2) available(_ string, payload []byte) (on, known bool) { return word(payload) }

var gen2Units = units{
	"apower": "W", "act_power": "W", "a_act_power": "W", "b_act_power": "W", "c_act_power": "W", "total_act_power": "W",
	"aprt_power": "VA", "a_aprt_power": "VA", "b_aprt_power": "VA", "c_aprt_power": "VA", "total_aprt_power": "VA",
	"voltage": "V", "a_voltage": "V", "b_voltage": "V", "c_voltage": "V", "v": "V",
	"current": "A", "a_current": "A", "b_current": "A", "c_current": "A", "n_current": "A", "total_current": "A",
	"freq": "Hz", "a_freq": "Hz", "b_freq": "Hz", "c_freq": "Hz",
	"energy": "Wh", "returned_energy": "Wh", "total_act": "Wh", "total_act_ret": "Wh", "total_act_energy": "Wh", "total_act_ret_energy": "Wh",
	"a_total_act_energy": "Wh", "b_total_act_energy": "Wh", "c_total_act_energy": "Wh",
	"a_total_act_ret_energy": "Wh", "b_total_act_ret_energy": "Wh", "c_total_act_ret_energy": "Wh",
	"temperature": "°C", "humidity": "%", "battery": "%", "lux": "lx", "brightness": "%", "current_pos": "%", "target_pos": "%", "percent": "%",
	"rssi": "dBm", "uptime": "s",
}

// Components that measure nothing, but for the two names in gen2Keep.
var (
	gen2Skip = []string{"sys", "cloud", "mqtt", "ws", "ble", "bthome", "script", "eth", "wifi", "ht_ui", "ui", "plugs_ui", "knx", "matter", "modbus", "schedule", "webhook", "kvs", "ts"}
	gen2Keep = []string{"wifi.rssi", "sys.uptime"}
	// What stands inside a component and is no measurement, or is one again in another unit.
	gen2Noise = []string{"id", "source", "by_minute", "minute_ts", "tF", "timer_started_at", "timer_duration", "move_timeout", "move_started_at", "calibration", "errors", "flags"}
	// Names that are plainer than where they stand.
	gen2Names = strings.NewReplacer(".aenergy.total", ".energy", ".ret_aenergy.total", ".returned_energy", ".temperature.tC", ".temperature",
		".tC", ".temperature", ".rh", ".humidity", ".battery.percent", ".battery", ".battery.V", ".voltage")
)

func (g gen2) decode(topic string, payload []byte, add func(codec.Reading)) string {
	prefix := "params."
	if component, status := strings.CutPrefix(topic, g.base+"/status/"); status {
		prefix = ""
		return g.readings(payload, component+".", prefix, add)
	}
	return g.readings(payload, "", prefix, add)
}

// readings adds those of payload whose names begin with prefix, which goes, and put comes before them.
func (g gen2) readings(payload []byte, put, prefix string, add func(codec.Reading)) string {
	var said struct {
		Method string
		Params struct {
			TS     float64
			Events []struct{ Component, Event string }
		}
	}
	if prefix != "" {
		if json.Unmarshal(payload, &said) != nil {
			return codec.Malformed
		}
		for _, e := range said.Params.Events {
			if first, _, _ := strings.Cut(e.Component, ":"); !slices.Contains(gen2Skip, first) {
				add(codec.Reading{Name: strings.ReplaceAll(e.Component, ":", ".") + ".event", Value: e.Event, Source: unix(said.Params.TS)})
			}
		}
		if !strings.HasPrefix(said.Method, "Notify") || said.Method == "NotifyEvent" {
			return ""
		}
	}
	all, garbage := jsonFormat.Decode(payload)
	for _, r := range all {
		name, ours := strings.CutPrefix(r.Name, prefix)
		if name = put + name; !ours {
			continue
		}
		first, rest, deep := strings.Cut(name, ".")
		if component, _, _ := strings.Cut(first, ":"); slices.Contains(gen2Skip, component) && !slices.Contains(gen2Keep, name) || !deep {
			continue
		}
		if slices.ContainsFunc(strings.Split(rest, "."), func(part string) bool { return slices.Contains(gen2Noise, part) }) {
			continue
		}
		r.Name = gen2Names.Replace(strings.ReplaceAll(name, ":", "."))
		r.Source = unix(said.Params.TS)
		gen2Units.give(&r)
		add(r)
	}
	return garbage
}

// unix is the time in seconds of the epoch. A Shelly whose clock is not set yet counts from its start.
func unix(seconds float64) time.Time {
	if seconds < 1e9 || seconds > 1e11 {
		return time.Time{}
	}
	return time.UnixMilli(int64(seconds * 1000))
}

// command: switch.0, light.0, cover.0 and what can be set of them.
func (g gen2) command(name string) (command, bool) {
	parts := strings.Split(name, ".")
	if len(parts) < 2 || len(parts) > 3 || !isNumber(parts[1]) {
		return command{}, false
	}
	id, _ := strconv.Atoi(parts[1])
	field := ""
	if len(parts) == 3 {
		field = parts[2]
	}
	call := func(method, key string, value func(string) any) *rpc {
		return &rpc{prefix: g.base, method: func(string) string { return method }, params: func(v string) map[string]any {
			return map[string]any{"id": id, key: value(v)}
		}}
	}
	isOn := func(v string) any { return strings.EqualFold(v, "on") }
	number := func(v string) any { return json.Number(v) }
	switch parts[0] + "." + field {
	case "switch.", "switch.output":
		return command{rpc: call("Switch.Set", "on", isOn), options: []string{"on", "off"}}, true
	case "light.", "light.output":
		return command{rpc: call("Light.Set", "on", isOn), options: []string{"on", "off"}}, true
	case "light.brightness":
		return command{rpc: call("Light.Set", "brightness", number), numeric: true}, true
	case "cover.":
		words := map[string]string{"open": "Open", "close": "Close", "stop": "Stop"}
		return command{options: []string{"open", "close", "stop"}, rpc: &rpc{prefix: g.base,
			method: func(v string) string { return "Cover." + words[strings.ToLower(v)] },
			params: func(string) map[string]any { return map[string]any{"id": id} }}}, true
	case "cover.current_pos", "cover.target_pos":
		return command{rpc: call("Cover.GoToPosition", "pos", number), numeric: true}, true
	}
	return command{}, false
}
