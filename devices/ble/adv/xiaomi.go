package adv

import (
	"encoding/binary"
	"slices"
)

// atcFlags are those of pvvx's firmware: a reed contact, and the output it switches.
func atcFlags(at int) []Field {
	return []Field{
		field("opening", "", at, "bool", 0).bits(1 << 0),
		field("switch", "", at, "bool", 0).bits(1 << 1),
	}
}

// The data of ATC_MiThermometer (pvvx/ATC_MiThermometer, src/custom_beacon.h), behind the
// UUID. The atc1441 format is big-endian, its address not reversed.
var (
	atc1441 = []Field{
		field("temperature", "°C", 6, "s16be", 0.1),
		field("humidity", "%", 8, "u8", 1),
		field("battery", "%", 9, "u8", 1),
		field("voltage", "V", 10, "u16be", 0.001),
	}
	atcCustom = append([]Field{
		field("temperature", "°C", 6, "s16le", 0.01),
		field("humidity", "%", 8, "u16le", 0.01),
		field("voltage", "V", 10, "u16le", 0.001),
		field("battery", "%", 12, "u8", 1),
	}, atcFlags(14)...) // hardware without the contact leaves these out
	atcSealed = append([]Field{
		field("temperature", "°C", 0, "s16le", 0.01),
		field("humidity", "%", 2, "u16le", 0.01),
		field("battery", "%", 4, "u8", 1),
	}, atcFlags(5)...)
	atc1441Sealed = []Field{
		field("temperature", "°C", 0, "u8", 0.5).plus(-40),
		field("humidity", "%", 1, "u8", 0.5),
		field("battery", "%", 2, "u8", 1).bits(0x7f),
		field("switch", "", 2, "bool", 0).bits(0x80),
	}
)

// decodeATC reads the four formats of ATC_MiThermometer, which are told apart by length. Its encryption has a
// counter of one byte, which comes round too soon to refuse a replay by it.
func decodeATC(d *Decoder, p *packet) (*Result, error) {
	data, ok := p.service(0x181a)
	if !ok {
		return nil, nil
	}
	r := newResult(p, "atc", "ATC")
	sealed := func(fields []Field) (*Result, error) {
		// The nonce is the address and the AD structure up to the counter, its length and type included.
		nonce := slices.Concat(p.Addr.reversed(), []byte{byte(len(data) + 3), adService16, 0x1a, 0x18, data[0]})
		plain, err := d.open(p.Addr, nonce, data[1:], []byte{0x11})
		if err != nil {
			return r, err
		}
		r.Encrypted = true
		r.count(uint32(data[0]))
		r.readings(plain, fields)
		return r, nil
	}
	switch len(data) {
	case 13:
		r.ID = newAddr(data).ID()
		r.count(uint32(data[12]))
		r.readings(data, atc1441)
	case 14, 15:
		r.ID = addrOnAir(data).ID()
		r.count(uint32(data[13]))
		r.readings(data, atcCustom)
	case 11:
		return sealed(atcSealed)
	case 8:
		return sealed(atc1441Sealed)
	default:
		return nil, nil // the UUID is everybody's
	}
	if err := d.plain(p); err != nil {
		r.Readings = nil
		return r, err
	}
	return r, nil
}

// newAddr reads an address that is not reversed.
func newAddr(b []byte) (a Addr) {
	copy(a[:], b)
	return a
}

// qingpingModels are the second byte of Qingping's own format.
var qingpingModels = map[byte]string{
	0x01: "CGG1", 0x04: "CGH1", 0x07: "CGG1", 0x09: "CGP1W", 0x0c: "CGD1", 0x0e: "CGDN1", 0x0f: "CGM1", 0x12: "CGPR1", 0x15: "CGF1W",
	0x16: "CGG1", 0x18: "CGP23W", 0x1e: "CGC1", 0x24: "CGDN1", 0x33: "CGP22C", 0x4f: "CGG3", 0x5d: "CGP22C",
}

// qingpingObjects are values by id; those of another size mean something else.
var qingpingObjects = map[byte][]Field{
	0x01: {field("temperature", "°C", 0, "s16le", 0.1), field("humidity", "%", 2, "u16le", 0.1)},
	0x02: {field("battery", "%", 0, "u8", 1)},
	0x04: {
		field("door", "", 0, "u8", 0).named(map[string]string{"0": "true", "1": "false", "2": "true"}),
		field("door_left_open", "", 0, "u8", 0).named(map[string]string{"0": "false", "1": "false", "2": "true"}),
	},
	0x07: {field("pressure", "hPa", 0, "u16le", 0.1)},
	0x08: {field("motion", "", 0, "bool", 0), field("illuminance", "lx", 1, "u24le", 1)},
	0x09: {field("illuminance", "lx", 0, "u32le", 1)},
	0x11: {field("light", "", 0, "bool", 0)},
	0x12: {field("pm25", "µg/m³", 0, "u16le", 1), field("pm10", "µg/m³", 2, "u16le", 1)},
	0x13: {field("co2", "ppm", 0, "u16le", 1)},
}

const qingpingPacketID = 0x0f

// decodeQingping reads Qingping's own format: a frame control byte, the model, the address, and objects of id, length and value.
func decodeQingping(_ *Decoder, p *packet) (*Result, error) {
	data, ok := p.service(0xfdcd)
	if !ok {
		if data, ok = p.service(0xfff9); !ok { // by older ones; the UUID is FIDO's
			return nil, nil
		}
	}
	if len(data) < 8 {
		return nil, malformed("%d bytes are too few", len(data))
	}
	model, ok := qingpingModels[data[1]]
	if !ok {
		return nil, malformed("model %#02x", data[1])
	}
	r := newResult(p, "qingping", model)
	// Air monitors are heard with addresses that are not the one they say.
	if addr := addrOnAir(data[2:]); addr != p.Addr && model != "CGDN1" && !p.Private() {
		return nil, malformed("it is from %s and says %s", p.Addr, addr)
	}
	r.ID = addrOnAir(data[2:]).ID()
	for rest := data[8:]; len(rest) >= 2; {
		id, size := rest[0], int(rest[1])
		if size > len(rest)-2 {
			break
		}
		value := rest[2 : 2+size]
		rest = rest[2+size:]
		if id == qingpingPacketID && size == 1 {
			r.count(uint32(value[0]))
		}
		if fields := qingpingObjects[id]; fields != nil && size == miSize(fields) {
			r.readings(value, fields)
		}
	}
	return r, nil
}

// decodeMiScale reads the Mi scales: standard UUIDs, a layout of their own. A weight counts once it
// is stable and nobody stepped off.
func decodeMiScale(_ *Decoder, p *packet) (*Result, error) {
	if data, ok := p.service(0x181d); ok && len(data) == 10 {
		r := newResult(p, "miscale", "Mi Scale V1")
		unit, scale := "kg", 200.0
		switch {
		case data[0]&(1<<0) != 0:
			unit, scale = "lb", 100
		case data[0]&(1<<4) != 0:
			unit, scale = "jin", 100
		}
		r.scale(float64(binary.LittleEndian.Uint16(data[1:]))/scale, unit, data[0])
		return r, nil
	}
	if data, ok := p.service(0x181b); ok && len(data) == 13 {
		r := newResult(p, "miscale", "Mi Scale V2")
		unit, scale := "kg", 200.0
		switch {
		case data[1]&(1<<6) != 0:
			unit, scale = "jin", 100
		case data[0]&1 != 0:
			unit, scale = "lb", 100
		}
		if r.scale(float64(binary.LittleEndian.Uint16(data[11:]))/scale, unit, data[1]) && data[1]&(1<<1) != 0 {
			if z := binary.LittleEndian.Uint16(data[9:]); z != 0 && z < 3000 { // more is a failed measurement
				r.number("impedance", float64(z), 0, "Ω")
			}
		}
		return r, nil
	}
	return nil, nil
}

// scale adds a weight, and tells whether it is final.
func (r *Result) scale(mass float64, unit string, flags byte) bool {
	stable, removed := flags&(1<<5) != 0, flags&(1<<7) != 0
	digits := 2
	if unit == "kg" {
		digits = 3 // steps of 0.005
	}
	r.number("mass_non_stabilized", mass, digits, unit)
	if stable && !removed {
		r.number("mass", mass, digits, unit)
	}
	r.flag("stabilized", stable)
	r.flag("weight_removed", removed)
	return stable && !removed
}
