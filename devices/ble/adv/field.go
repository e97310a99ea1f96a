package adv

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Field is one value in the bytes of an advertisement, as it stands in a table. Numbers
// go this way, and steps that are not given change nothing:
//
//	bytes ─type─► raw ─mask─► raw ─invalid─► raw ─quotient, remainder─► raw ─values─► text
//	                                                                     └─► × scale / div + add ─min, max─► number
type Field struct {
	Name string `yaml:"name"` // one topic level
	Unit string `yaml:"unit"`

	// At is the first byte, from 0; below 0 it counts from the end. See Table for where 0 is.
	At int `yaml:"at"`
	// Type is how the bytes are read: u, s or m (unsigned, two's complement, sign bit and
	// magnitude), the bits (8, 16, 24, … 64) and be or le (most or least significant byte
	// first), such as s16le; f32le and f32be; bool (a byte, or what mask leaves of it, that
	// is not 0); text, hex and mac (as many bytes as size says; mac has 6; macle is reversed).
	// The default is u8.
	Type string `yaml:"type"`
	Size int    `yaml:"size"` // of text and hex: bytes; 0: to the end
	// Mask leaves the bits that belong to the value, and moves them down to bit 0. In a
	// type s its highest bit is the sign.
	Mask uint64 `yaml:"mask"`

	Invalid   []int64 `yaml:"invalid"`   // raw values that say "no value": there is no reading
	Quotient  uint64  `yaml:"quotient"`  // several numbers packed in one: divide by this, drop the rest
	Remainder uint64  `yaml:"remainder"` // then keep the rest of dividing by this

	// Values name raw numbers, which are written in decimal. Others are no reading.
	Values map[string]string `yaml:"values"`

	Scale  float64  `yaml:"scale"` // default 1
	Div    float64  `yaml:"div"`   // default 1; for steps that are no decimal number
	Add    float64  `yaml:"add"`
	Digits *int     `yaml:"digits"` // after the point; the default is what scale/div resolves
	Min    *float64 `yaml:"min"`    // a number out of these bounds is no reading
	Max    *float64 `yaml:"max"`

	When []Condition `yaml:"when"` // all must hold, or there is no reading
}

// Condition is true if the raw number there, masked as in Field, is one of Is.
type Condition struct {
	At   int     `yaml:"at"`
	Type string  `yaml:"type"`
	Mask uint64  `yaml:"mask"`
	Is   []int64 `yaml:"is"`
}

// kind is what a Type means.
type kind struct {
	how    byte // u, s, m, f, b(ool), t(ext), h(ex), a(ddress)
	bytes  int  // 0: as many as Size says
	little bool
}

// kinds are all types there are.
var kinds = func() map[string]kind {
	m := map[string]kind{
		"": {'u', 1, false}, "bool": {'b', 1, false}, "text": {'t', 0, false}, "hex": {'h', 0, false},
		"mac": {'a', 6, false}, "macle": {'a', 6, true}, "f32le": {'f', 4, true}, "f32be": {'f', 4, false},
	}
	for _, how := range "usm" {
		m[string(how)+"8"] = kind{byte(how), 1, false}
		for n := 2; n <= 8; n++ {
			m[fmt.Sprintf("%c%dbe", how, 8*n)] = kind{byte(how), n, false}
			m[fmt.Sprintf("%c%dle", how, 8*n)] = kind{byte(how), n, true}
		}
	}
	return m
}()

// bytesAt returns n bytes of data from at on, or to the end if n is 0.
func bytesAt(data []byte, at, n int) ([]byte, bool) {
	if at < 0 {
		at += len(data)
	}
	if at < 0 || at > len(data) || n > len(data)-at {
		return nil, false
	}
	if n == 0 {
		n = len(data) - at
	}
	return data[at : at+n], true
}

// raw reads the number at a place; false if the data has not so many bytes.
func raw(data []byte, at int, typ string, mask uint64) (int64, bool) {
	k := kinds[typ]
	b, ok := bytesAt(data, at, k.bytes)
	if !ok || k.bytes == 0 {
		return 0, false
	}
	var u uint64
	for i := range b {
		if k.little {
			u = u<<8 | uint64(b[len(b)-1-i])
		} else {
			u = u<<8 | uint64(b[i])
		}
	}
	sign := uint64(1) << (8*k.bytes - 1)
	if mask != 0 {
		u &= mask
		for ; mask&1 == 0; mask >>= 1 {
			u >>= 1
		}
		sign = mask &^ (mask >> 1) // the highest bit of a mask without holes
	}
	switch {
	case k.how == 's' && u&sign != 0:
		return int64(u) - int64(sign)<<1, true // sign 1<<63 makes 0 here, and int64(u) is right as it is
	case k.how == 'm' && u&sign != 0:
		return -int64(u &^ sign), true
	}
	return int64(u), true
}

func (c Condition) holds(data []byte) bool {
	v, ok := raw(data, c.At, c.Type, c.Mask)
	return ok && slices.Contains(c.Is, v)
}

func allHold(conditions []Condition, data []byte) bool {
	for _, c := range conditions {
		if !c.holds(data) {
			return false
		}
	}
	return true
}

// read returns the value as text; false if the data has none.
func (f *Field) read(data []byte) (string, bool) {
	if !allHold(f.When, data) {
		return "", false
	}
	switch k := kinds[f.Type]; k.how {
	case 't', 'h', 'a':
		n := f.Size
		if k.bytes > 0 {
			n = k.bytes
		}
		b, ok := bytesAt(data, f.At, n)
		if !ok || len(b) == 0 {
			return "", false
		}
		switch {
		case k.how == 't':
			s := text(b)
			return s, s != ""
		case k.little:
			b = slices.Clone(b)
			slices.Reverse(b)
		}
		if k.how == 'a' && isUnset(b) {
			return "", false
		}
		return hex.EncodeToString(b), true
	}
	v, ok := raw(data, f.At, f.Type, f.Mask)
	if !ok || slices.Contains(f.Invalid, v) {
		return "", false
	}
	switch kinds[f.Type].how {
	case 'b':
		return strconv.FormatBool(v != 0), true
	case 'f':
		x := math.Float32frombits(uint32(v))
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return "", false
		}
		if f.Scale == 0 && f.Div == 0 && f.Add == 0 && f.Digits == nil {
			return strconv.FormatFloat(float64(x), 'f', -1, 32), f.within(float64(x))
		}
		return f.scaled(float64(x))
	}
	if kinds[f.Type].how == 'u' { // of 64 bits all count
		u := uint64(v) / max(f.Quotient, 1)
		if f.Remainder != 0 {
			u %= f.Remainder
		}
		return f.value(strconv.FormatUint(u, 10), float64(u))
	}
	v /= int64(max(f.Quotient, 1))
	if f.Remainder != 0 {
		v %= int64(f.Remainder)
	}
	return f.value(strconv.FormatInt(v, 10), float64(v))
}

// value names a number, or scales it.
func (f *Field) value(raw string, x float64) (string, bool) {
	if f.Values != nil {
		s, ok := f.Values[raw]
		return s, ok
	}
	return f.scaled(x)
}

// isUnset tells whether an address is all ones or all zeros, as devices fill in what they do not know.
func isUnset(addr []byte) bool {
	return !slices.ContainsFunc(addr, func(b byte) bool { return b != 0xff }) ||
		!slices.ContainsFunc(addr, func(b byte) bool { return b != 0 })
}

// scaled turns a raw number into text. The text has the digits that one raw step is worth,
// so that float64, with 15 of its own, rounds to what the device meant.
func (f *Field) scaled(x float64) (string, bool) {
	scale, div := f.Scale, f.Div
	if scale == 0 {
		scale = 1
	}
	if div == 0 {
		div = 1
	}
	x = x*scale/div + f.Add
	digits := resolution(scale / div)
	if f.Digits != nil {
		digits = *f.Digits
	}
	return decimal(x, digits), f.within(x)
}

func (f *Field) within(x float64) bool {
	return !math.IsInf(x, 0) && !math.IsNaN(x) && (f.Min == nil || x >= *f.Min) && (f.Max == nil || x <= *f.Max)
}

// resolution is how many digits after the point a step of that size needs: all of them if
// they end within three, such as 0.0625, else those that are not finer than the step.
func resolution(step float64) int {
	const enough = 1e-9
	step = math.Abs(step)
	digits, unit := 0, 1.0
	for ; unit > step*(1+enough) && digits < 9; unit = math.Pow10(-digits) {
		digits++
	}
	for more := range 3 {
		if n := step * math.Pow10(digits+more); math.Abs(n-math.Round(n)) < enough*n {
			return digits + more
		}
	}
	return digits
}

// decimal formats x without a negative zero.
func decimal(x float64, digits int) string {
	s := strconv.FormatFloat(x, 'f', digits, 64)
	if s[0] == '-' && strings.Trim(s, "-0.") == "" {
		return s[1:]
	}
	return s
}

// readings reads the fields in order and adds what is there.
func (r *Result) readings(data []byte, fields []Field) {
	for i := range fields {
		if v, ok := fields[i].read(data); ok {
			r.add(fields[i].Name, v, fields[i].Unit)
		}
	}
}

// add adds a reading. Text that is empty says nothing.
func (r *Result) add(name, value, unit string) {
	if value == "" {
		return
	}
	r.Readings = append(r.Readings, codec.Reading{Name: name, Value: value, Unit: unit})
}

// number adds a number of that many digits after the point.
func (r *Result) number(name string, x float64, digits int, unit string) {
	r.add(name, decimal(x, digits), unit)
}

func (r *Result) flag(name string, on bool) { r.add(name, strconv.FormatBool(on), "") }

// field is a Field written in one line. Built-in tables are made of these.
func field(name, unit string, at int, typ string, scale float64) Field {
	return Field{Name: name, Unit: unit, At: at, Type: typ, Scale: scale}
}

func (f Field) not(invalid ...int64) Field {
	f.Invalid = invalid
	return f
}

func (f Field) plus(add float64) Field {
	f.Add = add
	return f
}

func (f Field) over(div float64) Field {
	f.Div = div
	return f
}

func (f Field) bits(mask uint64) Field {
	f.Mask = mask
	return f
}

func (f Field) between(least, most float64) Field {
	f.Min, f.Max = &least, &most
	return f
}

func (f Field) named(values map[string]string) Field {
	f.Values = values
	return f
}

func (f Field) when(at int, mask uint64, is ...int64) Field {
	f.When = append(slices.Clone(f.When), Condition{At: at, Mask: mask, Is: is})
	return f
}

// Values reads fields from data that is no advertisement, such as an attribute. What is not there is no reading.
func Values(data []byte, fields []Field) []codec.Reading {
	var r Result
	r.readings(data, fields)
	return r.Readings
}

// CheckFields checks fields that a user wrote for Values. Errors are gateway.KeyErrors below key.
func CheckFields(key string, fields []Field) error {
	if len(fields) > maxFields {
		return gateway.BadKey(key, "has %d entries; the most are %d", len(fields), maxFields)
	}
	for i := range fields {
		key := fmt.Sprintf("%s.%d", key, i)
		if err := fields[i].check(key); err != nil {
			return err
		}
		if err := codec.CheckName(fields[i].Name); err != nil {
			return gateway.BadKey(key+".name", "%v", err)
		}
	}
	return nil
}

// Number tells whether f is one whole number and nothing beside it, which Encode can write, and its bounds and step.
func (f Field) Number() (low, high, step float64, ok bool) {
	k := kinds[f.Type]
	if k.how != 'u' && k.how != 's' || k.bytes > 4 || f.At != 0 || f.Mask != 0 || f.Quotient != 0 || f.Remainder != 0 || f.Values != nil || len(f.When) > 0 {
		return 0, 0, 0, false
	}
	low, high = 0, math.Exp2(float64(8*k.bytes))-1
	if k.how == 's' {
		low, high = -math.Exp2(float64(8*k.bytes-1)), math.Exp2(float64(8*k.bytes-1))-1
	}
	step = cmp.Or(f.Scale, 1) / cmp.Or(f.Div, 1)
	low, high = low*step+f.Add, high*step+f.Add
	low, high = min(low, high), max(low, high)
	if f.Min != nil {
		low = max(low, *f.Min)
	}
	if f.Max != nil {
		high = min(high, *f.Max)
	}
	return low, high, math.Abs(step), true
}

// Encode is the other way round of reading: the bytes of a number. It must be a Number.
func (f Field) Encode(text string) ([]byte, error) {
	low, high, _, ok := f.Number()
	x, err := strconv.ParseFloat(text, 64)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s cannot be written as a number", f.Name)
	case err != nil || math.IsNaN(x):
		return nil, fmt.Errorf("%q is no number", text)
	case x < low || x > high:
		return nil, fmt.Errorf("%s is not between %v and %v", text, low, high)
	}
	k := kinds[f.Type]
	raw := int64(math.Round((x - f.Add) * cmp.Or(f.Div, 1) / cmp.Or(f.Scale, 1)))
	b := make([]byte, k.bytes)
	for i := range b {
		at := i
		if !k.little {
			at = k.bytes - 1 - i
		}
		b[at] = byte(raw >> (8 * i))
	}
	return b, nil
}
