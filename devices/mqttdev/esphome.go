package mqttdev

import (
	"encoding/json"
	"strings"
	"sync"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// esphome speaks as ESPHome's mqtt component does: PREFIX/COMPONENT/OBJECT/state, online or offline on PREFIX/status,
// commands on PREFIX/COMPONENT/OBJECT/command. Units are not in the states; they are in what it publishes for
// Home Assistant's discovery, which is on and retained by default.
type esphome struct {
	base string

	mu    sync.Mutex
	units map[string]string // by state topic
}

// maxUnits bounds the units of one device.
const maxUnits = 256

func newESPHome(base string) profile { return &esphome{base: base, units: map[string]string{}} }

func (p *esphome) filters() gateway.Filters {
	return filters(p.base+"/+/+/state", p.base+"/+/+/+/state", "homeassistant/+/+/+/config")
}

func (p *esphome) availability() []string { return []string{p.base + "/status"} }

func (p *esphome) available(_ string, payload []byte) (on, known bool) { return word(payload) }

// decode names a sensor's value by its object, and others by component and object: of one name there may
// be a sensor and a switch.
func (p *esphome) decode(topic string, payload []byte, add func(codec.Reading)) string {
	rest, ours := strings.CutPrefix(topic, p.base+"/")
	if !ours {
		p.learn(payload)
		return ""
	}
	name := strings.ReplaceAll(strings.TrimPrefix(strings.TrimSuffix(rest, "/state"), "sensor/"), "/", ".")
	if isJSON(payload) { // a light
		readings, garbage := jsonFormat.Decode(payload)
		for _, r := range readings {
			r.Name = name + "." + r.Name
			add(r)
		}
		return garbage
	}
	value, garbage := text(payload)
	if garbage != "" {
		return garbage
	}
	r := codec.Reading{Name: name, Value: value}
	p.mu.Lock()
	unit := p.units[topic]
	p.mu.Unlock()
	if unit != "" && !r.Measure(codec.PlainUnit(unit), true) {
		r.Unit = "" // unknown, say
	} else if strings.HasPrefix(rest, "sensor/") {
		r.Measure(r.Unit, false) // NaN
	}
	add(r)
	return ""
}

// learn takes the unit from a discovery message, if it is about this device.
func (p *esphome) learn(payload []byte) {
	var d struct {
		State  string `json:"stat_t"`
		State2 string `json:"state_topic"`
		Unit   string `json:"unit_of_meas"`
		Unit2  string `json:"unit_of_measurement"`
	}
	if json.Unmarshal(payload, &d) != nil {
		return
	}
	topic, unit := d.State+d.State2, d.Unit+d.Unit2
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.HasPrefix(topic, p.base+"/") && unit != "" && len(p.units) < maxUnits {
		p.units[topic] = unit
	}
}

// command: switch.relay is a switch whose object is relay.
func (p *esphome) command(name string) (command, bool) {
	parts := strings.Split(name, ".")
	if len(parts) < 2 || len(parts) > 3 {
		return command{}, false
	}
	c := command{topic: p.base + "/" + strings.Join(parts, "/") + "/command", reply: name}
	switch parts[0] {
	case "switch", "fan":
		if len(parts) == 2 {
			c.options = []string{"ON", "OFF"}
		}
	case "light":
		c.options, c.reply = []string{"ON", "OFF"}, name+".state"
		c.payload = func(value string) []byte { return object("state", value) }
	case "button":
		c.options, c.reply = []string{"PRESS"}, ""
	}
	return c, true
}
