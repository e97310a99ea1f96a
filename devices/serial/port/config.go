// Package port opens serial ports, for every driver that speaks over one: by path or by what
// is burnt into a USB adapter, for one user only, with the line set up.
//
// go.bug.st/serial sets the port up; reading and writing is done on a descriptor of our own.
// For in that library Close races with Read (the number of a closed descriptor may already
// be another file's), an unplugged port looks like a closed one, and a write has no deadline.
// A descriptor under Go's own poller has none of these: a read waits without turning, ends
// at once when the context does, and an unplugged port is an end of file.
package port

import (
	"fmt"
	"strings"

	"go.bug.st/serial"

	"github.com/weir-iot/weir/gateway"
)

// Config says which port, and how the line is set.
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
	// RS485 says who switches the direction of a two-wire line; default nobody.
	RS485 RS485 `yaml:"rs485"`
}

// Port is a port that can be opened.
type Port struct {
	path  string // or usb:…, and then usb is set
	usb   *usbID
	mode  serial.Mode
	rs485 RS485
}

// New returns the port that cfg describes. Errors are gateway.KeyErrors. Nothing is opened.
func New(cfg Config) (*Port, error) {
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
	if err := cfg.checkRS485(); err != nil {
		return nil, err
	}
	if cfg.RS485.By == "rts" { // it hears from the first moment on
		hear := cfg.RS485.RTS == "low"
		cfg.RTS = &hear
	}
	if cfg.DTR != nil || cfg.RTS != nil {
		mode.InitialStatusBits = &serial.ModemOutputBits{
			DTR: cfg.DTR == nil || *cfg.DTR,
			RTS: cfg.RTS == nil || *cfg.RTS,
		}
	}
	return &Port{path: cfg.Port, usb: usb, mode: mode, rs485: cfg.RS485}, nil
}

// String is the port as it stands in the configuration.
func (p *Port) String() string { return p.path }

// Baud is the rate in bits per second.
func (p *Port) Baud() int { return p.mode.BaudRate }

// Line is how the line is set, as people write it: 9600 8N1.
func (p *Port) Line() string {
	parity := map[serial.Parity]string{
		serial.NoParity: "N", serial.OddParity: "O", serial.EvenParity: "E", serial.MarkParity: "M", serial.SpaceParity: "S",
	}[p.mode.Parity]
	stop := 1
	if p.mode.StopBits == serial.TwoStopBits {
		stop = 2
	}
	return fmt.Sprintf("%d %d%s%d", p.mode.BaudRate, p.mode.DataBits, parity, stop)
}
