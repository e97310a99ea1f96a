package devices

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
)

// Guess is what a port's bytes may be.
type Guess struct {
	Baud   int    `json:"baud"`
	Bytes  int    `json:"bytes"`            // that came at this rate
	Config string `json:"config,omitempty"` // the keys that read them, as YAML; empty: they mean nothing at this rate
	Frames int    `json:"frames"`           // that were understood so
	Sample string `json:"sample,omitempty"` // one of them, or the first bytes
}

// Rates are the rates that Probe tries, the commonest first.
var Rates = []int{9600, 115200, 4800, 38400, 57600, 19200, 2400, 1200}

// candidates are what a device may speak, the most telling first.
var candidates = []struct {
	keys  string
	bytes codec.Config
}{
	{"protocol: nmea0183", codec.Config{Protocol: "nmea0183"}},
	{"protocol: dsmr_p1", codec.Config{Protocol: "dsmr_p1"}},
	{"protocol: pms5003", codec.Config{Protocol: "pms5003"}},
	{"protocol: pms3003", codec.Config{Protocol: "pms3003"}},
	{"protocol: sds011", codec.Config{Protocol: "sds011"}},
	{"format: json", codec.Config{Format: "json"}},
	{"format: key=value", codec.Config{Format: "key=value"}},
	{"framing: {cobs: {crc: modbus}}, format: raw", codec.Config{Framing: map[string]any{"cobs": map[string]any{"crc": "modbus"}}, Format: "raw"}},
	{"framing: {slip: {crc: xmodem}}, format: raw", codec.Config{Framing: map[string]any{"slip": map[string]any{"crc": "xmodem"}}, Format: "raw"}},
}

// Probe listens at a port for as long at each of the rates and guesses what it hears, until one means something. It
// sends nothing. The port must be nobody's; opening it may reset a board.
func Probe(ctx context.Context, path string, rates []int, listen time.Duration) (tried []Guess, err error) {
	for _, baud := range rates {
		p, err := port.New(port.Config{Port: path, Baud: baud})
		if err != nil {
			return tried, err
		}
		heard, err := hear(ctx, p, listen)
		if err != nil {
			return tried, fmt.Errorf("port %s: %w", path, err)
		}
		g := guess(heard)
		g.Baud = baud
		if tried = append(tried, g); g.Config != "" {
			break
		}
	}
	return tried, nil
}

// hear returns what comes in a while.
func hear(ctx context.Context, p *port.Port, listen time.Duration) ([]byte, error) {
	f, err := p.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	end := time.Now().Add(listen)
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	f.SetReadDeadline(end)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var all []byte
	buf := make([]byte, 4096)
	for len(all) < 1<<16 {
		n, err := f.Read(buf)
		all = append(all, buf[:n]...)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return all, nil
		case err != nil:
			return nil, errors.New("unplugged")
		}
	}
	return all, nil
}

var numberList = regexp.MustCompile(`^[^,;\t=]*[0-9][^,;\t=]*(?:[,;\t][^,;\t=]*)+$`)

// guess finds the format in which most of what came means something.
func guess(heard []byte) Guess {
	best := Guess{Bytes: len(heard), Sample: fmt.Sprintf("%.48q", heard)}
	if len(heard) == 0 {
		best.Sample = ""
		return best
	}
	for _, c := range candidates {
		bytes, err := codec.New(c.bytes, nil)
		if err != nil {
			continue
		}
		good, bad, sample := understand(bytes, heard)
		if good > 0 && good >= 2*bad && good > best.Frames {
			best.Config, best.Frames, best.Sample = c.keys, good, sample
		}
		if best.Config != "" && strings.HasPrefix(best.Config, "protocol") {
			return best
		}
	}
	if best.Config == "" {
		lines(&best, heard)
	}
	return best
}

// lines is the guess that it is text of a form that only the user knows.
func lines(best *Guess, heard []byte) {
	text := strings.FieldsFunc(string(heard), func(r rune) bool { return r == '\r' || r == '\n' })
	if len(text) < 3 {
		return
	}
	text = text[1 : len(text)-1] // may be cut
	if slices.ContainsFunc(text, func(line string) bool {
		return strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' && r < 0xa0 || r == '�' })
	}) {
		return
	}
	best.Frames, best.Sample = len(text), text[0]
	columns := strings.FieldsFunc(text[0], func(r rune) bool { return r == ',' || r == ';' || r == '\t' })
	if numberList.MatchString(text[0]) && len(columns) > 1 {
		names := make([]string, len(columns))
		for i := range names {
			names[i] = fmt.Sprintf("value%d", i+1)
		}
		best.Config = "format: {csv: [" + strings.Join(names, ", ") + "]}"
		return
	}
	best.Config = `format: {regex: '(?P<value>[-+0-9.]+)'}`
}

// understand counts the frames that mean something and those that do not, and shows one.
func understand(c *codec.Codec, heard []byte) (good, bad int, sample string) {
	s := c.Stream()
	s.SkipPartial()
	s.Feed(heard, func(f codec.Frame) {
		switch {
		case len(f.Readings) > 0:
			if good++; sample == "" {
				var parts []string
				for _, r := range f.Readings {
					parts = append(parts, fmt.Sprintf("%s = %.24q", r.Name, r.Value))
				}
				sample = strings.Join(parts[:min(len(parts), 6)], ", ")
			}
		case f.Garbage != "" && f.Garbage != codec.Partial && f.Garbage != codec.Header:
			bad++
		}
	})
	return good, bad, sample
}

// Ports are the serial ports of the configuration, by what they are of: a device or a bus.
func (s *Supervisor) Ports() map[string]*port.Port {
	all := map[string]*port.Port{}
	for id, bus := range s.buses {
		if p := bus.Port(); p != nil {
			all["bus "+id] = p
		}
	}
	for _, d := range s.devices {
		if has, ok := d.driver.(interface{ Port() *port.Port }); ok {
			all["device "+d.id] = has.Port()
		}
	}
	return all
}
