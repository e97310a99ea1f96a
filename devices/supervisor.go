package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/devices/ble"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/modbus"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// Ingest takes an event in: gateway.Gateway.Ingest. Readings are handed over with a nil done,
// because nobody waits for them.
type Ingest func(ctx context.Context, e *gateway.Event, done func(error)) error

// Options are what a Supervisor needs. Logger and Observer may be left out.
type Options struct {
	Sections map[string]config.Section // by device id
	Buses    map[string]config.Section // by id, for devices that share a line
	Radios   map[string]config.Section // by adapter, such as hci0
	Site     string
	Ingest   Ingest
	State    State // nil: what was retained for a device that is gone stays
	// What commands need, beside State. Without a Feed none is carried out.
	Feed      Feed
	Age       func() time.Duration // the clock that gateway.Event.Age is of
	GatewayID string
	Discovery *Discovery // nil: nobody is told
	// What MQTT devices need, beside State and Feed.
	Retained func(want gateway.Filters) []*gateway.Event // nil: nothing is retained
	Record   Ingest                                      // gateway.Gateway.Record; nil: Ingest
	May      func(o gateway.Origin, topic string) error  // may who an event came from publish there? nil: yes
	Logger   *slog.Logger
	Observer gateway.Observer
}

// How long the supervisor waits before it starts a driver again: from first on, doubled up
// to last, each by chance up to a fifth longer or shorter so that devices do not come
// in step. A device that is plugged in again is therefore read within 3 s.
const (
	firstWait = 250 * time.Millisecond
	lastWait  = 2 * time.Second
)

// Supervisor keeps the drivers of all devices running.
type Supervisor struct {
	buses     buses
	devices   []*device // sorted by id
	radios    radios
	site      string
	ingest    Ingest
	state     State
	commands  *commander  // nil: none
	discovery *discoverer // nil: none
	follows   follows     // devices that are clients of the broker
	watch     *watch      // clients that are none
	log       *slog.Logger
}

type device struct {
	id       string
	site     string
	kind     string // of driver
	common   common
	driver   Driver
	writer   Writer // the driver, if it takes commands
	topic    template
	state    state
	notices  notices
	watchers watchers
	here     gate // open while the driver has the device
	queue    queue
	marking  sync.Mutex // guards mark, also while it is being stored
	mark     mark

	discoverable *discoverer          // nil: it is not told to anybody
	news         atomic.Bool          // there is something to tell
	told         map[string]component // that was told last; the discoverer's
	follow       *follow              // nil: nothing of it comes through the journal
	kept         map[string]bool      // topics of readings of which State knows that they are retained
	remember     func(topics map[string]string) error
	ingest       Ingest
	log          *slog.Logger
	observe      gateway.Observer
}

// New makes the drivers of all sections. Its error is every mistake in them, each with
// its place in the file. Nothing is opened before Run.
func New(o Options) (*Supervisor, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Observer = o.Observer.OrNop()
	if o.Record == nil {
		o.Record = o.Ingest
	}
	s := &Supervisor{site: o.Site, ingest: o.Ingest, state: o.State, log: o.Logger}
	var errs []error
	shared, err := newBuses(o.Buses)
	if err != nil {
		errs = append(errs, err)
		for id := range o.Buses { // a device is not wrong because its bus is
			if shared[id] == nil {
				shared[id] = new(modbus.Bus)
			}
		}
	}
	s.buses = shared
	if s.radios, err = newRadios(o.Radios, o.Logger); err != nil {
		errs = append(errs, err)
	}
	mqtt := newBroker(o)
	for _, id := range slices.Sorted(maps.Keys(o.Sections)) {
		d, err := newDevice(o, id, o.Sections[id], shared, &s.radios, mqtt)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.remember = s.remember
		s.devices = append(s.devices, d)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.commands = newCommander(o, s.devices)
	s.discovery = newDiscoverer(o, s.devices)
	s.follows = newFollows(o, s.devices)
	s.watch = newWatch(o, s.devices)
	return s, nil
}

func newDevice(o Options, id string, section config.Section, shared buses, radios *radios, mqtt *broker) (*device, error) {
	kind, common, driver, names, err := load(section, shared, radios, mqtt)
	if err != nil {
		return nil, err
	}
	if err := common.check(); err != nil {
		return nil, place(section, err)
	}
	topic, err := common.template(o.Site, id)
	if err != nil {
		return nil, section.Errorf("topic", "%v", err)
	}
	d := &device{
		id: id, site: o.Site, kind: kind.name, common: common, driver: driver, topic: topic,
		ingest: o.Ingest, observe: o.Observer, log: o.Logger.With("device", id),
	}
	d.state.status = Status{ID: id, Name: common.Name, Area: common.Area, Driver: kind.name, Topic: statusTopic(o.Site, id)}
	if w, ok := driver.(Writer); ok && len(w.Settings()) > 0 {
		d.writer = w
	}
	for _, setting := range d.settings() {
		d.state.status.Settings = append(d.state.status.Settings, setting.Name)
	}
	d.queue.more = make(chan struct{}, 1)
	if f, ok := driver.(follower); ok {
		d.follow = &follow{device: d, follower: f, gatewayID: o.GatewayID, record: o.Record}
	}
	d.notices.ingest = o.Ingest
	d.state.measurements, d.state.sure = map[string]Measurement{}, map[string]bool{}
	for _, name := range names {
		unit := common.Measurements[name].Unit
		m := Measurement{name, topic.topic(name), unit, common.kind(name, unit)}
		switch {
		case isCommand(m.Topic, o.Site):
			return nil, section.Errorf("topic", "measurement %q would be on %s, which is for commands", name, m.Topic)
		case m.Topic == d.state.status.Topic:
			return nil, section.Errorf("topic", "measurement %q would be on %s, where it stands whether the device is online: "+
				"give the device another topic, such as {site}/{device}/value/{measurement}", name, m.Topic)
		}
		d.state.measurements[name], d.state.sure[name] = m, true
	}
	d.state.set(false, notStarted)
	return d, nil
}

// Status returns how every device is, sorted by id.
func (s *Supervisor) Status() []Status {
	all := make([]Status, len(s.devices))
	for i, d := range s.devices {
		all[i] = d.state.snapshot()
	}
	return all
}

// Radios returns how every adapter is that is configured or that a device uses, sorted by name.
func (s *Supervisor) Radios() []ble.Status {
	var all []ble.Status
	for _, name := range slices.Sorted(maps.Keys(s.radios.airs)) {
		all = append(all, s.radios.airs[name].Status())
	}
	return all
}

// device is the one with that id. The error is gateway.ErrInvalid.
func (s *Supervisor) device(id string) (*device, error) {
	var known []string
	for _, d := range s.devices {
		if known = append(known, d.id); d.id == id {
			return d, nil
		}
	}
	return nil, gateway.Errorf(gateway.ErrInvalid, "there is no device %q%s", id, config.Suggest(id, known))
}

// Run runs the drivers until ctx ends, and returns when all of them have.
func (s *Supervisor) Run(ctx context.Context) error {
	var running sync.WaitGroup
	s.follows.begin(ctx)
	for _, d := range s.devices {
		running.Go(func() { d.run(ctx) })
	}
	for _, a := range s.radios.explicit {
		running.Go(func() { a.Run(ctx) })
	}
	running.Go(func() {
		if s.discovery != nil {
			if err := s.discovery.load(); err != nil {
				s.log.Warn("what was told to Home Assistant cannot be read", "error", err)
			}
		}
		s.tidy(ctx)
		if s.discovery != nil {
			s.discovery.run(ctx, s.remember)
		}
	})
	if s.commands != nil {
		running.Go(func() { s.commands.run(ctx) })
	}
	defer s.follows.save() // where everything has ended
	running.Go(func() { s.follows.run(ctx) })
	if s.watch != nil {
		running.Go(func() { s.watch.run(ctx) })
	}
	running.Go(func() {
		tick := time.NewTicker(tellAgain)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			for _, d := range s.devices {
				d.notices.tell(ctx)
			}
		}
	})
	<-ctx.Done() // also without a device
	running.Wait()
	return nil
}

func (d *device) run(ctx context.Context) {
	d.set(ctx, false, notStarted) // whatever a run before this one has said and was killed
	wait := firstWait
	unheard := ""
	if d.common.ExpireAfter > 0 {
		unheard = "connected, and nothing heard yet"
	}
	silent := unheard
	for ctx.Err() == nil {
		frames, err := d.once(ctx, silent)
		if ctx.Err() != nil {
			break
		}
		if silent = unheard; errors.Is(err, errSilent) {
			silent = err.Error()
		}
		d.set(ctx, false, err.Error())
		if frames {
			wait = firstWait
		}
		select {
		case <-time.After(time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))):
		case <-ctx.Done():
		}
		wait = min(2*wait, lastWait)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	d.set(last, false, stopped)
}

// The reasons of a device that is down because Run has not begun, or has ended.
const (
	notStarted = "not started"
	stopped    = "stopped"
)

// lastWord is how long saying that a device is stopped may hold up the stop.
const lastWord = time.Second

var errSilent = errors.New("silent")

// once runs the driver until it ends, and tells whether a frame came and why it ended. Silent, if
// not empty, says that of the device readings are expected (expire_after), and why it is down until
// one comes: that its port opens says nothing then.
func (d *device) once(ctx context.Context, silent string) (frames bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var alive *time.Timer
	if expire := d.common.ExpireAfter; expire > 0 {
		alive = time.AfterFunc(expire, func() {
			cancel(fmt.Errorf("%w for %v", errSilent, expire))
		})
		defer alive.Stop()
	}
	refused := false
	d.state.started()
	defer d.here.set(false)
	err = d.call(ctx, func(f codec.Frame) {
		d.watchers.frame(f)
		good := len(f.Readings) > 0
		if !d.isPast(f) {
			d.here.set(true)
			if good {
				frames = true
				if alive != nil {
					alive.Reset(d.common.ExpireAfter)
				}
				silent = ""
			}
			d.set(ctx, silent == "", silent)
		}
		if f.Garbage != "" {
			d.garbage(f.Garbage, f.Raw)
			return
		}
		if !good {
			return
		}
		d.state.frame()
		d.observe.Frame(d.id)
		err := d.take(ctx, f)
		if err != nil && !refused && ctx.Err() == nil {
			d.log.Warn("readings are refused", "error", err)
		}
		refused = err != nil
	})
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	} else if err == nil {
		err = errors.New("the driver ended without a reason")
	}
	return frames, err
}

// isPast tells whether f says nothing of how the device is now: it was read late, from what was published before
// the gateway was started.
func (d *device) isPast(f codec.Frame) bool {
	return f.From != nil && f.From.Offset < d.follow.start || f.Garbage == codec.Missed
}

// call runs the driver; its panic is its own end only.
func (d *device) call(ctx context.Context, emit func(codec.Frame)) (err error) {
	defer func() {
		if r := recover(); r != nil {
			d.log.Error("driver panicked", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("the driver panicked: %v", r)
		}
	}()
	return d.driver.Run(ctx, emit)
}

// take makes events of a frame's readings.
func (d *device) take(ctx context.Context, f codec.Frame) error {
	var failed error
	before := 0 // readings of the message that were taken before
	if f.From != nil {
		before = d.follow.has(f.From.Offset)
	}
	for _, r := range f.Readings {
		topic, reason := d.measurement(r)
		if reason != "" {
			d.garbage(reason, []byte(r.Name))
			continue
		}
		if before > 0 {
			before--
			continue
		}
		e := &gateway.Event{
			Topic:   topic,
			Payload: []byte(r.Value),
			Origin:  d.origin(),
			Source:  r.Source,
			Quality: r.Quality,
			Retain:  d.common.Retain && d.keep(topic),
		}
		if r.Unit != "" {
			e.UserProperties = []gateway.UserProperty{{Key: "unit", Value: r.Unit}}
		}
		err := error(nil)
		if f.From != nil {
			err = d.follow.take(ctx, e, f.From)
		} else {
			err = d.ingest(ctx, e, nil)
		}
		if err != nil {
			d.state.refused()
			failed = err
		}
	}
	return failed
}

// keep has State know that something is retained on topic before it is, and tells whether it does. Else it might stay for ever.
func (d *device) keep(topic string) bool {
	if d.kept[topic] {
		return true
	}
	if err := d.remember(map[string]string{topic: d.id}); err != nil {
		d.log.Warn("a reading is not retained, because it cannot be remembered that it is", "topic", topic, "error", err)
		return false
	}
	if d.kept == nil {
		d.kept = map[string]bool{}
	}
	d.kept[topic] = true
	return true
}

func (d *device) origin() gateway.Origin { return gateway.Origin{Via: via(d.kind), ID: d.id} }

func (d *device) garbage(reason string, raw []byte) {
	d.state.garbage(reason, raw)
	d.observe.Garbage(d.id, reason)
}

// set says how the device is, also on its status topic.
func (d *device) set(ctx context.Context, up bool, reason string) {
	word := offline
	if up {
		word = online
	}
	changed := d.state.set(up, reason)
	d.notices.say(ctx, d.state.status.Topic, d.origin(), word)
	if !changed {
		return
	}
	d.observe.DeviceState(d.id, up, reason)
	d.watchers.state(up, reason)
	switch {
	case up:
		d.log.Info("device is up")
	case reason == stopped:
		d.log.Debug("device is stopped")
	default:
		d.log.Warn("device is down", "reason", reason)
	}
}
