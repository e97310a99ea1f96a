package adv

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Table is a decoder without code: which advertisements it is for, and where the values
// are. It is how users add their own devices, and what most built-in formats are made of.
//
// Offsets count in the payload that Match picks: behind the UUID of service data, behind the
// company's id of manufacturer data, or, with manufacturer: true, from that id on.
type Table struct {
	Name   string  `yaml:"name"`  // of the format
	Model  string  `yaml:"model"` // of the device; may be empty
	Match  Match   `yaml:"match"`
	Fields []Field `yaml:"fields"`
	// Counter changes with every measurement, so that one that is heard twice is known.
	Counter *Field `yaml:"counter"`
	// Identity is what names the device, if not the address it is heard from: of type mac or
	// macle it is the id; text and hex are so behind the format's name; a number tells
	// several sensors with one address apart, and is put behind it.
	Identity *Field `yaml:"identity"`
}

// Match says which payload a table is for. There is exactly one of Service, Company and
// Manufacturer; of what else is given, all must hold.
type Match struct {
	Service      string  `yaml:"service"` // UUID of service data: fcd2, or the long form
	Company      *uint16 `yaml:"company"` // company id of manufacturer data
	Manufacturer bool    `yaml:"manufacturer"`

	Names     []string    `yaml:"names"`     // one of these begins the device's name
	Advertise []string    `yaml:"advertise"` // the device advertises one of these services
	Length    int         `yaml:"length"`    // of the payload, in bytes
	MinLength int         `yaml:"min_length"`
	Bytes     []Condition `yaml:"bytes"`
}

// table is a Table that was checked.
type table struct {
	Table
	service   UUID
	advertise []UUID
}

// The bounds of one table.
const (
	maxFields    = 64
	maxCondition = 32
)

// compile checks t. Errors are KeyErrors.
func (t Table) compile() (*table, error) {
	c := &table{Table: t}
	m := t.Match
	var err error
	switch {
	case t.Name == "":
		return nil, gateway.BadKey("name", "missing; it names the format")
	case codec.CheckName(t.Name) != nil:
		return nil, gateway.BadKey("name", "%v", codec.CheckName(t.Name))
	case len(t.Fields) == 0:
		return nil, gateway.BadKey("fields", "missing; without them there is nothing to read")
	case len(t.Fields) > maxFields:
		return nil, gateway.BadKey("fields", "has %d entries; the most are %d", len(t.Fields), maxFields)
	}
	picks := 0
	for _, given := range []bool{m.Service != "", m.Company != nil, m.Manufacturer} {
		if given {
			picks++
		}
	}
	if picks != 1 {
		return nil, gateway.BadKey("match", "needs exactly one of service, company and manufacturer: true")
	}
	if m.Service != "" {
		if c.service, err = ParseUUID(m.Service); err != nil {
			return nil, gateway.BadKey("match.service", "%v", err)
		}
	}
	if m.Manufacturer && len(m.Names)+len(m.Advertise)+len(m.Bytes) == 0 {
		return nil, gateway.BadKey("match", "manufacturer: true takes data of every maker; add names, advertise or bytes")
	}
	for i, s := range m.Advertise {
		u, err := ParseUUID(s)
		if err != nil {
			return nil, gateway.BadKey(fmt.Sprintf("match.advertise.%d", i), "%v", err)
		}
		c.advertise = append(c.advertise, u)
	}
	if slices.Contains(m.Names, "") {
		return nil, gateway.BadKey("match.names", "an empty name begins every name")
	}
	if m.Length < 0 || m.Length > maxData {
		return nil, gateway.BadKey("match.length", "%d is not in 0 to %d", m.Length, maxData)
	}
	if m.MinLength < 0 || m.MinLength > maxData {
		return nil, gateway.BadKey("match.min_length", "%d is not in 0 to %d", m.MinLength, maxData)
	}
	if err := checkConditions("match.bytes", m.Bytes); err != nil {
		return nil, err
	}
	var names []string
	for i := range t.Fields {
		f, key := &t.Fields[i], fmt.Sprintf("fields.%d", i)
		if err := f.check(key); err != nil {
			return nil, err
		}
		if err := codec.CheckName(f.Name); err != nil {
			return nil, gateway.BadKey(key+".name", "%v", err)
		}
		// One name for two fields is right if only one of them can be there.
		if slices.Contains(names, f.Name) && len(f.When) == 0 {
			return nil, gateway.BadKey(key+".name", "%q stands twice", f.Name)
		}
		names = append(names, f.Name)
	}
	if t.Counter != nil {
		if err := t.Counter.check("counter"); err != nil {
			return nil, err
		}
		if !slices.Contains([]byte{'u', 's', 'm'}, kinds[t.Counter.Type].how) {
			return nil, gateway.BadKey("counter.type", "%q is no whole number", t.Counter.Type)
		}
	}
	if t.Identity != nil {
		if err := t.Identity.check("identity"); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func checkConditions(key string, list []Condition) error {
	if len(list) > maxCondition {
		return gateway.BadKey(key, "has %d entries; the most are %d", len(list), maxCondition)
	}
	for i, c := range list {
		k, ok := kinds[c.Type]
		key := fmt.Sprintf("%s.%d", key, i)
		switch {
		case !ok || k.how != 'u' && k.how != 's' && k.how != 'm':
			return gateway.BadKey(key+".type", "%q is no whole number, such as u8, s16le or u24be", c.Type)
		case len(c.Is) == 0:
			return gateway.BadKey(key+".is", "missing; it is the list of numbers that fit")
		}
		if err := checkMask(key, k, c.Mask); err != nil {
			return err
		}
		if err := checkAt(key, c.At); err != nil {
			return err
		}
	}
	return nil
}

func checkAt(key string, at int) error {
	if at < -maxData || at > maxData {
		return gateway.BadKey(key+".at", "%d is not in %d to %d", at, -maxData, maxData)
	}
	return nil
}

func checkMask(key string, k kind, mask uint64) error {
	if mask == 0 {
		return nil
	}
	if k.how != 'u' && k.how != 's' && k.how != 'm' && k.how != 'b' {
		return gateway.BadKey(key+".mask", "only whole numbers have one")
	}
	if k.bytes < 8 && mask>>(8*k.bytes) != 0 {
		return gateway.BadKey(key+".mask", "%#x has more than the %d bits of the type", mask, 8*k.bytes)
	}
	low := mask
	for low&1 == 0 {
		low >>= 1
	}
	if low&(low+1) != 0 {
		return gateway.BadKey(key+".mask", "%#x has a hole", mask)
	}
	return nil
}

func (f *Field) check(key string) error {
	k, ok := kinds[f.Type]
	if !ok {
		return gateway.BadKey(key+".type", "%q is no type; such are u8, s16le, u24be, f32le, bool, text, hex and mac", f.Type)
	}
	number := k.how == 'u' || k.how == 's' || k.how == 'm'
	switch {
	case f.Size < 0 || f.Size > maxData:
		return gateway.BadKey(key+".size", "%d is not in 0 to %d", f.Size, maxData)
	case f.Size != 0 && k.bytes != 0:
		return gateway.BadKey(key+".size", "%s has a size of its own", f.Type)
	case !number && (f.Values != nil || f.Quotient != 0 || f.Remainder != 0):
		return gateway.BadKey(key+".type", "values, quotient and remainder are for whole numbers")
	case f.Quotient > 1<<62 || f.Remainder > 1<<62:
		return gateway.BadKey(key, "quotient and remainder are at most 2^62")
	case f.Digits != nil && (*f.Digits < 0 || *f.Digits > 9):
		return gateway.BadKey(key+".digits", "%d is not in 0 to 9", *f.Digits)
	case f.Values != nil && (f.Scale != 0 || f.Div != 0 || f.Add != 0):
		return gateway.BadKey(key+".values", "what is named has no scale, div or add")
	}
	for v := range f.Values {
		if n, err := strconv.ParseInt(v, 10, 64); err != nil || strconv.FormatInt(n, 10) != v {
			return gateway.BadKey(key+".values", "%q is no decimal whole number", v)
		}
	}
	if err := checkMask(key, k, f.Mask); err != nil {
		return err
	}
	if err := checkAt(key, f.At); err != nil {
		return err
	}
	return checkConditions(key+".when", f.When)
}

// payload returns what the table reads, or false if p is not for it. There are hundreds of
// tables and thousands of advertisements, so what is cheap and rare is asked first.
func (t *table) payload(p *packet) ([]byte, bool) {
	m := &t.Match
	if m.Service != "" {
		for _, s := range p.services {
			if s.uuid == t.service && t.fits(p, s.data) {
				return s.data, true
			}
		}
		return nil, false
	}
	for _, data := range p.makers {
		if m.Company != nil {
			if binary.LittleEndian.Uint16(data) != *m.Company {
				continue
			}
			data = data[2:]
		}
		if t.fits(p, data) {
			return data, true
		}
	}
	return nil, false
}

func (t *table) fits(p *packet, data []byte) bool {
	m := &t.Match
	return (m.Length == 0 || len(data) == m.Length) && len(data) >= m.MinLength &&
		(m.Names == nil || slices.ContainsFunc(m.Names, func(begin string) bool { return strings.HasPrefix(p.name, begin) })) &&
		(t.advertise == nil || slices.ContainsFunc(t.advertise, func(u UUID) bool { return slices.Contains(p.uuids, u) })) &&
		allHold(m.Bytes, data)
}

// decode returns nil if p is not for t.
func (t *table) decode(p *packet) *Result {
	data, ok := t.payload(p)
	if !ok {
		return nil
	}
	r := newResult(p, t.Name, t.Model)
	r.readings(data, t.Fields)
	if t.Counter != nil {
		// Read without its text: a counter has no scale.
		if v, ok := raw(data, t.Counter.At, t.Counter.Type, t.Counter.Mask); ok && !slices.Contains(t.Counter.Invalid, v) {
			r.count(uint32(v))
		}
	}
	if t.Identity != nil {
		if id, ok := t.Identity.read(data); ok {
			switch kinds[t.Identity.Type].how {
			case 'a':
				r.ID = id
			case 't', 'h':
				r.ID = t.Name + "-" + codec.CleanName(id)
			default:
				r.ID += "-" + id
			}
		}
	}
	return r
}
