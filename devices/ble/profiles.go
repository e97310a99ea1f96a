package ble

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/devices/codec"
)

// profile is a characteristic that the Bluetooth SIG defines (GATT Specification Supplement).
type profile struct {
	uuid   uint16
	fields []adv.Field                           // its value, or
	decode func([]byte) ([]codec.Reading, error) // where no table serves
	words  map[string]byte                       // all that can be written, where that is not text
}

// profiles are those that can be named, by name: of the services Battery, Environmental Sensing, Device Information and
// Heart Rate.
var profiles = map[string]profile{
	"battery": number(0x2a19, "battery", "%", "u8", 1),

	"temperature":             number(0x2a6e, "temperature", "°C", "s16le", 0.01, -0x8000),
	"humidity":                number(0x2a6f, "humidity", "%", "u16le", 0.01, 0xffff),
	"pressure":                number(0x2a6d, "pressure", "hPa", "u32le", 0.001),
	"dew_point":               number(0x2a7b, "dew_point", "°C", "s8", 1),
	"heat_index":              number(0x2a7a, "heat_index", "°C", "s8", 1),
	"wind_chill":              number(0x2a79, "wind_chill", "°C", "s8", 1),
	"uv_index":                number(0x2a76, "uv_index", "", "u8", 1),
	"irradiance":              number(0x2a77, "irradiance", "W/m²", "u16le", 0.1),
	"rainfall":                number(0x2a78, "rainfall", "mm", "u16le", 1),
	"elevation":               number(0x2a6c, "elevation", "m", "s24le", 0.01),
	"gust_factor":             number(0x2a74, "gust_factor", "", "u8", 0.1),
	"pollen_concentration":    number(0x2a75, "pollen_concentration", "1/m³", "u24le", 1),
	"apparent_wind_speed":     number(0x2a72, "apparent_wind_speed", "m/s", "u16le", 0.01),
	"apparent_wind_direction": number(0x2a73, "apparent_wind_direction", "°", "u16le", 0.01),
	"true_wind_speed":         number(0x2a70, "true_wind_speed", "m/s", "u16le", 0.01),
	"true_wind_direction":     number(0x2a71, "true_wind_direction", "°", "u16le", 0.01),
	"magnetic_declination":    number(0x2a2c, "magnetic_declination", "°", "u16le", 0.01),
	"pressure_trend": {uuid: 0x2aa3, fields: []adv.Field{{Name: "pressure_trend", Values: map[string]string{
		"0": "unknown", "1": "falling", "2": "rising", "3": "steady", "4": "falling", "5": "rising", "6": "falling", "7": "rising", "8": "falling", "9": "steady",
	}}}},
	"magnetic_flux_2d": {uuid: 0x2aa0, fields: flux("x", "y")},
	"magnetic_flux_3d": {uuid: 0x2aa1, fields: flux("x", "y", "z")},

	"manufacturer":      text(0x2a29, "manufacturer"),
	"model":             text(0x2a24, "model"),
	"serial_number":     text(0x2a25, "serial_number"),
	"hardware_revision": text(0x2a27, "hardware_revision"),
	"firmware_revision": text(0x2a26, "firmware_revision"),
	"software_revision": text(0x2a28, "software_revision"),
	"system_id":         {uuid: 0x2a23, fields: []adv.Field{{Name: "system_id", Type: "hex"}}},

	"heart_rate": {uuid: 0x2a37, decode: heartRate},
	"body_sensor_location": {uuid: 0x2a38, fields: []adv.Field{{Name: "body_sensor_location", Values: map[string]string{
		"0": "other", "1": "chest", "2": "wrist", "3": "finger", "4": "hand", "5": "ear lobe", "6": "foot",
	}}}},
	"heart_rate_control": {uuid: 0x2a39, words: map[string]byte{"reset": 1}}, // of the energy expended
}

var profileNames = slices.Sorted(maps.Keys(profiles))

func number(uuid uint16, name, unit, typ string, scale float64, invalid ...int64) profile {
	return profile{uuid: uuid, fields: []adv.Field{{Name: name, Unit: unit, Type: typ, Scale: scale, Invalid: invalid}}}
}

func text(uuid uint16, name string) profile {
	return profile{uuid: uuid, fields: []adv.Field{{Name: name, Type: "text"}}}
}

// flux is in tesla, to a ten millionth.
func flux(axes ...string) (fields []adv.Field) {
	for i, axis := range axes {
		fields = append(fields, adv.Field{Name: "magnetic_flux_" + axis, Unit: "µT", At: 2 * i, Type: "s16le", Scale: 0.1})
	}
	return fields
}

func (p profile) attribute(name string) attribute {
	at := attribute{uuid: adv.UUID16(p.uuid), name: name, decode: p.decode, encode: encodeAny}
	if at.decode == nil {
		at.decode = decodeFields(p.fields)
	}
	if p.words != nil {
		at.words = slices.Sorted(maps.Keys(p.words))
		at.encode = func(word string) ([]byte, error) {
			b, known := p.words[word]
			if !known {
				return nil, fmt.Errorf("%q is none of %s", word, strings.Join(at.words, ", "))
			}
			return []byte{b}, nil
		}
	}
	return at
}

// decodeFields reads a value. One that is too short for its first field is no value.
func decodeFields(fields []adv.Field) func([]byte) ([]codec.Reading, error) {
	return func(value []byte) ([]codec.Reading, error) {
		return adv.Values(value, fields), nil
	}
}

// encodeAny takes bytes, as 0x and hexadecimal digits, or text.
func encodeAny(value string) ([]byte, error) {
	if digits, ok := strings.CutPrefix(value, "0x"); ok {
		b, err := hex.DecodeString(digits)
		if err != nil {
			return nil, fmt.Errorf("%q is no hexadecimal number of whole bytes", value)
		}
		return b, nil
	}
	return []byte(value), nil
}

// heartRate reads a Heart Rate Measurement (Heart Rate Service §3.1): flags, then what they say is there.
func heartRate(b []byte) (list []codec.Reading, err error) {
	errShort := errors.New("a heart rate is cut short")
	if len(b) < 2 {
		return nil, errShort
	}
	add := func(name string, value, unit string) {
		list = append(list, codec.Reading{Name: name, Value: value, Unit: unit})
	}
	flags, b := b[0], b[1:]
	rate := uint16(b[0])
	if flags&1 != 0 {
		if len(b) < 2 {
			return nil, errShort
		}
		rate, b = binary.LittleEndian.Uint16(b), b[1:]
	}
	b = b[1:]
	add("heart_rate", strconv.Itoa(int(rate)), "1/min")
	if flags&4 != 0 {
		add("sensor_contact", strconv.FormatBool(flags&2 != 0), "")
	}
	if flags&8 != 0 {
		if len(b) < 2 {
			return nil, errShort
		}
		add("energy_expended", strconv.Itoa(int(binary.LittleEndian.Uint16(b))), "kJ")
		b = b[2:]
	}
	if flags&16 != 0 && len(b) >= 2 { // the newest of the intervals, which come in order
		last := b[len(b)&^1-2:]
		add("rr_interval", strconv.FormatFloat(float64(binary.LittleEndian.Uint16(last))/1024, 'f', 3, 64), "s")
	}
	return list, nil
}
