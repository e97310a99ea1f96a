package codec

import (
	"strings"

	"github.com/weir-iot/weir/gateway"
)

// Config says how a device's bytes become readings. It is that part of a device's section.
type Config struct {
	// Protocol is a known one, which says all there is to say; see protocols.
	Protocol string
	// Without one: how frames are told apart (default: line), and what is in them. See
	// newFraming and Format.
	Framing  any
	Format   any
	MaxFrame int `yaml:"max_frame"` // bytes of payload, 1 to 65536; default 4096
}

// Codec is how the bytes of one device become readings.
type Codec struct {
	framing
	*Format
}

// protocols are the known ones by name.
var protocols = map[string]func() (framing, *Format){
	"nmea0183": nmea0183,
	"dsmr_p1":  dsmrP1,
	"pms5003":  pms5003,
	"pms3003":  pms3003,
	"sds011":   sds011,
}

// New returns what cfg describes. Errors are KeyErrors.
func New(cfg Config, measurements map[string]Measurement) (*Codec, error) {
	if cfg.MaxFrame < 0 || cfg.MaxFrame > 65536 {
		return nil, gateway.BadKey("max_frame", "%d is not between 1 and 65536", cfg.MaxFrame)
	}
	if cfg.Protocol != "" {
		known, ok := protocols[cfg.Protocol]
		switch {
		case !ok:
			return nil, gateway.BadKey("protocol", "%q is none of %s", cfg.Protocol, names(protocols))
		case cfg.Framing != nil:
			return nil, gateway.BadKey("framing", "protocol %s has its own framing", cfg.Protocol)
		case cfg.Format != nil:
			return nil, gateway.BadKey("format", "protocol %s has its own format", cfg.Protocol)
		case cfg.MaxFrame != 0:
			return nil, gateway.BadKey("max_frame", "protocol %s has its own limit", cfg.Protocol)
		}
		framing, format := known()
		return &Codec{framing, format}, format.measure(measurements)
	}
	if cfg.Format == nil {
		return nil, gateway.BadKey("format", "missing; it is one of %s. Or protocol is one of %s", formats, names(protocols))
	}
	framing, err := newFraming(cfg.Framing, cfg.MaxFrame)
	if err != nil {
		return nil, err
	}
	format, err := NewFormat(cfg.Format, measurements)
	if err != nil {
		return nil, err
	}
	if format.binary && !framing.binary && cfg.Format != "raw" {
		return nil, gateway.BadKey("format", "the format is binary, in which any byte may look like the end of a line: "+
			"its framing is one of %s", strings.TrimPrefix(framings, "line, "))
	}
	return &Codec{framing, format}, nil
}

// Stream is a device that is being listened to.
type Stream struct {
	cutting
	codec *Codec
	// Answer, if not nil, sees the payload of every frame that came whole. One that it says is the answer
	// to a command is no garbage, whatever it is.
	Answer func(payload []byte) bool
}

// Wrap makes of a payload what is sent to the device. The error is gateway.ErrInvalid.
func (c *Codec) Wrap(payload []byte) ([]byte, error) {
	if c.wrap == nil {
		return nil, gateway.Errorf(gateway.ErrInvalid, "the protocol takes no commands that Weir could frame")
	}
	return c.wrap(payload)
}

// Resume is what is sent before the next frame when one was sent in part only.
func (c *Codec) Resume() []byte { return []byte(c.end) }

// Stream begins to listen.
func (c *Codec) Stream() *Stream { return &Stream{cutting: c.start(), codec: c} }

// Feed takes bytes that came, and emits a frame for every one that ends in them, garbage
// included, in order. Frames are valid during the call.
func (s *Stream) Feed(p []byte, emit func(Frame)) {
	s.cutting.Feed(p, s.frame(emit), refuse(emit))
}

// Idle says that nothing came for a while. A device does not pause inside a frame, so one
// that is Pending goes no further.
func (s *Stream) Idle(emit func(Frame)) { s.cutting.Idle(s.frame(emit), refuse(emit)) }

func (s *Stream) frame(emit func(Frame)) func([]byte) {
	return func(frame []byte) {
		payload, garbage := frame, ""
		if s.codec.unwrap != nil {
			payload, garbage = s.codec.unwrap(frame)
		}
		var readings []Reading
		if garbage == "" {
			answer := s.Answer != nil && s.Answer(payload)
			if readings, garbage = s.codec.Decode(payload); answer && garbage != "" {
				return
			}
		}
		if garbage != "" {
			refuse(emit)(garbage, frame)
			return
		}
		emit(Frame{Readings: readings})
	}
}

func refuse(emit func(Frame)) func(string, []byte) {
	return func(reason string, raw []byte) {
		emit(Frame{Garbage: reason, Raw: raw[:min(len(raw), rawKept)]})
	}
}
