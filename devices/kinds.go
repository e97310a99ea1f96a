package devices

import (
	"errors"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// kinds is THE list of drivers. Each decodes its section of the configuration, strictly.
func kinds() []kind {
	return []kind{
		{"serial", newSerial},
	}
}

type kind struct {
	name string
	// new decodes s into c and the driver's own Config, and returns the driver and the names
	// of the measurements it knows beforehand. Errors are placed, or KeyErrors.
	new func(s config.Section, c *common) (Driver, []string, error)
}

// common are the keys that every device has.
type common struct {
	Name         string        // for people; default: the device's id
	Topic        string        // default: {site}/{device}/{measurement}
	ExpireAfter  time.Duration `yaml:"expire_after"` // a device silent for so long is down and started again; 0: never
	Measurements map[string]codec.Measurement
}

func newSerial(s config.Section, c *common) (Driver, []string, error) {
	cfg := struct {
		*common `yaml:",inline"`
		Port    serial.Config `yaml:",inline"`
		Bytes   codec.Config  `yaml:",inline"`
	}{common: c}
	if err := s.Decode(&cfg); err != nil {
		return nil, nil, err
	}
	bytes, err := codec.New(cfg.Bytes, c.Measurements)
	if err != nil {
		return nil, nil, err
	}
	d, err := serial.New(cfg.Port, bytes)
	return d, bytes.Names(), err
}

// load makes the driver of one section.
func load(s config.Section) (kind, common, Driver, []string, error) {
	var c common
	name, err := s.Kind("driver")
	if err != nil {
		return kind{}, c, nil, nil, err
	}
	var names []string
	for _, k := range kinds() {
		if k.name == name {
			d, measurements, err := k.new(s, &c)
			return k, c, d, measurements, place(s, err)
		}
		names = append(names, k.name)
	}
	return kind{}, c, nil, nil, s.Errorf("driver", "there is no driver %q%s", name, config.Suggest(name, names))
}

// place gives an error that knows its key its place in the file.
func place(s config.Section, err error) error {
	var key *gateway.KeyError
	if errors.As(err, &key) {
		return s.Errorf(key.Key, "%s: %v", key.Key, key.Err)
	}
	return err
}
