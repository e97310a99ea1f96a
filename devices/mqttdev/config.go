package mqttdev

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Config is the driver's part of a device's section. Either Profile or From says what is read.
type Config struct {
	// Profile is a known firmware, one of Profiles, and Base where its topics begin; see there for
	// the default.
	Profile string
	Base    string

	// From are the filters of what the device publishes, Format what is in it (codec.Format).
	From   Filters
	Format any
	// As names the measurements: {name} is the name that the format gives, {1}, {2} … are the levels of
	// the topic. Default {name}.
	As string
	// Availability is the topic that says whether the device is there, its Last Will mostly.
	Availability Availability
	Commands     map[string]Command
}

// Filters are topic filters; a single one stands without a list.
type Filters struct{ gateway.Filters }

// UnmarshalYAML takes a filter or a list of them.
func (f *Filters) UnmarshalYAML(decode func(any) error) error {
	var text string
	if decode(&text) != nil {
		return decode(&f.Filters)
	}
	f.Filters = make(gateway.Filters, 1)
	return decode(&f.Filters[0])
}

// Availability is a topic and the two payloads that count there.
type Availability struct {
	Topic   string
	Online  string // default: any of the usual words
	Offline string
}

// UnmarshalYAML takes a topic, or a map.
func (a *Availability) UnmarshalYAML(decode func(any) error) error {
	if decode(&a.Topic) == nil {
		return nil
	}
	type plain Availability
	return decode((*plain)(a))
}

// Command is something that can be set. With a profile all of it has a default, from the command's name.
type Command struct {
	Topic   string  // where it is published
	Payload string  // what, with {value} in it; default {value}
	Reply   *string // the measurement that says what became of it; default: the command's name; empty: none does
	Options []string
	Min     *float64
	Max     *float64
	Step    float64
}

// New returns the driver of the device called id, whose readings and status go to topics that own matches. It is called
// before the broker takes connections. Errors are KeyErrors.
func New(id string, cfg Config, measurements map[string]codec.Measurement, own gateway.Filters, b *Broker) (*Driver, error) {
	d := &Driver{id: id, broker: b, measurements: measurements, there: map[string]bool{}, commands: map[string]command{}}
	for _, name := range slices.Sorted(maps.Keys(measurements)) {
		if err := codec.CheckName(name); err != nil {
			return nil, &gateway.KeyError{Key: "measurements." + name, Err: err}
		}
	}
	if err := d.setProfile(cfg); err != nil {
		return nil, err
	}
	if b.Next != nil {
		d.start, _ = b.Next()
	}
	d.availability = d.profile.availability()
	d.filters = slices.Clone(d.profile.filters())
	for _, topic := range d.availability {
		f, err := gateway.ParseFilter(topic)
		if err != nil {
			return nil, &gateway.KeyError{Key: "availability", Err: err}
		}
		d.filters = append(d.filters, f)
	}
	for _, f := range d.filters {
		for _, o := range own {
			if f.Overlaps(o) {
				key := "from"
				if cfg.Profile != "" {
					key = "base"
				}
				return nil, gateway.BadKey(key, "%s would read what the device's own readings go to, %s: name the device's topics more closely", f, o)
			}
		}
	}
	return d, d.setCommands(cfg.Commands)
}

// maxBase bounds a base in bytes.
const maxBase = 1024

func (d *Driver) setProfile(cfg Config) error {
	if cfg.Profile == "" {
		if cfg.Base != "" {
			return gateway.BadKey("base", "is for devices with a profile; without one, from says what is read")
		}
		p, err := newPlain(cfg)
		d.profile = p
		return err
	}
	p, known := profiles[cfg.Profile]
	switch {
	case !known:
		return gateway.BadKey("profile", "%q is none of %s", cfg.Profile, strings.Join(Profiles(), ", "))
	case cfg.From.Filters != nil:
		return gateway.BadKey("from", "profile %s knows its topics; base says where they begin", cfg.Profile)
	case cfg.Format != nil:
		return gateway.BadKey("format", "profile %s has its own format", cfg.Profile)
	case cfg.As != "":
		return gateway.BadKey("as", "profile %s has its own names", cfg.Profile)
	case cfg.Availability.Topic != "":
		return gateway.BadKey("availability", "profile %s has its own", cfg.Profile)
	}
	if cfg.Base == "" {
		cfg.Base = p.base + d.id
	}
	if err := publishable(cfg.Base); err != nil {
		return &gateway.KeyError{Key: "base", Err: err}
	}
	if len(cfg.Base) > maxBase || strings.Count(cfg.Base, "/") > maxBase/16 { // what comes behind has to find room
		return gateway.BadKey("base", "has more than %d bytes or %d levels", maxBase, maxBase/16)
	}
	d.profile = p.make(strings.TrimSuffix(cfg.Base, "/"))
	return nil
}

// profile is how one kind of device speaks.
type profile interface {
	filters() gateway.Filters
	// decode calls add for every reading of a message on a topic that filters match, or returns why there is
	// none, one of codec's reasons. Neither is also possible: not everything is a measurement.
	decode(topic string, payload []byte, add func(codec.Reading)) (garbage string)
	// availability are the topics that say whether the device is there; it is if all of them do.
	availability() []string
	// available reads what stands there.
	available(topic string, payload []byte) (on, known bool)
	// command is how the command called name is given, if there is such a one.
	command(name string) (command, bool)
}

// plain is a device that the configuration describes.
type plain struct {
	noCommands
	from   gateway.Filters
	format *codec.Format
	as     string
	status Availability
}

func newPlain(cfg Config) (*plain, error) {
	if len(cfg.From.Filters) == 0 {
		return nil, gateway.BadKey("from", "missing; it is the topic that the device publishes to, or a filter, or a list of them. Or profile is one of %s", strings.Join(Profiles(), ", "))
	}
	for _, f := range cfg.From.Filters {
		if strings.HasPrefix(f.String(), "$") {
			return nil, gateway.BadKey("from", "%s begins with $: no device publishes there", f)
		}
	}
	format, err := codec.NewFormat(cfg.Format, nil) // units go by the names that as gives
	if err != nil {
		return nil, err
	}
	p := &plain{from: cfg.From.Filters, format: format, as: cfg.As, status: cfg.Availability}
	switch {
	case p.as == "":
		p.as = "{name}"
	case !strings.Contains(p.as, "{"):
		return nil, gateway.BadKey("as", "%q has no {name} and no level of the topic, such as {2}, in it: every measurement would have that name", p.as)
	}
	if p.status.Topic != "" {
		if err := gateway.ValidateTopic(p.status.Topic); err != nil {
			return nil, &gateway.KeyError{Key: "availability", Err: err}
		}
	}
	if (p.status.Online == "") != (p.status.Offline == "") {
		return nil, gateway.BadKey("availability", "needs both words, online and offline, or neither")
	}
	return p, nil
}

func (p *plain) filters() gateway.Filters { return p.from }

func (p *plain) decode(topic string, payload []byte, add func(codec.Reading)) string {
	readings, garbage := p.format.Decode(payload)
	levels := []string{"{name}", ""}
	for i, level := range strings.Split(topic, "/") {
		levels = append(levels, fmt.Sprintf("{%d}", i+1), level)
	}
	for _, r := range readings {
		levels[1] = r.Name
		r.Name = strings.NewReplacer(levels...).Replace(p.as)
		add(r)
	}
	return garbage
}

func (p *plain) availability() []string {
	if p.status.Topic == "" {
		return nil
	}
	return []string{p.status.Topic}
}

func (p *plain) available(_ string, payload []byte) (on, known bool) {
	if p.status.Online == "" {
		return word(payload)
	}
	return string(payload) == p.status.Online, string(payload) == p.status.Online || string(payload) == p.status.Offline
}

// noCommands is for profiles whose commands are named in the configuration.
type noCommands struct{}

func (noCommands) command(string) (command, bool) { return command{}, false }
