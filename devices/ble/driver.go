package ble

import (
	"context"
	"errors"
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Why something that a device advertises is garbage, besides the reasons in codec.
const (
	NoKey       = "no key"        // it is encrypted, and the device has no key here
	WrongKey    = "wrong key"     // it does not open, or somebody made it up
	Plain       = "not encrypted" // though the device has a key
	Replay      = "replay"        // older than what was heard before
	Unreachable = "unreachable"   // it could not be connected to, or did not answer
)

// The measurements that are Weir's own.
const (
	measurePresence = "presence"
	measureSignal   = "rssi"
)

// rawKept is how much of garbage is shown.
const rawKept = 64

// Run hears the device until ctx ends or the adapter is lost. It keeps the promises of devices.Driver. The first frame comes when
// the device is heard; with presence, when the adapter is open, for then that it is not heard says something, too.
func (d *Driver) Run(ctx context.Context, emit func(codec.Frame)) error {
	l := &listener{claims: d.claims, queue: make(chan heard, queued)}
	air, err := d.air.join(ctx, l)
	if err != nil {
		return err
	}
	defer d.air.leave(air, l)
	ctx, cancel := context.WithCancelCause(ctx)
	var visiting sync.WaitGroup
	defer func() {
		cancel(nil)
		visiting.Wait()
	}()
	r := &hearing{Driver: d, emit: emit, last: map[string]said{}, gatt: d.gatt, frames: make(chan codec.Frame)}
	if d.gatt != nil {
		visiting.Go(func() {
			if err := d.gatt.visits(ctx, d.air.radio, d.addr, r.frames); err != nil {
				cancel(err)
			}
		})
	}
	return r.run(ctx, air, l.queue)
}

// claims tells whether an advertisement is of this device: it comes from its address, or the format says that it is the
// device's. What is not of the configured format is the device's all the same.
func (d *Driver) claims(r adv.Report, results []adv.Result) bool {
	if d.named && r.Addr == d.addr && r.AddrKind != adv.Anonymous {
		return true
	}
	for _, res := range results {
		if d.is(res) {
			return true
		}
	}
	return false
}

// is tells whether the format says that it is this device.
func (d *Driver) is(res adv.Result) bool { return strings.EqualFold(res.ID, d.id) }

// hearing is one run of a driver.
type hearing struct {
	*Driver
	emit   func(codec.Frame)
	up     bool
	there  bool            // as presence was told last
	last   map[string]said // by format
	gatt   *gatt           // the driver's; nil while a recording is played
	frames chan codec.Frame
}

// said is what a format said last.
type said struct {
	what uint64
	at   time.Time
}

func (r *hearing) run(ctx context.Context, air *airing, queue <-chan heard) error {
	var lost <-chan time.Time
	var timer *time.Timer
	if r.presence > 0 {
		r.connected()
		timer = time.NewTimer(r.presence)
		defer timer.Stop()
		lost = timer.C
	}
	for {
		select {
		case h := <-queue:
			r.Tell(false, wireOf(h.report))
			if timer != nil {
				timer.Reset(r.presence)
				if !r.there {
					r.there = true
					r.tell(h, codec.Reading{Name: measurePresence, Value: "true"})
				}
			}
			r.take(h)
		case f := <-r.frames:
			switch {
			case f.Garbage == "":
				r.connected()
			case !r.up: // nothing else speaks for it
				return errors.New(string(f.Raw))
			}
			r.emit(f)
		case <-lost:
			r.there = false
			r.emit(codec.Frame{Readings: []codec.Reading{{Name: measurePresence, Value: "false"}}})
		case <-air.done:
			return air.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// connected says so, once.
func (r *hearing) connected() {
	if !r.up {
		r.up = true
		r.emit(codec.Frame{})
	}
}

// take makes frames of an advertisement.
func (r *hearing) take(h heard) {
	if r.gatt != nil {
		r.gatt.near(h.report)
	}
	if r.gatt == nil || !r.gatt.visiting() {
		r.connected()
	}
	found := false
	for _, res := range h.results {
		if r.format != "" && !res.Is(r.format) || !r.is(res) && !(r.named && h.report.Addr == r.addr) {
			continue
		}
		found = true
		if r.keyed && !res.Encrypted && len(res.Readings) > 0 {
			// It gives itself out as the device, from another address.
			r.garbage(Plain, h)
			continue
		}
		if len(res.Readings) == 0 {
			continue
		}
		what := digest(res)
		if last, ok := r.last[res.Format]; ok && last.what == what && h.at.Sub(last.at) < r.dedup {
			continue
		}
		r.last[res.Format] = said{what, h.at}
		r.connected()
		r.tell(h, res.Readings...)
	}
	if reason := reasonOf(h.err); reason != "" && (found || len(h.results) == 0) {
		r.garbage(reason, h)
	}
}

func (r *hearing) tell(h heard, readings ...codec.Reading) {
	if r.signal && h.report.RSSI != adv.NoPower {
		readings = append(readings, codec.Reading{Name: measureSignal, Value: strconv.Itoa(int(h.report.RSSI)), Unit: "dBm"})
	}
	r.emit(codec.Frame{Readings: readings})
}

func (r *hearing) garbage(reason string, h heard) {
	r.emit(codec.Frame{Garbage: reason, Raw: h.report.Data[:min(len(h.report.Data), rawKept)]})
}

var seed = maphash.MakeSeed()

// digest is the same for an advertisement that is heard again: by its counter, or else by what it says.
func digest(res adv.Result) uint64 {
	if res.HasCounter {
		return uint64(res.Counter)
	}
	var h maphash.Hash
	h.SetSeed(seed)
	for _, v := range res.Readings {
		h.WriteString(v.Name + "=" + v.Value + "\n")
	}
	return h.Sum64() | 1<<63 // apart from counters
}

// reasonOf is why an advertisement gave nothing, as a reason of garbage; empty if that is not worth a word.
func reasonOf(err error) string {
	for _, r := range []struct {
		err    error
		reason string
	}{{adv.ErrReplay, Replay}, {adv.ErrPlain, Plain}, {adv.ErrNoKey, NoKey}, {adv.ErrKey, WrongKey}, {adv.ErrMalformed, codec.Malformed}} {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return ""
}

// Settings are what gatt.write lists.
func (d *Driver) Settings() []codec.Setting {
	if d.gatt == nil {
		return nil
	}
	return d.gatt.settings()
}

// Write writes a value of the device, as one of gatt.write. It keeps the promises of devices.Writer.
func (d *Driver) Write(ctx context.Context, name, value string) (string, error) {
	if d.gatt == nil {
		return "", gateway.Errorf(gateway.ErrDenied, "the config has no gatt.write")
	}
	return d.gatt.write(ctx, name, value)
}
