package codec

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/gateway"
)

// field is a value at a fixed place in a binary frame.
type field struct {
	name   string
	offset int
	size   int
	kind   byte // 'u' unsigned, 'i' signed, 'f' float, 'b' bool, 't' text, 'x' hexadecimal
	big    bool
	low    uint // the lowest bit, and how many from there; 0 bits: all
	bits   uint
	scale  *big.Rat // value = number * scale + add; nil: the number itself
	add    *big.Rat
	places int // decimals of the value if there is a scale
	unit   string
}

var fieldTypes = map[string]field{
	"uint8": {kind: 'u', size: 1}, "uint16": {kind: 'u', size: 2}, "uint24": {kind: 'u', size: 3},
	"uint32": {kind: 'u', size: 4}, "uint64": {kind: 'u', size: 8},
	"int8": {kind: 'i', size: 1}, "int16": {kind: 'i', size: 2}, "int24": {kind: 'i', size: 3},
	"int32": {kind: 'i', size: 4}, "int64": {kind: 'i', size: 8},
	"float32": {kind: 'f', size: 4}, "float64": {kind: 'f', size: 8},
	"bool": {kind: 'b', size: 1}, "text": {kind: 't'}, "hex": {kind: 'x'},
}

// setFields reads a layout: by name {offset, type, endian: little|big, bits, scale, add,
// unit, length}. Offset is in bytes from the beginning of the payload. Bits is one bit, such as
// 3, or the lowest and the highest of several, such as 4-7; bit 0 is the least significant of
// the number. The value is the number * scale + add, exactly, with as many decimals as these
// have. A bool is true if any of its bits is set. Text and hex have a length in bytes; text ends
// before its first zero. A frame that is too short for a field is malformed; it may be longer.
func (f *Format) setFields(v any) error {
	layout := newSettings("format.fields", v)
	if len(layout.m) == 0 {
		layout.fail("", errors.New("is a map by name, such as {temperature: {offset: 0, type: int16, scale: 0.01}}"))
	}
	var fields []field
	for _, name := range slices.Sorted(maps.Keys(layout.m)) {
		if err := CheckName(name); err != nil {
			layout.fail(name, err)
			continue
		}
		s := layout.sub(name)
		if s == nil {
			layout.fail(name, errors.New("is a map, such as {offset: 0, type: int16}"))
			break
		}
		fields = append(fields, newField(name, s))
	}
	if err := layout.done(); err != nil {
		return err
	}
	// In the order of the frame.
	slices.SortStableFunc(fields, func(a, b field) int { return a.offset - b.offset })
	f.layout(fields)
	return nil
}

// layout makes f the format of fields.
func (f *Format) layout(fields []field) {
	f.binary, f.typed, f.units = true, true, map[string]string{}
	for _, field := range fields {
		f.fixed = append(f.fixed, field.name)
		f.units[field.name] = field.unit
	}
	f.decode = func(frame []byte, add func(Reading)) error {
		for i := range fields {
			if err := fields[i].read(frame, add); err != nil {
				return err
			}
		}
		return nil
	}
}

func newField(name string, s *settings) field {
	kind := s.text("type", "")
	f, ok := fieldTypes[kind]
	if !ok {
		s.fail("type", fmt.Errorf("%q is none of %s", kind, names(fieldTypes)))
	}
	f.name, f.unit = name, s.text("unit", "")
	if f.offset = s.number("offset", -1, 0, 65535); f.offset < 0 {
		s.fail("offset", errors.New("missing; it is the first byte of the field, from 0"))
	}
	f.big = s.choice("endian", "little", "big") == "big"
	textual := f.kind == 't' || f.kind == 'x'
	if textual {
		if f.size = s.number("length", 0, 1, 4096); f.size == 0 {
			s.fail("length", fmt.Errorf("missing; %s has a length in bytes", kind))
		}
	}
	if f.kind == 'u' || f.kind == 'i' || f.kind == 'b' {
		f.setBits(s)
	}
	if f.kind == 'u' || f.kind == 'i' || f.kind == 'f' {
		scale, places := s.decimal("scale", "1")
		add, more := s.decimal("add", "0")
		if s.m["scale"] != nil || s.m["add"] != nil {
			f.scale, f.add, f.places = scale, add, max(places, more)
		}
	}
	s.done()
	return f
}

func (f *field) setBits(s *settings) {
	s.asked["bits"] = true
	if s.m["bits"] == nil {
		return
	}
	text := fmt.Sprint(s.m["bits"])
	low, high, several := strings.Cut(text, "-")
	if !several {
		high = low
	}
	from, err1 := strconv.ParseUint(low, 10, 8)
	to, err2 := strconv.ParseUint(high, 10, 8)
	if errors.Join(err1, err2) != nil || from > to || to >= uint64(8*f.size) {
		s.fail("bits", fmt.Errorf("%v is neither a bit of 0 to %d nor a range such as 0-3", text, 8*f.size-1))
		return
	}
	f.low, f.bits = uint(from), uint(to-from+1)
}

// decimal is the number at key, exactly as it is written, and how many decimals it has.
func (s *settings) decimal(key, without string) (*big.Rat, int) {
	s.asked[key] = true
	text := without
	switch v := s.m[key].(type) {
	case nil:
	case float64:
		text = strconv.FormatFloat(v, 'f', -1, 64)
	default:
		text = fmt.Sprint(v)
	}
	r, ok := new(big.Rat).SetString(text)
	n, number := Number(text)
	if !ok || !number || len(n) > 40 {
		s.fail(key, fmt.Errorf("%q is no number", text))
		return new(big.Rat), 0
	}
	_, decimals, _ := strings.Cut(text, ".")
	return r, len(decimals)
}

// read adds the field's value in frame.
func (f *field) read(frame []byte, add func(Reading)) error {
	if len(frame) < f.offset+f.size {
		return errMalformed
	}
	p := frame[f.offset : f.offset+f.size]
	r := Reading{Name: f.name, Unit: f.unit}
	switch f.kind {
	case 't':
		p, _, _ = bytes.Cut(p, []byte{0})
		r.Value = strings.TrimSpace(string(p))
		if !utf8.ValidString(r.Value) {
			return errMalformed
		}
	case 'x':
		r.Value = hex.EncodeToString(p)
	case 'b':
		r.Value = strconv.FormatBool(f.number(p) != 0)
	case 'f':
		v := f.float(p)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			r.Value, r.Quality = strconv.FormatFloat(v, 'g', -1, 64), gateway.Bad
			break
		}
		r.Value = formatFloat(v)
		if f.scale != nil {
			exact, _ := new(big.Rat).SetString(r.Value)
			r.Value = formatFloat(f.value(exact))
		}
	default:
		n := f.number(p)
		i := new(big.Int).SetUint64(n)
		if f.kind == 'i' {
			i.SetInt64(int64(n))
		}
		r.Value = i.String()
		if f.scale != nil {
			v := new(big.Rat).SetInt(i)
			r.Value = v.Add(v.Mul(v, f.scale), f.add).FloatString(f.places)
		}
	}
	add(r)
	return nil
}

// value is what the number v of a float means.
func (f *field) value(v *big.Rat) float64 {
	scaled, _ := v.Add(v.Mul(v, f.scale), f.add).Float64()
	return scaled
}

// number is the field's bits; those of a signed one fill all 64.
func (f *field) number(p []byte) uint64 {
	var v uint64
	for i := range p {
		if f.big {
			v = v<<8 | uint64(p[i])
		} else {
			v |= uint64(p[i]) << (8 * i)
		}
	}
	bits := uint(8 * f.size)
	if f.bits > 0 {
		v, bits = v>>f.low, f.bits
	}
	v <<= 64 - bits
	if f.kind == 'i' {
		return uint64(int64(v) >> (64 - bits))
	}
	return v >> (64 - bits)
}

func (f *field) float(p []byte) float64 {
	order := binary.ByteOrder(binary.LittleEndian)
	if f.big {
		order = binary.BigEndian
	}
	if f.size == 4 {
		return float64(math.Float32frombits(order.Uint32(p)))
	}
	return math.Float64frombits(order.Uint64(p))
}

// formatFloat writes v in as few digits as tell it apart from its neighbours: what fits
// into a float32 surely was one, and 21.53 is then 21.53, not 21.530000686645508.
func formatFloat(v float64) string {
	bits := 64
	if float64(float32(v)) == v {
		bits = 32
	}
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.FormatFloat(v, format, -1, bits)
}
