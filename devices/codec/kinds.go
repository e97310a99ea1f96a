package codec

import (
	"slices"
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// Kind is what a measurement measures. The pages choose by it how to show a value, and
// Home Assistant discovery takes its classes from it.
type Kind struct {
	Name string
	// DeviceClass and StateClass are Home Assistant's, empty if it has none; a device class allows
	// some units only.
	DeviceClass string
	StateClass  string
	units       string // that it is measured in, separated by spaces; "-": it can be without
	words       string // that a name says it by, separated by spaces; a dot stands between two in a row
}

// kinds is THE list. Where two fit, the longer words win, and then the earlier line.
var kinds = []Kind{
	{"temperature", "temperature", "measurement", "°C °F K", "temperature temp dewpoint dew.point t"},
	{"humidity", "humidity", "measurement", "%", "humidity hum rh"},
	{"absolute humidity", "absolute_humidity", "measurement", "g/m³ mg/m³", "absolute.humidity humidity"},
	{"moisture", "moisture", "measurement", "%", "moisture soil soil.moisture"},
	{"battery", "battery", "measurement", "%", "battery batt bat soc charge"},
	{"pressure", "pressure", "measurement", "Pa hPa kPa mbar bar cbar psi inHg mmHg", "pressure press baro barometer"},
	{"voltage", "voltage", "measurement", "V mV µV kV MV", "voltage volt u vcc vbat battery batt"},
	{"current", "current", "measurement", "A mA", "current amps amperage"},
	{"power", "power", "measurement", "W mW kW MW GW", "power watt watts"},
	{"apparent power", "apparent_power", "measurement", "VA mVA kVA", "apparent.power"},
	{"reactive power", "reactive_power", "measurement", "var kvar mvar", "reactive.power"},
	{"power factor", "power_factor", "measurement", "- %", "power.factor pf cosphi"},
	{"frequency", "frequency", "measurement", "Hz kHz MHz GHz", "frequency freq"},
	{"energy", "energy", "total_increasing", "Wh kWh MWh GWh J kJ MJ GJ", "energy"},
	{"reactive energy", "reactive_energy", "total_increasing", "varh kvarh", "reactive.energy"},
	{"gas", "gas", "total_increasing", "m³ ft³ L", "gas"},
	{"water", "water", "total_increasing", "m³ ft³ L gal", "water"},
	{"volume", "volume_storage", "measurement", "m³ L mL gal ft³", "volume level"},
	{"volume flow", "volume_flow_rate", "measurement", "m³/h m³/s L/min L/h L/s mL/s gal/min ft³/min", "flow"},
	{"illuminance", "illuminance", "measurement", "lx", "illuminance light lux brightness"},
	{"irradiance", "irradiance", "measurement", "W/m²", "irradiance solar radiation"},
	{"uv index", "", "measurement", "-", "uv uv.index uvi"},
	{"pm1", "pm1", "measurement", "µg/m³", "pm1 pm1_0 pm01"},
	{"pm2.5", "pm25", "measurement", "µg/m³", "pm25 pm2_5"},
	{"pm4", "pm4", "measurement", "µg/m³", "pm4 pm4_0"},
	{"pm10", "pm10", "measurement", "µg/m³", "pm10 pm10_0"},
	{"carbon dioxide", "carbon_dioxide", "measurement", "ppm", "co2 carbon.dioxide eco2"},
	{"carbon monoxide", "carbon_monoxide", "measurement", "ppm mg/m³ µg/m³ ppb", "co carbon.monoxide"},
	{"volatile organic compounds", "volatile_organic_compounds", "measurement", "µg/m³ mg/m³", "voc tvoc"},
	{"volatile organic compounds", "volatile_organic_compounds_parts", "measurement", "ppm ppb", "voc tvoc"},
	{"nitrogen dioxide", "nitrogen_dioxide", "measurement", "µg/m³ ppm ppb", "no2 nitrogen.dioxide"},
	{"ozone", "ozone", "measurement", "µg/m³ ppm ppb", "o3 ozone"},
	{"sulphur dioxide", "sulphur_dioxide", "measurement", "µg/m³ ppb", "so2 sulphur.dioxide"},
	{"air quality index", "aqi", "measurement", "-", "aqi iaq"},
	{"weight", "weight", "measurement", "kg g mg µg lb oz st", "weight mass"},
	{"distance", "distance", "measurement", "m km cm mm mi yd in nmi", "distance depth height altitude range length level"},
	{"distance", "", "measurement", "ft fathom", "distance depth height altitude range length level"},
	{"speed", "speed", "measurement", "m/s km/h mph kn ft/s mm/s", "speed velocity"},
	{"wind speed", "wind_speed", "measurement", "m/s km/h mph kn ft/s", "wind wind.speed wind.gust gust"},
	{"wind direction", "wind_direction", "measurement_angle", "°", "wind.direction wind.dir wind.bearing"},
	{"precipitation", "precipitation", "total_increasing", "mm cm in", "rain precipitation rainfall"},
	{"precipitation intensity", "precipitation_intensity", "measurement", "mm/h in/h mm/d", "rain rain.rate precipitation"},
	{"conductivity", "conductivity", "measurement", "µS/cm mS/cm S/cm", "conductivity ec"},
	{"ph", "ph", "measurement", "-", "ph"},
	{"signal strength", "signal_strength", "measurement", "dBm dB", "rssi signal snr lqi"},
	{"sound pressure", "sound_pressure", "measurement", "dB dBA", "noise sound loudness"},
	{"duration", "duration", "measurement", "s ms µs min h d", "duration uptime runtime age"},
	{"data size", "data_size", "measurement", "B kB MB GB TB KiB MiB GiB bit", "memory heap disk"},
	{"data rate", "data_rate", "measurement", "bit/s kbit/s Mbit/s B/s kB/s MB/s", "bitrate bandwidth"},
	{"angle", "", "measurement_angle", "°", "angle course heading direction azimuth pitch roll yaw"},
	{"position", "", "measurement", "°", "latitude longitude lat lon lng"},
	{"rotation", "", "measurement", "rpm 1/min", "rpm fan rotation"},
	{"count", "", "total_increasing", "-", "count counter pulses"},
}

// unitKinds are the units that tell the kind whatever the name is.
var unitKinds = map[string]string{
	"°C": "temperature", "°F": "temperature",
	"Pa": "pressure", "hPa": "pressure", "kPa": "pressure", "mbar": "pressure", "bar": "pressure", "psi": "pressure",
	"inHg": "pressure", "mmHg": "pressure",
	"V": "voltage", "mV": "voltage", "kV": "voltage", "A": "current", "mA": "current",
	"W": "power", "mW": "power", "kW": "power", "MW": "power", "VA": "apparent power", "kVA": "apparent power",
	"var": "reactive power", "kvar": "reactive power", "varh": "reactive energy", "kvarh": "reactive energy",
	"Wh": "energy", "kWh": "energy", "MWh": "energy", "kJ": "energy", "MJ": "energy", "GJ": "energy", "Hz": "frequency", "kHz": "frequency", "MHz": "frequency",
	"lx": "illuminance", "W/m²": "irradiance", "kg": "weight", "g": "weight", "lb": "weight",
	"m/s": "speed", "km/h": "speed", "mph": "speed", "kn": "speed", "km": "distance", "cm": "distance", "nmi": "distance",
	"m³/h": "volume flow", "L/min": "volume flow", "L/h": "volume flow", "L/s": "volume flow",
	"µS/cm": "conductivity", "mS/cm": "conductivity", "mm/h": "precipitation intensity", "dBm": "signal strength", "rpm": "rotation",
	"kbit/s": "data rate", "Mbit/s": "data rate", "KiB": "data size", "MiB": "data size", "GiB": "data size",
}

// plainUnits are other spellings of units, those of SenML (RFC 8428, 12.1, and RFC 8798)
// among them.
var plainUnits = map[string]string{
	"Cel": "°C", "degC": "°C", "℃": "°C", "ºC": "°C", "degF": "°F", "ºF": "°F", "%RH": "%", "%EL": "%",
	"deg": "°", "degrees": "°", "lux": "lx", "l": "L", "l/s": "L/s", "l/min": "L/min", "l/h": "L/h",
	"m2": "m²", "m3": "m³", "ft3": "ft³", "dm3": "L", "m3/s": "m³/s", "m3/h": "m³/h",
	"ug/m3": "µg/m³", "μg/m³": "µg/m³", "ug/m³": "µg/m³", "mg/m3": "mg/m³", "g/m3": "g/m³",
	"W/m2": "W/m²", "m/s2": "m/s²", "uS/cm": "µS/cm", "μS/cm": "µS/cm", "uV": "µV", "us": "µs", "kmh": "km/h", "kph": "km/h",
	"kt": "kn", "kts": "kn", "knots": "kn", "NM": "nmi", "VAR": "var", "kVAr": "kvar", "kVAR": "kvar", "kVArh": "kvarh",
	"RPM": "rpm", "1/min": "rpm",
}

// PlainUnit is unit as it is commonly written: °C for Cel, m³ for m3. An unknown one stays
// as it is.
func PlainUnit(unit string) string {
	if plain, ok := plainUnits[unit]; ok {
		return plain
	}
	return unit
}

// KindOf tells what a measurement of that name and unit measures, or nothing (the zero Kind)
// if that cannot be told. The kind can be measured in the unit.
func KindOf(name, unit string) Kind {
	unit = PlainUnit(unit)
	if unit == "" {
		unit = "-"
	}
	said := "." + strings.Join(strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return strings.ContainsRune("._- /:", r) }), ".") + "."
	var best Kind
	longest := 0
	for _, k := range kinds {
		if !hasWord(k.units, unit) {
			continue
		}
		if unitKinds[unit] == k.Name && longest == 0 {
			best = k
		}
		for _, word := range strings.Fields(k.words) {
			// A name that has its own "_" or "." inside, as pm2_5 has, is split as all are.
			dotted := "." + strings.ReplaceAll(word, "_", ".") + "."
			if len(word) > longest && strings.Contains(said, dotted) {
				best, longest = k, len(word)
			}
		}
	}
	return best
}

// KindNamed is the kind of that name, one of KindNames, of a measurement in unit. The error says
// which units it can have.
func KindNamed(name, unit string) (Kind, error) {
	unit = PlainUnit(unit)
	var units []string
	for _, k := range kinds {
		if k.Name != name {
			continue
		}
		if unit == "" && hasWord(k.units, "-") || unit != "" && unit != "-" && hasWord(k.units, unit) {
			return k, nil
		}
		units = append(units, strings.Fields(strings.ReplaceAll(k.units, "-", "none"))...)
	}
	if unit == "" {
		unit = "no unit"
	}
	return Kind{}, gateway.Errorf(gateway.ErrInvalid, "%s cannot be in %s; its units are %s", name, unit, strings.Join(units, ", "))
}

// KindNames are the names of all kinds.
func KindNames() (names []string) {
	for _, k := range kinds {
		if !slices.Contains(names, k.Name) {
			names = append(names, k.Name)
		}
	}
	return names
}

func hasWord(words, word string) bool {
	for _, w := range strings.Fields(words) {
		if w == word {
			return true
		}
	}
	return false
}
