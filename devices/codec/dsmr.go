package codec

import (
	"bytes"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// P1 telegrams of smart meters: Netbeheer Nederland, "P1 Companion Standard", 2.2 to 5.0.2,
// whose lines are IEC 62056-21 mode D; the Belgian e-MUCS-P1 and the Luxembourg P1
// specification name more of the codes. (Luxembourg's meters encrypt; what decrypts them
// is not here.)
//
//	/ISk5\2MT382-1000                   who it is
//
//	1-0:1.8.1(000004.426*kWh)           a code (OBIS, IEC 62056-61) and its values
//	0-1:24.2.1(170102161005W)(00000.107*m3)
//	!6EEE                               CRC-16/ARC from "/" to "!"; none before 4.0

// maxTelegram bounds a telegram, in bytes. Text messages of 1024 characters are 2048 of it.
const maxTelegram = 16384

// obis names the codes. "" is a code that is no reading. Codes that are not here are readings
// under their own name if they have one value, or a time and a value.
var obis = map[string]string{
	"1-3:0.2.8": "version", "0-0:96.1.4": "version", // Belgium's
	"0-0:1.0.0":  "", // when the telegram was made
	"0-0:96.1.1": "meter_id", "0-0:96.1.0": "meter_id", "0-0:42.0.0": "logical_name", "0-0:96.1.2": "ean",

	"1-0:1.8.0": "energy_import", "1-0:1.8.1": "energy_import.t1", "1-0:1.8.2": "energy_import.t2",
	"1-0:1.8.3": "energy_import.t3", "1-0:1.8.4": "energy_import.t4",
	"1-0:2.8.0": "energy_export", "1-0:2.8.1": "energy_export.t1", "1-0:2.8.2": "energy_export.t2",
	"1-0:2.8.3": "energy_export.t3", "1-0:2.8.4": "energy_export.t4",
	"1-0:3.8.0": "reactive_energy_import", "1-0:3.8.1": "reactive_energy_import.t1", "1-0:3.8.2": "reactive_energy_import.t2",
	"1-0:4.8.0": "reactive_energy_export", "1-0:4.8.1": "reactive_energy_export.t1", "1-0:4.8.2": "reactive_energy_export.t2",
	"0-0:96.14.0": "tariff",

	"1-0:1.7.0": "power_import", "1-0:2.7.0": "power_export",
	"1-0:21.7.0": "power_import.l1", "1-0:41.7.0": "power_import.l2", "1-0:61.7.0": "power_import.l3",
	"1-0:22.7.0": "power_export.l1", "1-0:42.7.0": "power_export.l2", "1-0:62.7.0": "power_export.l3",
	"1-0:3.7.0": "reactive_power_import", "1-0:4.7.0": "reactive_power_export",
	"1-0:23.7.0": "reactive_power_import.l1", "1-0:43.7.0": "reactive_power_import.l2", "1-0:63.7.0": "reactive_power_import.l3",
	"1-0:24.7.0": "reactive_power_export.l1", "1-0:44.7.0": "reactive_power_export.l2", "1-0:64.7.0": "reactive_power_export.l3",
	"1-0:9.7.0": "apparent_power_import", "1-0:10.7.0": "apparent_power_export",
	"1-0:32.7.0": "voltage.l1", "1-0:52.7.0": "voltage.l2", "1-0:72.7.0": "voltage.l3",
	"1-0:31.7.0": "current.l1", "1-0:51.7.0": "current.l2", "1-0:71.7.0": "current.l3", "1-0:91.7.0": "current.n", "1-0:90.7.0": "current",
	"1-0:13.7.0": "power_factor", "1-0:33.7.0": "power_factor.l1", "1-0:53.7.0": "power_factor.l2", "1-0:73.7.0": "power_factor.l3",
	"1-0:14.7.0": "frequency",

	"0-0:96.7.21": "power_failures", "0-0:96.7.9": "long_power_failures", "1-0:99.97.0": "", // their log
	"1-0:32.32.0": "voltage_sags.l1", "1-0:52.32.0": "voltage_sags.l2", "1-0:72.32.0": "voltage_sags.l3",
	"1-0:32.36.0": "voltage_swells.l1", "1-0:52.36.0": "voltage_swells.l2", "1-0:72.36.0": "voltage_swells.l3",

	"0-0:17.0.0": "power_limit", "1-0:31.4.0": "current_limit", "0-0:96.3.10": "breaker",
	"0-0:96.13.0": "message", "0-0:96.13.1": "message_code",
	"0-0:96.13.2": "message.2", "0-0:96.13.3": "message.3", "0-0:96.13.4": "message.4", "0-0:96.13.5": "message.5",

	// Belgium: what the capacity tariff counts. 98.1.0 is the months before.
	"1-0:1.4.0": "demand", "1-0:1.6.0": "demand_peak", "0-0:98.1.0": "",
}

// hexTexts are the codes whose value is text in hexadecimal.
var hexTexts = map[string]bool{
	"meter_id": true, "logical_name": true, "ean": true, "message": true, "message_code": true,
	"message.2": true, "message.3": true, "message.4": true, "message.5": true,
}

// mbusMedia are the kinds of meter that a channel of the electricity meter can have, EN 13757-3.
var mbusMedia = map[int]string{2: "electricity", 3: "gas", 4: "heat", 6: "hot_water", 7: "water", 8: "heat_cost", 10: "cold", 11: "cold", 12: "heat", 13: "heat", 21: "hot_water", 22: "cold_water"}

func dsmrP1() (framing, *Format) {
	return framing{start: func() cutting { return &scanner{cut: cutTelegram, max: maxTelegram} }},
		&Format{binary: true, typed: true, decode: decodeTelegram, units: map[string]string{
			"energy_import.t1": "kWh", "energy_import.t2": "kWh", "energy_export.t1": "kWh", "energy_export.t2": "kWh",
			"power_import": "kW", "power_export": "kW",
		}}
}

var arc = crcs["arc"].sum()

func cutTelegram(p []byte) (int, []byte, string) {
	if p[0] == '\r' || p[0] == '\n' {
		return 1, nil, ""
	}
	if n, _ := begin(p, []byte{'/'}); n > 0 {
		return n, nil, Noise
	}
	p = p[:min(len(p), maxTelegram)]
	end := bytes.Index(p, []byte("\n!"))
	// IEC 62056-21, 6.3.14: a "/" is nothing but a beginning.
	if again := bytes.IndexByte(p[1:], '/') + 1; again > 0 && (end < 0 || again < end) {
		return again, p[:again], Malformed
	}
	length := -1
	if end >= 0 {
		length = bytes.IndexByte(p[end+1:], '\n')
	}
	switch {
	case length < 0 && len(p) == maxTelegram:
		return 1, nil, Overlong
	case length < 0:
		return 0, nil, ""
	}
	body, sent := p[:end+2], bytes.TrimSpace(p[end+2:end+1+length])
	n := end + 1 + length + 1
	if len(sent) > 0 {
		want, err := strconv.ParseUint(string(sent), 16, 16)
		if err != nil || len(sent) != 4 || uint64(arc(body)) != want {
			return 1, p[:n], Checksum
		}
	}
	return n, p[:n], ""
}

// telegram is one that is being read.
type telegram struct {
	made    time.Time
	crc     bool
	version int
	media   map[string]string // by channel
	counts  map[string]int    // how many channels with a value have the medium
	values  []channelValue
}

// channelValue is what a channel's meter counted.
type channelValue struct {
	channel string
	reading Reading
}

func decodeTelegram(p []byte, add func(Reading)) error {
	text := string(p)
	if !utf8.ValidString(text) {
		return errMalformed
	}
	lines := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	if len(lines[0]) < 5 { // three letters and the baud rate's
		return errMalformed
	}
	t := telegram{media: map[string]string{}, counts: map[string]int{}}
	var data []string
	for _, line := range lines[1:] {
		switch line = strings.TrimSpace(line); {
		case line == "":
		case line[0] == '!':
			t.crc = len(line) > 1
		case line[0] == '(' && len(data) > 0: // the value of a line before 4.0 that has a head
			data[len(data)-1] += line
		default:
			data = append(data, line)
		}
	}
	var readings []Reading
	for _, line := range data {
		code, values, ok := splitLine(line)
		if !ok {
			return errMalformed
		}
		r, ok := t.line(code, values)
		if !ok {
			return errMalformed
		}
		if r.Name != "" {
			readings = append(readings, r)
		}
	}
	if t.version >= 40 && !t.crc {
		return errChecksum
	}
	for _, r := range readings {
		if r.Source.IsZero() {
			r.Source = t.made
		}
		add(r)
	}
	for _, v := range t.values {
		medium := t.media[v.channel]
		v.reading.Name = medium
		if medium == "" {
			v.reading.Name = "meter." + v.channel
		} else if t.counts[medium] > 1 {
			v.reading.Name += "." + v.channel
		}
		add(v.reading)
	}
	return nil
}

// splitLine takes "code(value)(value)" apart.
func splitLine(line string) (code string, values []string, ok bool) {
	code, rest, found := strings.Cut(line, "(")
	if !found || !isOBIS(code) || !strings.HasSuffix(rest, ")") {
		return "", nil, false
	}
	values = strings.Split(rest[:len(rest)-1], ")(")
	for _, v := range values {
		if strings.ContainsAny(v, "()") {
			return "", nil, false
		}
	}
	return code, values, true
}

// isOBIS tells whether code is written A-B:C.D.E, perhaps with .F or *F.
func isOBIS(code string) bool {
	numbers := strings.FieldsFunc(code, func(r rune) bool { return strings.ContainsRune("-:.*", r) })
	for _, n := range numbers {
		if _, err := strconv.ParseUint(n, 10, 8); err != nil {
			return false
		}
	}
	return len(numbers) >= 5 && len(numbers) <= 6 && strings.Count(code, "-") == 1 && strings.Count(code, ":") == 1
}

// line returns the reading of a line, if it is one.
func (t *telegram) line(code string, values []string) (r Reading, ok bool) {
	last := values[len(values)-1]
	if channel, register, ok := mbusCode(code); ok {
		return t.mbus(channel, register, values)
	}
	name, known := obis[code]
	switch {
	case code == "0-0:1.0.0":
		t.made, _ = meterTime(last) // a clock that was never set says 632525252525
		return r, true
	case name == "version":
		n, err := strconv.Atoi(last)
		t.version = n
		return Reading{Name: name, Value: last}, err == nil
	case known && name == "" || last == "":
		return r, true
	case len(values) == 2: // with its own time, as the peak in Belgium
		if r.Source, ok = meterTime(values[0]); !ok {
			return r, true
		}
	case len(values) != 1:
		return r, true // a list, of something that we do not know
	}
	if r.Name = name; !known {
		r.Name = code
	}
	if hexTexts[name] {
		r.Value = hexText(last)
		return r, true
	}
	return r.quantity(last)
}

// mbusCode tells whether code is of a meter behind the electricity meter: 0-n:C.D.E, with n
// from 1 on.
func mbusCode(code string) (channel, register string, ok bool) {
	rest, ok := strings.CutPrefix(code, "0-")
	channel, register, _ = strings.Cut(rest, ":")
	return channel, register, ok && channel != "0"
}

func (t *telegram) mbus(channel, register string, values []string) (r Reading, ok bool) {
	last := values[len(values)-1]
	switch {
	case last == "":
		return r, true
	case register == "24.1.0":
		kind, err := strconv.Atoi(last)
		if t.media[channel] = mbusMedia[kind]; mbusMedia[kind] == "" {
			t.media[channel] = "meter." + channel
		}
		return r, err == nil
	case register == "96.1.0", register == "96.1.1":
		r.Name = "meter_id." + channel
		r.Value = hexText(last)
		return r, true
	case register == "96.1.2":
		r.Name = "ean." + channel
		r.Value = hexText(last)
		return r, true
	case register == "24.4.0":
		r.Name = "valve." + channel
		return r.quantity(last)
	case register == "24.3.0": // before 4.0: (time)(status)(…)(…)(code)(unit)(value)
		if len(values) != 7 {
			return r, false
		}
		r.Value, ok = Number(last)
		r.Unit = PlainUnit(values[5])
	case strings.HasPrefix(register, "24.2.") && len(values) == 2: // 24.2.3: gas, not converted to 0 °C
		r.Source, _ = meterTime(values[0])
		if r, ok = r.quantity(last); ok && r.Unit == "" { // the meter has not been read yet
			return Reading{}, true
		}
	default:
		if len(values) != 1 {
			return r, true
		}
		r.Name = "0-" + channel + ":" + register
		return r.quantity(last)
	}
	if ok {
		t.counts[t.media[channel]]++
		t.values = append(t.values, channelValue{channel, r})
	}
	return Reading{}, ok
}

// quantity gives r the value of text: "001.19*kW", or a number or a word without a unit.
func (r Reading) quantity(text string) (Reading, bool) {
	value, unit, has := strings.Cut(text, "*")
	n, number := Number(value)
	switch {
	case has && (!number || unit == ""):
		return r, false
	case has:
		r.Value, r.Unit = n, PlainUnit(unit)
	case number && len(n) < 10: // a count; longer ones are the names of things
		r.Value = n
	default:
		r.Value = text
	}
	return r, true
}

// hexText is what meters write as text in hexadecimal. A few write text.
func hexText(text string) string {
	b, err := hex.DecodeString(text)
	if err != nil || !utf8.Valid(b) || !isText(b, true) {
		return text
	}
	return string(b)
}

// meterTime is YYMMDDhhmmssX, X saying whether it is summer (S) or winter (W) in Central
// Europe. Before 4.0 X is missing, and an hour in the autumn comes twice: no time then.
func meterTime(text string) (time.Time, bool) {
	if len(text) == 12 {
		_, err := time.Parse("060102150405", text)
		return time.Time{}, err == nil
	}
	zone := map[byte]int{'W': 1, 'S': 2}
	if len(text) != 13 || zone[text[12]] == 0 {
		return time.Time{}, false
	}
	t, err := time.ParseInLocation("060102150405", text[:12], time.FixedZone("", zone[text[12]]*3600))
	return t.UTC(), err == nil
}
