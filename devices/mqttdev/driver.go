// Package mqttdev drives devices that are clients of the gateway's own broker. It opens no connection: what a
// device publishes is in the journal already, and the driver is one more reader of it.
//
//	the device ──► broker ──► journal ──► Driver.Run ──► profile.decode ──► readings
//	    ▲                        ▲
//	    └──────── broker ◄───────┴── Driver.Write: a publish to the device's command topic
//
// A profile knows the topics, payloads, units and commands of one kind of firmware; without one, the
// configuration says what they are.
package mqttdev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Via is the Origin.Via of what the gateway publishes in the name of such a device: its readings, and
// commands to it. Clients have another one, or a device would read itself.
const Via = "mqttdev"

// Broker is what the driver needs of the gateway that it runs in.
type Broker struct {
	// Reader returns a cursor over what is published: gateway.Hub.Reader.
	Reader func(from uint64, want gateway.Matcher, see gateway.Durability) *gateway.Reader
	// Next is the offset after the last released event: gateway.Hub.Next.
	Next func() (released, synced uint64)
	// Retained returns the retained messages that match, in any order.
	Retained func(want gateway.Filters) []*gateway.Event
	// Publish stores an event and returns when it is: gateway.Gateway.IngestWait.
	Publish func(ctx context.Context, e *gateway.Event) error
	// Commands matches where commands come to the gateway's devices, and their results: a device's own go elsewhere.
	Commands gateway.Filters
	// Own tells whether events of that Origin.Via are the gateway's own, of a driver say. They are
	// never a device's.
	Own func(via string) bool
}

// patience is how long Run waits for a sign of a device that is not there before it says so.
const patience = 500 * time.Millisecond

// lookAround is how often Run notes that others have published, so that a start need not look through that.
const lookAround = 30 * time.Second

// Driver reads one device.
type Driver struct {
	codec.Taps
	id           string
	broker       *Broker
	profile      profile
	availability []string
	measurements map[string]codec.Measurement
	filters      gateway.Filters // everything to be read
	commands     map[string]command
	start        uint64 // what lies below was published to the gateway before it was started: no sign of life

	decoding sync.Mutex // a profile learns from what it decodes

	mu    sync.Mutex
	next  uint64 // messages below this offset are done with
	begun bool   // Run has taken what was retained
	known gateway.Filters
	there map[string]bool // what the availability topics say, as far as they do
	heard bool            // there was a sign of life after that
}

// Reads are the filters of what the device publishes.
func (d *Driver) Reads() gateway.Filters { return d.filters }

// Follow says where Run is to begin: at an offset, below which the readings of what matches known were
// taken by a run before. Without it Run begins with what is published from now on, and what is retained.
// It is called before Run.
func (d *Driver) Follow(from uint64, known gateway.Filters) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next, d.known = from, known
}

// Done is the offset below which every message was handed to emit; 0 before Run.
func (d *Driver) Done() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.begun {
		return 0
	}
	return d.next
}

// Run emits what the device publishes until ctx ends, or the device says that it is offline (its Last Will
// does). It keeps the promises of devices.Driver. What is published while no Run runs, the next one reads.
func (d *Driver) Run(ctx context.Context, emit func(codec.Frame)) error {
	next, ended := d.begin(ctx, emit)
	if ended {
		return ctx.Err()
	}
	if d.isThere() {
		emit(codec.Frame{})
	}
	for r := d.broker.Reader(next, d.filters, gateway.Written); ; {
		b, err := d.read(ctx, r)
		if err != nil {
			return err
		}
		if b.Gap != nil {
			emit(codec.Frame{Garbage: codec.Missed, Raw: []byte(b.Gap.String())})
		}
		for _, e := range b.Events {
			d.take(e, emit)
			if ctx.Err() != nil { // what emit made of it is not known; it is read again
				return ctx.Err()
			}
			d.passed(e.Offset + 1)
		}
		d.passed(r.Offset())
		if !d.isThere() && len(b.Events) == 0 || d.isOffline() {
			return d.absent()
		}
	}
}

// begin brings up what is retained, the first time, and returns the offset at which reading goes on.
func (d *Driver) begin(ctx context.Context, emit func(codec.Frame)) (next uint64, ended bool) {
	d.mu.Lock()
	if d.next == 0 {
		d.next, _ = d.broker.Next()
	}
	next, begun, known := d.next, d.begun, d.known
	d.mu.Unlock()
	if begun {
		return next, false
	}
	retained := d.broker.Retained(d.filters)
	slices.SortFunc(retained, func(a, b *gateway.Event) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, e := range retained {
		switch {
		case e.Offset >= next || d.broker.Own(e.Origin.Via): // comes from the journal; or is none
		case slices.Contains(d.availability, e.Topic):
			d.hear(e)
		default:
			readings, garbage := d.decode(e) // also where it is known: a profile may learn units from it
			if known.Match(e.Topic) || garbage != "" || len(readings) == 0 {
				continue
			}
			f := codec.Frame{Readings: readings}
			if len(known) == 0 { // else later messages were read already
				f.From = e
			}
			emit(f)
		}
		if ctx.Err() != nil {
			return next, true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begun = true
	return next, false
}

// read waits for messages; of a device that is not there only a moment.
func (d *Driver) read(ctx context.Context, r *gateway.Reader) (gateway.Batch, error) {
	wait := patience
	if d.isThere() {
		wait = lookAround
	}
	b, err := r.NextWithin(ctx, wait)
	if err == nil {
		err = ctx.Err()
	}
	return b, err
}

// take emits what one message says.
func (d *Driver) take(e *gateway.Event, emit func(codec.Frame)) {
	if d.broker.Own(e.Origin.Via) {
		return
	}
	d.Tell(false, wireOf(e))
	if slices.Contains(d.availability, e.Topic) {
		if d.hear(e); d.isThere() {
			emit(codec.Frame{})
		}
		return
	}
	f, ok := d.frame(e)
	if !ok {
		return
	}
	if f.Garbage == "" {
		d.mu.Lock()
		d.heard = d.heard || e.Offset >= d.start
		d.mu.Unlock()
	}
	f.From = e
	emit(f)
}

// frame is what a message says, if it says anything.
func (d *Driver) frame(e *gateway.Event) (f codec.Frame, ok bool) {
	if len(e.Payload) == 0 { // takes back what was retained
		return f, false
	}
	readings, garbage := d.decode(e)
	if garbage != "" {
		return codec.Frame{Garbage: garbage, Raw: e.Payload[:min(len(e.Payload), 64)]}, true
	}
	return codec.Frame{Readings: readings}, len(readings) > 0
}

// decode returns the readings of e, with units and times.
func (d *Driver) decode(e *gateway.Event) (readings []codec.Reading, garbage string) {
	d.decoding.Lock()
	defer d.decoding.Unlock()
	garbage = d.profile.decode(e.Topic, e.Payload, func(r codec.Reading) {
		r.Name = codec.CleanName(r.Name)
		readings = append(readings, r)
	})
	if garbage == "" && len(readings) > codec.MaxReadings {
		garbage = codec.TooMany
	}
	for i := range readings {
		r := &readings[i]
		if m, said := d.measurements[r.Name]; said && m.Unit != "" {
			if !r.Measure(m.Unit, true) {
				garbage = codec.Malformed
			}
		}
		// A reading is made after the message came, and after a restart long after.
		if r.Source.IsZero() {
			if r.Source = e.Source; r.Source.IsZero() && e.ClockTrusted {
				r.Source = e.Accepted
			}
		}
	}
	if garbage != "" {
		return nil, garbage
	}
	return readings, ""
}

// hear takes in what an availability topic says. That the device was there before the gateway was killed says
// nothing: every client connects anew, and says it again, or will not.
func (d *Driver) hear(e *gateway.Event) {
	on, known := d.profile.available(e.Topic, e.Payload)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !known || on && e.Offset < d.start {
		delete(d.there, e.Topic)
		return
	}
	d.there[e.Topic] = on
	d.heard = false
}

func (d *Driver) passed(next uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next = max(d.next, next)
}

// isThere: the device said so, or something else after it said that it is not.
func (d *Driver) isThere() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.heard {
		return true
	}
	for _, on := range d.there {
		if !on {
			return false
		}
	}
	return len(d.there) > 0
}

// isOffline: the device said that it is not there, and nothing after that.
func (d *Driver) isOffline() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.heard && d.offlineTopic() != ""
}

func (d *Driver) offlineTopic() string {
	for _, topic := range d.availability {
		if on, known := d.there[topic]; known && !on {
			return topic
		}
	}
	return ""
}

func (d *Driver) absent() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if topic := d.offlineTopic(); topic != "" {
		return fmt.Errorf("it is offline, says %s", topic)
	}
	var all []string
	for _, f := range d.filters {
		all = append(all, f.String())
	}
	return errors.New("nothing heard from it: no client has published to " + strings.Join(all, " or ") + " since the gateway started")
}
