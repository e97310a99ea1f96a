package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Register is one measurement of a device, as it stands in the configuration. Exactly one of
// the first five says where it is.
type Register struct {
	// Addresses as they go over the wire, from 0. A number that could as well be meant in the
	// traditional notation is refused; in hexadecimal it is an address.
	Coil     *address `yaml:"coil"`
	Discrete *address `yaml:"discrete"`
	Input    *address `yaml:"input"`
	Holding  *address `yaml:"holding"`
	// Register is a number in the traditional notation: 40001 or 400001 is holding register 0,
	// 30001 input register 0, 10001 discrete input 0, 00001 coil 0.
	Register *number `yaml:"register"`

	Type      string   `yaml:"type"`   // default uint16; of bits bool
	Length    int      `yaml:"length"` // registers of a string
	WordOrder string   `yaml:"word_order"`
	ByteOrder string   `yaml:"byte_order"`
	Bits      *bits    `yaml:"bits"` // a bit, or a field of them, of an unsigned integer
	Scale     *float64 `yaml:"scale"`
	Offset    float64  `yaml:"offset"`
	Unit      string   `yaml:"unit"`
	// Enum names values: {0: off, 1: on}.
	Enum map[string]string `yaml:"enum"`
	// Invalid are raw values by which the device says that it has none, such as 0x8000.
	Invalid []string `yaml:"invalid"`

	Interval time.Duration `yaml:"interval"` // default: the device's
	// Deadband reports a value only when it is so far from the last one reported, in the
	// measurement's unit; 0: when it changed. Without it every value is reported.
	Deadband    *float64      `yaml:"deadband"`
	MaxInterval time.Duration `yaml:"max_interval"` // default: the device's

	// Write lets commands write it; Min and Max bound what they may write.
	Write bool     `yaml:"write"`
	Min   *float64 `yaml:"min"`
	Max   *float64 `yaml:"max"`
}

// address is 0 to 65535.
type address struct {
	text  string
	value uint16
	plain bool // decimal
}

// UnmarshalText reads 52 or 0x34.
func (a *address) UnmarshalText(text []byte) error {
	a.text = string(text)
	n, err := parseUint(a.text, 16)
	if err != nil {
		// 400053 is no address in any case, and says what it is.
		var traditional number
		if traditional.UnmarshalText(text) == nil {
			return fmt.Errorf("%s is a register number: write register: %s, or its address, %d", a.text, a.text, traditional.address)
		}
		return fmt.Errorf("%q is no address: it is 0 to 65535", a.text)
	}
	a.value, a.plain = uint16(n), !strings.HasPrefix(strings.ToLower(a.text), "0x")
	return nil
}

// parseUint reads a decimal number, or a hexadecimal one after 0x. A 0 in front means nothing.
func parseUint(s string, width int) (uint64, error) {
	if digits, hex := strings.CutPrefix(strings.ToLower(s), "0x"); hex {
		return strconv.ParseUint(digits, 16, width)
	}
	return strconv.ParseUint(s, 10, width)
}

// number is a place in the traditional notation.
type number struct {
	table   table
	address uint16
}

// UnmarshalText reads 40001 or 400001.
func (n *number) UnmarshalText(text []byte) error {
	s := string(text)
	v, err := strconv.ParseUint(s, 10, 32)
	if err == nil && len(s) < 5 && v > 0 {
		s = fmt.Sprintf("%05d", v) // YAML may have taken the zeros of a coil's number
	}
	first := map[byte]table{'0': coil, '1': discrete, '3': input, '4': holding}
	if err != nil || len(s) < 5 || len(s) > 6 {
		return fmt.Errorf("%q is no register number: it is 40001 to 49999 or 400001 to 465536 for holding registers, 3… for input registers, 1… for discrete inputs, 0… for coils", text)
	}
	t, known := first[s[0]]
	rest, _ := strconv.Atoi(s[1:])
	if !known || rest < 1 || rest > 65536 {
		return fmt.Errorf("%q is no register number: the first digit is 4 for holding registers, 3 for input registers, 1 for discrete inputs, 0 for coils, and the rest counts from 1 to 65536", text)
	}
	n.table, n.address = t, uint16(rest-1)
	return nil
}

// place names a register in both notations.
func place(t table, addr uint16) string {
	return fmt.Sprintf("%s %s (address %d)", tables[t].name, traditional(t, addr), addr)
}

func traditional(t table, addr uint16) string {
	first := tables[t].first
	if addr < 9999 {
		return fmt.Sprintf("%05d", first+int(addr))
	}
	return fmt.Sprintf("%d%05d", first/10000, int(addr)+1)
}

// places names several in a row.
func places(t table, addr uint16, n int) string {
	if n == 1 {
		return place(t, addr)
	}
	last := addr + uint16(n-1)
	return fmt.Sprintf("%ss %s to %s (addresses %d to %d)", tables[t].name, traditional(t, addr), traditional(t, last), addr, last)
}

// bits are a range of bits, counted from the least significant one.
type bits struct{ low, high int }

// UnmarshalText reads 3 or 4-7.
func (b *bits) UnmarshalText(text []byte) error {
	low, high, isRange := strings.Cut(string(text), "-")
	var err, err2 error
	b.low, err = strconv.Atoi(low)
	b.high = b.low
	if isRange {
		b.high, err2 = strconv.Atoi(high)
	}
	if err != nil || err2 != nil || b.low < 0 || b.high < b.low || b.high > 63 {
		return fmt.Errorf("%q are no bits: write 3 for one, 4-7 for a field; 0 is the least significant", text)
	}
	return nil
}

// form is what a type is on the wire.
type form struct {
	words  int
	signed bool
	float  bool
	bcd    bool
}

var forms = map[string]form{
	"int16": {words: 1, signed: true}, "uint16": {words: 1},
	"int32": {words: 2, signed: true}, "uint32": {words: 2},
	"int64": {words: 4, signed: true}, "uint64": {words: 4},
	"float16": {words: 1, float: true}, "float32": {words: 2, float: true}, "float64": {words: 4, float: true},
	"bcd16": {words: 1, bcd: true}, "bcd32": {words: 2, bcd: true},
	"string": {}, "bool": {words: 1},
}

// register is a measurement, ready to be decoded.
type register struct {
	name  string
	table table
	addr  uint16
	kind  string
	form
	littleWords, littleBytes bool
	bits                     *bits
	scale, offset            decimal
	scaled                   bool // by either
	unit                     string
	enum                     map[uint64]string
	values                   map[string]uint64 // of enum, by name
	invalid                  []uint64

	interval    time.Duration
	deadband    *float64
	maxInterval time.Duration

	write    bool
	min, max *float64

	// SunSpec: the power of ten is in another register, by its name and its address; 0: it is not.
	factor  string
	scaleAt int
}

func (r *register) String() string { return fmt.Sprintf("%s, %s", r.name, place(r.table, r.addr)) }

// defaults are what the device says for all its registers.
type defaults struct {
	interval, maxInterval time.Duration
	wordOrder, byteOrder  string
}

// compile checks c. Keys of its errors are relative to the register.
func compile(name string, c Register, d defaults) (*register, error) {
	if err := codec.CheckName(name); err != nil {
		return nil, err
	}
	r := &register{name: name, unit: c.Unit, bits: c.Bits, deadband: c.Deadband, write: c.Write, min: c.Min, max: c.Max, kind: c.Type}
	if err := r.locate(c); err != nil {
		return nil, err
	}
	if err := r.setType(c, d); err != nil {
		return nil, err
	}
	one := 1.0
	if c.Scale == nil {
		c.Scale = &one
	}
	r.scale, r.offset = fromFloat(*c.Scale, 64), fromFloat(c.Offset, 64)
	r.scaled = *c.Scale != 1 || c.Offset != 0
	number := r.kind != "string" && r.kind != "bool" && !r.flag()
	switch {
	case *c.Scale == 0:
		return nil, gateway.BadKey("scale", "0 would make every value 0")
	case r.scaled && (!number || c.Enum != nil):
		return nil, gateway.BadKey("scale", "only a number has a scale and an offset")
	case c.Deadband != nil && *c.Deadband < 0:
		return nil, gateway.BadKey("deadband", "%v is less than 0", *c.Deadband)
	case c.Deadband != nil && *c.Deadband > 0 && (!number || c.Enum != nil):
		return nil, gateway.BadKey("deadband", "only a number has a deadband; 0 reports changes")
	case c.Interval < 0 || c.Interval > 0 && c.Interval < minInterval:
		return nil, gateway.BadKey("interval", "%v is less than %v", c.Interval, minInterval)
	case c.MaxInterval < 0:
		return nil, gateway.BadKey("max_interval", "%v is less than 0", c.MaxInterval)
	case c.MaxInterval > 0 && c.Deadband == nil:
		return nil, gateway.BadKey("max_interval", "without a deadband every value is reported anyway")
	case c.Write && r.table != coil && r.table != holding:
		return nil, gateway.BadKey("write", "%s can only be read", place(r.table, r.addr))
	case !c.Write && (c.Min != nil || c.Max != nil):
		return nil, gateway.BadKey("min", "min and max bound what may be written, and write is not set")
	case (c.Min != nil || c.Max != nil) && (!number || c.Enum != nil):
		return nil, gateway.BadKey("min", "only a number has min and max")
	}
	r.interval, r.maxInterval = d.interval, d.maxInterval
	if c.Interval > 0 {
		r.interval = c.Interval
	}
	if c.MaxInterval > 0 {
		r.maxInterval = min(c.MaxInterval, d.maxInterval)
	}
	if err := r.setEnum(c.Enum); err != nil {
		return nil, err
	}
	for _, text := range c.Invalid {
		raw, err := r.parseRaw(text)
		if err != nil || r.kind == "string" || r.kind == "bool" {
			return nil, gateway.BadKey("invalid", "%q is no raw value of %s, such as 0x8000", text, r.kind)
		}
		r.invalid = append(r.invalid, raw)
	}
	return r, nil
}

// minInterval is the shortest time between two reads of a register.
const minInterval = time.Millisecond

// locate finds out where r is.
func (r *register) locate(c Register) error {
	found := 0
	for _, at := range []struct {
		key   string
		table table
		addr  *address
	}{{"coil", coil, c.Coil}, {"discrete", discrete, c.Discrete}, {"input", input, c.Input}, {"holding", holding, c.Holding}} {
		if at.addr == nil {
			continue
		}
		found++
		r.table, r.addr = at.table, at.addr.value
		if first := tables[at.table].first; at.addr.plain && first > 1 && int(r.addr) >= first && int(r.addr) < first+9999 {
			meant := r.addr - uint16(first)
			return gateway.BadKey(at.key, "%s can mean %s or %s: write register: %s for the first, %s: 0x%x for the second",
				at.addr.text, place(at.table, meant), place(at.table, r.addr), at.addr.text, at.key, r.addr)
		}
	}
	if c.Register != nil {
		found++
		r.table, r.addr = c.Register.table, c.Register.address
	}
	if found != 1 {
		return gateway.Errorf(gateway.ErrInvalid, "has %d places; a register has one of coil, discrete, input and holding (an address from 0), or register (a number such as 40001)", found)
	}
	return nil
}

func (r *register) setType(c Register, d defaults) error {
	if r.kind == "" {
		r.kind = "uint16"
		if r.table.bits() {
			r.kind = "bool"
		}
	}
	f, known := forms[r.kind]
	switch {
	case !known:
		return gateway.BadKey("type", "there is no type %q; there is %s", r.kind, strings.Join(slices.Sorted(maps.Keys(forms)), ", "))
	case r.table.bits() != (r.kind == "bool"):
		if r.kind == "bool" {
			return gateway.BadKey("type", "a %s has 16 bits: leave type out and say which with bits: 0", tables[r.table].name)
		}
		return gateway.BadKey("type", "a %s is one bit: its type is bool", tables[r.table].name)
	case r.kind == "string" && (c.Length < 1 || c.Length > maxRegisters):
		return gateway.BadKey("length", "a string has a length of 1 to %d registers; each holds two characters", maxRegisters)
	case r.kind != "string" && c.Length != 0:
		return gateway.BadKey("length", "only a string has a length; the type says how long %s is", r.kind)
	}
	r.form = f
	if r.kind == "string" {
		r.words = c.Length
	}
	if int(r.addr)+r.words > 1<<16 {
		return gateway.BadKey("type", "%s is %d registers long and would end beyond address 65535", r.kind, r.words)
	}
	if b := r.bits; b != nil && (r.kind != "uint16" && r.kind != "uint32" && r.kind != "uint64" || b.high >= 16*r.words) {
		return gateway.BadKey("bits", "bits are of a uint16, uint32 or uint64, and counted from 0; this is %s", r.kind)
	}
	for _, order := range []struct {
		key, own, device string
		little           *bool
	}{{"word_order", c.WordOrder, d.wordOrder, &r.littleWords}, {"byte_order", c.ByteOrder, d.byteOrder, &r.littleBytes}} {
		value := order.own
		if value == "" {
			value = order.device
		}
		if err := checkOrder(order.key, value); err != nil {
			return err
		}
		*order.little = value == "little"
	}
	return nil
}

func checkOrder(key, value string) error {
	if value != "" && value != "big" && value != "little" {
		return gateway.BadKey(key, "%q is neither big, most significant first, nor little", value)
	}
	return nil
}

func (r *register) setEnum(enum map[string]string) error {
	if enum == nil {
		return nil
	}
	if r.float || r.kind == "string" {
		return gateway.BadKey("enum", "only an integer has names for its values")
	}
	r.enum, r.values = map[uint64]string{}, map[string]uint64{}
	for _, text := range slices.Sorted(maps.Keys(enum)) {
		raw, err := r.parseRaw(text)
		if err != nil {
			return gateway.BadKey("enum", "%q is no raw value of %s", text, r.kind)
		}
		if _, twice := r.values[enum[text]]; twice {
			return gateway.BadKey("enum", "two values are called %q", enum[text])
		}
		r.enum[raw], r.values[enum[text]] = enum[text], raw
	}
	return nil
}

// flag tells whether r is a single bit.
func (r *register) flag() bool { return r.bits != nil && r.bits.low == r.bits.high }

// width is how many bits of raw value r has.
func (r *register) width() int {
	switch {
	case r.kind == "bool":
		return 1
	case r.bits != nil:
		return r.bits.high - r.bits.low + 1
	}
	return 16 * r.words
}

// parseRaw reads a raw value: unsigned, or negative for its two's complement.
func (r *register) parseRaw(text string) (uint64, error) {
	width := r.width()
	if n, err := parseUint(text, 64); err == nil && (width == 64 || n < 1<<width) {
		return n, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n >= 0 || width < 64 && n < -1<<(width-1) {
		return 0, errors.New("out of range")
	}
	return uint64(n) & (math.MaxUint64 >> (64 - width)), nil
}

// arrange puts words into the order in which the most significant byte comes first. It is its own
// inverse.
func (r *register) arrange(w []uint16) []uint16 {
	w = slices.Clone(w)
	if r.littleWords && r.kind != "string" {
		slices.Reverse(w)
	}
	if r.littleBytes {
		for i := range w {
			w[i] = w[i]<<8 | w[i]>>8
		}
	}
	return w
}

// raw is the value of w as an unsigned integer.
func (r *register) raw(w []uint16) uint64 {
	var raw uint64
	for _, word := range r.arrange(w) {
		raw = raw<<16 | uint64(word)
	}
	if r.bits != nil {
		raw = raw >> r.bits.low & (math.MaxUint64 >> (64 - r.width()))
	}
	return raw
}

// value is one decoded measurement.
type value struct {
	text    string
	quality gateway.Quality
	number  float64 // NaN: it is none
}

// none is what a device says that has no value just now.
func none() value { return value{"nan", gateway.Bad, math.NaN()} }

// decode makes a value of w, the words of r; shift is the power of ten of a SunSpec point.
func (r *register) decode(w []uint16, shift int) value {
	if r.kind == "string" {
		return value{text: text(r.arrange(w)), number: math.NaN()}
	}
	raw := r.raw(w)
	if slices.Contains(r.invalid, raw) {
		return none()
	}
	if r.enum != nil {
		if name, known := r.enum[raw]; known {
			return value{text: name, number: math.NaN()}
		}
		v := strconv.FormatUint(raw, 10)
		if r.signed {
			v = r.integer(raw).String()
		}
		return value{v, gateway.Uncertain, math.NaN()}
	}
	if r.kind == "bool" || r.flag() {
		return value{text: strconv.FormatBool(raw != 0), number: float64(raw)}
	}
	var d decimal
	switch {
	case r.float:
		f := floatOf(raw, r.words)
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return none()
		}
		d = fromFloat(f, max(32, 16*r.words))
	case r.bcd:
		n, ok := fromBCD(raw)
		if !ok {
			return none()
		}
		d = integer(new(big.Int).SetUint64(n))
	default:
		d = integer(r.integer(raw))
	}
	if r.scaled {
		d = d.times(r.scale)
		if r.offset.mant.Sign() != 0 {
			d = d.plus(r.offset)
		}
	}
	d = d.shift(shift)
	return value{text: d.String(), number: d.float()}
}

func (r *register) integer(raw uint64) *big.Int {
	if !r.signed {
		return new(big.Int).SetUint64(raw)
	}
	unused := 64 - 16*r.words
	return big.NewInt(int64(raw<<unused) >> unused)
}

// text is the characters in words, up to the first NUL, without spaces around it. What is not
// UTF-8 is taken for Latin 1.
func text(w []uint16) string {
	b := make([]byte, 0, 2*len(w))
	for _, word := range w {
		b = binary.BigEndian.AppendUint16(b, word)
	}
	s, _, _ := strings.Cut(string(b), "\x00")
	if strings.ToValidUTF8(s, "") != s {
		runes := make([]rune, len(s))
		for i := range runes {
			runes[i] = rune(s[i])
		}
		s = string(runes)
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s))
}

func floatOf(raw uint64, words int) float64 {
	switch words {
	case 1:
		return float16(uint16(raw))
	case 2:
		return float64(math.Float32frombits(uint32(raw)))
	}
	return math.Float64frombits(raw)
}

// float16 is IEEE 754 binary16.
func float16(h uint16) float64 {
	sign := 1.0
	if h>>15 != 0 {
		sign = -1
	}
	exp, frac := int(h>>10&0x1f), float64(h&0x3ff)
	switch exp {
	case 0:
		return sign * math.Ldexp(frac, -24)
	case 0x1f:
		if frac != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

// toFloat16 is the float16 next to f, or false if there is none.
func toFloat16(f float64) (best uint16, ok bool) {
	if math.Abs(f) >= 65520 { // half a step above the largest
		return 0, false
	}
	least := math.Inf(1)
	for h := range 1 << 16 {
		if d := math.Abs(float16(uint16(h)) - f); d < least {
			best, least = uint16(h), d
		}
	}
	return best, true
}

func fromBCD(raw uint64) (n uint64, ok bool) {
	for shift := 60; shift >= 0; shift -= 4 {
		digit := raw >> shift & 0xf
		if digit > 9 {
			return 0, false
		}
		n = 10*n + digit
	}
	return n, true
}

func toBCD(n uint64) (raw uint64) {
	for shift := 0; n > 0; shift += 4 {
		raw |= n % 10 << shift
		n /= 10
	}
	return raw
}

// encode is the inverse of decode: the raw value for text, as words and, for bits, as a number.
// The error says what cannot be written, and is gateway.ErrInvalid.
func (r *register) encode(s string) (w []uint16, raw uint64, err error) {
	bad := func(format string, args ...any) ([]uint16, uint64, error) {
		return nil, 0, gateway.Errorf(gateway.ErrInvalid, r.name+": "+format, args...)
	}
	if r.kind == "string" {
		if len(s) > 2*r.words {
			return bad("%q has %d bytes, and there is room for %d", s, len(s), 2*r.words)
		}
		b := append([]byte(s), make([]byte, 2*r.words-len(s))...)
		for i := range r.words {
			w = append(w, binary.BigEndian.Uint16(b[2*i:]))
		}
		return r.arrange(w), 0, nil
	}
	switch named, known := r.values[s]; {
	case known:
		raw = named
	case r.enum != nil:
		return bad("%q is none of %s", s, strings.Join(slices.Sorted(maps.Keys(r.values)), ", "))
	case r.kind == "bool" || r.flag():
		on, known := map[string]bool{"true": true, "on": true, "1": true, "false": false, "off": false, "0": false}[strings.ToLower(s)]
		if !known {
			return bad("%q is neither true nor false", s)
		}
		if on {
			raw = 1
		}
	default:
		d, err := parseDecimal(s)
		if err != nil {
			return bad("%v", err)
		}
		if v := d.float(); r.min != nil && v < *r.min || r.max != nil && v > *r.max {
			return bad("%s is out of bounds: %s", s, r.bounds())
		}
		if raw, err = r.unscale(d); err != nil {
			return bad("%s %v", s, err)
		}
	}
	if r.bits == nil {
		for i := range r.words {
			w = append(w, uint16(raw>>(16*(r.words-1-i))))
		}
		w = r.arrange(w)
	}
	return w, raw, nil
}

// setting is how r is set.
func (r *register) setting() codec.Setting {
	s := codec.Setting{Name: r.name}
	switch {
	case r.enum != nil:
		s.Form, s.Options = codec.Choice, slices.Sorted(maps.Keys(r.values))
	case r.kind == "bool" || r.flag():
		s.Form, s.Options = codec.Switch, []string{"true", "false"}
	case r.kind == "string":
		s.Form = codec.Text
	default:
		s.Form, s.Step = codec.Numeric, math.Abs(r.scale.float())
		if width := float64(r.width()); r.float {
			s.Step = 0
		} else if width <= 32 && !r.bcd {
			low, high := 0.0, math.Exp2(width)-1
			if r.signed {
				low, high = -math.Exp2(width-1), math.Exp2(width-1)-1
			}
			a, b := low*r.scale.float()+r.offset.float(), high*r.scale.float()+r.offset.float()
			low, high = min(a, b), max(a, b)
			s.Min, s.Max = &low, &high
		}
		if r.min != nil {
			s.Min = r.min
		}
		if r.max != nil {
			s.Max = r.max
		}
	}
	return s
}

func (r *register) bounds() string {
	var parts []string
	if r.min != nil {
		parts = append(parts, fmt.Sprintf("min is %v", *r.min))
	}
	if r.max != nil {
		parts = append(parts, fmt.Sprintf("max is %v", *r.max))
	}
	return strings.Join(parts, ", ")
}

// unscale is the raw value of d.
func (r *register) unscale(d decimal) (uint64, error) {
	v := d.rat()
	v.Sub(v, r.offset.rat())
	v.Quo(v, r.scale.rat())
	if r.float {
		f, _ := v.Float64()
		switch r.words {
		case 1:
			h, ok := toFloat16(f)
			if !ok {
				return 0, errors.New("is out of the range of a float16")
			}
			return uint64(h), nil
		case 2:
			if math.IsInf(float64(float32(f)), 0) {
				return 0, errors.New("is out of the range of a float32")
			}
			return uint64(math.Float32bits(float32(f))), nil
		}
		return math.Float64bits(f), nil
	}
	if !v.IsInt() {
		return 0, fmt.Errorf("is between two steps: it goes in steps of %s", r.scale)
	}
	n, low, high := v.Num(), new(big.Int), new(big.Int).Lsh(big.NewInt(1), uint(r.width()))
	switch {
	case r.bcd:
		high = pow10(4 * r.words)
	case r.signed:
		high.Rsh(high, 1)
		low.Neg(high)
	}
	if n.Cmp(low) < 0 || n.Cmp(high) >= 0 {
		return 0, fmt.Errorf("is out of the range of %s", r.kind)
	}
	if r.bcd {
		return toBCD(n.Uint64()), nil
	}
	if n.Sign() < 0 {
		n = new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), uint(r.width())))
	}
	return n.Uint64(), nil
}
