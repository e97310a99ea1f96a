package adv

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"unicode/utf8"
)

// BTHome (bthome.io/format, bthome.io/encryption). Version 2 is service data of UUID fcd2: a byte of device
// information, the device's address if that says so, and objects of an id and a value whose
// size the id decides. Version 1 has UUID 181c, or 181e if encrypted, and a byte before
// each id with the size and type.

// The bits of the device information byte; 5 to 7 are the version.
const (
	bthomeEncrypted = 1 << 0
	bthomeAddress   = 1 << 1
)

// bthomeObject is one measurement or state. Binary ones are of type bool; their names say
// what true means.
type bthomeObject struct {
	Field
	size int
}

func object(name, unit, typ string, scale float64) bthomeObject {
	return bthomeObject{field(name, unit, 0, typ, scale), kinds[typ].bytes}
}

func state(name string) bthomeObject { return object(name, "", "bool", 0) }

// Objects that are no plain values.
const (
	bthomePacketID = 0x00
	bthomeButton   = 0x3a
	bthomeDimmer   = 0x3c
	bthomeText     = 0x53 // both begin with their length
	bthomeRaw      = 0x54
	bthomeDevice   = 0xf0
	bthomeFirmware = 0xf1 // four bytes, and f2 with three
)

// bthomeObjects are the tables "sensor data" and "binary sensor data" of the format.
var bthomeObjects = map[byte]bthomeObject{
	0x01: object("battery", "%", "u8", 1),
	0x02: object("temperature", "°C", "s16le", 0.01),
	0x03: object("humidity", "%", "u16le", 0.01),
	0x04: object("pressure", "hPa", "u24le", 0.01),
	0x05: object("illuminance", "lx", "u24le", 0.01),
	0x06: object("mass", "kg", "u16le", 0.01),
	0x07: object("mass", "lb", "u16le", 0.01),
	0x08: object("dew_point", "°C", "s16le", 0.01),
	0x09: object("count", "", "u8", 1),
	0x0a: object("energy", "kWh", "u24le", 0.001),
	0x0b: object("power", "W", "u24le", 0.01),
	0x0c: object("voltage", "V", "u16le", 0.001),
	0x0d: object("pm25", "µg/m³", "u16le", 1),
	0x0e: object("pm10", "µg/m³", "u16le", 1),
	0x0f: state("generic"),
	0x10: state("power_on"),
	0x11: state("opening"),
	0x12: object("co2", "ppm", "u16le", 1),
	0x13: object("tvoc", "µg/m³", "u16le", 1),
	0x14: object("moisture", "%", "u16le", 0.01),
	0x15: state("battery_low"),
	0x16: state("battery_charging"),
	0x17: state("carbon_monoxide"),
	0x18: state("cold"),
	0x19: state("connected"),
	0x1a: state("door"),
	0x1b: state("garage_door"),
	0x1c: state("gas_detected"),
	0x1d: state("heat"),
	0x1e: state("light"),
	0x1f: state("unlocked"),
	0x20: state("moisture_detected"),
	0x21: state("motion"),
	0x22: state("moving"),
	0x23: state("occupancy"),
	0x24: state("plug"),
	0x25: state("presence"),
	0x26: state("problem"),
	0x27: state("running"),
	0x28: state("safety"),
	0x29: state("smoke"),
	0x2a: state("sound"),
	0x2b: state("tamper"),
	0x2c: state("vibration"),
	0x2d: state("window"),
	0x2e: object("humidity", "%", "u8", 1),
	0x2f: object("moisture", "%", "u8", 1),
	0x3d: object("count", "", "u16le", 1),
	0x3e: object("count", "", "u32le", 1),
	0x3f: object("rotation", "°", "s16le", 0.1),
	0x40: object("distance", "mm", "u16le", 1),
	0x41: object("distance", "m", "u16le", 0.1),
	0x42: object("duration", "s", "u24le", 0.001),
	0x43: object("current", "A", "u16le", 0.001),
	0x44: object("speed", "m/s", "u16le", 0.01),
	0x45: object("temperature", "°C", "s16le", 0.1),
	0x46: object("uv_index", "", "u8", 0.1),
	0x47: object("volume", "L", "u16le", 0.1),
	0x48: object("volume", "mL", "u16le", 1),
	0x49: object("volume_flow_rate", "m³/h", "u16le", 0.001),
	0x4a: object("voltage", "V", "u16le", 0.1),
	0x4b: object("gas", "m³", "u24le", 0.001),
	0x4c: object("gas", "m³", "u32le", 0.001),
	0x4d: object("energy", "kWh", "u32le", 0.001),
	0x4e: object("volume", "L", "u32le", 0.001),
	0x4f: object("water", "L", "u32le", 0.001),
	0x50: object("timestamp", "s", "u32le", 1), // since 1970, UTC
	0x51: object("acceleration", "m/s²", "u16le", 0.001),
	0x52: object("gyroscope", "°/s", "u16le", 0.001),
	0x55: object("volume_storage", "L", "u32le", 0.001),
	0x56: object("conductivity", "µS/cm", "u16le", 1),
	0x57: object("temperature", "°C", "s8", 1),
	0x58: object("temperature", "°C", "s8", 0.35),
	0x59: object("count", "", "s8", 1),
	0x5a: object("count", "", "s16le", 1),
	0x5b: object("count", "", "s32le", 1),
	0x5c: object("power", "W", "s32le", 0.01),
	0x5d: object("current", "A", "s16le", 0.001),
	0x5e: object("direction", "°", "u16le", 0.01),
	0x5f: object("precipitation", "mm", "u16le", 0.1),
	0x60: object("channel", "", "u8", 1),
	0x61: object("rotational_speed", "rpm", "u16le", 1),
	0x62: object("speed", "m/s", "s32le", 0.000001),
	0x63: object("acceleration", "m/s²", "s32le", 0.000001),
	0x64: object("light_level", "", "u8", 1),
}

// bthomePresses and bthomeTurns are the table "events". 0 says that nothing happened, which is how a device
// with several buttons tells which one it was.
var (
	bthomePresses = map[byte]string{1: "press", 2: "double_press", 3: "triple_press", 4: "long_press",
		5: "long_double_press", 6: "long_triple_press", 0x80: "hold_press"}
	bthomeTurns = map[byte]string{1: "rotate_left", 2: "rotate_right"}
)

func decodeBTHome(d *Decoder, p *packet) (*Result, error) {
	data, ok := p.service(0xfcd2)
	if !ok {
		return nil, nil
	}
	if len(data) < 1 {
		return nil, malformed("no device information")
	}
	info, rest := data[0], data[1:]
	if v := info >> 5; v != 2 {
		return nil, malformed("version %d", v)
	}
	addr := p.Addr
	if info&bthomeAddress != 0 {
		if len(rest) < 6 {
			return nil, malformed("its address is cut short")
		}
		addr, rest = addrOnAir(rest), rest[6:]
	}
	r := newResult(p, "bthome_v2", "")
	r.ID = addr.ID()
	if info&bthomeEncrypted == 0 {
		if d.keys[addr] != nil {
			return r, ErrPlain
		}
	} else {
		// The nonce is the address, the UUID as on the air, the information byte and the counter.
		const counter, tag = 4, 4
		if len(rest) < counter+tag {
			return nil, malformed("%d bytes are too few to be encrypted", len(rest))
		}
		body, count, mic := rest[:len(rest)-counter-tag], rest[len(rest)-counter-tag:len(rest)-tag], rest[len(rest)-tag:]
		nonce := slices.Concat(addr[:], []byte{0xd2, 0xfc, info}, count)
		plain, err := d.open(addr, nonce, slices.Concat(body, mic), nil)
		if err != nil {
			return r, err
		}
		n := binary.LittleEndian.Uint32(count)
		if err := d.fresh(addr, n, rest); err != nil {
			return r, err
		}
		r.Encrypted = true
		r.count(n)
		rest = plain
	}
	if err := r.bthomeObjects(rest); err != nil {
		return nil, err
	}
	r.numberRepeats()
	return r, nil
}

// bthomeObjects reads objects up to the first one that is unknown or cut short: without its
// size there is no next one (bthome.io/format, "packets"), and what came before stands.
func (r *Result) bthomeObjects(data []byte) error {
	understood := false
	buttons, dimmers := 0, 0
	var presses, turns []event
	for len(data) > 0 {
		id := data[0]
		size, ok := bthomeSize(data)
		if !ok || size > len(data)-1 {
			break
		}
		value := data[1 : 1+size]
		data = data[1+size:]
		switch id {
		case bthomePacketID:
			if !r.HasCounter { // that of the encryption is longer
				r.count(uint32(value[0]))
			}
		case bthomeButton:
			buttons++
			if what, ok := bthomePresses[value[0]]; ok {
				presses = append(presses, event{buttons, what, 0})
			} else if value[0] != 0 {
				continue
			}
		case bthomeDimmer:
			dimmers++
			if what, ok := bthomeTurns[value[0]]; ok {
				turns = append(turns, event{dimmers, what, int(value[1])})
			} else if value[0] != 0 {
				continue
			}
		case bthomeText:
			if !utf8.Valid(value[1:]) {
				continue
			}
			r.add("text", text(value[1:]), "")
		case bthomeRaw:
			r.add("raw", hex.EncodeToString(value[1:]), "")
		case bthomeDevice:
			r.add("device_type_id", fmt.Sprintf("%04x", binary.LittleEndian.Uint16(value)), "")
		case bthomeFirmware, bthomeFirmware + 1:
			r.add("firmware", version(value), "")
		default:
			o := bthomeObjects[id]
			if v, ok := o.read(value); ok {
				r.add(o.Name, v, o.Unit)
			}
		}
		understood = true
	}
	r.events("button", buttons, presses)
	r.events("dimmer", dimmers, turns)
	if !understood {
		return malformed("no object that is known and whole")
	}
	return nil
}

// bthomeSize is the size of the value of the object that data begins with, its length byte
// included.
func bthomeSize(data []byte) (int, bool) {
	switch data[0] {
	case bthomePacketID, bthomeButton:
		return 1, true
	case bthomeDimmer, bthomeDevice:
		return 2, true
	case bthomeFirmware:
		return 4, true
	case bthomeFirmware + 1:
		return 3, true
	case bthomeText, bthomeRaw:
		if len(data) < 2 {
			return 0, false
		}
		return 1 + int(data[1]), true
	}
	o, ok := bthomeObjects[data[0]]
	return o.size, ok
}

// version reads a firmware version, whose last byte comes first: 1.2.3 or 1.2.3.4.
func version(b []byte) string {
	s := ""
	for i := len(b) - 1; i >= 0; i-- {
		s += fmt.Sprintf("%d.", b[i])
	}
	return s[:len(s)-1]
}

// event is what happened at one of several buttons or dimmers.
type event struct {
	which int // from 1
	what  string
	steps int
}

// events adds what happened at count things called name, which have numbers if there are
// several.
func (r *Result) events(name string, count int, list []event) {
	for _, e := range list {
		n := name
		if count > 1 {
			n = fmt.Sprintf("%s_%d", name, e.which)
		}
		r.add(n, e.what, "")
		if e.steps > 0 {
			r.add(n+"_steps", fmt.Sprint(e.steps), "")
		}
	}
}

// numberRepeats gives measurements that a device has more than one of, in one packet, numbers from 1.
func (r *Result) numberRepeats() {
	total, seen := map[string]int{}, map[string]int{}
	for _, v := range r.Readings {
		total[v.Name]++
	}
	for i := range r.Readings {
		v := &r.Readings[i]
		if total[v.Name] > 1 {
			seen[v.Name]++
			v.Name = fmt.Sprintf("%s_%d", v.Name, seen[v.Name])
		}
	}
}

// The types of version 1, in the upper three bits of an object's first byte.
const (
	v1Unsigned = iota
	v1Signed
	v1Float
	v1Text
	v1Address
	v1Time
)

func decodeBTHomeV1(d *Decoder, p *packet) (*Result, error) {
	r := newResult(p, "bthome_v1", "")
	data, ok := p.service(0x181c)
	if ok {
		if err := d.plain(p); err != nil {
			return r, err
		}
	} else {
		sealed, ok := p.service(0x181e)
		if !ok {
			return nil, nil
		}
		const counter, tag = 4, 4
		if len(sealed) < counter+tag {
			return nil, malformed("%d bytes are too few to be encrypted", len(sealed))
		}
		body, count, mic := sealed[:len(sealed)-counter-tag], sealed[len(sealed)-counter-tag:len(sealed)-tag], sealed[len(sealed)-tag:]
		plain, err := d.open(p.Addr, slices.Concat(p.Addr[:], []byte{0x1e, 0x18}, count), slices.Concat(body, mic), []byte{0x11})
		if err != nil {
			return r, err
		}
		n := binary.LittleEndian.Uint32(count)
		if err := d.fresh(p.Addr, n, sealed); err != nil {
			return r, err
		}
		r.Encrypted = true
		r.count(n)
		data = plain
	}
	if !r.bthomeV1Objects(data) {
		return nil, malformed("no object that is known and whole")
	}
	r.numberRepeats()
	return r, nil
}

func (r *Result) bthomeV1Objects(data []byte) bool {
	understood := false
	for len(data) > 0 {
		size, typ := int(data[0]&0x1f), data[0]>>5 // the id counts
		if size < 1 || size >= len(data) {
			break
		}
		if typ == v1Address {
			if size == 6 { // there is no id
				r.ID = addrOnAir(data[1:]).ID()
			}
			data = data[1+size:]
			continue
		}
		id, value := data[1], data[2:1+size]
		data = data[1+size:]
		if len(value) == 0 {
			continue
		}
		o, known := bthomeObjects[id]
		f := o.Field
		switch {
		case id == bthomePacketID:
			if !r.HasCounter {
				r.count(uint32(value[0]))
			}
			understood = true
			continue
		case id == bthomeButton:
			if what, ok := bthomePresses[value[0]]; ok {
				r.add("button", what, "")
			}
			understood = true
			continue
		case id == bthomeDimmer && len(value) >= 2:
			if what, ok := bthomeTurns[value[0]]; ok {
				r.events("dimmer", 1, []event{{1, what, int(value[1])}})
			}
			understood = true
			continue
		case !known:
			continue
		case typ == v1Float && len(value) == 4:
			f.Type = "f32le"
		case typ == v1Text:
			f.Type, f.Scale = "text", 0
		case (typ == v1Unsigned || typ == v1Time) && len(value) <= 8 && f.Type != "bool":
			f.Type = integer('u', len(value))
		case typ == v1Signed && len(value) <= 8 && f.Type != "bool":
			f.Type = integer('s', len(value))
		case f.Type != "bool":
			continue
		}
		if v, ok := f.read(value); ok {
			r.add(f.Name, v, f.Unit)
			understood = true
		}
	}
	return understood
}

// integer is the type of a little-endian number of n bytes.
func integer(how byte, n int) string {
	if n == 1 {
		return string(how) + "8"
	}
	return fmt.Sprintf("%c%dle", how, 8*n)
}
