package devices

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Discovery tells Home Assistant what devices there are, by its MQTT discovery.
type Discovery struct {
	Prefix  string // of the topics on which Home Assistant listens
	Always  bool   // else from when Home Assistant was first seen here
	Version string // of Weir
}

// discoverer keeps a retained message for each device on which Home Assistant finds it and all that it
// measures and takes (https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload). They are said
// again when Home Assistant says that it has started.
type discoverer struct {
	Discovery
	gateway string
	feed    Feed
	state   State
	devices []*device
	log     *slog.Logger
	start   uint64        // where the journal ended when this was made
	poke    chan struct{} // a device has something new to tell; one signal

	on bool // of the goroutine that runs it
}

// component is one entity of Home Assistant.
type component map[string]any

const (
	discoveryBucket = "discovery" // the components of each device, by its id, as they were last told
	discoverySeen   = "/seen"     // Home Assistant was here
	// settle is how long names of measurements are gathered before they are told: a device may say them one
	// after the other.
	settle = 2 * time.Second
)

// newDiscoverer returns nil if there is nothing to discover.
func newDiscoverer(o Options, devices []*device) *discoverer {
	if o.Discovery == nil || o.Feed == nil {
		return nil
	}
	s := &discoverer{Discovery: *o.Discovery, gateway: o.GatewayID, feed: o.Feed, state: o.State, log: o.Logger, poke: make(chan struct{}, 1)}
	for _, d := range devices {
		if d.common.Discovery == nil || *d.common.Discovery {
			d.discoverable = s
			s.devices = append(s.devices, d)
		}
	}
	if len(s.devices) == 0 {
		return nil
	}
	s.start, _ = o.Feed.Next()
	return s
}

// load finds out what was told before. It is called once, before run.
func (s *discoverer) load() error {
	s.on = s.Always
	return s.state.Each(discoveryBucket, "", func(key string, value []byte) error {
		if key == discoverySeen {
			s.on = true
			return nil
		}
		for _, d := range s.devices {
			if d.id == key {
				// What cannot be read is told anew.
				_ = json.Unmarshal(value, &d.told)
			}
		}
		return nil
	})
}

// topics are those on which something is retained, and of which device.
func (s *discoverer) topics() map[string]string {
	all := map[string]string{}
	if s.on {
		for _, d := range s.devices {
			all[s.topic(d)] = d.id
		}
	}
	return all
}

// run tells and watches until ctx ends.
func (s *discoverer) run(ctx context.Context, remember func(map[string]string) error) {
	births := make(chan struct{}, 1)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { s.watch(ctx, births) })
	if s.on {
		s.tellAll(ctx)
	}
	for {
		select {
		case <-births:
			if !s.on {
				s.on = true
				s.log.Info("Home Assistant is here: devices are told to it", "prefix", s.Prefix)
				err := s.state.Apply(discoveryBucket, map[string][]byte{discoverySeen: []byte("1")})
				if err == nil {
					err = remember(s.topics())
				}
				if err != nil && ctx.Err() == nil {
					s.log.Warn("what is told to Home Assistant cannot be remembered", "error", err)
				}
				s.tellAll(ctx)
				continue
			}
			for _, d := range s.devices {
				d.notices.again(s.topic(d))
			}
		case <-s.poke:
			select {
			case <-time.After(settle):
			case <-ctx.Done():
			}
			for _, d := range s.devices {
				if s.on && ctx.Err() == nil && d.news.Swap(false) {
					s.tell(ctx, d)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// watch waits for Home Assistant's birth message.
func (s *discoverer) watch(ctx context.Context, births chan<- struct{}) {
	r := s.feed.Reader(s.start, gateway.Filters{gateway.MustFilter(s.Prefix + "/status")}, gateway.Written)
	for ctx.Err() == nil {
		b, err := r.Next(ctx)
		if err != nil && ctx.Err() == nil {
			select {
			case <-time.After(tellAgain):
			case <-ctx.Done():
			}
		}
		for _, e := range b.Events {
			if string(e.Payload) == online {
				select {
				case births <- struct{}{}:
				default:
				}
			}
		}
	}
}

func (s *discoverer) tellAll(ctx context.Context) {
	for _, d := range s.devices {
		d.news.Store(false)
		s.tell(ctx, d)
	}
}

// objectID is what names a device in topics and ids of Home Assistant: letters, digits, _ and -.
func (s *discoverer) objectID(d *device) string {
	return "weir-" + strings.ReplaceAll(s.gateway+"-"+d.id, ".", "-2e-")
}

func (s *discoverer) topic(d *device) string {
	return s.Prefix + "/device/" + s.objectID(d) + "/config"
}

// tell says what d has, if that has changed. A component that is no more is told to be gone first: Home
// Assistant keeps what is only left out.
func (s *discoverer) tell(ctx context.Context, d *device) {
	now := s.components(d)
	gone := map[string]component{}
	for name, c := range d.told {
		switch is, there := now[name]; {
		case there && is["p"] == c["p"]:
		case there || d.common.complete:
			gone[name] = component{"p": c["p"]}
		default: // the device will say it again
			now[name] = c
		}
	}
	if len(now) == 0 && len(gone) == 0 { // nothing is known yet, and a device has something
		return
	}
	origin := gateway.Origin{Via: gateway.ViaWeir, ID: d.id}
	if len(gone) > 0 {
		without := maps.Clone(now)
		maps.Copy(without, gone)
		d.notices.say(ctx, s.topic(d), origin, s.payload(d, without))
	}
	text := ""
	if len(now) > 0 {
		text = s.payload(d, now)
	}
	d.notices.say(ctx, s.topic(d), origin, text)
	told, _ := json.Marshal(now) // text and numbers: cannot fail
	if was, _ := json.Marshal(d.told); bytes.Equal(was, told) {
		return
	}
	d.told = now
	if err := s.state.Apply(discoveryBucket, map[string][]byte{d.id: told}); err != nil && ctx.Err() == nil {
		s.log.Warn("what is told to Home Assistant cannot be remembered", "device", d.id, "error", err)
	}
}

// payload is the discovery message of d with those components.
func (s *discoverer) payload(d *device, components map[string]component) string {
	dev := map[string]any{"ids": []string{s.objectID(d)}, "name": d.common.Name, "mdl": d.kind}
	if d.common.Area != "" {
		dev["sa"] = d.common.Area
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(map[string]any{
		"dev":                dev,
		"o":                  map[string]any{"name": "Weir", "sw": s.Version, "url": "https://github.com/weir-iot/weir"},
		"availability_topic": d.state.status.Topic,
		"qos":                2, // a command comes once
		"cmps":               components,
	}) // text and numbers: cannot fail
	return strings.TrimSuffix(out.String(), "\n")
}

// components are all that d measures and takes, by name.
func (s *discoverer) components(d *device) map[string]component {
	all := map[string]component{}
	for _, m := range d.confirmed() {
		c := component{"p": "sensor", "state_topic": m.Topic}
		if m.Unit != "" || m.Kind.Name != "" { // then it is a number
			c["value_template"] = "{{ value if is_number(value) else None }}" // nan: it failed
			if m.Kind.StateClass != "" {
				c["state_class"] = m.Kind.StateClass
			}
		}
		if m.Unit != "" {
			c["unit_of_measurement"] = codec.PlainUnit(m.Unit)
		}
		if m.Kind.DeviceClass != "" {
			c["device_class"] = m.Kind.DeviceClass
		}
		all[m.Name] = c
	}
	for _, setting := range d.settings() {
		c := component{"p": setting.Form, "command_topic": setTopic(d.site, d.id, setting.Name)}
		measured, has := all[setting.Name]
		if has && setting.Form != codec.Button {
			c["state_topic"] = measured["state_topic"]
		}
		switch setting.Form {
		case codec.Numeric:
			c["mode"], c["min"], c["max"], c["step"] = "box", -1e9, 1e9, 0.001
			if setting.Min != nil {
				c["min"] = *setting.Min
			}
			if setting.Max != nil {
				c["max"] = *setting.Max
			}
			if setting.Step > 0.001 {
				c["step"] = setting.Step
			}
			for _, key := range []string{"unit_of_measurement", "device_class"} {
				if v, ok := measured[key]; ok {
					c[key] = v
				}
			}
		case codec.Switch:
			c["payload_on"], c["payload_off"] = setting.Options[0], setting.Options[1]
		case codec.Choice:
			c["options"] = setting.Options
		}
		all[setting.Name] = c
	}
	for name, c := range all {
		c["name"] = readable(name)
		c["unique_id"] = s.objectID(d) + "-" + name
	}
	return all
}

// readable is a measurement's name for people: air.temperature is Air temperature.
func readable(name string) string {
	name = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '.' || r == '_' {
			return ' '
		}
		return r
	}, name))
	if name == "" {
		return "Value"
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// confirmed are the measurements that are known by the configuration, or that came more than once: noise
// that reads like one does not come again.
func (d *device) confirmed() (all []Measurement) {
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(d.state.sure)) {
		all = append(all, d.state.measurements[name])
	}
	return all
}

// changed says that a device has something new to tell.
func (d *device) changed() {
	if d.discoverable == nil {
		return
	}
	d.news.Store(true)
	select {
	case d.discoverable.poke <- struct{}{}:
	default:
	}
}
