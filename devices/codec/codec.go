// Package codec turns bytes that devices send into named values. It holds no port, so that
// every format is tested on plain bytes:
//
//	bytes ──► framing ──► frame ──► Format.Decode ──► readings
//	             │                       │
//	             └── garbage, counted ───┘
//
// Stream is the two together. What cannot be understood is never guessed at: it becomes
// garbage with one of the reasons below, and the stream goes on at the next good frame.
package codec

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weir-iot/weir/gateway"
)

// Reading is one measured value.
type Reading struct {
	Name string // one valid topic level; see CleanName
	// Value is the value as text: a number keeps every digit the device sent, true and
	// false are themselves, a string is its bare text.
	Value   string
	Unit    string // as the device or the configuration says; may be empty
	Quality gateway.Quality
	Source  time.Time // when the device says it measured; zero if it does not say
}

// Frame is what a driver hands on: either readings that belong together, or garbage.
// A frame with neither says that the device is connected.
type Frame struct {
	Readings []Reading
	Garbage  string // why Raw was no frame, one of the reasons; empty for readings
	Raw      []byte // the first bytes of the garbage; valid only during the call it is handed to
	// From is the event that was decoded, for a device that publishes to the gateway's own broker; nil
	// for what came over a wire.
	From *gateway.Event
}

// Why bytes were no frame. There are few, because metrics have one series for each.
const (
	Overlong  = "overlong"  // longer than the longest frame allowed
	Binary    = "binary"    // not text: control characters or invalid UTF-8
	Partial   = "partial"   // the rest of a frame whose start was sent before we listened
	Noise     = "noise"     // bytes between frames
	Checksum  = "checksum"  // a frame whose check is wrong
	Malformed = "malformed" // a frame, but not one of the configured format
	Header    = "header"    // a CSV line that repeats the column names
	TooMany   = "too many"  // more names than a device may have
	Reserved  = "reserved"  // a name whose topic is the device's own status
	Missed    = "missed"    // messages that the journal lost or dropped before they were read
)

// MaxName bounds the bytes of a measurement's name.
const MaxName = 128

// CheckName tells whether a name that stands in the configuration can be a topic level
// as it is. The user can change it, so it is refused, not repaired.
func CheckName(name string) error {
	if name == "" {
		return gateway.Errorf(gateway.ErrInvalid, "a measurement has an empty name")
	}
	if clean := CleanName(name); clean != name {
		return gateway.Errorf(gateway.ErrInvalid, "measurement %q cannot be a topic level; %q can", name, clean)
	}
	return nil
}

// CleanName makes a name that a device sent into one topic level: "/", "+", "#", control
// characters, invalid UTF-8 and a "$" at the start become "_", and so does an empty
// name. The device's firmware cannot be changed from here, so it is repaired, not
// refused. Names are cut to MaxName bytes.
func CleanName(name string) string {
	if name == "" {
		return "_"
	}
	name = strings.Map(func(r rune) rune {
		if r == '/' || r == '+' || r == '#' || r == utf8.RuneError || unicode.IsControl(r) {
			return '_'
		}
		return r
	}, name)
	if name[0] == '$' {
		name = "_" + name[1:]
	}
	if len(name) > MaxName {
		cut := MaxName
		for !utf8.RuneStart(name[cut]) {
			cut--
		}
		name = name[:cut]
	}
	return name
}

// Number tells whether s is a decimal number, and returns it as a JSON number: devices
// send "+0012.50" and ".5", which JSON does not know, so a sign "+" and leading zeros go
// and a missing zero comes. No other digit is touched: 12.50 stays 12.50.
func Number(s string) (string, bool) {
	digits, rest := s, ""
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		digits, rest = s[:i], s[i:]
		exp := strings.TrimLeft(rest[1:], "+-")
		if len(rest[1:])-len(exp) > 1 || !allDigits(exp) {
			return "", false
		}
	}
	minus := strings.HasPrefix(digits, "-")
	if minus || strings.HasPrefix(digits, "+") {
		digits = digits[1:]
	}
	whole, frac, point := strings.Cut(digits, ".")
	if whole == "" && frac == "" || whole != "" && !allDigits(whole) || frac != "" && !allDigits(frac) {
		return "", false
	}
	for len(whole) > 1 && whole[0] == '0' {
		whole = whole[1:]
	}
	if whole == "" {
		whole = "0"
	}
	n := whole
	if point && frac != "" {
		n += "." + frac
	}
	if minus {
		n = "-" + n
	}
	return n + rest, true
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// notANumber knows how firmware prints a measurement that failed.
func notANumber(s string) bool {
	switch strings.ToLower(strings.TrimLeft(s, "+-")) {
	case "nan", "inf", "infinity":
		return true
	}
	return false
}
