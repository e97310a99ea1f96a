package devices

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/weir-iot/weir/devices/ble"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/modbus"
	"github.com/weir-iot/weir/devices/mqttdev"
	"github.com/weir-iot/weir/devices/serial"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// kinds is THE list of drivers. Each decodes its section of the configuration, strictly.
func kinds(b buses, r *radios, m *broker) []kind {
	return []kind{
		{"ble", r.newBLE},
		{"modbus", b.newModbus},
		{"mqtt", m.newMQTT},
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
	Name        string        // for people; default: the device's id
	Area        string        // where it is, for people: a room, a hall, a field
	Topic       string        // default: {site}/{device}/{measurement}
	ExpireAfter time.Duration `yaml:"expire_after"` // a device silent for so long is down and started again; 0: never
	Retain      bool          // whether readings are retained, so that who subscribes later sees the last
	Discovery   *bool         // whether Home Assistant is told of it, if it is told at all; default true
	complete    bool          // the names of its measurements are all known beforehand
	// CommandTimeout is how long a command may wait and take that does not say so itself; default 10 s.
	CommandTimeout time.Duration `yaml:"command_timeout"`
	Measurements   map[string]codec.Measurement
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
	c.complete = bytes.Complete()
	d, err := serial.New(cfg.Port, bytes)
	return d, bytes.Names(), err
}

func (b buses) newModbus(s config.Section, c *common) (Driver, []string, error) {
	cfg := struct {
		*common       `yaml:",inline"`
		modbus.Config `yaml:",inline"`
	}{common: c}
	if err := s.Decode(&cfg); err != nil {
		return nil, nil, err
	}
	bus := b[cfg.Bus]
	if bus == nil {
		if cfg.Bus == "" {
			return nil, nil, gateway.BadKey("bus", "missing; it is one of those under buses")
		}
		return nil, nil, gateway.BadKey("bus", "there is no bus %q%s", cfg.Bus, config.Suggest(cfg.Bus, slices.Collect(maps.Keys(b))))
	}
	cfg.RegistersFile = s.File(cfg.RegistersFile)
	d, err := modbus.New(cfg.Config, bus, c.ExpireAfter)
	if err != nil {
		return nil, nil, err
	}
	if c.Measurements == nil {
		c.Measurements = map[string]codec.Measurement{}
	}
	for name, m := range c.Measurements {
		if !d.UseUnit(name, m.Unit) {
			return nil, nil, gateway.BadKey("measurements."+name, "there is no register %q", name)
		}
	}
	c.complete = !cfg.SunSpec
	var names []string
	for name, unit := range d.Units() {
		m := c.Measurements[name]
		m.Unit = unit
		c.Measurements[name] = m
		names = append(names, name)
	}
	return d, names, nil
}

// broker is what MQTT devices need of the gateway.
type broker struct {
	mqttdev.Broker
	site string
}

func (m *broker) newMQTT(s config.Section, c *common) (Driver, []string, error) {
	cfg := struct {
		*common        `yaml:",inline"`
		mqttdev.Config `yaml:",inline"`
	}{common: c}
	if err := s.Decode(&cfg); err != nil {
		return nil, nil, err
	}
	own := gateway.Filters{gateway.MustFilter(statusTopic(m.site, s.Name())), gateway.MustFilter(setTopic(m.site, s.Name(), "+")), gateway.MustFilter(resultTopic(m.site, s.Name(), "+"))}
	if t, err := c.template(m.site, s.Name()); err == nil { // its error comes later
		own = append(own, t.filter())
	}
	d, err := mqttdev.New(s.Name(), cfg.Config, c.Measurements, own, &m.Broker)
	return d, slices.Sorted(maps.Keys(c.Measurements)), err
}

// via is the Origin.Via of what the driver of that kind says. MQTT devices are not clients of that name.
func via(kind string) string {
	if kind == "mqtt" {
		return mqttdev.Via
	}
	return kind
}

// ownVias tells of an Origin.Via whether it is the gateway's own, or a driver's.
func ownVias() func(string) bool {
	all := map[string]bool{gateway.ViaWeir: true}
	for _, k := range kinds(nil, nil, nil) {
		all[via(k.name)] = true
	}
	return func(of string) bool { return all[of] }
}

// buses are the lines and connections that devices share, by id.
type buses map[string]*modbus.Bus

// check finds what is wrong with the keys that every device has. Errors are KeyErrors.
func (c *common) check() error {
	if c.ExpireAfter < 0 {
		return gateway.BadKey("expire_after", "%v is less than 0", c.ExpireAfter)
	}
	if c.CommandTimeout == 0 {
		c.CommandTimeout = defaultTimeout
	}
	if c.CommandTimeout < 0 {
		return gateway.BadKey("command_timeout", "%v is less than 0", c.CommandTimeout)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Measurements)) {
		m := c.Measurements[name]
		if m.Kind == "" {
			continue
		}
		key := "measurements." + name + ".kind"
		if known := codec.KindNames(); !slices.Contains(known, m.Kind) {
			return gateway.BadKey(key, "there is no kind %q%s", m.Kind, config.Suggest(m.Kind, known))
		}
		if _, err := codec.KindNamed(m.Kind, m.Unit); err != nil {
			return &gateway.KeyError{Key: key, Err: err}
		}
	}
	return nil
}

// kind tells what the measurement name measures, if it is in unit. The zero Kind: that cannot be told.
func (c *common) kind(name, unit string) codec.Kind {
	if said := c.Measurements[name].Kind; said != "" {
		k, _ := codec.KindNamed(said, unit) // the device may have another unit than the configuration says
		return k
	}
	return codec.KindOf(name, unit)
}

// newBuses makes the buses of all sections. Its error is every mistake in them.
func newBuses(sections map[string]config.Section) (buses, error) {
	b := buses{}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(sections)) {
		bus, err := NewBus(sections[id])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b[id] = bus
	}
	return b, errors.Join(errs...)
}

// NewBus makes the bus of one section.
func NewBus(s config.Section) (*modbus.Bus, error) {
	var cfg modbus.BusConfig
	if err := s.Decode(&cfg); err != nil {
		return nil, err
	}
	bus, err := modbus.NewBus(s.Name(), cfg)
	return bus, place(s, err)
}

func (r *radios) newBLE(s config.Section, c *common) (Driver, []string, error) {
	cfg := struct {
		*common    `yaml:",inline"`
		ble.Config `yaml:",inline"`
	}{common: c}
	if err := s.Decode(&cfg); err != nil {
		return nil, nil, err
	}
	if cfg.Adapter == "" {
		cfg.Adapter = ble.DefaultAdapter
	}
	air, err := r.get(cfg.Adapter)
	if err != nil {
		return nil, nil, &gateway.KeyError{Key: "adapter", Err: err}
	}
	d, err := ble.New(cfg.Config, air, c.ExpireAfter)
	if err != nil {
		return nil, nil, err
	}
	names := d.Names()
	for name := range c.Measurements {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return d, names, nil
}

// radios are the adapters that devices share, by name.
type radios struct {
	airs     map[string]*ble.Air
	log      *slog.Logger
	explicit []*ble.Air // those that the configuration names: they listen also without a device
}

// newRadios makes the radios of all sections. Its error is every mistake in them.
func newRadios(sections map[string]config.Section, log *slog.Logger) (radios, error) {
	r := radios{airs: map[string]*ble.Air{}, log: log}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		var cfg ble.AirConfig
		s := sections[name]
		_, err := ble.AdapterIndex(name)
		if err != nil {
			err = s.Errorf("", "%v", err)
		} else if err = s.Decode(&cfg); err == nil {
			err = place(s, r.add(name, cfg))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.explicit = append(r.explicit, r.airs[name])
	}
	return r, errors.Join(errs...)
}

func (r *radios) add(name string, cfg ble.AirConfig) error {
	if _, err := ble.AdapterIndex(name); err != nil {
		return err
	}
	radio, err := ble.NewHelper(name, nil, r.log)
	if err != nil {
		return err
	}
	air, err := ble.NewAir(name, cfg, radio)
	if err == nil {
		r.airs[name] = air
	}
	return err
}

// get returns the radio of an adapter, which need not be configured.
func (r *radios) get(name string) (*ble.Air, error) {
	if r.airs[name] == nil {
		if err := r.add(name, ble.AirConfig{}); err != nil {
			return nil, err
		}
	}
	return r.airs[name], nil
}

// load makes the driver of one section.
func load(s config.Section, b buses, r *radios, m *broker) (kind, common, Driver, []string, error) {
	var c common
	name, err := s.Kind("driver")
	if err != nil {
		return kind{}, c, nil, nil, err
	}
	var names []string
	for _, k := range kinds(b, r, m) {
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
