package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// cutting finds frames in a stream. How the stream is cut into reads changes nothing, and
// after noise it finds the next good frame.
type cutting interface {
	// Feed adds p to the stream. It calls frame for every frame and garbage for what is none,
	// in order. What they are given is valid during the call.
	Feed(p []byte, frame func([]byte), garbage func(reason string, raw []byte))
	// SkipPartial says that the stream may begin in the middle of a frame.
	SkipPartial()
	// Pending tells whether a frame is under way that a pause would end; Idle says that
	// there was one.
	Pending() bool
	Idle(frame func([]byte), garbage func(reason string, raw []byte))
}

// framing is how the frames of one device are told apart.
type framing struct {
	start  func() cutting
	binary bool // frames hold any byte
	// unwrap takes off what the framing put on; nil: nothing. Its reason is empty or says why
	// the frame is none.
	unwrap func(frame []byte) (payload []byte, reason string)
	// wrap makes of a payload what is sent to the device; nil: it takes nothing.
	wrap func(payload []byte) ([]byte, error)
	// end is what ends a frame that was sent in part, where a frame does not end the one before it anyway.
	end string
}

const framings = "line, slip, {slip: …}, cobs, {cobs: …}, {length: …} or {delimited: …}"

// newFraming reads what stands at framing: a word, or a map with one key. Errors are
// KeyErrors.
//
//   - line: text that ends with LF, CRLF or CR. {end: lf|crlf|cr} is what is sent.
//   - cobs, slip: {crc} if the frame ends with one.
//   - length: {size: 1|2|4, endian: little|big, counts: payload|rest|frame, start, crc}. The
//     frame is start, the length, the payload, the check. counts says what the length
//     counts: the payload alone; the check too; or the whole frame.
//   - delimited: {start, end, crc}: the frame is start, the payload, the check, end.
func newFraming(v any, max int) (framing, error) {
	if max == 0 {
		max = MaxFrame
	}
	kind, options := "line", any(nil)
	switch f := v.(type) {
	case nil:
	case string:
		kind = f
	case map[string]any:
		if len(f) != 1 {
			return framing{}, gateway.BadKey("framing", "has %d keys; it is one of %s", len(f), framings)
		}
		for kind, options = range f {
		}
	default:
		return framing{}, gateway.BadKey("framing", "is one of %s", framings)
	}
	f := framing{binary: true}
	s := newSettings("framing."+kind, options)
	switch kind {
	case "line":
		f = framing{start: func() cutting { return newLines(max) }, end: lineEnds[s.choice("end", "lf", "crlf", "cr")]}
		f.wrap = wrapLine(f.end)
	case "cobs":
		f = wrapped(0, max, stuff, unstuff, newCheck(s))
	case "slip":
		f = wrapped(slipEnd, max, escape, unescape, newCheck(s))
	case "length":
		f.start, f.wrap = newLength(s, max)
	case "delimited":
		f.start, f.wrap = newDelimited(s, max)
	default:
		key := "framing"
		if v != any(kind) {
			key += "." + kind
		}
		return framing{}, gateway.BadKey(key, "%q is no framing; it is one of %s", kind, framings)
	}
	return f, s.done()
}

var lineEnds = map[string]string{"lf": "\n", "crlf": "\r\n", "cr": "\r"}

func wrapLine(end string) func([]byte) ([]byte, error) {
	return func(p []byte) ([]byte, error) {
		if bytes.ContainsAny(p, "\r\n") {
			return nil, gateway.Errorf(gateway.ErrInvalid, "%q has the end of a line in it", p)
		}
		return append(bytes.Clone(p), end...), nil
	}
}

// wrapped is a framing whose frames are encoded so that the byte end is in none of them.
func wrapped(end byte, max int, encode func([]byte) []byte, decode func([]byte) ([]byte, bool), c *check) framing {
	longest := 2*max + 4 // SLIP doubles a byte at worst; and there is a check
	return framing{
		binary: true,
		start:  func() cutting { return newSplitter(longest, end) },
		// The end before the frame closes what noise may have begun at the device.
		wrap: func(p []byte) ([]byte, error) {
			return append(append([]byte{end}, encode(c.add(bytes.Clone(p), 0))...), end), nil
		},
		unwrap: func(frame []byte) ([]byte, string) {
			p, ok := decode(frame)
			if !ok {
				return nil, Malformed
			}
			if p, ok = c.strip(p, 0); !ok {
				return nil, Checksum
			}
			if len(p) > max {
				return nil, Overlong
			}
			return p, ""
		},
	}
}

// unstuff decodes COBS (Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999) without
// the zero that ends a frame.
func unstuff(frame []byte) ([]byte, bool) {
	p := make([]byte, 0, len(frame))
	for len(frame) > 0 {
		code := int(frame[0])
		if code == 0 || code > len(frame) || bytes.IndexByte(frame[1:code], 0) >= 0 {
			return nil, false
		}
		p = append(p, frame[1:code]...)
		frame = frame[code:]
		if code < 0xff && len(frame) > 0 {
			p = append(p, 0)
		}
	}
	return p, true
}

// stuff encodes COBS, without the zero that ends a frame.
func stuff(p []byte) []byte {
	var out []byte
	for {
		n := bytes.IndexByte(p, 0)
		switch {
		case n >= 0 && n < 254:
			out, p = append(append(out, byte(n+1)), p[:n]...), p[n+1:]
		case len(p) >= 254:
			if out, p = append(append(out, 0xff), p[:254]...), p[254:]; len(p) == 0 {
				return out
			}
		default:
			return append(append(out, byte(len(p)+1)), p...)
		}
	}
}

// The special bytes of SLIP, RFC 1055.
const (
	slipEnd    = 0o300
	slipEsc    = 0o333
	slipEscEnd = 0o334
	slipEscEsc = 0o335
)

// escape encodes SLIP.
func escape(p []byte) []byte {
	var out []byte
	for _, b := range p {
		switch b {
		case slipEnd:
			out = append(out, slipEsc, slipEscEnd)
		case slipEsc:
			out = append(out, slipEsc, slipEscEsc)
		default:
			out = append(out, b)
		}
	}
	return out
}

// unescape decodes SLIP. An escape that means nothing is an error, though RFC 1055 would
// have it taken as it is: here it says that bytes were lost.
func unescape(frame []byte) ([]byte, bool) {
	p := make([]byte, 0, len(frame))
	for i := 0; i < len(frame); i++ {
		b := frame[i]
		if b == slipEsc {
			i++
			switch {
			case i < len(frame) && frame[i] == slipEscEnd:
				b = slipEnd
			case i < len(frame) && frame[i] == slipEscEsc:
				b = slipEsc
			default:
				return nil, false
			}
		}
		p = append(p, b)
	}
	return p, true
}

// length is a framing whose frames say how long they are.
type length struct {
	start  []byte // what every frame begins with; may be empty
	size   int    // bytes of the number
	big    bool
	extra  int // what is in a frame beside what the number counts
	least  int // bytes of the shortest frame
	max    int // bytes of the longest
	header int // bytes before the payload
	check  *check
}

func newLength(s *settings, max int) (func() cutting, func([]byte) ([]byte, error)) {
	l := &length{start: s.bytes("start"), size: s.number("size", 1, 1, 4), big: s.choice("endian", "little", "big") == "big", check: newCheck(s)}
	if l.size == 3 {
		s.fail("size", errors.New("3 is none of 1, 2, 4"))
	}
	l.count(s.choice("counts", "payload", "rest", "frame"), max)
	// Nothing but silence tells where a frame begins that has neither a start nor a check.
	waits := len(l.start) == 0 && l.check == nil
	return func() cutting { return &scanner{cut: l.cut, max: l.max, pauses: true, waits: waits} }, l.wrap
}

func (l *length) wrap(p []byte) ([]byte, error) {
	n := l.least + len(p)
	if n > l.max || uint64(n-l.extra)>>(8*l.size) != 0 {
		return nil, gateway.Errorf(gateway.ErrInvalid, "%d bytes are more than a frame holds", len(p))
	}
	number := binary.LittleEndian.AppendUint32(nil, uint32(n-l.extra))[:l.size]
	if l.big {
		slices.Reverse(number)
	}
	frame := slices.Concat(l.start, number, p)
	return l.check.add(frame, l.header), nil
}

// count says what the number counts, and how long the payload may be.
func (l *length) count(what string, max int) {
	tail := 0
	if l.check != nil {
		tail = l.check.size
	}
	l.header = len(l.start) + l.size
	l.least, l.max = l.header+tail, l.header+max+tail
	switch what {
	case "payload":
		l.extra = l.header + tail
	case "rest":
		l.extra = l.header
	}
}

func (l *length) cut(p []byte) (int, []byte, string) {
	if n, ok := begin(p, l.start); n > 0 || !ok {
		return n, nil, noise(n)
	}
	if len(p) < l.header {
		return 0, nil, ""
	}
	n := l.number(p[len(l.start):]) + uint64(l.extra)
	switch {
	case len(l.start) == 0 && (n > uint64(l.max) || n < uint64(l.least)):
		return 1, nil, Noise // nothing says that this was the beginning of a frame
	case n > uint64(l.max):
		return 1, nil, Overlong
	case n < uint64(l.least):
		return 1, nil, Malformed
	case n > uint64(len(p)):
		return 0, nil, ""
	}
	payload, ok := l.check.strip(p[:n], l.header)
	if !ok {
		return 1, p[:n], Checksum
	}
	return int(n), payload, ""
}

func (l *length) number(p []byte) uint64 {
	var b [8]byte
	if l.big {
		copy(b[8-l.size:], p[:l.size])
		return binary.BigEndian.Uint64(b[:])
	}
	copy(b[:], p[:l.size])
	return binary.LittleEndian.Uint64(b[:])
}

// begin finds start in p: n bytes on, or at once (0 and true), or perhaps with more bytes
// (0 and false).
func begin(p, start []byte) (n int, ok bool) {
	if i := bytes.Index(p, start); i >= 0 {
		return i, true
	}
	for n := max(0, len(p)-len(start)+1); n < len(p); n++ {
		if bytes.HasPrefix(start, p[n:]) {
			return n, false
		}
	}
	return len(p), false
}

// noise is the reason for n bytes before a start.
func noise(n int) string {
	if n > 0 {
		return Noise
	}
	return ""
}

// newDelimited is the framing of frames between a start and an end. Without a check a start
// inside a frame says that the end of the one before was lost.
func newDelimited(s *settings, max int) (func() cutting, func([]byte) ([]byte, error)) {
	start, end, c := s.bytes("start"), s.bytes("end"), newCheck(s)
	for key, b := range map[string][]byte{"start": start, "end": end} {
		if len(b) == 0 {
			s.fail(key, errors.New("missing; it is bytes in hexadecimal, such as \"02\""))
		}
	}
	longest := len(start) + max + len(end)
	if c != nil {
		longest += c.size
	}
	cut := func(p []byte) (int, []byte, string) {
		if n, ok := begin(p, start); n > 0 || !ok {
			return n, nil, noise(n)
		}
		p = p[:min(len(p), longest)]
		i := bytes.Index(p[len(start):], end)
		if again := bytes.Index(p[1:], start) + 1; c == nil && again > 0 && (i < 0 || again < len(start)+i) {
			return again, p[:again], Malformed
		}
		switch {
		case i < 0 && len(p) == longest:
			return 1, nil, Overlong
		case i < 0:
			return 0, nil, ""
		case i == 0 && bytes.Equal(start, end): // it was the end that we took for a start
			return len(start), nil, ""
		}
		n := len(start) + i + len(end)
		payload, ok := c.strip(p[:len(start)+i], len(start))
		if !ok {
			return 1, p[:n], Checksum
		}
		return n, payload, ""
	}
	wrap := func(p []byte) ([]byte, error) {
		frame := append(c.add(slices.Concat(start, p), len(start)), end...)
		if n, back, reason := cut(frame); n != len(frame) || reason != "" || !bytes.Equal(back, p) {
			return nil, gateway.Errorf(gateway.ErrInvalid, "%q has the start or the end of a frame in it, or is too long for one", p)
		}
		return frame, nil
	}
	return func() cutting { return &scanner{cut: cut, max: longest} }, wrap
}

// names lists what a table holds, for error messages.
func names[V any](table map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(table)), ", ")
}
