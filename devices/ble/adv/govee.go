package adv

import (
	"crypto/aes"
	"encoding/binary"
	"fmt"
	"slices"
)

// Govee. The company ids are not Govee's own; of the meat thermometers they are a part of the device's address, so
// that the advertised service tells the model. Its number is the model's with the two bytes swapped: H5182 has 8251.

// goveePacked are temperature and humidity in one number: ttt.t times 10,000 and hh.h times 10,
// its sign in the highest bit, which means the temperature.
func goveePacked(at int) []Field {
	temperature := field("temperature", "°C", at, "m24be", 0.1).between(-40, 100)
	temperature.Quotient = 1000
	humidity := field("humidity", "%", at, "u24be", 0.1).bits(0x7fffff)
	humidity.Remainder = 1000
	return []Field{temperature, humidity}
}

// goveeAir is a packed field and the battery behind it, whose highest bit says that the
// sensor failed.
func goveeAir(at int) []Field {
	fields := goveePacked(at)
	for i := range fields {
		fields[i] = fields[i].when(at+3, 0x80, 0)
	}
	return append(fields, field("battery", "%", at+3, "u8", 1).bits(0x7f))
}

// goveePlain is hundredths of temperature and humidity, and the battery.
func goveePlain(at int) []Field {
	return []Field{
		field("temperature", "°C", at, "s16le", 0.01).between(-40, 100),
		field("humidity", "%", at+2, "u16le", 0.01).between(0, 100),
		field("battery", "%", at+4, "u8", 1),
	}
}

// goveeProbe is a meat probe: hundredths of a degree; below 0 there is no probe, and no alarm set.
func goveeProbe(name string, probe, at int) Field {
	return field(fmt.Sprintf("%s_probe_%d", name, probe), "°C", at, "s16be", 0.01).between(0, 400)
}

// goveeTables are tables for all but the switches of decodeGoveeSwitch.
func goveeTables() []Table {
	var tables []Table
	// add makes a table for each way to know a model: by its name, its service, or the company id of a
	// payload that long.
	add := func(model string, length int, names, services []string, companies []uint16, fields []Field, bytes ...Condition) {
		var ways []Match
		if names != nil {
			ways = append(ways, Match{Names: names})
		}
		if services != nil {
			ways = append(ways, Match{Advertise: services})
		}
		for _, m := range ways {
			// The two bytes of the company's id belong to what the length counts, but not to the offsets; so
			// there is a table for each id that is known.
			m.Manufacturer, m.Length, m.Bytes = true, length+2, shifted(bytes)
			tables = append(tables, Table{Name: "govee", Model: model, Match: m, Fields: behind(fields)})
		}
		for _, id := range companies {
			tables = append(tables, Table{Name: "govee", Model: model, Match: company(id, length, bytes...), Fields: fields})
		}
	}
	names := func(models ...string) []string {
		var list []string
		for _, m := range models {
			list = append(list, "GV"+m, "GVH"+m, "Govee_H"+m, "B"+m, "H"+m)
		}
		return list
	}

	pm := []Field{
		{Name: "temperature", Unit: "°C", At: 2, Type: "m32be", Scale: 0.1, Quotient: 1000000},
		{Name: "humidity", Unit: "%", At: 2, Type: "u32be", Mask: 0x7fffffff, Scale: 0.1, Quotient: 1000, Remainder: 1000},
		{Name: "pm25", Unit: "µg/m³", At: 2, Type: "u32be", Mask: 0x7fffffff, Scale: 1, Remainder: 1000},
	}
	add("H5106", 6, names("5106"), []string{"0651"}, nil, pm)
	for _, model := range []string{"5100", "5101", "5102", "5103", "5104", "5105", "5108", "5110", "5174", "5177"} {
		add("H"+model, 6, names(model), nil, nil, goveeAir(2))
		add("H"+model, 8, names(model), nil, nil, goveeAir(2))
	}
	add("H5179", 6, []string{"GV5179"}, nil, nil, goveeAir(2))
	co2 := append(goveePacked(2), field("co2", "ppm", 5, "u16be", 1))
	for i := range co2 {
		co2[i] = co2[i].when(7, 0, 0)
	}
	add("H5140", 8, names("5140"), nil, nil, co2)
	for probe, mark := range map[int]int64{1: 0x41, 2: 0x82} { // a thermometer with two probes, the first with humidity
		fields := goveeAir(2)
		fields[0].Name, fields[1].Name = fmt.Sprintf("temperature_probe_%d", probe), fmt.Sprintf("humidity_probe_%d", probe)
		if probe == 2 {
			fields = slices.Delete(fields, 1, 2)
		}
		add("H5112", 8, names("5112"), nil, nil, fields, is(7, mark))
	}
	presence := []Field{field("occupancy", "", 4, "bool", 0), field("motion", "", 5, "u8", 0).named(map[string]string{"0": "false", "1": "false", "17": "true"})}
	add("H5127", 6, names("5127"), nil, []uint16{0x8803, 0x8843}, presence, is(0, 0xec))

	add("H5072", 6, names("5072"), nil, nil, goveeAir(1))
	add("H5075", 6, names("5075"), nil, nil, goveeAir(1))
	add("H5129", 6, names("5129"), nil, nil, goveeAir(1))
	add("H5072/H5075", 6, nil, []string{"7550"}, []uint16{0xec88}, goveeAir(1))
	add("H5101/H5102/H5177", 6, nil, []string{"0151", "0251", "7751"}, []uint16{0x0001}, goveeAir(2))
	add("H5108", 8, nil, nil, []uint16{0x0001}, goveeAir(2))

	add("H5074", 7, names("5074"), []string{"7450"}, []uint16{0xec88}, goveePlain(1))
	add("H5052", 9, names("5052"), []string{"5250"}, nil, goveePlain(1))
	add("H5071", 9, names("5071"), []string{"7150"}, nil, goveePlain(1))
	add("H5051", 9, names("5051"), []string{"5150"}, []uint16{0xec88}, goveePlain(1))
	add("H5179", 9, names("5179"), []string{"7951"}, []uint16{0x8801}, goveePlain(4))

	// A display, and a sensor outside whose values it passes on: two devices with one address.
	add("H5178", 9, names("5178"), []string{"7851"}, []uint16{0x0001}, goveeAir(3), is(2, 0))
	first := len(tables)
	add("H5178-outdoor", 9, names("5178"), []string{"7851"}, []uint16{0x0001}, goveeAir(3), is(2, 1))
	for i := range tables[first:] {
		t := &tables[first+i]
		offset := 0
		if t.Match.Manufacturer {
			offset = 2
		}
		t.Identity = at(field("", "", offset+2, "u8", 1))
	}

	single := []Field{goveeProbe("temperature", 1, 8), goveeProbe("temperature_alarm", 1, 10)}
	add("H5181", 14, names("5181"), []string{"8151"}, []uint16{0xf861, 0x388a, 0xea42, 0xaaa2, 0xd14b}, single)
	add("H5183", 14, names("5183"), []string{"8351"}, []uint16{0x67dd, 0xe02f, 0xf79f}, single)
	pair := func(first int) []Field {
		return []Field{
			goveeProbe("temperature", first, 8), goveeProbe("temperature_alarm", first, 10),
			goveeProbe("temperature", first+1, 13), goveeProbe("temperature_alarm", first+1, 15),
		}
	}
	low, high := []int64{0x01, 0x41, 0x81, 0xc1}, []int64{0x02, 0x42, 0x82, 0xc2} // which probes
	add("H5182", 17, names("5182"), []string{"8251"}, []uint16{0x2730}, pair(1))
	add("H5184", 17, names("5184"), []string{"8451"}, []uint16{0x1b36}, pair(1), is(6, low...))
	add("H5184", 17, names("5184"), []string{"8451"}, []uint16{0x1b36}, pair(3), is(6, high...))
	add("H5185", 20, names("5185"), []string{"8551"}, []uint16{0x4a32, 0x0332, 0x4c32}, []Field{
		goveeProbe("temperature", 1, 8), goveeProbe("temperature_alarm", 1, 10),
		goveeProbe("temperature", 2, 14), goveeProbe("temperature_alarm", 2, 16),
	})
	add("H5191", 20, names("5191"), []string{"9151"}, []uint16{0xac63}, []Field{
		goveeProbe("temperature", 1, 8), goveeProbe("temperature_alarm", 1, 10),
		field("temperature", "°C", 14, "s16be", 0.01).between(-40, 400).not(-1),
	})
	for i, which := range [][]int64{low, high} {
		n := 2*i + 1
		add("H5198", 20, names("5198"), []string{"9851"}, []uint16{0x3022}, []Field{
			goveeProbe("temperature", n, 8), goveeProbe("temperature_alarm", n, 10), goveeProbe("low_temperature_alarm", n, 12),
			goveeProbe("temperature", n+1, 14), goveeProbe("temperature_alarm", n+1, 16), goveeProbe("low_temperature_alarm", n+1, 18),
		}, is(6, which...))
	}
	for i := range int64(3) { // whole degrees; the highest two bits tell which pair of probes
		n := int(2*i + 1)
		var fields []Field
		for j, name := range []string{"temperature", "temperature_alarm", "low_temperature_alarm"} {
			fields = append(fields,
				field(fmt.Sprintf("%s_probe_%d", name, n), "°C", 5+2*j, "s16le", 1).between(0, 400),
				field(fmt.Sprintf("%s_probe_%d", name, n+1), "°C", 12+2*j, "s16le", 1).between(0, 400))
		}
		fields = append(fields, field("battery", "%", 2, "u8", 1).bits(0x7f).not(0))
		add("H5055", 20, names("5055"), []string{"5550"}, []uint16{0xea1c}, fields, Condition{At: 3, Mask: 0xc0, Is: []int64{i}})
	}
	return tables
}

// behind moves fields and their conditions behind the two bytes of a company's id.
func behind(fields []Field) []Field {
	fields = slices.Clone(fields)
	for i := range fields {
		fields[i].At += 2
		fields[i].When = shifted(fields[i].When)
	}
	return fields
}

func shifted(conditions []Condition) []Condition {
	conditions = slices.Clone(conditions)
	for i := range conditions {
		conditions[i].At += 2
	}
	return conditions
}

// goveeSwitches are buttons and switches by the model number in their sealed data.
var goveeSwitches = map[byte]string{2: "H5123", 3: "H5121", 8: "H5122", 9: "H5124", 10: "H5125", 11: "H5126", 13: "H5130"}

// decodeGoveeSwitch reads buttons, and sensors of windows, motion, vibration and pressure: four bytes of time,
// which are the key, sixteen encrypted with AES, a CRC. Anybody can make one, so it is not
// called encrypted.
func decodeGoveeSwitch(_ *Decoder, p *packet) (*Result, error) {
	for _, m := range p.makers {
		data := m[2:]
		if len(data) != 24 || goveeCRC(data[6:22]) != binary.BigEndian.Uint16(data[22:]) {
			continue // there are others of this length
		}
		key := make([]byte, 16)
		copy(key, data[2:6])
		sealed := slices.Clone(data[6:22])
		slices.Reverse(key)
		slices.Reverse(sealed)
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		block.Decrypt(sealed, sealed)
		slices.Reverse(sealed)
		model, ok := goveeSwitches[sealed[2]]
		if !ok {
			return nil, malformed("model %d", sealed[2])
		}
		r := newResult(p, "govee_switch", model)
		r.count(binary.BigEndian.Uint32(data[2:6]))
		r.number("battery", float64(sealed[4]), 0, "%")
		what := sealed[5]
		switch model {
		case "H5123":
			r.flag("window", what == 2)
		case "H5121":
			r.flag("motion", what == 1)
		case "H5124":
			r.flag("vibration", what == 1)
		case "H5130":
			if what == 16 {
				r.add("button", "press", "")
			} else {
				r.flag("presence", what == 1)
			}
		default:
			r.add(fmt.Sprintf("button_%d", what), "press", "")
		}
		return r, nil
	}
	return nil, nil
}

// goveeCRC is CRC-16/CCITT with the start value 1d0f.
func goveeCRC(data []byte) uint16 {
	crc := uint16(0x1d0f)
	for _, b := range data {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}
