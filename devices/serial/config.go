package serial

import (
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/gateway"
)

// Config is a serial device's own part of its section.
type Config struct {
	port.Config `yaml:",inline"`
	MaxLine     int `yaml:"max_line"` // bytes, 1 to 65536; default 4096
}

// New returns a driver for the device that cfg describes, whose lines line decodes. Errors
// are gateway.KeyErrors. The port is not touched before Run.
func New(cfg Config, line *codec.Line) (*Driver, error) {
	p, err := port.New(cfg.Config)
	if err != nil {
		return nil, err
	}
	if cfg.MaxLine < 0 || cfg.MaxLine > 65536 {
		return nil, gateway.BadKey("max_line", "%d is not between 1 and 65536", cfg.MaxLine)
	}
	return &Driver{port: p, maxLine: cfg.MaxLine, line: line}, nil
}
