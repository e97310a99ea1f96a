package codec

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// NMEA 0183 sentences, versions 2.0 to 4.11: $ or !, an address (talker and type), fields
// between commas, *, and the XOR of all between in two hexadecimal digits. A tag block (4.0)
// may stand before one: \c:1577880000*hh\$….
//
// The types in sentences below become readings with names and units. Of any other, field n is
// the reading "type.n". The talker is not part of a name.

// maxSentence bounds a sentence with its tag block, in bytes. The standard allows 82 without.
const maxSentence = 1024

func nmea0183() (framing, *Format) {
	units := map[string]string{}
	for _, s := range sentences {
		for _, p := range s.parts {
			if p.name != "" {
				units[p.name] = p.unit
			}
		}
	}
	return framing{start: func() cutting { return &scanner{cut: cutSentence, max: maxSentence} }, wrap: wrapSentence},
		&Format{typed: true, decode: decodeSentence, units: units}
}

// wrapSentence makes a sentence of what stands between its $ and its checksum.
func wrapSentence(p []byte) ([]byte, error) {
	if bytes.ContainsAny(p, "$!*\\\r\n") {
		return nil, gateway.Errorf(gateway.ErrInvalid, "%q has one of $ ! * \\ or the end of a line in it", p)
	}
	return fmt.Appendf(nil, "$%s*%02X\r\n", p, xor8(p)), nil
}

func cutSentence(p []byte) (int, []byte, string) {
	if p[0] == '\r' || p[0] == '\n' {
		return 1, nil, ""
	}
	if i := bytes.IndexAny(p, "$!\\"); i != 0 {
		if i < 0 {
			i = len(p)
		}
		return i, nil, Noise
	}
	p = p[:min(len(p), maxSentence)]
	from := 1 // where no other sentence may begin before the end
	if p[0] == '\\' {
		i := bytes.IndexAny(p[1:], "\\\r\n$!") + 1
		switch {
		case i == 0 && len(p) == maxSentence:
			return 1, nil, Noise
		case i == 0 || p[i] == '\\' && i+1 == len(p):
			return 0, nil, ""
		case p[i] != '\\' || p[i+1] != '$' && p[i+1] != '!':
			return 1, nil, Noise
		}
		from = i + 2
	}
	i := bytes.IndexAny(p[from:], "\r\n$!")
	switch {
	case i < 0 && len(p) == maxSentence:
		return 1, nil, Overlong
	case i < 0:
		return 0, nil, ""
	case p[from+i] == '$' || p[from+i] == '!':
		return from + i, p[:from+i], Malformed
	}
	return from + i, p[:from+i], ""
}

// sentence is one that is being read.
type sentence struct {
	talker  string // GP, II, …
	quality gateway.Quality
	date    time.Time // midnight
	clock   time.Duration
	timed   bool // clock is known
	out     []Reading
}

func (s *sentence) add(name, value, unit string) {
	s.out = append(s.out, Reading{Name: name, Value: value, Unit: unit})
}

// part is some fields of a sentence, one after the other.
type part struct {
	n    int
	name string // of the reading, for those that make just one
	unit string
	read func(s *sentence, p part, f []string) bool // whether they are what they have to be
}

// layout is a sentence's fields. Later versions of the standard added fields at the end: least
// is how many the first had.
type layout struct {
	least int
	parts []part
	rest  func(s *sentence, fields []string) bool // reads the fields after parts; nil: they are left alone
}

func decodeSentence(frame []byte, add func(Reading)) error {
	text, source, ok := tagBlock(string(frame))
	if !ok {
		return errChecksum
	}
	text, sent, ok := strings.Cut(text[1:], "*")
	sum, err := hex.DecodeString(sent)
	if !ok || err != nil || len(sum) != 1 || sum[0] != xor8([]byte(text)) {
		return errChecksum
	}
	fields := strings.Split(text, ",")
	address, fields := fields[0], fields[1:]
	for _, r := range address {
		if (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return errMalformed
		}
	}
	if len(address) < 3 || len(fields) == 0 {
		return errMalformed
	}
	kind := address
	s := sentence{}
	if address[0] != 'P' && len(address) == 5 {
		s.talker, kind = address[:2], address[2:]
	}
	if known, ok := sentences[kind]; ok && s.talker != "" {
		if !s.parse(known, fields) {
			return errMalformed
		}
	} else {
		for i, f := range fields {
			if f != "" {
				s.add(strings.ToLower(kind)+"."+strconv.Itoa(i+1), f, "")
			}
		}
	}
	if s.timed && !s.date.IsZero() && s.quality != gateway.Bad {
		source = s.date.Add(s.clock)
	}
	for _, r := range s.out {
		r.Quality, r.Source = max(r.Quality, s.quality), source
		if r.Name == "valid" || r.Name == "fix_quality" { // that is what it says
			r.Quality = gateway.Good
		}
		add(r)
	}
	return nil
}

// parse reads fields as l says.
func (s *sentence) parse(l layout, fields []string) bool {
	if len(fields) < l.least {
		return false
	}
	for _, p := range l.parts {
		f := make([]string, p.n)
		copy(f, fields)
		fields = fields[min(len(fields), p.n):]
		if !p.read(s, p, f) {
			return false
		}
	}
	return l.rest == nil || l.rest(s, fields)
}

// tagBlock takes the tag block off text. Its time, in seconds or milliseconds, is when the
// sentence was received.
func tagBlock(text string) (rest string, source time.Time, ok bool) {
	if text[0] != '\\' {
		return text, source, true
	}
	block, rest, _ := strings.Cut(text[1:], "\\")
	block, sent, _ := strings.Cut(block, "*")
	sum, err := hex.DecodeString(sent)
	if err != nil || len(sum) != 1 || sum[0] != xor8([]byte(block)) {
		return "", source, false
	}
	for _, item := range strings.Split(block, ",") {
		if n, found := strings.CutPrefix(item, "c:"); found {
			if t, err := strconv.ParseInt(n, 10, 64); err == nil && t > 0 && t < 1<<42 {
				if source = time.Unix(t, 0).UTC(); t > 1<<36 {
					source = time.UnixMilli(t).UTC()
				}
			}
		}
	}
	return rest, source, true
}

// The parts. An empty field is one that is not known.

// num is a number.
func num(name, unit string) part {
	return part{n: 1, name: name, unit: unit, read: func(s *sentence, p part, f []string) bool {
		n, ok := decimalNumber(f[0])
		if ok {
			s.add(p.name, n, p.unit)
		}
		return ok || f[0] == ""
	}}
}

// in is a number and the letter of its unit.
func in(name, letter, unit string) part {
	return part{n: 2, name: name, unit: unit, read: func(s *sentence, p part, f []string) bool {
		n, ok := decimalNumber(f[0])
		if ok {
			s.add(p.name, n, p.unit)
		}
		return (ok || f[0] == "") && (f[1] == letter || f[1] == "")
	}}
}

// oneOf is a quantity in several units, as in does one each. The best is the reading, or the
// first that is there.
func oneOf(best int, of ...part) part {
	n := 0
	for _, p := range of {
		n += p.n
	}
	return part{n: n, read: func(s *sentence, _ part, f []string) bool {
		before := len(s.out)
		for i, p := range of {
			last := len(s.out)
			if !p.read(s, p, f[:p.n]) {
				return false
			}
			f = f[p.n:]
			if i == best && len(s.out) > last {
				s.out[before] = s.out[last]
			}
		}
		s.out = s.out[:min(len(s.out), before+1)]
		return true
	}}
}

// side is a number and one of two letters, the second of which makes it negative.
func side(name, unit, letters string) part {
	return part{n: 2, name: name, unit: unit, read: func(s *sentence, p part, f []string) bool {
		n, ok := decimalNumber(f[0])
		switch {
		case f[0] == "":
			return f[1] == "" || strings.Contains(letters, f[1]) && len(f[1]) == 1
		case !ok || len(f[1]) != 1 || !strings.Contains(letters, f[1]):
			return false
		case f[1] == letters[1:] && strings.Trim(n, "0.") != "":
			n = "-" + strings.TrimPrefix(n, "-")
		}
		s.add(p.name, n, p.unit)
		return true
	}}
}

// word is one of the words, or empty, and no reading.
func word(words ...string) part {
	return part{n: 1, read: func(_ *sentence, _ part, f []string) bool {
		for _, w := range words {
			if f[0] == w {
				return true
			}
		}
		return f[0] == ""
	}}
}

// skip is a field that may hold anything and is no reading.
var skip = part{n: 1, read: func(*sentence, part, []string) bool { return true }}

// status is A for valid, V for not, and a reading.
var status = part{n: 1, read: func(s *sentence, _ part, f []string) bool {
	if f[0] != "A" {
		s.quality = gateway.Bad
	}
	s.add("valid", strconv.FormatBool(f[0] == "A"), "")
	return f[0] == "A" || f[0] == "V"
}}

// trust is a status that is no reading of its own.
var trust = part{n: 1, read: func(s *sentence, _ part, f []string) bool {
	if f[0] == "V" {
		s.quality = gateway.Bad
	}
	return f[0] == "A" || f[0] == "V" || f[0] == ""
}}

// mode is how a position was found: Autonomous, Differential, Estimated, Float RTK, Manual, No
// fix, Precise, RTK, Simulator, and in THS V for no fix.
var mode = part{n: 1, read: func(s *sentence, _ part, f []string) bool {
	switch f[0] {
	case "E", "M":
		s.quality = max(s.quality, gateway.Uncertain)
	case "N", "S", "V":
		s.quality = gateway.Bad
	}
	return f[0] == "" || len(f[0]) == 1 && strings.Contains("ADEFMNPRSV", f[0])
}}

// modes are those of several systems, a letter each: the position is as good as the best.
var modes = part{n: 1, read: func(s *sentence, _ part, f []string) bool {
	if strings.Trim(f[0], "NSV") == "" {
		s.quality = gateway.Bad
	} else if strings.Trim(f[0], "NSVEM") == "" {
		s.quality = gateway.Uncertain
	}
	return strings.Trim(f[0], "ADEFMNPRSV") == ""
}}

// fixQuality is GGA's: 0 none, 1 GPS, 2 differential, 3 PPS, 4 RTK, 5 float RTK, 6 estimated, 7
// manual, 8 simulator.
var fixQuality = part{n: 1, name: "fix_quality", read: func(s *sentence, p part, f []string) bool {
	if len(f[0]) != 1 || f[0] < "0" || f[0] > "8" {
		return f[0] == ""
	}
	switch f[0] {
	case "0", "8":
		s.quality = gateway.Bad
	case "6", "7":
		s.quality = gateway.Uncertain
	}
	s.out = append(s.out, Reading{Name: p.name, Value: f[0]})
	return true
}}

// latitude and longitude are ddmm.mmmm and a letter.
var (
	latitude  = part{n: 2, name: "latitude", unit: "°", read: coordinate("NS", 90)}
	longitude = part{n: 2, name: "longitude", unit: "°", read: coordinate("EW", 180)}
)

func coordinate(letters string, most float64) func(*sentence, part, []string) bool {
	return func(s *sentence, p part, f []string) bool {
		if f[0] == "" {
			return f[1] == "" || len(f[1]) == 1 && strings.Contains(letters, f[1])
		}
		whole, frac, _ := strings.Cut(f[0], ".")
		if len(whole) < 3 || len(whole) > 5 || !allDigits(whole) || frac != "" && !allDigits(frac) ||
			len(frac) > 12 || len(f[1]) != 1 || !strings.Contains(letters, f[1]) {
			return false
		}
		degrees, _ := strconv.ParseFloat(whole[:len(whole)-2], 64)
		minutes, _ := strconv.ParseFloat(whole[len(whole)-2:]+"."+frac+"0", 64)
		v := degrees + minutes/60
		if minutes >= 60 || v > most {
			return false
		}
		if f[1] == letters[1:] && v != 0 {
			v = -v
		}
		// A minute's decimals and two more: the last digit is finer than what was sent.
		s.add(p.name, strconv.FormatFloat(v, 'f', min(len(frac)+3, 10), 64), p.unit)
		return true
	}
}

// clock is hhmmss.ss, UTC.
var clock = part{n: 1, read: func(s *sentence, _ part, f []string) bool {
	if f[0] == "" {
		return true
	}
	whole, frac, _ := strings.Cut(f[0], ".")
	if len(whole) != 6 || !allDigits(whole) || frac != "" && !allDigits(frac) || len(frac) > 9 {
		return false
	}
	n, _ := strconv.Atoi(whole)
	h, m, sec := n/10000, n/100%100, n%100
	part, _ := strconv.ParseFloat("0."+frac+"0", 64)
	s.clock = time.Duration(h*3600+m*60+sec)*time.Second + time.Duration(math.Round(part*1e9))
	s.timed = true
	return h < 24 && m < 60 && sec <= 60 // a leap second
}}

// date is ddmmyy. GPS began in 1980.
var date = part{n: 1, read: func(s *sentence, _ part, f []string) bool {
	if f[0] == "" {
		return true
	}
	if len(f[0]) != 6 || !allDigits(f[0]) {
		return false
	}
	century := "20"
	if f[0][4:] >= "80" {
		century = "19"
	}
	var err error
	s.date, err = time.Parse("02012006", f[0][:4]+century+f[0][4:])
	return err == nil
}}

// calendar is day, month, year and the local zone's hours and minutes. With the time before it,
// it is a reading.
var calendar = part{n: 5, name: "time", read: func(s *sentence, p part, f []string) bool {
	for i, digits := range []int{2, 2, 4, 3, 3} {
		sign := i == 3 && strings.HasPrefix(f[i], "-") || i == 4 && strings.HasPrefix(f[i], "-")
		if f[i] != "" && (len(f[i]) > digits || !allDigits(strings.TrimPrefix(f[i], "-")) || i < 3 && sign) {
			return false
		}
	}
	if f[0] == "" || f[1] == "" || f[2] == "" || !s.timed {
		return true
	}
	var err error
	if s.date, err = time.Parse("2-1-2006", f[0]+"-"+f[1]+"-"+f[2]); err != nil {
		return false
	}
	s.add(p.name, s.date.Add(s.clock).Format(time.RFC3339Nano), "")
	return true
}}

// decimalNumber is a number as the standard writes it, without an exponent.
func decimalNumber(f string) (string, bool) {
	if strings.ContainsAny(f, "eE") {
		return "", false
	}
	return Number(f)
}

// system is the name of a satellite system by its talker, or by its id in NMEA 4.1.
var system = map[string]string{
	"GP": "gps", "GL": "glonass", "GA": "galileo", "GB": "beidou", "BD": "beidou", "GQ": "qzss", "QZ": "qzss", "GI": "navic",
	"1": "gps", "2": "glonass", "3": "galileo", "4": "beidou", "5": "qzss", "6": "navic",
}

// used is GSA after its mode: the fix, twelve satellites, three dilutions, the system's id. A
// receiver of several systems sends a sentence each.
var used = part{n: 17, read: func(s *sentence, _ part, f []string) bool {
	fix := map[string]string{"1": "none", "2": "2D", "3": "3D"}[f[0]]
	if fix == "" && f[0] != "" {
		return false
	}
	if fix != "" {
		s.add("fix", fix, "")
	}
	satellites, name := 0, system[s.talker]
	for _, id := range f[1:13] {
		n, err := strconv.ParseUint(id, 10, 16)
		if id != "" && err != nil {
			return false
		}
		if id != "" {
			satellites++
			if name == "" {
				name = systemOf(n)
			}
		}
	}
	if id := system[strings.TrimLeft(f[16], "0")]; len(f[16]) <= 2 && id != "" && allDigits(f[16]) {
		name = id
	}
	if name != "" {
		s.add("satellites_used."+name, strconv.Itoa(satellites), "")
	}
	for i, d := range []string{"pdop", "hdop", "vdop"} {
		p := num(d, "")
		if !p.read(s, p, f[13+i:14+i]) {
			return false
		}
	}
	return true
}}

// systemOf is the system of a satellite by its number, as receivers count them that mark
// nothing else.
func systemOf(n uint64) string {
	switch {
	case n <= 64: // 33 on: SBAS
		return "gps"
	case n <= 96:
		return "glonass"
	case n >= 193 && n <= 202:
		return "qzss"
	case n >= 301 && n <= 336:
		return "galileo"
	case n >= 201 && n <= 263, n >= 401 && n <= 437:
		return "beidou"
	}
	return "others"
}

// inView is GSV: how many sentences, which one, how many satellites, then of up to four their
// number, elevation, azimuth and strength, and in NMEA 4.1 the signal's id. The first of the
// sentences is the reading.
func inView(s *sentence, f []string) bool {
	total, err1 := strconv.ParseUint(f[0], 10, 8)
	which, err2 := strconv.ParseUint(f[1], 10, 8)
	n, ok := decimalNumber(f[2])
	if err1 != nil || err2 != nil || f[2] != "" && !allDigits(f[2]) || which == 0 || which > total || len(f) > 20 {
		return false
	}
	satellites, signal := f[3:], len(f)%4 == 0
	if signal {
		satellites = satellites[:len(satellites)-1]
		if _, err := strconv.ParseUint(f[len(f)-1], 16, 8); err != nil && f[len(f)-1] != "" {
			return false
		}
	}
	for _, v := range satellites {
		if v != "" && !allDigits(strings.TrimPrefix(v, "-")) {
			return false
		}
	}
	name := system[s.talker]
	if name == "" {
		name = "all"
	}
	if ok && which == 1 {
		s.add("satellites_in_view."+name, n, "")
	}
	return len(satellites)%4 == 0
}

// wind is MWV: an angle, Relative or True, a speed, its unit.
var wind = part{n: 4, read: func(s *sentence, _ part, f []string) bool {
	kind, known := map[string]string{"R": "apparent", "T": "true"}[f[1]]
	unit, measured := map[string]string{"K": "km/h", "M": "m/s", "N": "kn", "S": "mph"}[f[3]]
	angle, ok1 := decimalNumber(f[0])
	speed, ok2 := decimalNumber(f[2])
	if !known || !ok1 && f[0] != "" || !ok2 && f[2] != "" || !measured && (ok2 || f[3] != "") {
		return false
	}
	if ok1 {
		s.add("wind_angle."+kind, angle, "°")
	}
	if ok2 {
		s.add("wind_speed."+kind, speed, unit)
	}
	return true
}}

// transducers are the kinds of XDR, with the units of each.
var transducers = map[string]struct {
	name  string
	units map[string]string
}{
	"A": {"angle", map[string]string{"D": "°"}},
	"C": {"temperature", map[string]string{"C": "°C", "F": "°F", "K": "K"}},
	"D": {"depth", map[string]string{"M": "m", "I": "in"}},
	"F": {"frequency", map[string]string{"H": "Hz"}},
	"N": {"force", map[string]string{"N": "N"}},
	"P": {"pressure", map[string]string{"B": "bar", "P": "Pa", "H": "hPa"}},
	"R": {"flow", map[string]string{"L": "L/s"}},
	"T": {"tachometer", map[string]string{"R": "rpm"}},
	"H": {"humidity", map[string]string{"P": "%"}},
	"V": {"volume", map[string]string{"M": "m³"}},
	"I": {"current", map[string]string{"A": "A"}},
	"U": {"voltage", map[string]string{"V": "V"}},
	"S": {"switch", nil},
	"L": {"salinity", map[string]string{"S": "ppt"}},
	"G": {"generic", nil},
}

// measures is XDR: kind, value, unit and name, any number of times.
func measures(s *sentence, fields []string) bool {
	if len(fields)%4 != 0 {
		return false
	}
	for ; len(fields) > 0; fields = fields[4:] {
		kind, name := transducers[fields[0]], fields[3]
		value, ok := decimalNumber(fields[1])
		if !ok {
			if fields[1] != "" {
				return false
			}
			continue
		}
		unit, known := kind.units[fields[2]]
		if !known {
			unit = fields[2] // some makers have their own
		}
		switch {
		case kind.name == "" && fields[0] == "":
			return false
		case kind.name == "":
			kind.name = "xdr_" + strings.ToLower(fields[0])
		}
		if name != "" {
			name = "." + name
		}
		s.add(kind.name+name, value, unit)
	}
	return true
}

// sentences are the known types.
var sentences = map[string]layout{
	"RMC": {least: 11, parts: []part{clock, status, latitude, longitude, num("speed", "kn"), num("course", "°"), date,
		side("magnetic_variation", "°", "EW"), mode, word("A", "C", "D", "E", "M", "N", "S", "U", "V")}},
	"GGA": {least: 14, parts: []part{clock, latitude, longitude, fixQuality, num("satellites", ""), num("hdop", ""), in("altitude", "M", "m"),
		in("geoid_separation", "M", "m"), num("dgps_age", "s"), skip}},
	"GNS": {least: 12, parts: []part{clock, latitude, longitude, modes, num("satellites", ""), num("hdop", ""), num("altitude", "m"),
		num("geoid_separation", "m"), num("dgps_age", "s"), skip, word("A", "C", "D", "E", "M", "N", "S", "U", "V")}},
	"GLL": {least: 4, parts: []part{latitude, longitude, clock, trust, mode}},
	"GSA": {least: 16, parts: []part{word("M", "A"), used}},
	"GSV": {least: 3, rest: inView},
	"XDR": {least: 4, rest: measures},
	"GST": {least: 8, parts: []part{clock, num("range_error", "m"), skip, skip, skip, num("latitude_error", "m"), num("longitude_error", "m"), num("altitude_error", "m")}},
	"VTG": {least: 8, parts: []part{in("course", "T", "°"), in("course_magnetic", "M", "°"),
		oneOf(0, in("speed", "N", "kn"), in("speed", "K", "km/h")), mode}},
	"ZDA": {least: 4, parts: []part{clock, calendar}},

	"HDT": {least: 2, parts: []part{in("heading", "T", "°")}},
	"HDM": {least: 2, parts: []part{in("heading_magnetic", "M", "°")}},
	"HDG": {least: 5, parts: []part{num("heading_magnetic", "°"), side("magnetic_deviation", "°", "EW"), side("magnetic_variation", "°", "EW")}},
	"THS": {least: 2, parts: []part{num("heading", "°"), mode}},
	"ROT": {least: 2, parts: []part{num("rate_of_turn", "°/min"), trust}},
	"RSA": {least: 2, parts: []part{num("rudder", "°"), trust, num("rudder.port", "°"), trust}},
	"VHW": {least: 8, parts: []part{in("heading", "T", "°"), in("heading_magnetic", "M", "°"),
		oneOf(0, in("water_speed", "N", "kn"), in("water_speed", "K", "km/h"))}},
	"VLW": {least: 4, parts: []part{in("log.total", "N", "nmi"), in("log.trip", "N", "nmi"), in("ground_log.total", "N", "nmi"), in("ground_log.trip", "N", "nmi")}},

	"DBT": {least: 6, parts: depths("depth")},
	"DBS": {least: 6, parts: depths("depth_below_surface")},
	"DBK": {least: 6, parts: depths("depth_below_keel")},
	"DPT": {least: 2, parts: []part{num("depth", "m"), num("depth_offset", "m"), num("depth_range", "m")}},

	"MTW": {least: 2, parts: []part{in("water_temperature", "C", "°C")}},
	"MTA": {least: 2, parts: []part{in("air_temperature", "C", "°C")}},
	"MMB": {least: 4, parts: []part{oneOf(1, in("pressure", "I", "inHg"), in("pressure", "B", "bar"))}},
	"MHU": {least: 4, parts: []part{num("humidity", "%"), num("absolute_humidity", "%"), in("dew_point", "C", "°C")}},
	"MDA": {least: 20, parts: []part{oneOf(1, in("pressure", "I", "inHg"), in("pressure", "B", "bar")), in("air_temperature", "C", "°C"),
		in("water_temperature", "C", "°C"), num("humidity", "%"), num("absolute_humidity", "%"), in("dew_point", "C", "°C"),
		in("wind_direction", "T", "°"), in("wind_direction_magnetic", "M", "°"), oneOf(0, in("wind_speed", "N", "kn"), in("wind_speed", "M", "m/s"))}},
	"MWD": {least: 8, parts: []part{in("wind_direction", "T", "°"), in("wind_direction_magnetic", "M", "°"),
		oneOf(0, in("wind_speed", "N", "kn"), in("wind_speed", "M", "m/s"))}},
	"MWV": {least: 5, parts: []part{wind, trust}},
	"VWR": {least: 8, parts: []part{side("wind_angle.apparent", "°", "RL"),
		oneOf(0, in("wind_speed.apparent", "N", "kn"), in("wind_speed.apparent", "M", "m/s"), in("wind_speed.apparent", "K", "km/h"))}},
	"VWT": {least: 8, parts: []part{side("wind_angle.true", "°", "RL"),
		oneOf(0, in("wind_speed.true", "N", "kn"), in("wind_speed.true", "M", "m/s"), in("wind_speed.true", "K", "km/h"))}},
}

func depths(name string) []part {
	return []part{oneOf(1, in(name, "f", "ft"), in(name, "M", "m"), in(name, "F", "fathom"))}
}
