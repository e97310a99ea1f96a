package serial

import (
	"errors"
	"maps"
	"slices"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/gateway"
)

// Config is a serial device's own part of its section.
type Config struct {
	port.Config `yaml:",inline"`
	// Commands are what can be sent to the device, by name.
	Commands map[string]Command `yaml:"commands"`
}

// Port is what the device is connected to.
func (d *Driver) Port() *port.Port { return d.port }

// New returns a driver for the device that cfg describes, whose bytes c decodes. Errors are
// gateway.KeyErrors. The port is not touched before Run.
func New(cfg Config, c *codec.Codec) (*Driver, error) {
	p, err := port.New(cfg.Config)
	if err != nil {
		return nil, err
	}
	d := &Driver{port: p, codec: c, commands: map[string]*command{}, turn: make(chan struct{}, 1)}
	for _, name := range slices.Sorted(maps.Keys(cfg.Commands)) {
		if d.commands[name], err = newCommand(name, cfg.Commands[name], c); err != nil {
			key := "commands." + name
			var deeper *gateway.KeyError
			if errors.As(err, &deeper) {
				key, err = key+"."+deeper.Key, deeper.Err
			}
			return nil, &gateway.KeyError{Key: key, Err: err}
		}
	}
	return d, nil
}
