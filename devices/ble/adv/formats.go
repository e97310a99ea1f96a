package adv

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
