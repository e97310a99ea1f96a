package adv

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// MiBeacon (Xiaomi, "BLE MiBeacon protocol" versions 2 to 5 and "BLE Object definition"): service data of fe95.
// Objects are read by what they are, not by model, except where models disagree.

// The bits of the frame control field.
const (
	miEncrypted  = 1 << 3
	miAddress    = 1 << 4
	miCapability = 1 << 5
	miObject     = 1 << 6
	miMesh       = 1 << 7
)

// miIO is the bit of the capability field that says that two bytes about input and output
// follow.
const miIO = 1 << 5

func decodeMiBeacon(d *Decoder, p *packet) (*Result, error) {
	data, ok := p.service(0xfe95)
	if !ok {
		return nil, nil
	}
	const head = 5
	if len(data) < head {
		return nil, malformed("%d bytes are too few", len(data))
	}
	control := binary.LittleEndian.Uint16(data)
	product := binary.LittleEndian.Uint16(data[2:])
	version := control >> 12
	switch {
	case control&miMesh != 0:
		return nil, malformed("a mesh frame")
	case version < 2 || version > 5:
		return nil, malformed("version %d", version)
	}
	model := miModels[product]
	if model == "" {
		model = fmt.Sprintf("MiBeacon %04X", product)
	}
	r := newResult(p, "mibeacon", model)
	r.count(uint32(data[4]))
	rest, addr := data[head:], p.Addr
	if control&miAddress != 0 {
		if len(rest) < 6 {
			return nil, malformed("its address is cut short")
		}
		addr, rest = addrOnAir(rest), rest[6:]
		if addr != p.Addr && !p.Private() {
			return nil, malformed("it is from %s and says %s", p.Addr, addr)
		}
		r.ID = addr.ID()
	}
	if control&miCapability != 0 {
		if len(rest) < 1 {
			return nil, malformed("its capabilities are cut short")
		}
		io := rest[0]&miIO != 0
		rest = rest[1:]
		if io {
			if len(rest) < 2 {
				return nil, malformed("its capabilities are cut short")
			}
			rest = rest[2:]
		}
	}
	if control&miObject == 0 {
		return r, nil // it is there
	}
	if control&miEncrypted == 0 {
		if d.keys[addr] != nil {
			return r, ErrPlain
		}
	} else {
		plain, err := d.openMiBeacon(addr, version, data[:head], rest)
		if err != nil {
			return r, err
		}
		rest, r.Encrypted = plain, true
	}
	err := r.miObjects(rest, version < 4 && r.Encrypted)
	if err != nil {
		r.Readings = nil
	}
	return r, err
}

// openMiBeacon decrypts what follows the head: the object, three bytes that with the frame
// counter make a counter of four, and, from version 4 on, a tag of four bytes.
func (d *Decoder) openMiBeacon(addr Addr, version uint16, head, rest []byte) ([]byte, error) {
	const extra, tag = 3, 4
	if version < 4 {
		return d.openMiBeaconLegacy(addr, head, rest)
	}
	if len(rest) < extra+tag {
		return nil, malformed("%d bytes are too few to be encrypted", len(rest))
	}
	body, more, mic := rest[:len(rest)-extra-tag], rest[len(rest)-extra-tag:len(rest)-tag], rest[len(rest)-tag:]
	nonce := slices.Concat(addr.reversed(), head[2:], more)
	plain, err := d.open(addr, nonce, slices.Concat(body, mic), []byte{0x11})
	if err != nil {
		return nil, err
	}
	counter := uint32(head[4]) | uint32(more[0])<<8 | uint32(more[1])<<16 | uint32(more[2])<<24
	return plain, d.fresh(addr, counter, rest)
}

// openMiBeaconLegacy decrypts versions 2 and 3. Their keys have 12 bytes, with four fixed
// ones between. The frame ends in three bytes of counter and one that nobody could explain, so
// nothing tells a wrong key or a forger but that the object must be known and exactly as long as
// it says. A counter that anybody can set must not shut the device out: it is not compared.
func (d *Decoder) openMiBeaconLegacy(addr Addr, head, rest []byte) ([]byte, error) {
	key := d.keys[addr]
	switch {
	case key == nil:
		return nil, ErrNoKey
	case len(key) != 12:
		return nil, fmt.Errorf("%w: it has %d bytes, and this format has keys of 12", ErrKey, len(key))
	case len(rest) < 4:
		return nil, malformed("%d bytes are too few to be encrypted", len(rest))
	}
	c, err := newCCM(slices.Concat(key[:6], []byte{0x8d, 0x3d, 0x3c, 0x97}, key[6:]), 4)
	if err != nil {
		return nil, err
	}
	body, more := rest[:len(rest)-4], rest[len(rest)-4:len(rest)-1]
	nonce := slices.Concat(head, more, addr.reversed()[:5])
	plain := c.crypt(nonce, body)
	if len(plain) < 3 || int(plain[2]) != len(plain)-3 {
		return nil, ErrKey
	}
	return plain, nil
}

// miObjects reads the objects: an id of two bytes, a length, a value. What is unknown is
// passed over.
func (r *Result) miObjects(data []byte, unchecked bool) error {
	whole := false
	for len(data) >= 3 {
		id, size := binary.LittleEndian.Uint16(data), int(data[2])
		if size > len(data)-3 {
			break
		}
		value := data[3 : 3+size]
		data = data[3+size:]
		whole = true
		switch fields, table := miObjectFields[id]; {
		case table && size == miSize(fields):
			r.readings(value, fields)
		case !table:
			if read := miObjectFuncs[id]; read != nil {
				read(r, value, r.Model)
			} else if unchecked {
				return ErrKey // a wrong key makes objects that nobody knows
			}
		}
	}
	if !whole {
		return malformed("no whole object")
	}
	return nil
}

// miSize is the bytes that fields read; objects of another length are of another meaning.
func miSize(fields []Field) int {
	size := 0
	for _, f := range fields {
		size = max(size, f.At+kinds[f.Type].bytes)
	}
	return size
}

func one(f Field) []Field { return []Field{f} }

// miObjectFields are the objects that are plain values.
var miObjectFields = map[uint16][]Field{
	0x0003: {field("motion", "", 0, "bool", 0)},
	0x000a: {field("temperature", "°C", 0, "s16le", 0.01).not(0)}, // of a body
	0x1004: {field("temperature", "°C", 0, "s16le", 0.1)},
	0x1005: {field("switch", "", 0, "bool", 0), field("temperature", "°C", 1, "u8", 1)},
	0x1006: {field("humidity", "%", 0, "u16le", 0.1)},
	0x1008: {field("moisture", "%", 0, "u8", 1)},
	0x1009: {field("conductivity", "µS/cm", 0, "u16le", 1)},
	0x100a: {field("battery", "%", 0, "u8", 1)},
	0x100d: {field("temperature", "°C", 0, "s16le", 0.1), field("humidity", "%", 2, "u16le", 0.1)},
	0x1010: {field("formaldehyde", "mg/m³", 0, "u16le", 0.01)},
	0x1012: {field("switch", "", 0, "bool", 0)},
	0x1013: {field("consumable", "%", 0, "u8", 1)},
	0x1014: {field("moisture_detected", "", 0, "bool", 0)},
	0x1015: {field("smoke", "", 0, "bool", 0)},
	0x1016: {field("gas_detected", "", 0, "bool", 0)},
	0x1018: {field("light", "", 0, "bool", 0)},
	0x101a: {field("mass", "kg", 0, "u16le", 0.01)},
	0x4801: {field("temperature", "°C", 0, "f32le", 0)},
	0x4802: {field("humidity", "%", 0, "u8", 1)},
	0x4803: {field("battery", "%", 0, "u8", 1)},
	0x4805: {field("illuminance", "lx", 0, "f32le", 0)},
	0x4808: {field("humidity", "%", 0, "f32le", 0)},
	0x480c: one(field("opening", "", 0, "u8", 0).named(map[string]string{"0": "true", "1": "false"})),
	0x4811: {field("snoring", "", 0, "bool", 0)},
	0x483c: {field("pressure_present", "", 0, "bool", 0)},
	0x483d: {field("pressure_present_duration", "s", 0, "u32le", 1)},
	0x483e: {field("pressure_not_present_duration", "s", 0, "u32le", 1)},
	0x483f: {field("pressure_present_time_set", "s", 0, "u32le", 1)},
	0x4840: {field("pressure_not_present_time_set", "s", 0, "u32le", 1)},
	0x4850: {field("motion_time", "min", 0, "u8", 1)},
	0x4a01: {field("battery_low", "", 0, "bool", 0)},
	0x4a1c: {field("reset", "", 0, "bool", 0)},
	0x4c01: {field("temperature", "°C", 0, "f32le", 0)},
	0x4c02: {field("humidity", "%", 0, "u8", 1)},
	0x4c03: {field("battery", "%", 0, "u8", 1)},
	0x4c08: {field("humidity", "%", 0, "f32le", 0)},
	0x4c14: {field("mode", "", 0, "u8", 1)},
	0x4e01: {field("battery_low", "", 0, "bool", 0)},
	0x4e1c: {field("reset", "", 0, "bool", 0)},
	0x5003: {field("battery", "%", 0, "u8", 1)},
	0x5011: {field("snoring", "", 0, "bool", 0)},
	0x5403: {field("battery", "%", 0, "u8", 1)},
	0x5414: {field("mode", "", 0, "u8", 1)},
	0x5422: one(field("charging_state", "", 0, "u8", 0).named(map[string]string{"0": "charging", "1": "not_charging", "2": "full"})),
	0x5601: {field("battery_low", "", 0, "bool", 0)},
	0x5810: one(field("sleeping", "", 0, "u8", 0).named(map[string]string{"0": "true", "1": "false"})),
	0x6012: {field("humidity", "%", 0, "u8", 1)},
	0x605d: {field("temperature", "°C", 0, "u8", 1)},
	0x6461: one(field("wearing", "", 0, "u8", 0).named(map[string]string{"0": "true", "1": "false"})),
}

// miObjectFunc reads the value of an object, of any length.
type miObjectFunc func(r *Result, value []byte, model string)

// miObjectFuncs are the objects that take more.
var miObjectFuncs = map[uint16]miObjectFunc{
	0x0006: miFingerprint,
	0x0007: miDoor,
	0x0008: miArmed,
	0x000b: miLock,
	0x000f: miMovingLight,
	0x0010: miToothbrush,
	0x1001: miButton,
	0x1007: miIlluminance,
	0x100e: miLockState,
	0x1017: miIdle(4, "s"),
	0x1019: miOpening,
	0x101b: miIdle(4, "s"),
	0x2000: miFever,
	0x3003: miBrushing,
	0x4804: miOneOrTwo("opening"),
	0x4806: miWet,
	0x4810: miSleep,
	0x4818: miIdle(2, "s"),
	0x484e: miOccupancy,
	0x484f: miIdle(1, "min"),
	0x4851: miMinutes("occupancy_time"),
	0x4852: miMinutes("no_occupancy_time"),
	0x487b: miSplash,
	0x4a08: miMotionLux,
	0x4a0c: miClick("single_press"),
	0x4a0d: miClick("double_press"),
	0x4a0e: miClick("long_press"),
	0x4a0f: miIfOne("opening", "true", "forced"),
	0x4a12: miOneOrTwo("opening"),
	0x4a13: miIfOne("button", "single_press", ""),
	0x4a1a: miIfOne("opening", "true", "left_open"),
	0x4a68: miLeak,
	0x4e0c: miClick("single_press"),
	0x4e0d: miClick("double_press"),
	0x4e0e: miClick("long_press"),
	0x4e16: miBed(true),
	0x4e17: miBed(false),
	0x5010: miSleep,
	0x560c: miClick("single_press"),
	0x560d: miClick("double_press"),
	0x560e: miClick("long_press"),
	0x5a16: miBedOrButton,
	0x6e16: miBody,
}

var (
	miMatches = []string{"match_successful", "match_failed", "timeout", "low_quality", "insufficient_area", "skin_too_dry", "skin_too_wet"}
	miDoors   = []string{"open", "closed", "left_open", "knock", "pried", "stuck"}
	miActions = map[byte]string{0: "unlock_outside", 1: "lock", 2: "antilock_on", 3: "antilock_off", 4: "unlock_inside", 5: "lock_inside",
		6: "childlock_on", 7: "childlock_off", 8: "lock_outside", 15: "abnormal"}
	miMethods = map[byte]string{0: "bluetooth", 1: "password", 2: "biometrics", 3: "key", 4: "turntable", 5: "nfc", 6: "one_time_password",
		7: "two_step_verification", 8: "coercion", 9: "homekit", 10: "manual", 11: "automatic", 15: "abnormal"}
	miLockErrors = map[uint32]string{
		0xc0de0000: "wrong_passwords", 0xc0de0001: "wrong_fingerprints", 0xc0de0002: "timeout", 0xc0de0003: "picked", 0xc0de0004: "reset_pressed",
		0xc0de0005: "wrong_keys", 0xc0de0006: "foreign_body", 0xc0de0007: "key_left_in", 0xc0de0008: "wrong_nfc", 0xc0de0009: "not_locked_in_time",
		0xc0de000a: "wrong_in_many_ways", 0xc0de000b: "wrong_faces", 0xc0de000c: "wrong_veins", 0xc0de000d: "hijacked", 0xc0de000e: "unlocked_inside_when_armed",
		0xc0de000f: "wrong_palms", 0xc0de0010: "moved", 0xc0de1000: "battery_below_10", 0xc0de1001: "battery_below_5", 0xc0de1002: "fingerprint_sensor",
		0xc0de1003: "accessory_battery", 0xc0de1004: "mechanical", 0xc0de1005: "lock_sensor",
	}
)

// miKeyID names who opened a lock.
func miKeyID(id uint32) string {
	switch id {
	case 0:
		return "administrator"
	case 0xffffffff:
		return "unknown_operator"
	case 0xdeadbeef:
		return "invalid_operator"
	}
	if id>>16 >= 0x8001 && id>>16 <= 0x8008 { // biometrics, passwords, keys: the kind is the method's
		id &= 0xffff
	}
	return fmt.Sprint(id)
}

func miFingerprint(r *Result, b []byte, _ string) {
	if len(b) != 5 || int(b[4]) >= len(miMatches) {
		return
	}
	r.flag("fingerprint", b[4] == 0)
	r.add("result", miMatches[b[4]], "")
	r.add("key_id", miKeyID(binary.LittleEndian.Uint32(b)), "")
}

func miDoor(r *Result, b []byte, _ string) {
	if len(b) < 1 || int(b[0]) >= len(miDoors) {
		return
	}
	r.flag("door", b[0] == 0 || b[0] == 2 || b[0] == 4)
	r.add("door_action", miDoors[b[0]], "")
}

func miArmed(r *Result, b []byte, model string) {
	switch {
	case len(b) != 1 && len(b) != 5:
	case model == "DSL-C08": // somebody lifts the handle from outside
		r.flag("unlocked", b[0] == 0)
		r.add("action", "lock_outside", "")
		r.add("method", "manual", "")
	default:
		r.flag("armed", b[0] == 1)
		if len(b) == 5 {
			r.number("timestamp", float64(binary.LittleEndian.Uint32(b[1:])), 0, "s")
		}
	}
}

func miLock(r *Result, b []byte, model string) {
	if len(b) != 9 {
		return
	}
	action, ok := miActions[b[0]&15]
	method, known := miMethods[b[0]>>4]
	if !ok || !known {
		return
	}
	key := binary.LittleEndian.Uint32(b[1:])
	name, open := "unlocked", !slices.Contains([]byte{1, 2, 5, 6, 8}, b[0]&15)
	if model == "ZNMS17LM" { // it tells its three locks apart
		switch b[0] & 15 {
		case 2, 3:
			name, open = "antilock", !open
		case 6, 7:
			name, open = "childlock", !open
		}
	}
	r.flag(name, open)
	r.add("action", action, "")
	if err, ok := miLockErrors[key]; ok {
		r.add("method", method, "")
		r.add("error", err, "")
	} else {
		if model == "DSL-C08" && method == "password" && key&0xffff >= 5000 && key&0xffff < 6000 {
			method = "one_time_password"
		}
		r.add("method", method, "")
		r.add("key_id", miKeyID(key), "")
	}
	r.number("timestamp", float64(binary.LittleEndian.Uint32(b[5:])), 0, "s")
}

func miLockState(r *Result, b []byte, model string) {
	if len(b) == 1 && model == "DSL-C08" {
		r.flag("unlocked", b[0]&1 == 0)
		r.flag("childlock", b[0]>>3&1 == 0)
	}
}

func miToothbrush(r *Result, b []byte, _ string) {
	if len(b) < 1 {
		return
	}
	r.flag("toothbrush", b[0] == 0)
	if len(b) > 1 {
		name := "score"
		if b[0] == 0 {
			name = "counter"
		}
		r.number(name, float64(b[1]), 0, "")
	}
}

func miBrushing(r *Result, b []byte, _ string) {
	if len(b) < 5 || b[0] > 1 {
		return
	}
	r.flag("toothbrush", b[0] == 0)
	r.number("timestamp", float64(binary.LittleEndian.Uint32(b[1:])), 0, "s")
	if len(b) == 6 {
		r.number("score", float64(b[5]), 0, "")
	}
}

// miMovingLight is "someone is moving (with light)".
func miMovingLight(r *Result, b []byte, model string) {
	if len(b) != 3 {
		return
	}
	light, _ := raw(b, 0, "u24le", 0)
	r.flag("motion", true)
	switch model {
	case "MJYD02YL", "RTCGQ02LM": // 100 or 256 is "with light"
		r.flag("light", light >= 100)
	default:
		r.number("illuminance", float64(light), 0, "lx")
	}
}

func miIlluminance(r *Result, b []byte, model string) {
	if len(b) != 3 {
		return
	}
	light, _ := raw(b, 0, "u24le", 0)
	if model == "MJYD02YL" { // it knows only dark, 1, and light, 100
		r.flag("light", light == 100)
		return
	}
	r.number("illuminance", float64(light), 0, "lx")
}

// miIdle is the time without motion, in units of s; 0 is motion.
func miIdle(size int, unit string) miObjectFunc {
	return func(r *Result, b []byte, _ string) {
		if len(b) != size {
			return
		}
		n, _ := raw(b, 0, integer('u', size), 0)
		r.flag("motion", n == 0)
		r.number("no_motion_time", float64(n), 0, unit)
	}
}

func miOpening(r *Result, b []byte, _ string) {
	states := []string{"opened", "closed", "left_open", "reset"}
	if len(b) != 1 || int(b[0]) >= len(states) {
		return
	}
	if b[0] != 3 {
		r.flag("opening", b[0] != 1)
	}
	r.add("status", states[b[0]], "")
}

// miOneOrTwo is true for 1 and false for 2.
func miOneOrTwo(name string) miObjectFunc {
	return func(r *Result, b []byte, _ string) {
		if len(b) == 1 && (b[0] == 1 || b[0] == 2) {
			r.flag(name, b[0] == 1)
		}
	}
}

// miIfOne says value of name, and status, if the byte is 1.
func miIfOne(name, value, status string) miObjectFunc {
	return func(r *Result, b []byte, _ string) {
		if len(b) != 1 || b[0] != 1 {
			return
		}
		r.add(name, value, "")
		if status != "" {
			r.add("status", status, "")
		}
	}
}

// miFever is a thermometer for skin. The maker's app computes the body's temperature from the two;
// the formula was fitted to it by others, for 36.5 to 37.8 °C.
func miFever(r *Result, b []byte, _ string) {
	if len(b) != 5 {
		return
	}
	skin, _ := raw(b, 0, "s16le", 0)
	ambient, _ := raw(b, 2, "s16le", 0)
	body := 3.71934e-11*math.Exp(0.69314*float64(skin)/100) - 1.02801e-8*math.Exp(0.53871*float64(ambient)/100) + 36.413
	if !math.IsInf(body, 0) && body > 20 && body < 60 {
		r.number("temperature", body, 2, "°C")
	}
	r.number("battery", float64(b[4]), 0, "%")
}

func miWet(r *Result, b []byte, model string) {
	if len(b) != 1 {
		return
	}
	name := "moisture_detected"
	if model == "SJWS02LM" { // it has a second sensor, see miSplash
		name = "bottom_moisture_detected"
	}
	r.flag(name, b[0] > 0)
}

func miSplash(r *Result, b []byte, _ string) {
	if len(b) == 1 {
		r.flag("top_moisture_detected", b[0] > 0)
	}
}

func miLeak(r *Result, b []byte, _ string) {
	if len(b) != 1 || b[0] > 3 {
		return
	}
	name := "bottom_moisture_detected"
	if b[0] >= 2 {
		name = "top_moisture_detected"
	}
	r.flag(name, b[0]&1 == 0)
}

func miSleep(r *Result, b []byte, _ string) {
	switch {
	case len(b) != 1:
	case b[0] <= 1:
		r.flag("sleeping", b[0] == 1)
	case b[0] == 2:
		r.add("button", "double_press", "")
	}
}

func miOccupancy(r *Result, b []byte, model string) {
	switch {
	case len(b) != 1:
	case model == "HS1BB(MI)" || model == "XMPIRO2SXS" || model == "XMPIRO2GSXS": // a motion sensor, which has no other word for it
		r.flag("motion", b[0] != 0)
	case model == "XMOSB01XS": // 2 is what it says when somebody left
		r.flag("occupancy", b[0] == 1)
	default:
		r.flag("occupancy", b[0] != 0)
	}
}

func miMotionLux(r *Result, b []byte, _ string) {
	if len(b) == 4 {
		r.flag("motion", true)
		r.readings(b, one(field("illuminance", "lx", 0, "f32le", 0)))
	}
}

// miMinutes is a duration of one or four bytes.
func miMinutes(name string) miObjectFunc {
	return func(r *Result, b []byte, _ string) {
		if len(b) == 1 || len(b) == 4 {
			n, _ := raw(b, 0, integer('u', len(b)), 0)
			r.number(name, float64(n), 0, "min")
		}
	}
}

// miBed is an event of the sleep sensor, or, with nine bytes, a weight of a scale.
func miBed(occupied bool) miObjectFunc {
	return func(r *Result, b []byte, _ string) {
		switch {
		case len(b) == 1 && b[0] == 1:
			r.flag("bed_occupancy", occupied)
		case len(b) == 9 && occupied:
			if mass := binary.LittleEndian.Uint32(b[1:]); mass != 0 {
				r.number("mass", float64(mass)/100, 2, "kg")
				r.number("profile_id", float64(b[0]), 0, "")
			}
		}
	}
}

func miBedOrButton(r *Result, b []byte, _ string) {
	switch {
	case len(b) != 1:
	case b[0] == 1 || b[0] == 2:
		r.flag("bed_occupancy", b[0] == 1)
	case b[0] == 3:
		r.add("button", "double_press", "")
	}
}

// miBody is a body composition scale: weight, heart rate and impedance in one number.
func miBody(r *Result, b []byte, _ string) {
	if len(b) != 9 {
		return
	}
	packed := binary.LittleEndian.Uint32(b[1:])
	mass, heart, impedance := packed&0x7ff, packed>>11&0x7f, packed>>18
	r.number("profile_id", float64(b[0]), 0, "")
	if mass != 0 {
		r.number("mass", float64(mass)/10, 1, "kg")
	}
	if heart != 0 && heart != 127 {
		r.number("heart_rate", float64(heart+50), 0, "bpm")
	}
	if impedance != 0 {
		name := "impedance"
		if mass == 0 { // the last frame, measured at a high frequency
			name = "impedance_high"
		}
		r.number(name, float64(impedance)/10, 1, "Ω")
	}
}

// miPresses are what "button" objects say a press was; the wall switches of 1568, 1569 and
// 0dfd have two of them the other way round.
var (
	miPresses     = []string{"single_press", "double_press", "long_press"}
	miWallPresses = []string{"single_press", "long_press", "double_press"}
)

// The keys of remote controls, by number.
var miRemotes = map[string][]string{
	"YLYK01YL":        {"on", "off", "sun", "plus", "m", "minus"},
	"YLYK01YL-FANCL":  {"fan_toggle", "light_toggle", "wind_speed", "color_temperature", "wind_mode", "brightness"},
	"YLYK01YL-VENFAN": {"swing", "power_toggle", "timer_60_minutes", "strong_wind_speed", "timer_30_minutes", "low_wind_speed"},
	"YLYB01YL-BHFRC":  {"stop", "air_exchange", "fan", "speed_plus", "speed_minus", "dry", "light_toggle", "swing", "heat"},
}

// miWallButtons tells which buttons of a wall switch a number stands for.
var miWallButtons = map[string][][]string{
	"K9B-1BTN": {{"button"}},
	"K9B-2BTN": {{"button_left"}, {"button_right"}, {"button_left", "button_right"}},
	"K9B-3BTN": {{"button_left"}, {"button_middle"}, {"button_right"}, {"button_left", "button_middle"},
		{"button_middle", "button_right"}, {"button_left", "button_right"}, {"button_left", "button_middle", "button_right"}},
}

// miButton is the event "button": which one, a value, and what happened.
func miButton(r *Result, b []byte, model string) {
	if len(b) != 3 {
		return
	}
	which, value, press := b[0], b[1], int(b[2])
	switch keys, remote := miRemotes[model]; {
	case remote:
		if int(which) >= len(keys) {
			return
		}
		r.add("key", keys[which], "")
	case model == "XMMF01JQD": // a cube, which is turned
		switch which {
		case 0:
			r.add("button", "right", "")
		case 1:
			r.add("button", "left", "")
		}
		return
	case model == "YLKG07YL/YLKG08YL":
		r.miDial(which, value, press)
		return
	}
	if buttons, wall := miWallButtons[model]; wall {
		if int(which) < len(buttons) && press < len(miWallPresses) {
			for _, name := range buttons[which] {
				r.add(name, miWallPresses[press], "")
			}
		}
		return
	}
	switch {
	case press < len(miPresses):
		r.add("button", miPresses[press], "")
	case press == 5:
		r.add("button", "short_press", "")
	case press == 6:
		r.add("button", "long_press", "")
	}
}

// miDial is a dimmer that is pressed, turned, and turned while it is pressed. Steps to the left are
// negative.
func (r *Result) miDial(which, value byte, press int) {
	what, steps := "", int(int8(value))
	switch {
	case press == 3 && which == 0:
		what, steps = "short_press", int(value)
	case press == 3 && which == 1:
		what, steps = "long_press", int(value)
	case press == 4 && which == 0:
		what = "rotate"
	case press == 4:
		what, steps = "rotate_pressed", int(int8(which))
	default:
		return
	}
	if press == 4 {
		side := "right"
		if steps < 0 {
			side, steps = "left", -steps
		}
		if what == "rotate" {
			what = "rotate_" + side
		} else {
			what = "rotate_" + side + "_pressed"
		}
	}
	r.add("dimmer", what, "")
	r.number("dimmer_steps", float64(steps), 0, "")
}

// miClick is an event of a switch whose byte tells the button.
func miClick(press string) miObjectFunc {
	return func(r *Result, b []byte, model string) {
		which := -1
		if len(b) > 0 {
			which = int(b[0])
		}
		switch model {
		case "XMWXKG01YL":
			if which&1 != 0 && which <= 3 {
				r.add("button_left", press, "")
			}
			if which&2 != 0 && which > 0 && which <= 3 {
				r.add("button_right", press, "")
			}
		case "XMWS01XS":
			switch which {
			case 0:
				r.add("button_left", press, "")
			case 1:
				r.add("button_right", press, "")
			}
		case "K9BB-1BTN": // one event for all presses
			if p, ok := map[int]string{1: "single_press", 8: "long_press", 15: "double_press"}[which]; ok {
				r.add("button", p, "")
			}
		case "KS1", "KS1BP", "PTX-F1-Display":
			if which >= 1 && which <= 4 {
				r.add(fmt.Sprintf("button_%d", which), press, "")
			}
		default:
			r.add("button", press, "")
		}
	}
}
