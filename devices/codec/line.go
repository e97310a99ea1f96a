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
	// then 12.50 (see Number), and a line in which it is anything else is malformed.
	// Without a unit a value is the text that was sent: 007 may be a name.
	Unit string `yaml:"unit"`
}

// Line decodes lines of text. The formats:
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
//
// In the text formats nan and inf, as firmware prints a measurement that failed, become a
// reading of bad quality.
type Line struct {
	decode       func(line []byte, add func(name, value string)) error
	typed        bool // the format itself tells numbers from strings
	measurements map[string]Measurement
	fixed        []string // the names of csv and regex; nil if the device names its values
}

// NewLine returns a decoder for format as it stands in the configuration: the word json or
// key=value, or a map with the one key csv or regex. Errors are KeyErrors.
func NewLine(format any, measurements map[string]Measurement) (*Line, error) {
	l := &Line{measurements: measurements}
	if key, err := l.setFormat(format); err != nil {
		return nil, &gateway.KeyError{Key: key, Err: err}
	}
	for _, name := range slices.Sorted(maps.Keys(measurements)) {
		key := "measurements." + name
		if err := CheckName(name); err != nil {
			return nil, &gateway.KeyError{Key: key, Err: err}
		}
		if l.fixed != nil && !slices.Contains(l.fixed, name) {
			return nil, gateway.BadKey(key, "the format has no measurement %q; it has %s", name, strings.Join(l.fixed, ", "))
		}
	}
	return l, nil
}

const formats = "json, key=value, {csv: [name, …]} or {regex: '…'}"

// setFormat returns the key its error is at.
func (l *Line) setFormat(format any) (string, error) {
	switch f := format.(type) {
	case nil:
		return "format", fmt.Errorf("missing; it is one of %s", formats)
	case string:
		switch f {
		case "json":
			l.decode, l.typed = decodeJSON, true
			return "", nil
		case "key=value":
			l.decode = decodePairs
			return "", nil
		}
		return "format", fmt.Errorf("%q is no format; it is one of %s", f, formats)
	case map[string]any:
		if len(f) != 1 {
			return "format", fmt.Errorf("has %d keys; it is one of %s", len(f), formats)
		}
		for kind, v := range f {
			switch kind {
			case "csv":
				return "format.csv", l.setColumns(v)
			case "regex":
				return "format.regex", l.setRegex(v)
			}
			return "format." + kind, fmt.Errorf("%q is no format; it is one of %s", kind, formats)
		}
	}
	return "format", fmt.Errorf("is one of %s", formats)
}

func (l *Line) setColumns(v any) error {
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
		if err := l.addFixed(name); name != "_" && err != nil {
			return err
		}
		columns[i] = name
	}
	if len(l.fixed) == 0 {
		return errors.New("csv skips every column")
	}
	l.decode = func(line []byte, add func(string, string)) error { return decodeCSV(columns, line, add) }
	return nil
}

func (l *Line) setRegex(v any) error {
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
		if err := l.addFixed(name); err != nil {
			return err
		}
	}
	if len(l.fixed) == 0 {
		return errors.New("regex has no named group, such as (?P<weight>[0-9.]+)")
	}
	l.decode = func(line []byte, add func(string, string)) error { return decodeRegex(re, line, add) }
	return nil
}

func (l *Line) addFixed(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if name == "_" {
		return nil
	}
	if slices.Contains(l.fixed, name) {
		return fmt.Errorf("%q stands twice", name)
	}
	l.fixed = append(l.fixed, name)
	return nil
}

// Names are the measurements that are known before the first line, sorted: those of a
// format that fixes them, else those the configuration speaks of.
func (l *Line) Names() []string {
	names := slices.Clone(l.fixed)
	if l.fixed == nil {
		for name := range l.measurements {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// MaxReadings bounds the readings of one line.
const MaxReadings = 256

var (
	errMalformed = errors.New("malformed")
	errHeader    = errors.New("header")
)

// Decode returns the readings of line, in its order, or the reason it is garbage. A
// line is taken whole or not at all.
func (l *Line) Decode(line []byte) (readings []Reading, garbage string) {
	if !isText(line) {
		return nil, Binary
	}
	bad := false
	err := l.decode(line, func(name, value string) {
		r := Reading{Name: CleanName(name), Value: value}
		r.Unit = l.measurements[r.Name].Unit
		n, number := Number(value)
		switch {
		case number && r.Unit != "":
			r.Value = n
		case notANumber(value) && (r.Unit != "" || !l.typed):
			r.Quality = gateway.Bad
		case !number && r.Unit != "":
			bad = true
		}
		readings = append(readings, r)
	})
	switch {
	case err == errHeader:
		return nil, Header
	case err != nil || bad:
		return nil, Malformed
	case len(readings) > MaxReadings:
		return nil, TooMany
	}
	return readings, ""
}

func isText(line []byte) bool {
	for _, b := range line {
		if b < ' ' && b != '\t' || b == 0x7f {
			return false
		}
	}
	return utf8.Valid(line)
}

func decodePairs(line []byte, add func(name, value string)) error {
	for _, pair := range strings.FieldsFunc(string(line), func(r rune) bool { return strings.ContainsRune(" \t,;", r) }) {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return errMalformed
		}
		if value != "" {
			add(name, value)
		}
	}
	return nil
}

func decodeCSV(columns []string, line []byte, add func(name, value string)) error {
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
			add(columns[i], value)
		}
	}
	return nil
}

func decodeRegex(re *regexp.Regexp, line []byte, add func(name, value string)) error {
	m := re.FindSubmatch(line)
	if m == nil {
		return errMalformed
	}
	for i, name := range re.SubexpNames() {
		if name == "" || name == "_" {
			continue
		}
		if value := strings.TrimSpace(string(m[i])); value != "" {
			add(name, value)
		}
	}
	return nil
}

func decodeJSON(line []byte, add func(name, value string)) error {
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
func decodeMembers(d *json.Decoder, prefix string, add func(name, value string)) error {
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

func decodeElements(d *json.Decoder, prefix string, add func(name, value string)) error {
	for i := 0; d.More(); i++ {
		if err := decodeValue(d, prefix+strconv.Itoa(i), add); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func decodeValue(d *json.Decoder, name string, add func(name, value string)) error {
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
		add(name, v.String())
	case bool:
		add(name, strconv.FormatBool(v))
	case string:
		add(name, v)
	}
	return nil
}

// Frames feeds p to s and emits a frame for every line that ends in it.
func (l *Line) Frames(s *Splitter, p []byte, emit func(Frame)) {
	refuse := func(reason string, raw []byte) {
		emit(Frame{Garbage: reason, Raw: raw[:min(len(raw), rawKept)]})
	}
	s.Feed(p, func(line []byte) {
		readings, garbage := l.Decode(line)
		if garbage != "" {
			refuse(garbage, line)
			return
		}
		emit(Frame{Readings: readings})
	}, refuse)
}
