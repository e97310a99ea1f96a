// Package modbus reads and writes devices that speak Modbus: RTU on a serial line, TCP, and RTU
// through a transparent serial server.
//
//	Driver.Run ─► block ─► session.ask ─► Bus.turn ─► link.exchange ─► framing
//	 (a slave)   (request)  (one share    (one at a   (one request,   (rtu, mbap)
//	                         of the bus)    time)       its answer)
//
// A bus is named once and shared by its slaves. Each asks for one thing at a time and then
// goes to the end of the queue, so none waits for more than one request of each other; one that
// does not answer is left alone for a while, longer each time.
//
// An answer of Modbus RTU does not say what was asked. So as long as a slave may still owe an
// answer, its next one might be the late one. It is then first asked for something that nothing
// but its own answer looks like, an echo of a number (function 8), or, if it does not know that,
// left alone until nothing old can come any more. Over TCP the transaction id tells.
package modbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Why something that a slave sent is garbage, besides the reasons in codec.
const (
	Exceptional = "exception" // a register that the slave refuses to read
	Garbled     = "garbled"   // bytes that are no answer, or before one
)

// rawKept is how much of garbage is shown.
const rawKept = 64

// Run reads the slave until ctx ends, the bus goes, or the slave does not answer. It keeps the
// promises of devices.Driver; the first frame comes with the slave's first answer.
func (d *Driver) Run(ctx context.Context, emit func(codec.Frame)) error {
	if err := d.bus.down(d.unit); err != nil {
		return err
	}
	s, err := d.bus.use(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r := &reader{Driver: d, session: s, emit: emit, last: map[*register]report{}}
	return r.run(ctx)
}

// reader is one run of a driver.
type reader struct {
	*Driver
	session *session
	emit    func(codec.Frame)
	up      bool
	last    map[*register]report
}

// report is what was last reported of a register.
type report struct {
	value
	at time.Time
}

func (r *reader) run(ctx context.Context) error {
	blocks := plan(r.registers, r.limits)
	var own []*model
	if r.sunspec {
		var err error
		if own, err = r.discover(ctx); err != nil {
			return err
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.changed:
			for _, b := range blocks {
				b.next = time.Time{}
			}
		case <-r.session.link.lost:
			return r.session.gone()
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		var next time.Time
		var todo []*block
		for len(blocks) > 0 {
			b := blocks[0]
			blocks = blocks[1:]
			if now.Before(b.next) {
				todo = append(todo, b)
				continue
			}
			again, err := r.poll(ctx, b)
			if err != nil {
				return err
			}
			if len(again) > 1 { // it was split: read the parts now
				blocks = append(again, blocks...)
				continue
			}
			// Never two reads in a row to make up for one that was late.
			if b.next = b.next.Add(b.interval); b.next.Before(now) {
				b.next = now.Add(b.interval)
			}
			todo = append(todo, b)
		}
		blocks = todo
		for _, m := range own {
			if !now.Before(m.next) {
				if err := r.pollModel(ctx, m); err != nil {
					return err
				}
				m.next = now.Add(m.interval)
			}
			next = earliest(next, m.next)
		}
		for _, b := range blocks {
			next = earliest(next, b.next)
		}
		timer.Reset(time.Until(next))
	}
}

// earliest is the earlier of a, which may be zero for none yet, and b.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// poll reads b and emits what it reads. It returns what b is from now on: itself, or its parts
// if the slave refuses to read it as a whole.
func (r *reader) poll(ctx context.Context, b *block) ([]*block, error) {
	read, err := r.read(ctx, b.table, b.addr, b.n)
	var refused Exception
	if errors.As(err, &refused) && !refused.unreachable() {
		if halves := b.split(); halves != nil && refused != busy && refused != acknowledge {
			return halves, nil
		}
		r.garbage(Exceptional, fmt.Appendf(nil, "%s: %v", places(b.table, b.addr, b.n), refused))
		return []*block{b}, nil
	}
	if err != nil {
		return nil, err
	}
	var readings []codec.Reading
	for _, reg := range b.registers {
		readings = r.report(readings, reg, reg.decode(b.words(read, reg), 0), time.Now())
	}
	r.frame(readings)
	return []*block{b}, nil
}

// read reads n registers or bits, in as many requests as the limits ask for. It asks again while
// there is no answer, until the slave counts as down.
func (r *reader) read(ctx context.Context, t table, addr uint16, n int) ([]uint16, error) {
	var all []uint16
	for n > 0 {
		part := min(n, r.limits.registers)
		if t.bits() {
			part = min(n, r.limits.bits)
		}
		pdu, err := r.ask(ctx, readRequest(t, addr, part))
		if err != nil {
			return nil, err
		}
		if t.bits() {
			all = append(all, bitsOf(pdu, part)...)
		} else {
			all = append(all, words(pdu)...)
		}
		addr, n = addr+uint16(part), n-part
	}
	return all, nil
}

// ask sends req until it is answered or the slave counts as down.
func (r *reader) ask(ctx context.Context, req request) ([]byte, error) {
	for {
		pdu, garbage, err := r.session.ask(ctx, r.unit, req)
		var refused Exception
		if err == nil || errors.As(err, &refused) && !refused.unreachable() {
			if !r.up {
				r.up = true
				r.emit(codec.Frame{})
			}
		}
		if len(garbage) > 0 && ctx.Err() == nil {
			r.garbage(Garbled, garbage)
		}
		if !errors.Is(err, errSilence) || r.bus.down(r.unit) != nil {
			return pdu, err
		}
	}
}

func (r *reader) garbage(reason string, raw []byte) {
	r.emit(codec.Frame{Garbage: reason, Raw: raw[:min(len(raw), rawKept)]})
}

func (r *reader) frame(readings []codec.Reading) {
	if len(readings) > 0 {
		r.emit(codec.Frame{Readings: readings})
	}
}

// report appends v, as it is now, to readings unless it is not worth telling.
func (r *reader) report(readings []codec.Reading, reg *register, v value, now time.Time) []codec.Reading {
	if last, told := r.last[reg]; reg.deadband != nil && told && now.Before(last.at.Add(reg.maxInterval)) &&
		v.quality == last.quality && (v.text == last.text || math.Abs(v.number-last.number) < *reg.deadband) {
		return readings
	}
	r.last[reg] = report{v, now}
	return append(readings, codec.Reading{Name: reg.name, Value: v.text, Unit: reg.unit, Quality: v.quality})
}

// Settings are the registers that may be written.
func (d *Driver) Settings() (all []codec.Setting) {
	for _, r := range d.registers {
		if r.write {
			all = append(all, r.setting())
		}
	}
	slices.SortFunc(all, func(a, b codec.Setting) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Write sets the measurement name to value and returns what the slave says after that. It may be
// called at any time, also while Run runs. It keeps the promises of devices.Writer.
func (d *Driver) Write(ctx context.Context, name, value string) (string, error) {
	reg := d.register(name)
	switch {
	case reg == nil:
		return "", gateway.Errorf(gateway.ErrInvalid, "there is no register %q", name)
	case !reg.write:
		return "", gateway.Errorf(gateway.ErrDenied, "%s: writing is off; write: true in its section allows it", reg)
	}
	words, raw, err := reg.encode(value)
	if err != nil {
		return "", err
	}
	select {
	case d.writing <- struct{}{}:
		defer func() { <-d.writing }()
	case <-ctx.Done():
		return "", gateway.Errorf(gateway.ErrTransient, "not written: %w", ctx.Err())
	}
	if err := d.bus.down(d.unit); err != nil {
		return "", gateway.Errorf(gateway.ErrTransient, "%w", err)
	}
	s, err := d.bus.use(ctx)
	if err != nil {
		return "", gateway.Errorf(gateway.ErrTransient, "%w", err)
	}
	defer s.close()
	w := &reader{Driver: d, session: s, emit: func(codec.Frame) {}}
	now, err := w.write(ctx, reg, words, raw)
	select { // what it says now is news
	case d.changed <- struct{}{}:
	default:
	}
	if errors.Is(err, errSilence) {
		err = gateway.Errorf(gateway.ErrTransient, "%w", err)
	}
	return now, err
}

// write writes words, or raw into the bits of reg, and reads it back.
func (r *reader) write(ctx context.Context, reg *register, words []uint16, raw uint64) (string, error) {
	// Read first: it shows that the slave is there, and from it the link learns whether the line
	// echoes, which the answer to a write could not show.
	before, err := r.read(ctx, reg.table, reg.addr, reg.words)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", reg, err)
	}
	if err := r.send(ctx, reg, before, words, raw); err != nil {
		return "", fmt.Errorf("write %s: %w", reg, err)
	}
	after, err := r.read(ctx, reg.table, reg.addr, reg.words)
	if err != nil {
		return "", fmt.Errorf("%s is written; reading it back: %w", reg, err)
	}
	now := reg.decode(after, 0).text
	same := reg.raw(after) == raw
	if reg.kind == "string" {
		same = reg.decode(words, 0).text == now
	}
	if !same {
		return now, fmt.Errorf("%s: the device took the write and still says %s", reg, now)
	}
	return now, nil
}

// send writes once. An unanswered write is not repeated: it may have been carried out, and what is
// written may be a pulse. What the slave then holds is for the caller to see.
func (r *reader) send(ctx context.Context, reg *register, before, words []uint16, raw uint64) error {
	once := func(req request) error {
		_, _, err := r.session.ask(ctx, r.unit, req)
		return err
	}
	switch {
	case reg.table == coil:
		return once(writeCoilRequest(reg.addr, raw != 0))
	case reg.bits != nil:
		mask := uint64(math.MaxUint64) >> (64 - reg.width()) << reg.bits.low
		if reg.words == 1 {
			m, v := reg.arrange([]uint16{uint16(mask)}), reg.arrange([]uint16{uint16(raw << reg.bits.low)})
			err := once(maskRequest(reg.addr, ^m[0], v[0]))
			if !errors.Is(err, illegalFunction) {
				return err
			}
		}
		// The slave has no such function: the register as it was, with other bits. What the device
		// itself changes in between is lost.
		all := *reg
		all.bits = nil
		whole := all.raw(before)&^mask | raw<<reg.bits.low
		words = nil
		for i := range reg.words {
			words = append(words, uint16(whole>>(16*(reg.words-1-i))))
		}
		words = reg.arrange(words)
	}
	if len(words) == 1 {
		if err := once(writeRegisterRequest(reg.addr, words[0])); !errors.Is(err, illegalFunction) {
			return err
		}
	}
	return once(writeRegistersRequest(reg.addr, words))
}
