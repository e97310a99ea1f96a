package adv

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
)

// iBeacon (Apple, Proximity Beacon Specification §3): company 004c, type 02, length 15.
func decodeIBeacon(_ *Decoder, p *packet) (*Result, error) {
	data, ok := p.company(0x004c)
	if !ok || len(data) < 2 || data[0] != 0x02 || data[1] != 0x15 {
		return nil, nil
	}
	if len(data) < 23 {
		return nil, malformed("an iBeacon has 23 bytes, this one %d", len(data))
	}
	uuid, major, minor := data[2:18], binary.BigEndian.Uint16(data[18:]), binary.BigEndian.Uint16(data[20:])
	if bytes.HasPrefix(uuid, []byte("INTELLI_ROCKS")) { // what Govee's thermometers add for their app
		return nil, nil
	}
	r := newResult(p, "ibeacon", "iBeacon")
	r.ID = fmt.Sprintf("ibeacon-%x-%d-%d", uuid, major, minor)
	r.add("uuid", hex.EncodeToString(uuid), "")
	r.number("major", float64(major), 0, "")
	r.number("minor", float64(minor), 0, "")
	r.number("measured_power", float64(int8(data[22])), 0, "dBm") // at 1 m
	return r, nil
}

// AltBeacon (AltBeacon Protocol Specification 1.0): any company, code beac, 20 bytes of id.
func decodeAltBeacon(_ *Decoder, p *packet) (*Result, error) {
	for _, m := range p.makers {
		data := m[2:]
		if len(data) < 2 || data[0] != 0xbe || data[1] != 0xac {
			continue
		}
		if len(data) < 24 {
			return nil, malformed("an AltBeacon has 24 bytes, this one %d", len(data))
		}
		r := newResult(p, "altbeacon", "AltBeacon")
		r.ID = fmt.Sprintf("altbeacon-%x", data[2:22])
		r.add("uuid", hex.EncodeToString(data[2:18]), "")
		r.number("major", float64(binary.BigEndian.Uint16(data[18:])), 0, "")
		r.number("minor", float64(binary.BigEndian.Uint16(data[20:])), 0, "")
		r.number("measured_power", float64(int8(data[22])), 0, "dBm") // at 1 m
		r.number("reserved", float64(data[23]), 0, "")                // the maker's
		return r, nil
	}
	return nil, nil
}

// The frame types of Eddystone.
const (
	eddystoneUID = 0x00
	eddystoneURL = 0x10
	eddystoneTLM = 0x20
	eddystoneEID = 0x30
)

// Eddystone (google/eddystone, protocol specification): service data of feaa.
func decodeEddystone(_ *Decoder, p *packet) (*Result, error) {
	data, ok := p.service(0xfeaa)
	if !ok {
		return nil, nil
	}
	if len(data) < 2 {
		return nil, malformed("no frame")
	}
	r := newResult(p, "", "Eddystone")
	switch data[0] {
	case eddystoneUID:
		r.Format = "eddystone_uid"
		if len(data) != 18 && len(data) != 20 { // older ones leave the two reserved bytes out
			return nil, malformed("a UID frame has 20 bytes, this one %d", len(data))
		}
		r.ID = fmt.Sprintf("eddystone-%x-%x", data[2:12], data[12:18])
		r.number("tx_power", float64(int8(data[1])), 0, "dBm") // at 0 m
		r.add("namespace", hex.EncodeToString(data[2:12]), "")
		r.add("instance", hex.EncodeToString(data[12:18]), "")
	case eddystoneURL:
		r.Format = "eddystone_url"
		url, err := eddystoneLink(data[2:])
		if err != nil {
			return nil, err
		}
		r.number("tx_power", float64(int8(data[1])), 0, "dBm")
		r.add("url", url, "")
	case eddystoneTLM:
		r.Format = "eddystone_tlm"
		if data[1] == 1 {
			return r, fmt.Errorf("%w: encrypted telemetry opens only with the beacon's identity key and its clock", ErrNoKey)
		}
		if data[1] != 0 {
			return nil, malformed("telemetry of version %d", data[1])
		}
		if len(data) != 14 {
			return nil, malformed("a TLM frame has 14 bytes, this one %d", len(data))
		}
		r.readings(data, tlmFields)
		r.count(binary.BigEndian.Uint32(data[6:]))
	case eddystoneEID:
		r.Format = "eddystone_eid"
		if len(data) != 10 {
			return nil, malformed("an EID frame has 10 bytes, this one %d", len(data))
		}
		r.number("tx_power", float64(int8(data[1])), 0, "dBm")
		r.add("eid", hex.EncodeToString(data[2:10]), "")
	default:
		return nil, malformed("frame type %#02x", data[0])
	}
	return r, nil
}

// tlmFields are those of unencrypted telemetry (eddystone-tlm/tlm-plain.md).
var tlmFields = []Field{
	field("voltage", "V", 2, "u16be", 0.001).not(0),
	field("temperature", "°C", 4, "s16be", 1).over(256).not(-0x8000),
	field("adv_count", "", 6, "u32be", 1),
	field("uptime", "s", 10, "u32be", 0.1),
}

// eddystoneLink unpacks a URL (eddystone-url/README.md).
func eddystoneLink(b []byte) (string, error) {
	schemes := []string{"http://www.", "https://www.", "http://", "https://"}
	endings := []string{".com", ".org", ".edu", ".net", ".info", ".biz", ".gov"}
	if len(b) < 2 || len(b) > 18 { // the scheme, and 1 to 17 bytes
		return "", malformed("a URL of %d bytes", len(b))
	}
	if int(b[0]) >= len(schemes) {
		return "", malformed("URL scheme %#02x", b[0])
	}
	url := schemes[b[0]]
	for _, c := range b[1:] {
		switch {
		case int(c) < len(endings):
			url += endings[c] + "/"
		case int(c) < 2*len(endings):
			url += endings[int(c)-len(endings)]
		case c <= 0x20 || c >= 0x7f:
			return "", malformed("the URL has a byte %#02x, which is reserved", c)
		default:
			url += string(rune(c))
		}
	}
	return url, nil
}

// Ruuvi (docs.ruuvi.com, "Bluetooth advertisements"). Formats 5 and c5 are tables.

const ruuviCompany = 0x0499

// decodeRuuviURL reads formats 2 and 4: https://ruu.vi/# and the values in base64.
func decodeRuuviURL(_ *Decoder, p *packet) (*Result, error) {
	frame, ok := p.service(0xfeaa)
	const head = "\x03ruu.vi/#"
	if !ok || len(frame) < 2+len(head)+8 || frame[0] != eddystoneURL || string(frame[2:2+len(head)]) != head {
		return nil, nil
	}
	// A ninth character of format 4 is the tag's own id; two thirds of a byte.
	code := frame[2+len(head):]
	data := make([]byte, 6)
	if _, err := base64.RawURLEncoding.Decode(data, code[:8]); err != nil {
		return nil, malformed("the values are no base64")
	}
	if data[0] != 2 && data[0] != 4 {
		return nil, malformed("format %d", data[0])
	}
	r := newResult(p, "ruuvi_url", "RuuviTag")
	r.add("temperature", signedParts(data[2], data[3]), "°C")
	r.readings(data, []Field{
		field("humidity", "%", 1, "u8", 0.5),
		field("pressure", "hPa", 4, "u16be", 0.01).plus(500),
	})
	return r, nil
}

// signedParts is a temperature of a sign bit and whole degrees, and hundredths.
func signedParts(whole, hundredths byte) string {
	x := float64(whole&0x7f) + float64(hundredths)/100
	if whole&0x80 != 0 {
		x = -x
	}
	return decimal(x, 2)
}

// decodeRuuvi reads the formats whose values lie across bytes: 3, 6 and e1.
func decodeRuuvi(_ *Decoder, p *packet) (*Result, error) {
	data, ok := p.company(ruuviCompany)
	if !ok || len(data) < 1 {
		return nil, nil
	}
	r := newResult(p, "", "RuuviTag")
	switch {
	case data[0] == 3 && len(data) >= 14:
		r.Format = "ruuvi_rawv1"
		r.readings(data, ruuvi3[:1])
		if data[3] <= 99 {
			r.add("temperature", signedParts(data[2], data[3]), "°C")
		}
		r.readings(data, ruuvi3[1:])
	case data[0] == 6 && len(data) >= 20:
		r.Format, r.Model = "ruuvi_6", "Ruuvi Air"
		r.readings(data, ruuvi6)
		r.airIndices(data[11], data[12], data[16])
		if code := data[13]; code != 0xff { // logarithmic
			r.number("illuminance", math.Expm1(float64(code)*math.Log(65536)/254), 2, "lx")
		}
		r.count(uint32(data[15]))
	case data[0] == 0xe1 && len(data) >= 40:
		r.Format, r.Model = "ruuvi_e1", "Ruuvi Air"
		r.readings(data, ruuviE1)
		r.airIndices(data[17], data[18], data[28])
		if n, _ := raw(data, 25, "u24be", 0); n != 0xffffff {
			r.count(uint32(n))
		}
		if !isUnset(data[34:40]) {
			r.ID = hex.EncodeToString(data[34:40])
		}
	case slices.Contains([]byte{3, 6, 0xe1}, data[0]):
		return nil, malformed("format %x is longer than %d bytes", data[0], len(data))
	default:
		return nil, nil
	}
	return r, nil
}

// airIndices are those of volatile organic compounds and nitrogen oxides; nine bits each, of
// which the lowest is in flags.
func (r *Result) airIndices(voc, nox, flags byte) {
	for _, index := range []struct {
		name string
		high byte
		low  byte
	}{{"voc_index", voc, flags >> 6 & 1}, {"nox_index", nox, flags >> 7}} {
		if v := int(index.high)<<1 | int(index.low); v != 0x1ff {
			r.number(index.name, float64(v), 0, "")
		}
	}
	r.flag("calibrating", flags&1 != 0)
}

var (
	ruuviAir = []Field{
		field("temperature", "°C", 1, "s16be", 0.005).not(-0x8000),
		field("humidity", "%", 3, "u16be", 0.0025).not(0xffff),
		field("pressure", "hPa", 5, "u16be", 0.01).plus(500).not(0xffff),
	}
	ruuvi3 = []Field{
		field("humidity", "%", 1, "u8", 0.5),
		field("pressure", "hPa", 4, "u16be", 0.01).plus(500),
		field("acceleration_x", "g", 6, "s16be", 0.001),
		field("acceleration_y", "g", 8, "s16be", 0.001),
		field("acceleration_z", "g", 10, "s16be", 0.001),
		field("voltage", "V", 12, "u16be", 0.001),
	}
	ruuvi6 = append(slices.Clone(ruuviAir),
		field("pm25", "µg/m³", 7, "u16be", 0.1).not(0xffff),
		field("co2", "ppm", 9, "u16be", 1).not(0xffff),
	)
	ruuviE1 = append(slices.Clone(ruuviAir),
		field("pm1", "µg/m³", 7, "u16be", 0.1).not(0xffff),
		field("pm25", "µg/m³", 9, "u16be", 0.1).not(0xffff),
		field("pm4", "µg/m³", 11, "u16be", 0.1).not(0xffff),
		field("pm10", "µg/m³", 13, "u16be", 0.1).not(0xffff),
		field("co2", "ppm", 15, "u16be", 1).not(0xffff),
		field("illuminance", "lx", 19, "u24be", 0.01).not(0xffffff),
	)
)
