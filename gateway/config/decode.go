package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// decode puts n into what into points to. What the files do not mention is left as it
// is, so defaults are put there before.
//
// Struct fields are named by their yaml tag, or by the field's name in lower case; a
// key without a field is an error. Structs tagged ",inline", and embedded ones
// without a tag, share their parent's keys; a pointer to one must not be nil. time.Duration, Size, gateway.Filter and Section are
// understood, and types with UnmarshalYAML(func(any) error) error or UnmarshalText.
func decode(n *node, into any) Errors {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("config: decode into %T, not a pointer", into))
	}
	var d decoder
	d.value(n, v.Elem())
	return d.errs
}

type decoder struct{ errs Errors }

func (d *decoder) fail(n *node, format string, args ...any) {
	d.errs = append(d.errs, n.errorf(format, args...))
}

// place adds err, which may already know its places.
func (d *decoder) place(n *node, err error) {
	var placed Errors
	var one *Error
	switch {
	case errors.As(err, &placed):
		d.errs = append(d.errs, placed...)
	case errors.As(err, &one):
		d.errs = append(d.errs, one)
	default:
		d.fail(n, "%v", err)
	}
}

type yamlUnmarshaler interface {
	UnmarshalYAML(unmarshal func(any) error) error
}

func (d *decoder) value(n *node, v reflect.Value) {
	if n.kind == null {
		d.null(n, v)
		return
	}
	switch into := v.Addr().Interface().(type) {
	case yamlUnmarshaler:
		if err := into.UnmarshalYAML(func(a any) error { return decode(n, a).orNil() }); err != nil {
			d.place(n, err)
		}
	case *Section:
		if d.is(n, dict, "a map of keys") {
			*into = Section{node: n, at: n.place}
		}
	case *time.Duration:
		parsed(d, n, into, ParseDuration)
	case *Size:
		parsed(d, n, into, parseSize)
	case *gateway.Filter:
		parsed(d, n, into, gateway.ParseFilter)
	case encoding.TextUnmarshaler:
		if d.is(n, scalar, "text") {
			if err := into.UnmarshalText([]byte(n.text)); err != nil {
				d.place(n, err)
			}
		}
	default:
		d.plain(n, v)
	}
}

// null leaves a section of which there is only the name as it is. A plain value that
// is not there is mostly one that YAML took for a comment.
func (d *decoder) null(n *node, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Map:
		return
	case reflect.Struct:
		switch v.Addr().Interface().(type) {
		case *gateway.Filter, yamlUnmarshaler, encoding.TextUnmarshaler:
		default:
			return
		}
	}
	if n.note {
		d.fail(n, `there is no value here: "#" begins a comment; put a value that begins with # in quotes`)
		return
	}
	d.fail(n, "there is no value here; leave the key out to have its default")
}

func parsed[T any](d *decoder, n *node, into *T, parse func(string) (T, error)) {
	if !d.is(n, scalar, "text") {
		return
	}
	value, err := parse(n.text)
	switch {
	case err == nil:
		*into = value
	case errors.Is(err, gateway.ErrInvalid): // quotes the value itself
		d.fail(n, "%v", err)
	default:
		d.fail(n, "%s: %v", n.shown(), err)
	}
}

// is reports whether n is of the kind, and an error if not.
func (d *decoder) is(n *node, kind nodeKind, expected string) bool {
	if n.kind == kind {
		return true
	}
	hint := ""
	switch {
	case kind == scalar && n.kind == dict && n.flow:
		hint = `; put text that begins with { in quotes`
	case kind == scalar && n.kind == list && n.flow:
		hint = `; put text that begins with [ in quotes`
	case kind == list && n.kind == scalar:
		hint = fmt.Sprintf(`; write [%s]`, n.shown())
	}
	d.fail(n, "expected %s, found %s%s", expected, n.shown(), hint)
	return false
}

func (d *decoder) plain(n *node, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem())
	case reflect.Interface:
		v.Set(reflect.ValueOf(n.any()))
	case reflect.Struct:
		d.structure(n, v)
	case reflect.Map:
		if !d.is(n, dict, "a map of keys") {
			return
		}
		v.Set(reflect.MakeMapWithSize(v.Type(), len(n.entries)))
		for _, e := range n.entries {
			item := reflect.New(v.Type().Elem()).Elem()
			if s, ok := item.Addr().Interface().(*Section); ok {
				d.section(e, s)
			} else {
				d.value(e.value, item)
			}
			v.SetMapIndex(reflect.ValueOf(e.name).Convert(v.Type().Key()), item)
		}
	case reflect.Slice:
		if !d.is(n, list, "a list") {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
		for i, item := range n.items {
			d.value(item, v.Index(i))
		}
	case reflect.String:
		if d.is(n, scalar, "text") {
			v.SetString(n.text)
		}
	case reflect.Bool:
		if d.is(n, scalar, "true or false") {
			if n.quoted || n.text != "true" && n.text != "false" {
				d.fail(n, "expected true or false, found %s", n.shown())
				return
			}
			v.SetBool(n.text == "true")
		}
	default:
		d.number(n, v)
	}
}

func (d *decoder) section(e *entry, into *Section) {
	n := e.value
	if n.kind == null {
		n = &node{kind: dict, place: e.place}
	}
	if d.is(n, dict, "a map of keys") {
		*into = Section{name: e.name, node: n, at: e.place}
	}
}

func (d *decoder) number(n *node, v reflect.Value) {
	if !d.is(n, scalar, "a number") {
		return
	}
	text := n.text
	if n.quoted && n.text == n.raw {
		d.fail(n, "expected a number, found %s; leave the quotes out", n.shown())
		return
	}
	if digits := strings.TrimLeft(text, "+-"); len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "0123456789") == "" {
		d.fail(n, "number %s begins with 0, which YAML versions read differently; leave the 0 out, or write 0o for octal", n.shown())
		return
	}
	var err error
	var limits string
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var i int64
		if i, err = strconv.ParseInt(text, 0, v.Type().Bits()); err == nil {
			v.SetInt(i)
		}
		most := int64(1)<<(v.Type().Bits()-1) - 1
		limits = fmt.Sprintf("%d to %d", -most-1, most)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var u uint64
		if u, err = strconv.ParseUint(text, 0, v.Type().Bits()); err == nil {
			v.SetUint(u)
		} else if _, signed := strconv.ParseInt(text, 0, 64); signed == nil {
			err = strconv.ErrRange
		}
		limits = fmt.Sprintf("0 to %d", uint64(1)<<v.Type().Bits()-1)
	case reflect.Float32, reflect.Float64:
		var f float64
		if f, err = strconv.ParseFloat(text, v.Type().Bits()); err == nil {
			if math.IsInf(f, 0) || math.IsNaN(f) {
				err = strconv.ErrSyntax
			} else {
				v.SetFloat(f)
			}
		}
		limits = "what a floating-point number holds"
	default:
		panic(fmt.Sprintf("config: cannot decode into %s", v.Type()))
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		d.fail(n, "number %s is out of range; allowed is %s", n.shown(), limits)
	case err != nil && (v.CanInt() || v.CanUint()):
		d.fail(n, "expected a whole number, found %s", n.shown())
	case err != nil:
		d.fail(n, "expected a number, found %s", n.shown())
	}
}

func (d *decoder) structure(n *node, v reflect.Value) {
	if !d.is(n, dict, "a map of keys") {
		return
	}
	fields := map[string][]reflect.Value{}
	collect(v, fields)
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, e := range n.entries {
		into, ok := fields[e.name]
		if !ok && !n.known[e.name] {
			d.errs = append(d.errs, e.errorf("unknown key %q%s", e.name, Suggest(e.name, names)))
		}
		for _, field := range into {
			d.value(e.value, field)
		}
	}
}

// collect finds the fields of v and of the structs inlined in it. A name that occurs
// twice is filled in twice: two parts of one section may both want to know it.
func collect(v reflect.Value, fields map[string][]reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, tagged := f.Tag.Lookup("yaml")
		name, options, _ := strings.Cut(tag, ",")
		if name == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		into := v.Field(i)
		if slices.Contains(strings.Split(options, ","), "inline") || f.Anonymous && !tagged {
			collect(reflect.Indirect(into), fields)
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		fields[name] = append(fields[name], into)
	}
}

// any returns n as plain Go values: map[string]any, []any, string, bool, int64,
// float64 or nil.
func (n *node) any() any {
	switch n.kind {
	case dict:
		m := make(map[string]any, len(n.entries))
		for _, e := range n.entries {
			m[e.name] = e.value.any()
		}
		return m
	case list:
		l := make([]any, len(n.items))
		for i, item := range n.items {
			l[i] = item.any()
		}
		return l
	case scalar:
		if n.quoted {
			return n.text
		}
		if n.text == "true" || n.text == "false" {
			return n.text == "true"
		}
		if i, err := strconv.ParseInt(n.text, 0, 64); err == nil {
			return i
		}
		if f, err := strconv.ParseFloat(n.text, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
		return n.text
	}
	return nil
}
