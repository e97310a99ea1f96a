package config

import (
	"fmt"
	"strconv"
	"strings"
)

// source is one file.
type source struct {
	name    string
	lines   []string
	secrets *secrets // shared by all files of a config
}

func (s *source) errorf(line, column int, format string, args ...any) *Error {
	return &Error{
		File: s.name, Line: line, Column: column,
		Message: s.secrets.redact(fmt.Sprintf(format, args...)),
		lines:   s.lines,
	}
}

// place is where something stands in a file.
type place struct {
	src          *source
	line, column int // from 1, in characters
}

func (p place) errorf(format string, args ...any) *Error {
	return p.src.errorf(p.line, p.column, format, args...)
}

func (p place) String() string {
	return fmt.Sprintf("%s:%d:%d", p.src.name, p.line, p.column)
}

type nodeKind uint8

const (
	null nodeKind = iota
	scalar
	list
	dict
)

// node is a value in a file.
type node struct {
	place
	kind nodeKind

	raw    string // of a scalar: as it stands in the file, without its quotes
	text   string // of a scalar: raw with its references filled in
	quoted bool
	flow   bool // of a list or dict: written with brackets
	note   bool // of a null: a comment follows, which may have been meant as the value

	items   []*node  // of a list
	entries []*entry // of a dict, in the file's order

	known map[string]bool // of a dict: keys that Section.Kind has read
}

type entry struct {
	place
	name  string
	value *node
}

func (n *node) get(name string) *entry {
	for _, e := range n.entries {
		if e.name == name {
			return e
		}
	}
	return nil
}

// shown is what an error says it found. References are shown, not their values.
func (n *node) shown() string {
	switch n.kind {
	case null:
		return "nothing"
	case list:
		return "a list"
	case dict:
		return "a map"
	}
	raw := []rune(n.raw)
	if len(raw) > 40 {
		raw = append(raw[:40:40], '…')
	}
	return strconv.Quote(string(raw))
}

// find returns the place of the value that path leads to, or the nearest one to it:
// what is wrong with a missing key is shown where the key should be.
func (n *node) find(path ...string) place {
	at, where := n, n.place
	for len(path) > 0 {
		switch at.kind {
		case dict:
			e, parts := at.prefix(path)
			if e == nil {
				return where
			}
			at, path = e.value, path[parts:]
			where = at.place
			if at.kind != scalar && !at.flow {
				where = e.place
			}
		case list:
			i, err := strconv.Atoi(path[0])
			if err != nil || i < 0 || i >= len(at.items) {
				return where
			}
			at, path = at.items[i], path[1:]
			where = at.place
		default:
			return where
		}
	}
	return where
}

// has tells whether path leads to a value.
func (n *node) has(path ...string) bool {
	for _, name := range path {
		e := n.get(name)
		if e == nil {
			return false
		}
		n = e.value
	}
	return n.kind != null
}

// prefix returns the entry that the first parts of path name: ids may have dots.
func (n *node) prefix(path []string) (*entry, int) {
	for parts := len(path); parts > 0; parts-- {
		if e := n.get(strings.Join(path[:parts], ".")); e != nil {
			return e, parts
		}
	}
	return nil, 0
}

// keyed are the sections whose keys are ids. What stands under an id is one thing and
// is said in one place; everything else may be spread over files.
var keyed = map[string]bool{"buses": true, "radios": true, "devices": true, "uplinks": true, "routes": true, "downlinks": true, "roles": true, "users": true}

// merge puts the entries of from into n.
func (n *node) merge(from *node, path ...string) (errs Errors) {
	for _, e := range from.entries {
		have := n.get(e.name)
		switch {
		case have == nil:
			n.entries = append(n.entries, e)
		case have.value.kind == null && len(path) == 0: // a section's bare name says nothing
			have.value = e.value
		case e.value.kind == null && len(path) == 0:
		case have.value.kind == dict && e.value.kind == dict && !(len(path) == 1 && keyed[path[0]]):
			errs = append(errs, have.value.merge(e.value, append(path, e.name)...)...)
		default:
			errs = append(errs, e.errorf("%s is already defined at %s", strings.Join(append(path, e.name), "."), have.place))
		}
	}
	return errs
}
