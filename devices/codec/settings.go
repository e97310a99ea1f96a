package codec

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// settings reads a map of the configuration, strictly: what is not asked for before done is
// an error. It keeps the first error, so that callers ask for all they need and look once.
type settings struct {
	key   string // where the map stands: "framing.cobs"
	m     map[string]any
	asked map[string]bool
	err   *error // shared with sub
}

// newSettings takes a map that may be left out.
func newSettings(key string, v any) *settings {
	s := &settings{key: key, asked: map[string]bool{}, err: new(error)}
	switch m := v.(type) {
	case nil:
	case map[string]any:
		s.m = m
	default:
		s.fail("", errors.New("is a map"))
	}
	return s
}

func (s *settings) fail(key string, err error) {
	if *s.err == nil {
		*s.err = &gateway.KeyError{Key: strings.TrimSuffix(s.key+"."+key, "."), Err: err}
	}
}

// sub is the map at key, or nil if there is none.
func (s *settings) sub(key string) *settings {
	s.asked[key] = true
	switch m := s.m[key].(type) {
	case nil:
	case map[string]any:
		return &settings{key: s.key + "." + key, m: m, asked: map[string]bool{}, err: s.err}
	default:
		s.fail(key, errors.New("is a name or a map"))
	}
	return nil
}

// text is the text at key; a map there is left to sub.
func (s *settings) text(key, without string) string {
	s.asked[key] = true
	switch v := s.m[key].(type) {
	case nil, map[string]any:
	case string:
		return v
	default:
		s.fail(key, fmt.Errorf("%v is not text: quote it", v))
	}
	return without
}

// choice is one of the words; the first is the default.
func (s *settings) choice(key string, words ...string) string {
	v := s.text(key, words[0])
	if !slices.Contains(words, v) {
		if words[0] == "" {
			words = words[1:]
		}
		s.fail(key, fmt.Errorf("%q is none of %s", v, strings.Join(words, ", ")))
	}
	return v
}

// bytes is what stands at key in hexadecimal.
func (s *settings) bytes(key string) []byte {
	text := s.text(key, "")
	b, err := hex.DecodeString(text)
	if err != nil || len(b) > 16 {
		s.fail(key, fmt.Errorf("%q is not 1 to 16 bytes in hexadecimal, such as \"aa55\"", text))
	}
	return b
}

// number is the whole number at key.
func (s *settings) number(key string, without, least, most int) int {
	s.asked[key] = true
	v := s.m[key]
	n, ok := v.(int64)
	switch {
	case v == nil:
		return without
	case !ok:
		s.fail(key, fmt.Errorf("%v is not a whole number", v))
		return without
	case n < int64(least) || n > int64(most):
		s.fail(key, fmt.Errorf("%v is not between %d and %d", v, least, most))
	}
	return int(n)
}

// done refuses the keys that nobody asked for, and returns the first error.
func (s *settings) done() error {
	for _, key := range slices.Sorted(maps.Keys(s.m)) {
		if !s.asked[key] {
			s.fail(key, fmt.Errorf("unknown key; there is %s", strings.Join(slices.Sorted(maps.Keys(s.asked)), ", ")))
		}
	}
	return *s.err
}
