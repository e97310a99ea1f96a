package adv

import (
	"fmt"
	"slices"
)

// The built-in formats that are tables. Their makers do not publish them, unless it says so: they are
// what people found out with the devices in their hands.
var builtInTables = compileBuiltIn(slices.Concat(
	ruuviTables, bparasiteTables, blueMaestroTables, hhccTables, inkbirdTables, mocreoTables,
	sensirionTables(), sensorPushTables, thermoBeaconTables, thermoProTables, goveeTables(),
))

func compileBuiltIn(list []Table) []*table {
	var tables []*table
	for _, t := range list {
		c, err := t.compile()
		if err != nil {
			panic(fmt.Sprintf("built-in table %s (%s): %v", t.Name, t.Model, err))
		}
		tables = append(tables, c)
	}
	return tables
}

func company(id uint16, length int, bytes ...Condition) Match {
	return Match{Company: &id, Length: length, Bytes: bytes}
}

func service(uuid string, length int, bytes ...Condition) Match {
	return Match{Service: uuid, Length: length, Bytes: bytes}
}

// is is a condition on one byte.
func is(at int, values ...int64) Condition { return Condition{At: at, Is: values} }

func at(f Field) *Field { return &f }

// Ruuvi data formats 5 (RAWv2) and c5 (docs.ruuvi.com).
var ruuviTables = []Table{
	{
		Name: "ruuvi_rawv2", Model: "RuuviTag", Match: company(ruuviCompany, 24, is(0, 5)),
		Fields: append(slices.Clone(ruuviAir),
			field("acceleration_x", "g", 7, "s16be", 0.001).not(-0x8000),
			field("acceleration_y", "g", 9, "s16be", 0.001).not(-0x8000),
			field("acceleration_z", "g", 11, "s16be", 0.001).not(-0x8000),
			field("voltage", "V", 13, "u16be", 0.001).bits(0xffe0).plus(1.6).not(0x7ff),
			field("tx_power", "dBm", 13, "u16be", 2).bits(0x1f).plus(-40).not(0x1f),
			field("movement_counter", "", 15, "u8", 1).not(0xff),
			field("sequence", "", 16, "u16be", 1).not(0xffff),
		),
		Counter:  at(field("", "", 16, "u16be", 0).not(0xffff)),
		Identity: at(field("", "", 18, "mac", 0)),
	},
	{
		Name: "ruuvi_c5", Model: "RuuviTag", Match: company(ruuviCompany, 18, is(0, 0xc5)),
		Fields: append(slices.Clone(ruuviAir),
			field("voltage", "V", 7, "u16be", 0.001).bits(0xffe0).plus(1.6).not(0x7ff),
			field("tx_power", "dBm", 7, "u16be", 2).bits(0x1f).plus(-40).not(0x1f),
			field("movement_counter", "", 9, "u8", 1).not(0xff),
			field("sequence", "", 10, "u16be", 1).not(0xffff),
		),
		Counter:  at(field("", "", 10, "u16be", 0).not(0xffff)),
		Identity: at(field("", "", 12, "mac", 0)),
	},
}

// b-parasite (rbaron/b-parasite, its own protocol of firmware 1): the high bits of the first byte are
// the protocol's version, and in version 2 temperatures are in hundredths.
var bparasiteTables = func() []Table {
	fields := []Field{
		field("voltage", "V", 2, "u16be", 0.001),
		field("temperature", "°C", 4, "s16be", 0.001).when(0, 0xf0, 0, 1),
		field("temperature", "°C", 4, "s16be", 0.01).when(0, 0xf0, 2),
		field("humidity", "%", 6, "u16be", 100).over(65536),
		field("moisture", "%", 8, "u16be", 100).over(65536),
	}
	counter := at(field("", "", 1, "u8", 0).bits(0x0f))
	return []Table{
		{Name: "bparasite", Model: "b-parasite", Match: service("181a", 16), Fields: fields, Counter: counter},
		{Name: "bparasite", Model: "b-parasite", Match: service("181a", 18), Counter: counter,
			Fields: append(slices.Clone(fields), field("illuminance", "lx", 16, "u16be", 1))},
	}
}()

// Blue Maestro Tempo Disc and Pebble ("Bluetooth sensor API" of the maker).
var blueMaestroTables = func() []Table {
	disc := func(model, last, unit string, typ string, ids ...int64) Table {
		return Table{
			Name: "bluemaestro", Model: model, Match: company(0x0133, 14, is(0, ids...)),
			Fields: []Field{
				field("battery", "%", 1, "u8", 1),
				field("temperature", "°C", 6, "s16be", 0.1),
				field("humidity", "%", 8, "u16be", 0.1),
				field(last, unit, 10, typ, 0.1),
			},
			Counter: at(field("", "", 4, "u16be", 0)),
		}
	}
	return []Table{
		disc("Tempo Disc THD", "dew_point", "°C", "s16be", 0x16, 0x17),
		disc("Tempo Disc THPD", "pressure", "hPa", "u16be", 0x1b),
		{Name: "bluemaestro", Model: "Pebble", Match: company(0x0133, 18, is(0, 1)), Fields: []Field{
			field("temperature", "°C", 3, "s16le", 0.1),
			field("humidity", "%", 7, "u8", 1),
			field("pressure", "hPa", 8, "u16le", 1),
		}},
	}
}()

// HHCC's plant sensor that speaks for itself, under an id of Tuya's.
var hhccTables = []Table{{
	Name: "hhcc", Model: "HHCCJCY10", Match: service("fd50", 9), Fields: []Field{
		field("moisture", "%", 0, "u8", 1),
		field("temperature", "°C", 1, "s16be", 0.1),
		field("illuminance", "lx", 3, "u24be", 1),
		field("battery", "%", 6, "u8", 1),
		field("conductivity", "µS/cm", 7, "u16be", 1),
	},
}}

// Inkbird. The sensors use the two bytes of the company's id for the temperature. Meat thermometers say
// ffff or fff6 of a probe that is not plugged in.
var inkbirdTables = func() []Table {
	sensor := func(model, name string, fields ...Field) Table {
		return Table{
			Name: "inkbird", Model: model, Match: Match{Manufacturer: true, Length: 9, Names: []string{name}},
			Fields: append([]Field{
				field("temperature", "°C", 0, "s16le", 0.01).when(4, 0, 0),
				field("temperature_probe_1", "°C", 0, "s16le", 0.01).when(4, 0, 1, 3), // 3 was seen, too
				field("battery", "%", 7, "u8", 1).between(0, 100),
			}, fields...),
		}
	}
	tables := []Table{
		sensor("IBS-TH", "sps", field("humidity", "%", 2, "u16le", 0.01).between(0, 100)),
		sensor("IBS-TH2/P01B", "tps", field("humidity", "%", 2, "u16le", 0.01).not(0).between(0, 100)),
		{Name: "inkbird_18", Model: "Inkbird", Match: Match{Manufacturer: true, Length: 18,
			Names: []string{"IBS-P02B", "ibs-p02b", "ITH-11-B", "ith-11-b", "ITH-13-B", "ith-13-b", "ITH-21-B", "ith-21-b"}},
			Fields: []Field{
				field("temperature", "°C", 6, "s16le", 0.1),
				field("humidity", "%", 8, "u16le", 0.1).not(0).between(0, 100),
				field("battery", "%", 10, "u8", 1).between(0, 100),
			}},
		{Name: "inkbird_iam", Model: "IAM-T2", Match: company(0x3254, 15, is(0, 0x00), is(1, 0x62)),
			Fields: []Field{
				field("temperature", "°C", 8, "s16be", 0.1).when(7, 2, 0),
				fahrenheit(field("temperature", "°C", 8, "s16be", 5).over(90)).when(7, 2, 1),
				field("humidity", "%", 10, "u16be", 0.1).between(0, 100),
				field("co2", "ppm", 12, "u16be", 1).between(0, 40000),
			}},
	}
	for _, probes := range []int{1, 2, 4, 6} {
		var fields []Field
		for i := range probes {
			fields = append(fields, field(fmt.Sprintf("temperature_probe_%d", i+1), "°C", 10+2*i, "s16le", 0.1).not(-1, -10))
		}
		for _, m := range []Match{{Names: []string{"iBBQ", "xBBQ"}}, {Advertise: []string{"fff0"}, Bytes: []Condition{is(0, 0, 1), is(1, 0), is(2, 0)}}} {
			m.Manufacturer, m.Length = true, 10+2*probes
			tables = append(tables, Table{Name: "inkbird_bbq", Model: fmt.Sprintf("iBBQ-%d", probes), Match: m, Fields: fields})
		}
	}
	return tables
}()

// fahrenheit makes a field of scaled °F, its zero still at 0 °F, one of °C.
func fahrenheit(f Field) Field {
	digits := 1
	f.Add, f.Digits = -160.0/9, &digits
	return f
}

// Mocreo. ST7 has six bytes of address in front, under the company id 004a.
var mocreoTables = func() []Table {
	temperature := field("temperature", "°C", 6, "s16le", 0.01)
	humidity := field("humidity", "%", 8, "u16le", 0.01)
	battery := field("battery", "%", 4, "u8", 1).bits(0x7f)
	tables := []Table{{
		Name: "mocreo", Model: "ST7", Match: Match{Company: ptr[uint16](0x004a), MinLength: 14, Names: []string{"ST7"}},
		Fields: []Field{field("temperature", "°C", 10, "s16le", 0.01), field("battery", "%", 9, "u8", 1).bits(0x7f)},
	}}
	for _, m := range []struct {
		id     int64
		model  string
		fields []Field
	}{
		{0x81, "ST5", []Field{temperature}},
		{0x82, "SW2", []Field{field("water_leak", "", 10, "bool", 0).bits(0x01)}},
		{0x83, "ST6", []Field{temperature, humidity}},
		{0x84, "ST8", []Field{temperature}},
		{0x86, "ST9", []Field{temperature, humidity}},
		{0x87, "ST10", []Field{temperature}},
		{0x8b, "MS1", []Field{temperature}},
		{0x94, "MS2", []Field{temperature}},
		{0x96, "MS3", []Field{temperature}},
	} {
		tables = append(tables, Table{
			Name: "mocreo", Model: m.model, Fields: append(m.fields, battery),
			Match: Match{Manufacturer: true, Length: 18, Names: []string{"MOCREO"}, Bytes: []Condition{is(1, m.id)}},
		})
	}
	return tables
}()

func ptr[T any](v T) *T { return &v }

// Sensirion's BLE protocol (Sensirion/arduino-ble-gadget, documents/02_BLE_Protocol): the second byte is the type of
// sample. Two bytes of device id follow.
func sensirionTables() []Table {
	temperature := field("temperature", "°C", 4, "u16le", 175).over(65535).plus(-45)
	humidity := field("humidity", "%", 6, "u16le", 100).over(65535)
	co2 := func(at int) Field { return field("co2", "ppm", at, "u16le", 1) }
	voc := func(at int) Field { return field("voc_index", "", at, "u16le", 1) }
	nox := func(at int) Field { return field("nox_index", "", at, "u16le", 1) }
	pm25v1 := func(at int) Field { return field("pm25", "µg/m³", at, "u16le", 1000).over(65535) }
	pm25 := func(at int) Field { return field("pm25", "µg/m³", at, "u16le", 0.1) }
	hcho := func(at int) Field { return field("formaldehyde", "ppb", at, "u16le", 0.2) }
	var tables []Table
	for _, s := range []struct {
		sample int64
		fields []Field
	}{
		{3, []Field{temperature, humidity, voc(8), field("voc_raw", "", 10, "u16le", 1)}},
		{4, []Field{temperature, humidity}},
		{6, []Field{temperature, field("humidity", "%", 6, "u16le", 125).over(65535).plus(-6)}},
		{8, []Field{temperature, humidity, co2(8)}},
		{10, []Field{temperature, humidity, co2(8)}},
		{12, []Field{temperature, humidity, co2(8), pm25v1(10)}},
		{14, []Field{temperature, humidity, hcho(8)}},
		{16, []Field{temperature, humidity, voc(8), pm25v1(10)}},
		{20, []Field{temperature, humidity, co2(8), voc(10), pm25v1(12), hcho(14)}},
		{22, []Field{temperature, humidity, voc(8), nox(10)}},
		{24, []Field{temperature, humidity, voc(8), nox(10), pm25(12)}},
		{26, []Field{temperature, humidity, co2(8), voc(10), nox(12), pm25(14)}},
		{28, []Field{temperature, humidity, co2(8), pm25(10)}},
		{30, []Field{temperature, humidity, voc(8), pm25(10)}},
		{32, []Field{temperature, humidity, co2(8), voc(10), pm25(12), hcho(14)}},
		{34, []Field{co2(4)}},
	} {
		last := s.fields[len(s.fields)-1]
		tables = append(tables, Table{
			Name: "sensirion", Model: "Sensirion gadget", Fields: s.fields,
			Match: Match{Company: ptr[uint16](0x06d5), MinLength: last.At + 2, Bytes: []Condition{is(0, 0), is(1, s.sample)}},
		})
	}
	return tables
}

// SensorPush packs its values into one number of mixed radix, under no company's id. The low two bits of the
// first byte are the page, the others the model less 64.
var sensorPushTables = func() []Table {
	const uuid = "ef090000-11d6-42ba-93b8-9dd7ec090ab0"
	page := func(model int64, length int) Match {
		return Match{Manufacturer: true, Advertise: []string{uuid}, Length: length, Bytes: []Condition{is(0, (model-64)<<2)}}
	}
	packed := func(name, unit, typ string, step, least float64, quotient, remainder uint64) Field {
		f := field(name, unit, 1, typ, step).plus(least)
		f.Quotient, f.Remainder = quotient, remainder
		return f
	}
	return []Table{
		{Name: "sensorpush", Model: "HT.w", Match: page(65, 5), Fields: []Field{
			packed("temperature", "°C", "u32le", 0.0025, -40, 0, 66001),
			packed("humidity", "%", "u32le", 0.0025, 0, 66001, 40001),
		}},
		{Name: "sensorpush", Model: "HTP.xw", Match: page(64, 7), Fields: []Field{
			packed("temperature", "°C", "u48le", 0.0025, -40, 0, 72001),
			packed("humidity", "%", "u48le", 0.0025, 0, 72001, 40001),
			packed("pressure", "hPa", "u48le", 0.01, 300, 72001*40001, 95001),
		}},
	}
}()

// ThermoBeacon and its sisters. The address is in the data, reversed.
var thermoBeaconTables = func() []Table {
	var tables []Table
	for _, m := range []struct {
		id    uint16
		model string
	}{{0x10, "Lanyard/mini hygrometer"}, {0x11, "Smart hygrometer"}, {0x15, "Smart hygrometer"}, {0x18, "Smart hygrometer"}, {0x1b, "Smart hygrometer"}} {
		match := company(m.id, 18)
		match.Advertise = []string{"fff0"}
		tables = append(tables, Table{
			Name: "thermobeacon", Model: m.model, Match: match,
			Fields: []Field{
				field("voltage", "V", 8, "u16le", 0.001),
				field("temperature", "°C", 10, "s16le", 0.0625),
				field("humidity", "%", 12, "u16le", 0.0625),
				field("uptime", "s", 14, "u32le", 1),
			},
			Identity: at(field("", "", 2, "macle", 0)),
		})
	}
	return append(tables, Table{
		Name: "thermobeacon", Model: "T201", Match: company(0xaa55, 17),
		Fields: []Field{
			field("voltage", "V", 8, "u16be", 0.01),
			field("temperature", "°C", 10, "s16be", 0.01),
			field("humidity", "%", 12, "u16be", 0.01),
			field("battery", "%", 14, "u8", 1),
		},
		Identity: at(field("", "", 2, "mac", 0)),
	})
}()

// ThermoPro. The company's id is the kind of device and half the temperature.
var thermoProTables = func() []Table {
	hygrometer := func(name string) Table {
		return Table{
			Name: "thermopro", Model: name, Match: Match{Manufacturer: true, Names: []string{name}, MinLength: 6},
			Fields: []Field{
				field("temperature", "°C", 1, "s16le", 0.1).not(-1),
				field("humidity", "%", 3, "u8", 1).not(0xff),
				field("battery", "%", 4, "u8", 0).bits(0x03).named(map[string]string{"0": "1", "1": "50", "2": "100"}),
				field("battery_low", "", 4, "u8", 0).bits(0x03).named(map[string]string{"0": "true", "1": "false", "2": "false"}),
			},
		}
	}
	var tables []Table
	for _, name := range []string{"TP350", "TP351", "TP352", "TP353", "TP357S", "TP357", "TP358S", "TP358", "TP359", "TP393", "TP397"} {
		tables = append(tables, hygrometer(name))
	}
	// Meat probes: whole degrees from -30 °C on; the number of the probe, from 0, is in front.
	for _, name := range []string{"TP960", "TP961", "TP962", "TP963", "TP964", "TP965", "TP970", "TP972"} {
		for _, length := range []int{7, 13} { // 13 with the base station's address
			for probe := range int64(4) {
				n := probe + 1
				tables = append(tables, Table{
					Name: "thermopro", Model: name,
					Match: Match{Manufacturer: true, Names: []string{name}, Length: length, Bytes: []Condition{is(0, probe)}},
					Fields: []Field{
						field(fmt.Sprintf("temperature_probe_%d", n), "°C", 1, "u16le", 1).plus(-30),
						field(fmt.Sprintf("temperature_ambient_%d", n), "°C", 5, "u16le", 1).plus(-30),
						field(fmt.Sprintf("voltage_probe_%d", n), "V", 3, "u16le", 0.001),
					},
				})
			}
		}
	}
	return tables
}()
