package sim

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// kinds is THE list of simulated devices.
func kinds() []kind {
	return []kind{
		{name: "boiler", what: "one JSON message, MQTT QoS 1", every: time.Second, qos: 1, joined: true, new: newBoiler},
		{name: "greenhouse", what: "a topic per value, MQTT QoS 0", every: 2 * time.Second, new: newGreenhouse},
		{name: "door", what: "an event per change, MQTT QoS 2, retained", every: 2 * time.Second, qos: 2, retain: true, new: newDoor},
		{name: "meter", what: "a topic per value, MQTT 5 QoS 1", every: time.Second, qos: 1, version: mqttclient.V5, new: newMeter},
		{name: "scale", what: "serial lines like 12.34 kg", every: 500 * time.Millisecond, line: scaleLine, new: newScale},
		{name: "weather", what: "serial lines of key=value", every: 2 * time.Second, line: pairsLine, new: newWeather},
		{name: "co2", what: "serial lines of JSON", every: time.Second, line: jsonLine, new: newCO2},
		{name: "soil", what: "serial lines of CSV, with garbage now and then", every: time.Second, line: csvLine, garbage: true, new: newSoil},
		{name: "gps", what: "serial NMEA 0183", every: time.Second, line: nmeaLines, new: newGPS},
		{name: "p1", what: "serial DSMR telegrams of a smart meter", every: time.Second, line: telegram, new: newP1},
		{name: "dust", what: "serial frames of a PMS5003", every: time.Second, line: pmsFrame, new: newDust},
		{name: "mailbox", what: "MQTT-SN QoS 1, asleep most of the time; answers .../set", every: 5 * time.Second, sleeps: true, new: newMailbox},
		{name: "heatpump", what: "Modbus RTU unit 3: registers 30001 to 30004, and 40001 to set", every: time.Second, modbus: true, new: newHeatpump},
	}
}

type kind struct {
	name, what string
	every      time.Duration

	// MQTT:
	version mqttclient.Version
	qos     byte
	retain  bool
	joined  bool // all values in one JSON message, unless the configuration says otherwise

	// Serial, if line is set: what the values are on the wire.
	line    func([]value) string
	garbage bool

	modbus bool // a slave, whose values are its input registers from 0 on
	sleeps bool // a node that speaks MQTT-SN and wakes up to measure

	// new returns what the device measures at a time since it was switched on; none if it
	// has nothing to say.
	new func(rng *rand.Rand, day time.Duration) func(t time.Duration) []value
}

// value is one measured value as text.
type value struct {
	name, text string
	word       bool // in JSON it needs quotes
}

func newBoiler(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	temperature := &signal{base: 68, swing: 6, wander: 1.5, noise: 0.1, peak: 0.3, decimals: 1, rng: rng}
	pressure := &signal{base: 1.5, swing: 0.15, wander: 0.02, noise: 0.005, peak: 0.3, decimals: 2, rng: rng}
	burner := false
	return func(t time.Duration) []value {
		v := temperature.at(t, day)
		burner = v < 66 || burner && v < 70
		return []value{
			{name: "temperature", text: temperature.format(v)},
			{name: "pressure", text: pressure.format(pressure.at(t, day))},
			{name: "burner", text: strconv.FormatBool(burner)},
		}
	}
}

func newGreenhouse(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	temperature := &signal{base: 22, swing: 6, wander: 0.8, noise: 0.05, peak: 0.6, decimals: 1, rng: rng}
	humidity := &signal{base: 65, swing: -15, wander: 2, noise: 0.3, peak: 0.6, decimals: 0, rng: rng}
	light := &signal{base: 9000, swing: 16000, wander: 2000, noise: 100, peak: 0.5, decimals: 0, rng: rng}
	return func(t time.Duration) []value {
		return []value{
			{name: "temperature", text: temperature.format(temperature.at(t, day))},
			{name: "humidity", text: humidity.format(min(100, humidity.positive(t, day)))},
			{name: "light", text: light.format(light.positive(t, day))},
		}
	}
}

func newDoor(rng *rand.Rand, _ time.Duration) func(time.Duration) []value {
	open, first := false, true
	return func(time.Duration) []value {
		turn := 0.08
		if open { // nobody leaves it open for long
			turn = 0.4
		}
		if !first && rng.Float64() >= turn {
			return nil
		}
		open = !first && !open
		first = false
		if open {
			return []value{{name: "state", text: "open", word: true}}
		}
		return []value{{name: "state", text: "closed", word: true}}
	}
}

func newMeter(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	power := &signal{base: 480, swing: 260, wander: 80, noise: 6, peak: 0.8, decimals: 0, rng: rng}
	energy, last := 18342.5, time.Duration(0)
	return func(t time.Duration) []value {
		w := power.positive(t, day)
		energy += w / 1000 * (t - last).Hours()
		last = t
		return []value{
			{name: "power", text: power.format(w)},
			{name: "energy", text: strconv.FormatFloat(energy, 'f', 4, 64)},
		}
	}
}

func newScale(rng *rand.Rand, _ time.Duration) func(time.Duration) []value {
	weight := 0.0
	return func(time.Duration) []value {
		switch p := rng.Float64(); {
		case p < 0.05: // emptied
			weight = 0
		case p < 0.25: // a parcel more
			weight += 0.2 + 4*rng.Float64()
		}
		return []value{{name: "weight", text: strconv.FormatFloat(max(0, weight+rng.NormFloat64()*0.004), 'f', 2, 64)}}
	}
}

func newWeather(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	temperature := &signal{base: 11, swing: 6, wander: 0.5, noise: 0.05, peak: 0.6, decimals: 1, rng: rng}
	humidity := &signal{base: 70, swing: -18, wander: 2, noise: 0.4, peak: 0.6, decimals: 0, rng: rng}
	pressure := &signal{base: 1013, swing: 1, wander: 0.4, noise: 0.05, decimals: 1, rng: rng}
	wind := &signal{base: 4, swing: 2, wander: 1.5, noise: 0.6, peak: 0.55, decimals: 1, rng: rng}
	points := strings.Fields("N NE E SE S SW W NW")
	point := rng.IntN(len(points))
	return func(t time.Duration) []value {
		if rng.Float64() < 0.1 {
			point = (point + len(points) + rng.IntN(3) - 1) % len(points)
		}
		return []value{
			{name: "temperature", text: temperature.format(temperature.at(t, day))},
			{name: "humidity", text: humidity.format(min(100, humidity.positive(t, day)))},
			{name: "pressure", text: pressure.format(pressure.at(t, day))},
			{name: "wind", text: wind.format(wind.positive(t, day))},
			{name: "direction", text: points[point], word: true},
		}
	}
}

func newCO2(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	co2 := &signal{base: 750, swing: 250, wander: 60, noise: 4, peak: 0.45, decimals: 0, rng: rng}
	temperature := &signal{base: 21.5, swing: 1, wander: 0.2, noise: 0.02, peak: 0.6, decimals: 2, rng: rng}
	return func(t time.Duration) []value {
		return []value{
			{name: "co2", text: co2.format(max(400, co2.at(t, day)))},
			{name: "temperature", text: temperature.format(temperature.at(t, day))},
		}
	}
}

func newSoil(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	moisture := &signal{base: 31, swing: -4, wander: 0.5, noise: 0.1, peak: 0.7, decimals: 1, rng: rng}
	temperature := &signal{base: 14, swing: 2, wander: 0.2, noise: 0.03, peak: 0.75, decimals: 1, rng: rng}
	return func(t time.Duration) []value {
		return []value{
			{name: "moisture", text: moisture.format(moisture.positive(t, day))},
			{name: "temperature", text: temperature.format(temperature.at(t, day))},
		}
	}
}

// newMailbox is by a garden gate, far from any socket.
func newMailbox(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	battery := &signal{base: 3.1, swing: 0.05, wander: 0.02, noise: 0.003, peak: 0.6, decimals: 3, rng: rng}
	letters := 0
	return func(t time.Duration) []value {
		switch p := rng.Float64(); {
		case p < 0.05: // emptied
			letters = 0
		case p < 0.2:
			letters++
		}
		return []value{
			{name: "battery", text: battery.format(battery.at(t, day))},
			{name: "letters", text: strconv.Itoa(letters)},
		}
	}
}

// newHeatpump measures in tenths, but for what runs: 0 no, 1 yes.
func newHeatpump(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	flow := &signal{base: 380, swing: 40, wander: 8, noise: 1, peak: 0.2, rng: rng}
	back := &signal{base: 320, swing: 30, wander: 6, noise: 1, peak: 0.2, rng: rng}
	power := &signal{base: 21000, swing: 9000, wander: 1500, noise: 80, peak: 0.2, rng: rng}
	return func(t time.Duration) []value {
		w := min(60000, power.positive(t, day))
		runs := "0"
		if w > 10000 {
			runs = "1"
		}
		return []value{
			{name: "flow", text: flow.format(flow.positive(t, day))},
			{name: "return", text: back.format(back.positive(t, day))},
			{name: "power", text: power.format(w)},
			{name: "compressor", text: runs},
		}
	}
}

// wired tells whether the device is on a port, not on MQTT.
func (k kind) wired() bool { return k.line != nil || k.modbus }

// The formats of serial devices.

func scaleLine(v []value) string { return v[0].text + " kg\r\n" }

func csvLine(v []value) string {
	fields := make([]string, len(v))
	for i := range v {
		fields[i] = v[i].text
	}
	return strings.Join(fields, ",") + "\r\n"
}

func pairsLine(v []value) string {
	pairs := make([]string, len(v))
	for i := range v {
		pairs[i] = v[i].name + "=" + v[i].text
	}
	return strings.Join(pairs, " ") + "\r\n"
}

func jsonLine(v []value) string { return jsonObject(v) + "\n" }

func jsonObject(v []value) string {
	members := make([]string, len(v))
	for i := range v {
		text := v[i].text
		if v[i].word {
			text = strconv.Quote(text)
		}
		members[i] = fmt.Sprintf("%q:%s", v[i].name, text)
	}
	return "{" + strings.Join(members, ",") + "}"
}

// garbage is what a bad contact makes of a line: noise, a piece of it, or a line without end.
func garbage(rng *rand.Rand, line string) string {
	switch rng.IntN(3) {
	case 0:
		noise := make([]byte, 4+rng.IntN(20))
		for i := range noise {
			noise[i] = byte(128 + rng.IntN(128))
		}
		return string(noise) + "\r\n"
	case 1:
		return line[rng.IntN(len(line)/2):len(line)/2] + "\x00" + line
	}
	return strings.Repeat("#", 5000) + "\r\n"
}
