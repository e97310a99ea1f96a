package adv

import (
	"maps"
	"slices"
	"strings"
)

// format is a format that is code.
type format struct {
	name   string
	decode decodeFunc
}

// formats are all of them; see builtInTables for the others.
var formats = []format{
	{"bthome_v2", decodeBTHome},
	{"bthome_v1", decodeBTHomeV1},
	{"mibeacon", decodeMiBeacon},
	{"miscale", decodeMiScale},
	{"atc", decodeATC},
	{"qingping", decodeQingping},
	{"ruuvi", decodeRuuvi},
	{"ruuvi_url", decodeRuuviURL},
	{"switchbot", decodeSwitchBot},
	{"govee_switch", decodeGoveeSwitch},
	{"teltonika", decodeTeltonika},
	{"sonoff", decodeSonoff},
	{"kegtron", decodeKegtron},
	{"jinou", decodeJinou},
	{"tilt", decodeTilt},
}

// fallbacks are beacons that name a place or a thing. Sensors send them beside their values, for an app
// to wake up by, so they count only where nothing else does.
var fallbacks = []format{
	{"eddystone", decodeEddystone},
	{"ibeacon", decodeIBeacon},
	{"altbeacon", decodeAltBeacon},
}

// aliases are other names of formats, by which people know them.
var aliases = map[string]string{"pvvx": "atc", "atc1441": "atc", "bthome": "bthome_v2", "xiaomi": "mibeacon"}

// Formats are the names of all formats, tables included, sorted; some are families, such as ruuvi.
func Formats(tables []Table) []string {
	var names []string
	for _, f := range slices.Concat(formats, fallbacks) {
		names = append(names, f.name)
	}
	for _, t := range builtInTables {
		names = append(names, t.Name)
	}
	for _, t := range tables {
		names = append(names, t.Name)
	}
	names = slices.AppendSeq(names, maps.Keys(aliases))
	slices.Sort(names)
	return slices.Compact(names)
}

// Is tells whether the result is of a format: its own name, another one for it, or its family, as ruuvi is of ruuvi_rawv2.
func (r Result) Is(format string) bool {
	if name := aliases[format]; name != "" {
		format = name
	}
	return r.Format == format || strings.HasPrefix(r.Format, format+"_")
}
