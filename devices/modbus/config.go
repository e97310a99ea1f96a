package modbus

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Config is a Modbus device's own part of its section.
type Config struct {
	Bus    string `yaml:"bus"`     // a section under buses
	UnitID int    `yaml:"unit_id"` // 1 to 247; over TCP 0 to 255
	// Interval is how often registers are read; default 10 s.
	Interval  time.Duration       `yaml:"interval"`
	Registers map[string]Register `yaml:"registers"` // by the name of the measurement
	// RegistersFile is a CSV file of more registers, relative to the configuration.
	RegistersFile string `yaml:"registers_file"`
	// SunSpec reads what the device says of itself by SunSpec models.
	SunSpec bool `yaml:"sunspec"`
	// WordOrder and ByteOrder hold for registers that do not say otherwise: big, most
	// significant first, is what the specification says; little is what some devices do.
	WordOrder string `yaml:"word_order"`
	ByteOrder string `yaml:"byte_order"`
	// MaxInterval is how often a register with a deadband is reported even if its value did not
	// change; default 15 min.
	MaxInterval time.Duration `yaml:"max_interval"`
	// What the device takes in one request; default 125 registers and 2000 bits.
	MaxRegisters int `yaml:"max_registers"`
	MaxBits      int `yaml:"max_bits"`
	// MaxGap is how many registers that nobody asked for may be read to save a request; default 0,
	// because reading can have effects.
	MaxGap int `yaml:"max_gap"`
}

// The defaults of a device.
const (
	defaultInterval    = 10 * time.Second
	defaultMaxInterval = 15 * time.Minute
)

// Driver reads one slave.
type Driver struct {
	*codec.Taps // of its exchanges on the bus
	bus         *Bus
	unit        byte
	registers   []*register
	sunspec     bool
	limits      limits
	defaults    defaults
	changed     chan struct{} // something was written: read again
	writing     chan struct{} // who has put something in may write: what is read back must be one's own
}

// New returns a driver for the device that cfg describes, on bus. Expire is after how long
// without a reading it counts as down, 0 for never: values are then reported often enough. Errors
// are gateway.KeyErrors. Nothing is opened before Run.
func New(cfg Config, bus *Bus, expire time.Duration) (*Driver, error) {
	d := &Driver{Taps: bus.tap(byte(cfg.UnitID)), bus: bus, unit: byte(cfg.UnitID), sunspec: cfg.SunSpec, changed: make(chan struct{}, 1), writing: make(chan struct{}, 1)}
	first, last := 1, 247
	if bus.timing.char == 0 {
		first, last = 0, 255
	}
	if cfg.UnitID < first || cfg.UnitID > last {
		return nil, gateway.BadKey("unit_id", "%d is not between %d and %d", cfg.UnitID, first, last)
	}
	d.defaults = defaults{defaultInterval, defaultMaxInterval, cfg.WordOrder, cfg.ByteOrder}
	if cfg.Interval != 0 {
		d.defaults.interval = cfg.Interval
	}
	if cfg.MaxInterval != 0 {
		d.defaults.maxInterval = cfg.MaxInterval
	}
	if expire > 0 {
		d.defaults.maxInterval = min(d.defaults.maxInterval, expire/2)
	}
	d.limits = limits{cfg.MaxRegisters, cfg.MaxBits, cfg.MaxGap}
	if d.limits.registers == 0 {
		d.limits.registers = maxRegisters
	}
	if d.limits.bits == 0 {
		d.limits.bits = maxBits
	}
	switch {
	case cfg.Interval < 0 || cfg.Interval > 0 && cfg.Interval < minInterval:
		return nil, gateway.BadKey("interval", "%v is less than %v", cfg.Interval, minInterval)
	case cfg.MaxInterval < 0:
		return nil, gateway.BadKey("max_interval", "%v is less than 0", cfg.MaxInterval)
	case d.limits.registers < 1 || d.limits.registers > maxRegisters:
		return nil, gateway.BadKey("max_registers", "%d is not between 1 and %d", cfg.MaxRegisters, maxRegisters)
	case d.limits.bits < 1 || d.limits.bits > maxBits:
		return nil, gateway.BadKey("max_bits", "%d is not between 1 and %d", cfg.MaxBits, maxBits)
	case cfg.MaxGap < 0 || cfg.MaxGap > maxRegisters:
		return nil, gateway.BadKey("max_gap", "%d is not between 0 and %d", cfg.MaxGap, maxRegisters)
	}
	for key, order := range map[string]string{"word_order": cfg.WordOrder, "byte_order": cfg.ByteOrder} {
		if err := checkOrder(key, order); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Registers)) {
		if err := d.add(name, cfg.Registers[name]); err != nil {
			return nil, under("registers."+name, err)
		}
	}
	if cfg.RegistersFile != "" {
		rows, err := readCSV(cfg.RegistersFile)
		if err != nil {
			return nil, &gateway.KeyError{Key: "registers_file", Err: err}
		}
		for _, row := range rows {
			if err := d.add(row.name, row.register); err != nil {
				return nil, gateway.BadKey("registers_file", "%s:%d: %s: %w", cfg.RegistersFile, row.line, row.name, err)
			}
		}
	}
	if len(d.registers) == 0 && !d.sunspec {
		return nil, gateway.BadKey("registers", "missing; a device has registers, a registers_file, or sunspec: true")
	}
	return d, nil
}

func (d *Driver) add(name string, c Register) error {
	r, err := compile(name, c, d.defaults)
	if err != nil {
		return err
	}
	if d.register(name) != nil {
		return gateway.Errorf(gateway.ErrInvalid, "there are two registers %q", name)
	}
	if r.words > d.limits.registers && !r.table.bits() {
		return gateway.BadKey("type", "has %d registers, and one request reads %d at most", r.words, d.limits.registers)
	}
	d.registers = append(d.registers, r)
	return nil
}

// under puts a key in front of an error's own.
func under(key string, err error) error {
	var at *gateway.KeyError
	if errors.As(err, &at) {
		if at.Key != "" {
			key += "." + at.Key
		}
		err = at.Err
	}
	return &gateway.KeyError{Key: key, Err: err}
}

func (d *Driver) register(name string) *register {
	i := slices.IndexFunc(d.registers, func(r *register) bool { return r.name == name })
	if i < 0 {
		return nil
	}
	return d.registers[i]
}

// Units are the measurements that are known before the device has said anything, and their units.
func (d *Driver) Units() map[string]string {
	units := map[string]string{}
	for _, r := range d.registers {
		units[r.name] = r.unit
	}
	return units
}

// UseUnit sets the unit of a measurement that has none of its own yet, and tells whether there is
// such a measurement.
func (d *Driver) UseUnit(name, unit string) bool {
	r := d.register(name)
	if r != nil && r.unit == "" {
		r.unit = unit
	}
	return r != nil
}
