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
	"time"

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
	Site     string
	Ingest   Ingest
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
	devices []*device // sorted by id
}

type device struct {
	id      string
	kind    string
	driver  Driver
	topic   template
	expire  time.Duration
	state   state
	ingest  Ingest
	log     *slog.Logger
	observe gateway.Observer
}

// New makes the drivers of all sections. Its error is every mistake in them, each with
// its place in the file. Nothing is opened before Run.
func New(o Options) (*Supervisor, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Observer = o.Observer.OrNop()
	s := &Supervisor{}
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
	for _, id := range slices.Sorted(maps.Keys(o.Sections)) {
		d, err := newDevice(o, id, o.Sections[id], shared)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.devices = append(s.devices, d)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func newDevice(o Options, id string, section config.Section, shared buses) (*device, error) {
	kind, common, driver, names, err := load(section, shared)
	if err != nil {
		return nil, err
	}
	if common.Name == "" {
		common.Name = id
	}
	if common.Topic == "" {
		common.Topic = defaultTopic
	}
	if common.ExpireAfter < 0 {
		return nil, section.Errorf("expire_after", "expire_after is less than 0")
	}
	topic, err := newTemplate(common.Topic, o.Site, id, common.Name)
	if err != nil {
		return nil, section.Errorf("topic", "%v", err)
	}
	d := &device{
		id: id, kind: kind.name, driver: driver, topic: topic, expire: common.ExpireAfter,
		ingest: o.Ingest, observe: o.Observer, log: o.Logger.With("device", id),
	}
	d.state.status = Status{ID: id, Name: common.Name, Driver: kind.name}
	d.state.measurements = map[string]Measurement{}
	for _, name := range names {
		d.state.measurements[name] = Measurement{name, topic.topic(name), common.Measurements[name].Unit}
	}
	d.state.set(false, "not started")
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

// Run runs the drivers until ctx ends, and returns when all of them have.
func (s *Supervisor) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, d := range s.devices {
		running.Go(func() { d.run(ctx) })
	}
	<-ctx.Done() // also without a device
	running.Wait()
	return nil
}

func (d *device) run(ctx context.Context) {
	wait := firstWait
	silent := false
	for ctx.Err() == nil {
		frames, err := d.once(ctx, silent)
		if ctx.Err() != nil {
			break
		}
		silent = errors.Is(err, errSilent)
		d.set(false, err.Error())
		if frames {
			wait = firstWait
		}
		select {
		case <-time.After(time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))):
		case <-ctx.Done():
		}
		wait = min(2*wait, lastWait)
	}
	d.set(false, stopped)
}

// stopped is the reason of a device that is down because Run has ended.
const stopped = "stopped"

var errSilent = errors.New("silent")

// once runs the driver until it ends, and tells whether a frame came and why it ended. A
// device that went silent is up again only with a frame: that its port opens says nothing.
func (d *device) once(ctx context.Context, silent bool) (frames bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var alive *time.Timer
	if d.expire > 0 {
		alive = time.AfterFunc(d.expire, func() {
			cancel(fmt.Errorf("%w for %v", errSilent, d.expire))
		})
		defer alive.Stop()
	}
	refused := false
	d.state.started()
	err = d.call(ctx, func(f codec.Frame) {
		good := len(f.Readings) > 0
		if good {
			frames = true
			if alive != nil {
				alive.Reset(d.expire)
			}
		}
		if good || !silent {
			d.set(true, "")
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
	for _, r := range f.Readings {
		topic, ok := d.state.measurement(r, d.topic)
		if !ok {
			d.garbage(codec.TooMany, []byte(r.Name))
			continue
		}
		e := &gateway.Event{
			Topic:   topic,
			Payload: []byte(r.Value),
			Origin:  gateway.Origin{Via: d.kind, ID: d.id},
			Source:  r.Source,
			Quality: r.Quality,
		}
		if r.Unit != "" {
			e.UserProperties = []gateway.UserProperty{{Key: "unit", Value: r.Unit}}
		}
		if err := d.ingest(ctx, e, nil); err != nil {
			d.state.refused()
			failed = err
		}
	}
	return failed
}

func (d *device) garbage(reason string, raw []byte) {
	d.state.garbage(reason, raw)
	d.observe.Garbage(d.id, reason)
}

func (d *device) set(up bool, reason string) {
	if !d.state.set(up, reason) {
		return
	}
	d.observe.DeviceState(d.id, up, reason)
	switch {
	case up:
		d.log.Info("device is up")
	case reason == stopped:
		d.log.Debug("device is stopped")
	default:
		d.log.Warn("device is down", "reason", reason)
	}
}
