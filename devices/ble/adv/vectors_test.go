package adv

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// vector is an entry of testdata/vectors.json.
type vector struct {
	Decoder     string
	Source      string
	Adv         string `json:"adv_hex"`
	Event       string `json:"hci_event_hex"`
	ServiceUUID string `json:"service_uuid"`
	Data        string `json:"data_hex"`
	Company     string `json:"company_id"`
	Maker       string `json:"manufacturer_data_hex"`
	Temperature string `json:"temperature_hex"`
	TxPower     string `json:"tx_power_byte_hex"`
	MAC         string
	Key         string
	BindKey     string
	Expected    map[string]any
	Accept      *bool
	Note        string
}

// formatsOf are the formats by the names of the vectors' decoders.
var formatsOf = map[string][]string{
	"bthome_v1": {"bthome_v1"}, "bthome_v2": {"bthome_v2"}, "mibeacon": {"mibeacon"}, "govee": {"govee", "govee_switch"}, "mocreo": {"mocreo"}, "qingping": {"qingping"},
	"inkbird": {"inkbird", "inkbird_bbq", "inkbird_18", "inkbird_iam"}, "teltonika": {"teltonika"}, "atc_pvvx": {"atc"}, "miscale": {"miscale"},
	"ruuvi": {"ruuvi_rawv1", "ruuvi_rawv2", "ruuvi_url", "ruuvi_6", "ruuvi_e1", "ruuvi_c5"}, "ruuvi_rawv2": {"ruuvi_rawv2"}, "switchbot": {"switchbot"},
	"altbeacon": {"altbeacon"}, "bluemaestro": {"bluemaestro"}, "bparasite": {"bparasite"}, "eddystone_url": {"eddystone_url"}, "kegtron": {"kegtron"},
	"sensirion": {"sensirion"}, "sensorpush": {"sensorpush"}, "sonoff": {"sonoff"}, "thermobeacon": {"thermobeacon"}, "thermopro": {"thermopro"},
	"eddystone_tlm": {"eddystone_tlm"}, "eddystone_uid": {"eddystone_uid"}, "hhcc": {"hhcc"}, "ibeacon": {"ibeacon"}, "jinou": {"jinou"}, "tilt": {"tilt"},
}

// modelsOf are models that a source calls otherwise.
var modelsOf = map[string]string{
	"Meter TH S1": "Meter", "Meter TH plus": "Meter Plus", // the maker's names
	"b-parasite V1.0.0": "b-parasite", "b-parasite V1.1.0": "b-parasite",
	"MyCO2": "Sensirion gadget", "SHT40 Gadget": "Sensirion gadget", "SHT41 Gadget": "Sensirion gadget", "SHT45 Gadget": "Sensirion gadget",
	"Ruuvitag": "RuuviTag", "BTHome": "", // BTHome has no model
}

// namesOf are readings that a source calls otherwise than with spaces for "_".
var namesOf = map[string]string{
	"dewpoint": "dew_point", "weight": "mass", "non_stabilized_weight": "mass_non_stabilized", "stabilized_weight": "mass", "pm2.5": "pm25", "pm1.0": "pm1",
	"voc": "tvoc", "timestamp_unix": "timestamp", "lock": "unlocked", "distance_mm": "distance", "volume_ml": "volume", "binary_generic": "generic", "binary": "generic",
	"binary_power": "power_on", "one_btn_switch": "button", "two_btn_switch_left": "button_left", "two_btn_switch_right": "button_right",
	"three_btn_switch_left": "button_left", "three_btn_switch_middle": "button_middle", "three_btn_switch_right": "button_right",
	"four_btn_switch_1": "button_1", "four_btn_switch_2": "button_2", "four_btn_switch_3": "button_3", "four_btn_switch_4": "button_4",
	"steps": "dimmer_steps", "magnetic_field_detected": "magnetic_field", "remote": "key", "fan_remote": "key", "ventilator_fan_remote": "key",
	"bathroom_heater_remote": "key", "low_battery": "battery_low", "connectivity": "connected", "impedance_low": "impedance", "device_reset": "reset",
}

// wordsOf are values that a source calls otherwise than with spaces for "_".
var wordsOf = map[string]string{
	"unlock_outside_the_door": "unlock_outside", "lock_inside_the_door": "lock_inside", "unlock_inside_the_door": "unlock_inside",
	"lock_outside_the_door": "lock_outside", "open_the_door": "open", "close_the_door": "closed", "timeout,_not_closed": "left_open",
	"knock_on_the_door": "knock", "pry_the_door": "pried", "door_stuck": "stuck", "door_not_closed": "left_open", "closing_timeout": "left_open",
	"rotate_left_(pressed)": "rotate_left_pressed", "rotate_right_(pressed)": "rotate_right_pressed",
}

// notSent are fields of ble_monitor that are not in the packet: it makes them up from others, or
// they are its own state. The formats are right, and have no such field.
func notSent(v vector, field string, r Result) string {
	switch d := v.Decoder; {
	case field == "firmware" || field == "manufacturer":
		return "its name for the format"
	case field == "motion timer", field == "locktype", field == "port count", field == "sensor id":
		return "its own state"
	case strings.HasPrefix(field, "cypress "):
		return "a guess of what one maker puts into the minor"
	case d == "atc_pvvx" && field == "voltage" && r.Encrypted:
		return "custom_beacon.h, adv_cust_data_t: there is no voltage; it is computed from the percent"
	case d == "mibeacon" && field == "voltage":
		return "BLE Object definition, 0x100A is the percent only"
	case d == "ruuvi" && (field == "battery" || field == "motion" || field == "acceleration"):
		return "docs.ruuvi.com, data formats 3 and 5: there is no such field; it is computed from others"
	case d == "thermobeacon" && field == "battery" && r.Model != "T201":
		return "computed from the voltage"
	case d == "bthome_v2" && field == "button" && strings.HasSuffix(v.Data, "3a00"):
		// test_bthome_shelly_button_no_press: bthome.io/format, "events": 0x00 of 0x3A is None.
		return "0x00 is no event"
	case d == "mibeacon" && strings.HasPrefix(field, "remote ") && field != "remote":
		return "made of the key and the press"
	case d == "mibeacon" && field == "key id" && fmt.Sprint(v.Expected[field]) == "0":
		return "BLE Object definition, lock event: key id 0x00000000 is the administrator"
	case d == "tilt" && field == "uuid":
		return "each colour has one, which is the model"
	case d == "mibeacon" && field == "light" && r.Model == "CGPR1":
		return "made of the illuminance"
	}
	return ""
}

// report makes what the controller would report of the vector.
func (v vector) report(t *testing.T) Report {
	t.Helper()
	r := Report{TxPower: NoPower, RSSI: NoPower, Addr: Addr{0xa4, 0xc1, 0x38, 1, 2, 3}}
	if v.Event != "" {
		reports, err := ParseEvent(unhex(t, v.Event))
		if err != nil || len(reports) != 1 {
			t.Fatalf("event: %d reports, %v", len(reports), err)
		}
		if v.Adv != "" && hex.EncodeToString(reports[0].Data) != v.Adv {
			t.Errorf("the event has the advertisement %x", reports[0].Data)
		}
		r = reports[0]
		if rssi, ok := v.Expected["rssi"]; ok && fmt.Sprint(r.RSSI) != fmt.Sprint(rssi) {
			t.Errorf("RSSI %d, not %v", r.RSSI, rssi)
		}
	}
	if v.MAC != "" {
		addr, err := ParseAddr(v.MAC)
		if err != nil {
			t.Fatal(err)
		}
		if v.Event != "" && addr != r.Addr {
			t.Errorf("the event is from %s", r.Addr)
		}
		r.Addr = addr
	}
	switch {
	case v.Data != "":
		uuid, err := ParseUUID(strings.TrimPrefix(strings.ToLower(v.ServiceUUID), "0x"))
		if err != nil {
			t.Fatal(err)
		}
		r.Data = structure(adService16, []byte{uuid[3], uuid[2]}, unhex(t, v.Data))
	case v.Maker != "":
		id := unhex(t, v.Company)
		r.Data = structure(adManufacturer, []byte{id[1], id[0]}, unhex(t, v.Maker))
	case v.Temperature != "":
		r.Data = structure(adService16, []byte{0xaa, 0xfe, eddystoneTLM, 0, 0x0b, 0xb8}, unhex(t, v.Temperature), make([]byte, 8))
	case v.TxPower != "":
		r.Data = structure(adService16, []byte{0xaa, 0xfe, eddystoneURL}, unhex(t, v.TxPower), []byte{3, 'a', 7})
	case v.Event == "" && v.Adv != "":
		r.Data = unhex(t, v.Adv)
	}
	return r
}

// structure is one AD structure.
func structure(typ byte, parts ...[]byte) []byte {
	data := slices.Concat(parts...)
	return append([]byte{byte(len(data) + 1), typ}, data...)
}

func TestVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	numbers := json.NewDecoder(bytes.NewReader(file))
	numbers.UseNumber() // how many digits the source gives says how far it rounded
	if err := numbers.Decode(&vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 245 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for i, v := range vectors {
		t.Run(fmt.Sprintf("%d_%s", i, v.Decoder), func(t *testing.T) {
			if formatsOf[v.Decoder] == nil {
				t.Fatalf("there is no format %s", v.Decoder)
			}
			report := v.report(t)
			keys := map[Addr][]byte{}
			if key := v.Key + v.BindKey; key != "" {
				keys[report.Addr] = unhex(t, key)
			}
			d, err := New(keys, nil)
			if err != nil {
				t.Fatal(err)
			}
			results, err := d.Decode(report)
			i := slices.IndexFunc(results, func(r Result) bool { return slices.Contains(formatsOf[v.Decoder], r.Format) })
			if v.Accept != nil && !*v.Accept {
				if err == nil || i >= 0 && len(results[i].Readings) > 0 {
					t.Errorf("%s\nnot refused: %+v", v.Source, results)
				}
				return
			}
			if i < 0 || len(results) != 1 {
				t.Fatalf("%s\n%x from %s\n%d results %+v, %v", v.Source, report.Data, report.Addr, len(results), results, err)
			}
			for field, want := range v.Expected {
				if why := check(v, field, want, report, results[i]); why != "" {
					t.Errorf("%s\n%x\n%s is %v: %s\n%+v", v.Source, report.Data, field, want, why, results[i])
				}
			}
			for _, reading := range results[i].Readings {
				if len(reading.Value) == 0 || len(reading.Name) == 0 {
					t.Errorf("%+v", reading)
				}
			}
		})
	}
}

// check returns what is wrong with a field, or "".
func check(v vector, field string, want any, report Report, r Result) string {
	if notSent(v, field, r) != "" {
		return ""
	}
	snake := strings.NewReplacer(" ", "_", "-", "_")
	switch field {
	case "rssi":
		return "" // it is the report's
	case "type":
		model := want.(string)
		if m, ok := modelsOf[model]; ok {
			model = m
		}
		// Some models differ only in name, and those whose name was heard are known better.
		if r.Model != model && !slices.Contains(strings.Split(model, "/"), r.Model) {
			return "model " + r.Model
		}
		return ""
	case "mac":
		if want == nil {
			return ""
		}
		mac := strings.ToLower(strings.ReplaceAll(want.(string), ":", ""))
		switch {
		case r.ID == mac || report.Addr.ID() == mac:
		case v.Decoder == "sonoff" && r.ID == "sonoff-"+mac[4:]: // it has an id of four bytes
		case r.Model == "H5178-outdoor" && r.ID == report.Addr.ID()+"-1": // there is one address; the source adds 1 to it
		default:
			return "id " + r.ID
		}
		return ""
	case "packet", "packet_id":
		if n, ok := want.(json.Number); ok && (!r.HasCounter || fmt.Sprint(r.Counter) != n.String()) {
			return fmt.Sprintf("counter %d, %v", r.Counter, r.HasCounter)
		}
		return "" // the rest are words of the source
	case "weight unit":
		if mass, _ := r.Reading("mass_non_stabilized"); mass.Unit != want {
			return "unit " + mass.Unit
		}
		return ""
	case "button switch": // the press of whichever button it is
		for _, reading := range r.Readings {
			if strings.HasPrefix(reading.Name, "button") && reading.Value == snake.Replace(want.(string)) {
				return ""
			}
		}
		return "not so"
	}
	name := strings.ToLower(snake.Replace(field))
	if n, ok := namesOf[name]; ok {
		name = n
	}
	scale := 1.0
	switch v.Decoder {
	case "bthome_v1", "bthome_v2":
		if name == "switch" {
			name = "power_on"
		}
		name = strings.TrimPrefix(name, "binary_")
	case "ruuvi":
		if strings.HasPrefix(name, "acceleration") {
			scale = 0.001 // mg
		}
	case "ruuvi_rawv2":
		if name == "pressure" {
			scale = 0.01 // Pa
		}
	case "sonoff":
		name = strings.Replace(name, "six_btn_switch", "button", 1)
	case "kegtron":
		port := "_port_" + fmt.Sprint(v.Expected["port index"])
		switch name {
		case "port_index":
			name, want = "volume_dispensed"+port, v.Expected["volume dispensed port "+fmt.Sprint(want)]
		case "port_state":
			name, want = "configured"+port, want == "configured"
		case "port_name":
			name = "name" + port
		case "keg_size", "volume_start":
			name += port
		}
	}
	reading, ok := r.Reading(name)
	if want == nil {
		if ok {
			return reading.Value
		}
		return ""
	}
	if !ok {
		// With two of a kind, which have numbers here, ble_monitor tells the last.
		for n := 9; n > 0; n-- {
			if last, ok := r.Reading(fmt.Sprintf("%s_%d", name, n)); ok && strings.HasPrefix(v.Decoder, "bthome") {
				reading = last
				break
			}
		}
		ok = reading.Name != ""
	}
	if !ok {
		// ble_monitor says 0.0 for a probe that is not there and an alarm that is not set (ffff, fff6), which is no
		// temperature.
		if n, _ := want.(json.Number); strings.Contains(field, " probe ") && strings.Trim(n.String(), "0.") == "" && (v.Decoder == "govee" || v.Decoder == "inkbird") {
			return ""
		}
		return "no reading " + name
	}
	switch want := want.(type) {
	case bool:
		if reading.Value != strconv.FormatBool(want) {
			return reading.Value
		}
	case json.Number:
		if reading.Value == "true" || reading.Value == "false" {
			if want != "0" != (reading.Value == "true") {
				return reading.Value
			}
			return ""
		}
		got, err := strconv.ParseFloat(reading.Value, 64)
		if err != nil {
			return reading.Value
		}
		x, err := want.Float64()
		if err != nil {
			return err.Error()
		}
		_, ours, _ := strings.Cut(reading.Value, ".")
		_, theirs, _ := strings.Cut(want.String(), ".")
		// Half of the last digit of whoever gives fewer; but two decimals are asked of both.
		digits := max(2, min(len(ours), len(theirs)))
		if math.Abs(got-x*scale) > 0.5*math.Pow10(-digits)+1e-9 {
			return reading.Value
		}
	case string:
		if want == "toggle" { // the source's word for "this button", see "button switch"
			return ""
		}
		word := snake.Replace(want)
		if w, ok := wordsOf[word]; ok {
			word = w
		}
		if reading.Value != want && reading.Value != word {
			return reading.Value
		}
	case map[string]any: // an event of bthome-ble
		if reading.Value != want["event"] {
			return reading.Value
		}
		if props, ok := want["properties"].(map[string]any); ok {
			if steps, _ := r.Reading(name + "_steps"); steps.Value != fmt.Sprint(props["steps"]) {
				return "steps " + steps.Value
			}
		}
	default:
		return fmt.Sprintf("a %T", want)
	}
	return ""
}
