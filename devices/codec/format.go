package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/gateway"
)

// Measurement is what the configuration says about one value of a device.
type Measurement struct {
	// Unit travels with the value. It also says that the value is a number: "+0012.50" is
	// then 12.50 (see Number), and a frame in which it is anything else is malformed.
	// Without a unit a value is the text that was sent: 007 may be a name.
	Unit string `yaml:"unit"`
	// Kind is what is measured, one of KindNames, where name and unit do not tell or tell wrongly.
	Kind string `yaml:"kind"`
}

// Format decodes frames, or any other bytes that are one message. The formats:
//
//   - json: an object; every scalar member is a reading. Members of nested objects get
//     dotted names, elements of arrays their index: {"air":{"t":21.5},"v":[1,2]} reads
//     air.t, v.0 and v.1, so that a measurement is always one topic level. null means
//     that there is no value.
//   - key=value: pairs separated by spaces, tabs, commas or semicolons. A pair without a
//     value means that there is none.
//   - csv: [a, b, _]: one field per column; "_" skips a column. The separator is a
//     semicolon or a tab if the line has one, else a comma. There is no quoting. A line that
//     repeats the names is a header.
//   - regex: '^…(?P<name>…)…$': every named group is a reading. RE2 syntax.
//   - cbor: as json, in CBOR (RFC 8949).
//   - senml, senml-cbor: RFC 8428. Units and times are the device's.
//   - fields: {name: {offset, type, …}}: numbers at fixed places; see newFields.
//   - raw: the reading "raw" is the frame as it is.
//
// In the text formats nan and inf, as firmware prints a measurement that failed, become a
// reading of bad quality.
type Format struct {
	decode       func(frame []byte, add func(Reading)) error
	binary       bool // frames are not text
	typed        bool // the format itself tells numbers from strings
	measurements map[string]Measurement
	fixed        []string          // the names of csv, regex and fields; nil if the device names its values
	units        map[string]string // by name, those that are not the configuration's to choose
}

// NewFormat returns a decoder for format as it stands in the configuration: a word, or a
// map with one key. Errors are KeyErrors.
func NewFormat(format any, measurements map[string]Measurement) (*Format, error) {
	f := &Format{}
	if key, err := f.set(format); err != nil {
		var deeper *gateway.KeyError
		if errors.As(err, &deeper) {
			return nil, err
		}
		return nil, &gateway.KeyError{Key: key, Err: err}
	}
	return f, f.measure(measurements)
}

// measure checks what the configuration says about measurements.
func (f *Format) measure(measurements map[string]Measurement) error {
	f.measurements = measurements
	for _, name := range slices.Sorted(maps.Keys(measurements)) {
		key := "measurements." + name
		if err := CheckName(name); err != nil {
			return &gateway.KeyError{Key: key, Err: err}
		}
		if f.fixed != nil && !slices.Contains(f.fixed, name) {
			return gateway.BadKey(key, "the format has no measurement %q; it has %s", name, strings.Join(f.fixed, ", "))
		}
		if own, want := f.units[name], measurements[name].Unit; own != "" && want != "" && own != PlainUnit(want) {
			return gateway.BadKey(key, "%s is in %s; Weir does not convert", name, own)
		}
	}
	return nil
}

const formats = "json, key=value, {csv: [name, …]}, {regex: '…'}, {fields: {name: …}}, cbor, senml, senml-cbor or raw"

// set returns the key its error is at.
func (f *Format) set(format any) (string, error) {
	switch v := format.(type) {
	case nil:
		return "format", fmt.Errorf("missing; it is one of %s", formats)
	case string:
		switch v {
		case "json":
			f.decode, f.typed = decodeJSON, true
		case "key=value":
			f.decode = decodePairs
		case "cbor":
			f.decode, f.typed, f.binary = decodeCBOR, true, true
		case "senml":
			f.decode, f.typed = decodeSenMLJSON, true
		case "senml-cbor":
			f.decode, f.typed, f.binary = decodeSenMLCBOR, true, true
		case "raw":
			f.decode, f.typed, f.binary, f.fixed = decodeRaw, true, true, []string{"raw"}
		default:
			return "format", fmt.Errorf("%q is no format; it is one of %s", v, formats)
		}
		return "", nil
	case map[string]any:
		if len(v) != 1 {
			return "format", fmt.Errorf("has %d keys; it is one of %s", len(v), formats)
		}
		for kind, v := range v {
			switch kind {
			case "csv":
				return "format.csv", f.setColumns(v)
			case "regex":
				return "format.regex", f.setRegex(v)
			case "fields":
				return "format.fields", f.setFields(v)
			}
			return "format." + kind, fmt.Errorf("%q is no format; it is one of %s", kind, formats)
		}
	}
	return "format", fmt.Errorf("is one of %s", formats)
}

func (f *Format) setColumns(v any) error {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return errors.New("csv is a list of column names, such as [temperature, humidity]")
	}
	columns := make([]string, len(list))
	for i, item := range list {
		name, ok := item.(string)
		if !ok {
			return fmt.Errorf("csv column %d is %v; a column is a name", i+1, item)
		}
		if err := f.addFixed(name); name != "_" && err != nil {
			return err
		}
		columns[i] = name
	}
	if len(f.fixed) == 0 {
		return errors.New("csv skips every column")
	}
	f.decode = func(line []byte, add func(Reading)) error { return decodeCSV(columns, line, add) }
	return nil
}

func (f *Format) setRegex(v any) error {
	expr, ok := v.(string)
	if !ok {
		return errors.New("regex is a string")
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return err
	}
	for _, name := range re.SubexpNames() {
		if name == "" {
			continue
		}
		if err := f.addFixed(name); err != nil {
			return err
		}
	}
	if len(f.fixed) == 0 {
		return errors.New("regex has no named group, such as (?P<weight>[0-9.]+)")
	}
	f.decode = func(line []byte, add func(Reading)) error { return decodeRegex(re, line, add) }
	return nil
}

func (f *Format) addFixed(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if name == "_" {
		return nil
	}
	if slices.Contains(f.fixed, name) {
		return fmt.Errorf("%q stands twice", name)
	}
	f.fixed = append(f.fixed, name)
	return nil
}

// Names are the measurements that are known before the first line, sorted: those of a
// format that fixes them, else those the configuration speaks of.
func (f *Format) Names() []string {
	names := slices.Clone(f.fixed)
	if f.fixed == nil {
		for name := range f.measurements {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Complete tells whether Names are all there are.
func (f *Format) Complete() bool { return f.fixed != nil }

// Unit is what the configuration says that a measurement is in.
func (f *Format) Unit(name string) string { return f.measurements[name].Unit }

// MaxReadings bounds the readings of one frame.
const MaxReadings = 256

var (
	errMalformed = errors.New("malformed")
	errHeader    = errors.New("header")
	errChecksum  = errors.New("checksum")
)

// Decode returns the readings of frame, in its order, or the reason it is garbage. A
// frame is taken whole or not at all. One that is good and measures nothing, such as a
// sensor's answer to a command, has neither.
func (f *Format) Decode(frame []byte) (readings []Reading, garbage string) {
	if !f.binary {
		frame = bytes.TrimRight(frame, "\r\n") // some send it inside other ends too
		if !isText(frame, f.typed) {
			return nil, Binary
		}
	}
	bad := false
	err := f.decode(frame, func(r Reading) {
		r.Name = CleanName(r.Name)
		if r.Unit == "" && !r.Measure(f.measurements[r.Name].Unit, f.typed) {
			bad = true
		}
		readings = append(readings, r)
	})
	switch {
	case err == errHeader:
		return nil, Header
	case err == errChecksum:
		return nil, Checksum
	case err != nil || bad:
		return nil, Malformed
	case len(readings) > MaxReadings:
		return nil, TooMany
	}
	return readings, ""
}

// Measure says that r is in unit, so a number, or in none if unit is empty. Typed says that a value that
// looks like a number that failed was sent as text. It is false if r cannot be in unit.
func (r *Reading) Measure(unit string, typed bool) bool {
	r.Unit = unit
	n, number := Number(r.Value)
	switch {
	case number && unit != "":
		r.Value = n
	case notANumber(r.Value) && (unit != "" || !typed):
		r.Quality = gateway.Bad
	case !number && unit != "":
		return false
	}
	return true
}

func decodeRaw(frame []byte, add func(Reading)) error {
	add(Reading{Name: "raw", Value: string(frame)})
	return nil
}

// isText tells whether frame is UTF-8 without control characters; line ends are among them,
// unless there may be many lines.
func isText(frame []byte, lines bool) bool {
	for _, b := range frame {
		if b < ' ' && b != '\t' && !(lines && (b == '\r' || b == '\n')) || b == 0x7f {
			return false
		}
	}
	return utf8.Valid(frame)
}

func decodePairs(line []byte, add func(Reading)) error {
	for _, pair := range strings.FieldsFunc(string(line), func(r rune) bool { return strings.ContainsRune(" \t,;", r) }) {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return errMalformed
		}
		if value != "" {
			add(Reading{Name: name, Value: value})
		}
	}
	return nil
}

func decodeCSV(columns []string, line []byte, add func(Reading)) error {
	text, sep := string(line), ","
	if strings.Contains(text, ";") {
		sep = ";"
	} else if strings.Contains(text, "\t") {
		sep = "\t"
	}
	fields := strings.Split(text, sep)
	if len(fields) != len(columns) {
		return errMalformed
	}
	header := true
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
		header = header && (columns[i] == "_" || strings.EqualFold(fields[i], columns[i]))
	}
	if header {
		return errHeader
	}
	for i, value := range fields {
		if columns[i] != "_" && value != "" {
			add(Reading{Name: columns[i], Value: value})
		}
	}
	return nil
}

func decodeRegex(re *regexp.Regexp, line []byte, add func(Reading)) error {
	m := re.FindSubmatch(line)
	if m == nil {
		return errMalformed
	}
	for i, name := range re.SubexpNames() {
		if name == "" || name == "_" {
			continue
		}
		if value := strings.TrimSpace(string(m[i])); value != "" {
			add(Reading{Name: name, Value: value})
		}
	}
	return nil
}

func decodeJSON(line []byte, add func(Reading)) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber() // a float64 would change the digits
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errMalformed
	}
	if err := decodeMembers(d, "", add); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errMalformed
	}
	return nil
}

// decodeMembers reads the members of an object that is open.
func decodeMembers(d *json.Decoder, prefix string, add func(Reading)) error {
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		if err := decodeValue(d, prefix+t.(string), add); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func decodeElements(d *json.Decoder, prefix string, add func(Reading)) error {
	for i := 0; d.More(); i++ {
		if err := decodeValue(d, prefix+strconv.Itoa(i), add); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func decodeValue(d *json.Decoder, name string, add func(Reading)) error {
	if len(name) > MaxName { // a cut name might be another's; and it bounds the recursion
		return errMalformed
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch v := t.(type) {
	case json.Delim:
		if v == '{' {
			return decodeMembers(d, name+".", add)
		}
		return decodeElements(d, name+".", add)
	case json.Number:
		add(Reading{Name: name, Value: v.String()})
	case bool:
		add(Reading{Name: name, Value: strconv.FormatBool(v)})
	case string:
		add(Reading{Name: name, Value: v})
	}
	return nil
}
