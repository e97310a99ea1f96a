package serial

import (
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
)

// Config is a serial device's own part of its section.
type Config struct {
	port.Config `yaml:",inline"`
}

// New returns a driver for the device that cfg describes, whose bytes c decodes. Errors are
// gateway.KeyErrors. The port is not touched before Run.
func New(cfg Config, c *codec.Codec) (*Driver, error) {
	p, err := port.New(cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Driver{port: p, codec: c}, nil
}
