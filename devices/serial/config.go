package serial

import (
	"strings"

	"go.bug.st/serial"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Config is a serial device's own part of its section.
type Config struct {
	// Port is a path, best one that stays the same when the adapter is plugged in again
	// (/dev/serial/by-id/…), or usb:VID:PID[:SERIAL] in hexadecimal as lsusb shows it.
	Port     string `yaml:"port"`
	Baud     int    `yaml:"baud"`      // bits per second; default 9600
	DataBits int    `yaml:"data_bits"` // 5 to 8; default 8
	Parity   string `yaml:"parity"`    // none (default), odd, even, mark or space
	StopBits int    `yaml:"stop_bits"` // 1 (default) or 2
	// DTR and RTS are the modem lines while the port is open; by default both are on.
	// Boards that reset on open are wired to DTR: false leaves them alone, but for a pulse
	// of a few milliseconds that Linux gives whenever a port is opened.
	DTR *bool `yaml:"dtr"`
	RTS *bool `yaml:"rts"`
}

// New returns a driver for the device that cfg describes, whose bytes c decodes. Errors are
// gateway.KeyErrors. The port is not touched before Run.
func New(cfg Config, c *codec.Codec) (*Driver, error) {
	mode := serial.Mode{BaudRate: 9600, DataBits: 8}
	if cfg.Port == "" {
		return nil, gateway.BadKey("port", "missing; it is a path such as /dev/serial/by-id/… or usb:VID:PID")
	}
	var usb *usbID
	if strings.HasPrefix(cfg.Port, "usb:") {
		id, err := parseUSB(cfg.Port)
		if err != nil {
			return nil, &gateway.KeyError{Key: "port", Err: err}
		}
		usb = &id
	} else if !strings.HasPrefix(cfg.Port, "/") {
		return nil, gateway.BadKey("port", "%q is neither an absolute path nor usb:VID:PID", cfg.Port)
	}
	switch {
	case cfg.Baud < 0 || cfg.Baud > 4_000_000:
		return nil, gateway.BadKey("baud", "%d is not between 1 and 4000000", cfg.Baud)
	case cfg.Baud > 0:
		mode.BaudRate = cfg.Baud
	}
	switch {
	case cfg.DataBits != 0 && (cfg.DataBits < 5 || cfg.DataBits > 8):
		return nil, gateway.BadKey("data_bits", "%d is not between 5 and 8", cfg.DataBits)
	case cfg.DataBits != 0:
		mode.DataBits = cfg.DataBits
	}
	switch cfg.Parity {
	case "", "none":
	case "odd":
		mode.Parity = serial.OddParity
	case "even":
		mode.Parity = serial.EvenParity
	case "mark":
		mode.Parity = serial.MarkParity
	case "space":
		mode.Parity = serial.SpaceParity
	default:
		return nil, gateway.BadKey("parity", "%q is none of none, odd, even, mark, space", cfg.Parity)
	}
	switch cfg.StopBits {
	case 0, 1:
	case 2:
		mode.StopBits = serial.TwoStopBits
	default:
		return nil, gateway.BadKey("stop_bits", "%d is neither 1 nor 2", cfg.StopBits)
	}
	if cfg.DTR != nil || cfg.RTS != nil {
		mode.InitialStatusBits = &serial.ModemOutputBits{
			DTR: cfg.DTR == nil || *cfg.DTR,
			RTS: cfg.RTS == nil || *cfg.RTS,
		}
	}
	return &Driver{path: cfg.Port, usb: usb, mode: mode, codec: c}, nil
}
