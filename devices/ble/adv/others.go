package adv

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// tiltColours are the fourth byte of the UUID a495bbXXc5b14b44b5121370f02d74de, of which each colour of hydrometer has one.
var tiltColours = map[byte]string{0x10: "Red", 0x20: "Green", 0x30: "Black", 0x40: "Purple", 0x50: "Orange", 0x60: "Blue", 0x70: "Yellow", 0x80: "Pink"}

// decodeTilt reads the Tilt hydrometer, an iBeacon whose major is °F and whose minor is the gravity; the Pro, which
// counts from 5000 on in gravity, has a digit more in both.
func decodeTilt(_ *Decoder, p *packet) (*Result, error) {
	data, ok := p.company(0x004c)
	if !ok || len(data) < 23 || data[0] != 0x02 || data[1] != 0x15 {
		return nil, nil
	}
	colour, ok := tiltColours[data[5]]
	if !ok || hex.EncodeToString(data[2:5]) != "a495bb" || hex.EncodeToString(data[6:18]) != "c5b14b44b5121370f02d74de" {
		return nil, nil
	}
	r := newResult(p, "tilt", "Tilt "+colour)
	r.ID = "tilt-" + strings.ToLower(colour)
	f, gravity := float64(binary.BigEndian.Uint16(data[18:])), float64(binary.BigEndian.Uint16(data[20:]))
	if f == 999 { // version information, sent when it is switched on
		return r, nil
	}
	digits := 3
	if gravity >= 5000 {
		f, gravity, digits = f/10, gravity/10, 4
	}
	r.number("temperature", (f-32)*5/9, 1, "°C")
	r.number("gravity", gravity/1000, digits, "")
	r.number("tx_power", float64(int8(data[22])), 0, "dBm")
	return r, nil
}

// decodeJinou reads the Jinou BEC07-5: a sign, whole degrees and tenths; then a byte, whole percent and tenths.
func decodeJinou(_ *Decoder, p *packet) (*Result, error) {
	if !slices.Contains(p.uuids, UUID16(0xaa20)) {
		return nil, nil
	}
	for _, data := range p.makers {
		if len(data) != 13 {
			continue
		}
		if data[2] > 9 || data[5] > 99 {
			return nil, malformed("a fraction of %d or %d", data[2], data[5])
		}
		r := newResult(p, "jinou", "BEC07-5")
		sign := ""
		if data[0] == 1 {
			sign = "-"
		}
		r.add("temperature", fmt.Sprintf("%s%d.%d", sign, data[1], data[2]), "°C")
		r.add("humidity", fmt.Sprintf("%d.%d", data[4], data[5]), "%")
		return r, nil
	}
	return nil, nil
}

// kegtronSizes are kegs by their volume in millilitres.
var kegtronSizes = map[uint16]string{
	9464: "Half Corny (2.5 gal)", 18927: "Corny (5.0 gal)", 19550: "1/6 Barrel (5.167 gal)", 19711: "1/6 Barrel (5.167 gal)", 20000: "20L (5.283 gal)",
	20457: "Pin (5.404 gal)", 29337: "1/4 Barrel (7.75 gal)", 40915: "Firkin (10.809 gal)", 50000: "50L (13.209 gal)", 58674: "1/2 Barrel (15.5 gal)",
}

// decodeKegtron reads keg monitors: they send the ports of a double one in turn.
func decodeKegtron(_ *Decoder, p *packet) (*Result, error) {
	data, ok := p.company(0xffff)
	if !ok || len(data) != 27 {
		return nil, nil
	}
	flags := data[6]
	r := newResult(p, "kegtron", "Kegtron KT-100")
	port := 1
	if flags&(1<<6) != 0 {
		r.Model = "Kegtron KT-200"
		port += int(flags >> 4 & 1)
	}
	size := binary.BigEndian.Uint16(data)
	name, ok := kegtronSizes[size]
	if !ok {
		name = fmt.Sprintf("Other (%s L)", decimal(float64(size)/1000, 3))
	}
	r.number(fmt.Sprintf("keg_volume_port_%d", port), float64(size)/1000, 3, "L")
	r.add(fmt.Sprintf("keg_size_port_%d", port), name, "")
	r.number(fmt.Sprintf("volume_start_port_%d", port), float64(binary.BigEndian.Uint16(data[2:]))/1000, 3, "L")
	r.number(fmt.Sprintf("volume_dispensed_port_%d", port), float64(binary.BigEndian.Uint16(data[4:]))/1000, 3, "L")
	r.flag(fmt.Sprintf("configured_port_%d", port), flags&1 != 0)
	if s := text(data[7:27]); s != "" {
		r.add(fmt.Sprintf("name_port_%d", port), s, "")
	}
	return r, nil
}

// teltonikaNames are what Teltonika's and ELA's beacons call themselves.
var teltonikaNames = []struct{ begins, model string }{
	{"PUCK_TH", "Blue Puck RHT"}, {"PUCK_T1", "Blue Puck T"}, {"P RHT", "Blue Puck RHT"}, {"P T", "Blue Puck T"}, {"C T", "Blue Coin T"},
}

// decodeTeltonika reads Teltonika's EYE (wiki.teltonika-gps.com, "EYE SENSOR / BTSMP1"), ELA's Blue
// beacons ("Frames format" of the maker), and those of them that send plain characteristics.
func decodeTeltonika(_ *Decoder, p *packet) (*Result, error) {
	r := newResult(p, "teltonika", "")
	for _, n := range teltonikaNames {
		if strings.HasPrefix(p.name, n.begins) {
			r.Model = n.model
			break
		}
	}
	for _, m := range p.makers {
		switch data := m[2:]; binary.LittleEndian.Uint16(m) {
		case 0x0757:
			r.ela(data)
		case 0x089a:
			r.Model = "EYE sensor"
			if err := r.eye(data); err != nil {
				return nil, err
			}
		}
	}
	if r.Model != "" && len(r.Readings) == 0 {
		if data, ok := p.service(0x2a6e); ok && len(data) == 2 {
			r.readings(data, one(field("temperature", "°C", 0, "s16le", 0.01).not(-0x8000)))
		}
		if data, ok := p.service(0x2a6f); ok && len(data) == 1 {
			r.readings(data, one(field("humidity", "%", 0, "u8", 1)))
		}
		if data, ok := p.service(0x2a19); ok && len(data) == 1 {
			r.readings(data, one(field("battery", "%", 0, "u8", 1)))
		}
	}
	if len(r.Readings) == 0 {
		return nil, nil
	}
	if r.Model == "" {
		r.Model = "Blue beacon"
	}
	return r, nil
}

// ela reads one frame of ELA's: the upper half of the type says what, the lower how many bytes.
func (r *Result) ela(data []byte) {
	if len(data) < 2 {
		return
	}
	switch value := data[1:]; {
	case data[0] == 0x12 && len(value) >= 2:
		r.readings(value, one(field("temperature", "°C", 0, "s16le", 0.01)))
	case data[0] == 0x21:
		r.readings(value, one(field("humidity", "%", 0, "u8", 1)))
		if len(value) == 4 && value[1] == 0x12 { // the frame of temperature follows
			r.readings(value, one(field("temperature", "°C", 2, "s16le", 0.01)))
		}
	case data[0] == 0xf1:
		r.readings(value, one(field("battery", "%", 0, "u8", 1)))
	}
}

// eye reads the EYE's: a version, flags of what is there, and that, most significant byte first.
func (r *Result) eye(data []byte) error {
	if len(data) < 2 || data[0] != 1 {
		return malformed("version or length of an EYE frame")
	}
	flags, rest := data[1], data[2:]
	take := func(bit, size int) []byte {
		if flags>>bit&1 == 0 || rest == nil || len(rest) < size {
			if flags>>bit&1 != 0 {
				rest = nil // what follows is not where it should be
			}
			return nil
		}
		b := rest[:size]
		rest = rest[size:]
		return b
	}
	if b := take(0, 2); b != nil {
		r.readings(b, one(field("temperature", "°C", 0, "s16be", 0.01)))
	}
	if b := take(1, 1); b != nil {
		r.readings(b, one(field("humidity", "%", 0, "u8", 1)))
	}
	if flags&(1<<2) != 0 {
		r.flag("magnetic_field", flags&(1<<3) != 0)
	}
	if b := take(4, 2); b != nil {
		r.flag("moving", b[0]&0x80 != 0)
		r.readings(b, one(field("movement_counter", "", 0, "u16be", 1).bits(0x7fff)))
	}
	if b := take(5, 3); b != nil {
		r.readings(b, []Field{field("pitch", "°", 0, "s8", 1), field("roll", "°", 1, "s16be", 1)})
	}
	r.flag("battery_low", flags&(1<<6) != 0)
	if b := take(7, 1); b != nil {
		r.readings(b, one(field("voltage", "V", 0, "u8", 0.01).plus(2)))
	}
	if rest == nil {
		return malformed("an EYE frame that is cut short")
	}
	return nil
}

// The keystream of Sonoff's remote controls; each byte is also changed by the packet's seed.
var sonoffStream = []byte{
	0x0f, 0x39, 0xbe, 0x5f, 0x27, 0x05, 0xbe, 0xf9, 0x66, 0xb5, 0x74, 0x0d, 0x04, 0x86, 0xd2, 0x61, 0x55, 0xbb, 0xfc, 0x16, 0x34,
	0x40, 0x7e, 0x1d, 0x38, 0x6e, 0xe4, 0x06, 0xaa, 0x79, 0x32, 0x95, 0x66, 0xb5, 0x74, 0x0d, 0xdb, 0x8c, 0xe9, 0x01, 0x2a,
}

var sonoffModels = map[byte]struct {
	model   string
	buttons []string
}{
	0x46: {"S-MATE", []string{"button_left", "button_middle", "button_right"}},
	0x47: {"R5", []string{"button_top_left", "button_top_middle", "button_top_right", "button_bottom_left", "button_bottom_middle", "button_bottom_right"}},
}

// decodeSonoff reads Sonoff's remote controls. All have the address 66:55:44:33:22:11 and put their
// data where a list of UUIDs belongs: a mark, the model, the device's id, a seed, and what
// is hidden with it: the button, the press and a counter.
func decodeSonoff(_ *Decoder, p *packet) (*Result, error) {
	if p.Addr != (Addr{0x66, 0x55, 0x44, 0x33, 0x22, 0x11}) {
		return nil, nil
	}
	for _, s := range p.structures {
		data := s.Data
		if s.Type == adUUIDs32+1 && len(data) == 26 || s.Type == adManufacturer && len(data) == 26 {
			if hex.EncodeToString(data[:4]) != "ffffee1b" {
				continue
			}
			model, ok := sonoffModels[data[8]]
			if !ok {
				return nil, malformed("model %#02x", data[8])
			}
			open := slices.Clone(data[16:])
			for i := range open {
				open[i] ^= data[15] ^ sonoffStream[i]
			}
			if int(open[1]) >= len(model.buttons) || int(open[2]) >= len(miPresses) {
				return nil, malformed("button %d, press %d", open[1], open[2])
			}
			r := newResult(p, "sonoff", model.model)
			r.ID = fmt.Sprintf("sonoff-%x", data[11:15])
			r.count(binary.BigEndian.Uint32(open[3:]))
			r.add(model.buttons[open[1]], miPresses[open[2]], "")
			return r, nil
		}
	}
	return nil, nil
}
