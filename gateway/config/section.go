package config

import (
	"path/filepath"
	"strings"
)

// Section is one map of the file that its owner decodes: a device, an uplink, or a
// part of one. Its errors have their place in the file. The zero Section is empty.
type Section struct {
	name string
	node *node
	at   place // of its key
}

// Name is the section's id.
func (s Section) Name() string { return s.name }

// Kind returns the text at key, which says who is to decode the section, such as its
// driver. Decode then takes the key as known. The error says that key is missing.
func (s Section) Kind(key string) (string, error) {
	if s.node == nil || s.node.get(key) == nil {
		return "", s.Errorf("", "%s has no %s", s.name, key)
	}
	if s.node.known == nil {
		s.node.known = map[string]bool{}
	}
	s.node.known[key] = true
	var kind string
	err := decode(s.node.get(key).value, &kind).orNil()
	return kind, err
}

// Decode puts the section into the struct that into points to. Fields are named by
// their yaml tag, or by their name in lower case; `yaml:",inline"` shares the parent's
// keys. What the file does not mention is left alone, so put defaults there before.
// Keys without a field are errors. Besides plain types it knows time.Duration (500ms,
// 5s, 10m, 2h, 7d), Size, gateway.Filter, Section, and types with UnmarshalText or
// UnmarshalYAML(func(any) error) error. The error is an Errors: all that is wrong.
func (s Section) Decode(into any) error {
	if s.node == nil {
		return nil
	}
	return decode(s.node, into).orNil()
}

// File is the path of a file that the section names: relative to the configuration.
func (s Section) File(name string) string {
	if s.node == nil || name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.node.src.secrets.dir, name)
}

// Errorf returns an *Error at the value of key, or at the section's id if key is empty
// or not there. Key may lead further down: "format.regex", "columns.2".
func (s Section) Errorf(key, format string, args ...any) error {
	if s.node == nil {
		return (&source{name: "config", secrets: &secrets{}}).errorf(0, 0, format, args...)
	}
	if key != "" && s.node.get(strings.Split(key, ".")[0]) != nil {
		return s.node.find(strings.Split(key, ".")...).errorf(format, args...)
	}
	return s.at.errorf(format, args...)
}
