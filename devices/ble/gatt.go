package ble

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// GATTConfig is what is read from a device that is connected to, and written to it.
type GATTConfig struct {
	Read     []Attribute
	Notify   []Attribute   // with these the connection stays
	Write    []Attribute   // nothing else is written
	Interval time.Duration // between reads; default 5 m
	Timeout  time.Duration // of each call; default 10 s
}

// Attribute is one value of a device: the name of one that is known (see profiles.go), a UUID, or a UUID with the fields of its value. In
// the file it is text, or a map.
type Attribute struct {
	UUID   string
	Name   string      // of a value without fields; default the UUID
	Fields []adv.Field // at, type, scale and so on, as in a table: docs/ble-formats.md
}

// UnmarshalYAML takes text, too.
func (a *Attribute) UnmarshalYAML(unmarshal func(any) error) error {
	if unmarshal(&a.UUID) == nil {
		return nil
	}
	type plain Attribute
	return unmarshal((*plain)(a))
}

const (
	defaultInterval = 5 * time.Minute
	leastInterval   = time.Second
	defaultTimeout  = 10 * time.Second
	leastTimeout    = 100 * time.Millisecond
	mostTimeout     = 30 * time.Second
	maxAttributes   = 64

	// A visit that failed is made again after this time, doubled each time. After maxFailed of them the device is down; after one if it
	// was not up.
	firstVisit = 5 * time.Second
	lastVisit  = 5 * time.Minute
	maxFailed  = 3
)

// gatt visits a device. All but near and write is of the goroutine of visits.
type gatt struct {
	reads, notifies, writes []attribute
	interval, timeout       time.Duration

	kind   chan byte // of the address as it was heard last; holds one
	orders chan order

	failed int
	next   time.Time
}

// attribute is an Attribute that was checked.
type attribute struct {
	uuid   adv.UUID
	name   string
	words  []string   // all that can be written, if it is not bytes or text
	number *adv.Field // if that is a number
	decode func(value []byte) ([]codec.Reading, error)
	encode func(text string) ([]byte, error)
}

// order is a write that waits.
type order struct {
	ctx   context.Context
	at    attribute
	value []byte
	reply chan answer // holds one
}

type answer struct {
	text string
	err  error
}

func newGATT(cfg GATTConfig) (*gatt, error) {
	g := &gatt{interval: cfg.Interval, timeout: cfg.Timeout, kind: make(chan byte, 1), orders: make(chan order)}
	if g.interval == 0 {
		g.interval = defaultInterval
	}
	if g.timeout == 0 {
		g.timeout = defaultTimeout
	}
	switch {
	case g.interval < leastInterval:
		return nil, gateway.BadKey("gatt.interval", "%v is less than %v", cfg.Interval, leastInterval)
	case g.timeout < leastTimeout || g.timeout > mostTimeout:
		return nil, gateway.BadKey("gatt.timeout", "%v is not between %v and %v", cfg.Timeout, leastTimeout, mostTimeout)
	case len(cfg.Read)+len(cfg.Notify)+len(cfg.Write) == 0:
		return nil, gateway.BadKey("gatt", "says neither what to read nor what to write")
	}
	for _, list := range []struct {
		key  string
		from []Attribute
		into *[]attribute
	}{{"read", cfg.Read, &g.reads}, {"notify", cfg.Notify, &g.notifies}, {"write", cfg.Write, &g.writes}} {
		if len(list.from) > maxAttributes {
			return nil, gateway.BadKey("gatt."+list.key, "has %d entries; the most are %d", len(list.from), maxAttributes)
		}
		for i, a := range list.from {
			at, err := a.compile(fmt.Sprintf("gatt.%s.%d", list.key, i))
			if err != nil {
				return nil, err
			}
			if list.key == "write" && slices.ContainsFunc(g.writes, func(o attribute) bool { return o.name == at.name }) {
				return nil, gateway.BadKey(fmt.Sprintf("gatt.write.%d", i), "%q stands twice", at.name)
			}
			*list.into = append(*list.into, at)
		}
	}
	return g, nil
}

// compile checks a.
func (a Attribute) compile(key string) (attribute, error) {
	if p, known := profiles[a.UUID]; known && len(a.Fields) == 0 && a.Name == "" {
		return p.attribute(a.UUID), nil
	}
	uuid, err := adv.ParseUUID(a.UUID)
	if err != nil {
		return attribute{}, gateway.BadKey(key, "%q is neither a UUID nor one of %s", a.UUID, strings.Join(profileNames, ", "))
	}
	if a.Name == "" && len(a.Fields) == 0 {
		for name, p := range profiles {
			if adv.UUID16(p.uuid) == uuid {
				return p.attribute(name), nil
			}
		}
	}
	at := attribute{uuid: uuid, name: a.Name, encode: encodeAny}
	if at.name == "" {
		at.name = uuid.String()
	}
	if err := codec.CheckName(at.name); err != nil {
		return at, gateway.BadKey(key+".name", "%v", err)
	}
	if err := adv.CheckFields(key+".fields", a.Fields); err != nil {
		return at, err
	}
	fields := a.Fields
	if len(fields) == 0 {
		fields = []adv.Field{{Name: at.name, Type: "hex"}}
	}
	at.decode = decodeFields(fields)
	if len(a.Fields) == 1 {
		if _, _, _, ok := a.Fields[0].Number(); ok {
			at.number, at.encode = &a.Fields[0], a.Fields[0].Encode
		}
	}
	return at, nil
}

// visiting tells whether the device is connected to by itself.
func (g *gatt) visiting() bool { return len(g.reads)+len(g.notifies) > 0 }

// near notes that the device was heard, so that it can be connected to.
func (g *gatt) near(r adv.Report) {
	select {
	case <-g.kind:
	default:
	}
	g.kind <- r.AddrKind // has room: one goroutine puts in
}

// visits connects to the device every interval, or stays connected, until ctx ends. It returns why the device cannot be
// had, when it has tried often enough.
func (g *gatt) visits(ctx context.Context, radio Radio, addr adv.Addr, frames chan<- codec.Frame) error {
	tell := func(f codec.Frame) {
		select {
		case frames <- f:
		case <-ctx.Done():
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due := timer.C
		if timer.Reset(max(0, time.Until(g.next))); !g.visiting() {
			due = nil // it is connected to when there is something to write
		}
		var first *order
		select {
		case <-due:
		case o := <-g.orders:
			first = &o
		case <-ctx.Done():
			return nil
		}
		kind, err := g.wait(ctx, first)
		if err == nil {
			err = g.visit(ctx, radio, addr, kind, first, tell)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			g.failed = 0
			g.next = time.Now().Add(g.interval)
			continue
		case first != nil && first.ctx.Err() != nil:
			continue // it had less time than a visit has
		}
		g.next = time.Now().Add(min(firstVisit<<min(g.failed, 10), lastVisit))
		g.failed++
		tell(codec.Frame{Garbage: Unreachable, Raw: []byte(err.Error())})
		if g.failed%maxFailed == 0 {
			return err
		}
	}
}

// wait waits until the device is heard.
func (g *gatt) wait(ctx context.Context, o *order) (kind byte, err error) {
	var late <-chan struct{}
	if o != nil {
		late = o.ctx.Done()
	}
	select {
	case kind := <-g.kind:
		return kind, nil
	case <-late:
		o.reply <- answer{err: gateway.Errorf(gateway.ErrTransient, "the device is not heard")}
		return 0, o.ctx.Err()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// visit is one connection.
func (g *gatt) visit(ctx context.Context, radio Radio, addr adv.Addr, kind byte, first *order, tell func(codec.Frame)) (err error) {
	if first != nil {
		defer func() {
			select {
			case first.reply <- answer{err: gateway.Errorf(gateway.ErrTransient, "%w", orGone(err))}:
			default: // it was answered
			}
		}()
	}
	within := func(do func(context.Context) error) error {
		call, cancel := context.WithTimeout(ctx, g.timeout)
		defer cancel()
		if err := do(call); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("the device does not answer within %v", g.timeout)
			}
			return err
		}
		return nil
	}
	var p Peer
	var list []Characteristic
	if err := within(func(ctx context.Context) (err error) {
		p, err = radio.Connect(ctx, addr, kind)
		return err
	}); err != nil {
		return err
	}
	defer p.Close()
	if err := within(func(ctx context.Context) (err error) {
		list, err = p.Discover(ctx)
		return err
	}); err != nil {
		return err
	}
	if first != nil {
		g.carryOut(*first, p, list)
	}
	read := func() error {
		f, err := g.readAll(p, list, within)
		if err == nil {
			tell(f)
		}
		return err
	}
	if err := read(); err != nil || len(g.notifies) == 0 {
		return err
	}
	told := map[uint16]attribute{}
	for _, at := range g.notifies {
		c, ok := find(list, at.uuid, canTell)
		if !ok {
			return fmt.Errorf("it has nothing that tells %s", at.name)
		}
		if err := within(func(ctx context.Context) error { return p.Subscribe(ctx, c) }); err != nil {
			return fmt.Errorf("%s: %w", at.name, err)
		}
		told[c.Handle] = at
	}
	g.failed = 0
	tick := time.NewTicker(g.interval)
	defer tick.Stop()
	for {
		select {
		case t := <-p.Told():
			if at, ok := told[t.Handle]; ok {
				tell(frameOf(at, t.Value))
			}
		case <-tick.C:
			if err := read(); err != nil {
				return err
			}
		case o := <-g.orders:
			g.carryOut(o, p, list)
		case <-p.Gone():
			return p.Err()
		case <-ctx.Done():
			return nil
		}
	}
}

func orGone(err error) error {
	if err == nil {
		return errors.New("the connection has ended")
	}
	return err
}

// readAll reads all in one frame.
func (g *gatt) readAll(p Peer, list []Characteristic, within func(func(context.Context) error) error) (codec.Frame, error) {
	var f codec.Frame
	for _, at := range g.reads {
		found := false
		for _, c := range list {
			if c.UUID != at.uuid || c.Properties&canRead == 0 {
				continue
			}
			var value []byte
			if err := within(func(ctx context.Context) (err error) {
				value, err = p.Read(ctx, c)
				return err
			}); err != nil {
				return f, fmt.Errorf("%s: %w", at.name, err)
			}
			part := frameOf(at, value)
			if part.Garbage != "" {
				return f, fmt.Errorf("%s: %x makes no sense", at.name, value)
			}
			for _, v := range part.Readings {
				f.Readings = append(f.Readings, numberedName(f.Readings, v))
			}
			found = true
		}
		if !found {
			return f, fmt.Errorf("it has no %s that can be read", at.name)
		}
	}
	return f, nil
}

// numberedName gives the second of a name its number, as temperature_2.
func numberedName(have []codec.Reading, v codec.Reading) codec.Reading {
	base := v.Name
	for n := 2; slices.ContainsFunc(have, func(o codec.Reading) bool { return o.Name == v.Name }); n++ {
		v.Name = fmt.Sprintf("%s_%d", base, n)
	}
	return v
}

func frameOf(at attribute, value []byte) codec.Frame {
	readings, err := at.decode(value)
	if err != nil {
		return codec.Frame{Garbage: codec.Malformed, Raw: value[:min(len(value), rawKept)]}
	}
	return codec.Frame{Readings: readings}
}

// find returns the first of a UUID that can do one of what.
func find(list []Characteristic, uuid adv.UUID, what byte) (Characteristic, bool) {
	for _, c := range list {
		if c.UUID == uuid && c.Properties&what != 0 {
			return c, true
		}
	}
	return Characteristic{}, false
}

// settings are what may be written.
func (g *gatt) settings() (all []codec.Setting) {
	for _, at := range g.writes {
		s := codec.Setting{Name: at.name, Form: codec.Text}
		if at.words != nil {
			s.Form, s.Options = codec.Choice, at.words
		}
		if at.number != nil {
			low, high, step, _ := at.number.Number()
			s.Form, s.Min, s.Max, s.Step = codec.Numeric, &low, &high, step
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b codec.Setting) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// write hands an order to the goroutine of visits, and waits.
func (g *gatt) write(ctx context.Context, name, value string) (string, error) {
	named := func(at attribute) bool { return at.name == name }
	i := slices.IndexFunc(g.writes, named)
	switch {
	case i < 0 && (slices.ContainsFunc(g.reads, named) || slices.ContainsFunc(g.notifies, named)):
		return "", gateway.Errorf(gateway.ErrDenied, "%q is not among gatt.write", name)
	case i < 0:
		return "", gateway.Errorf(gateway.ErrInvalid, "there is no %q among gatt.write", name)
	}
	b, err := g.writes[i].encode(value)
	if err != nil {
		return "", gateway.Errorf(gateway.ErrInvalid, "%w", err)
	}
	if ctx.Err() != nil {
		return "", gateway.Errorf(gateway.ErrTransient, "too late: %w", ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, 2*g.timeout)
	defer cancel()
	o := order{ctx, g.writes[i], b, make(chan answer, 1)}
	select {
	case g.orders <- o:
	case <-ctx.Done():
		return "", gateway.Errorf(gateway.ErrTransient, "the device is busy or not heard: %w", ctx.Err())
	}
	select {
	case a := <-o.reply:
		return a.text, a.err
	case <-ctx.Done():
		return "", gateway.Errorf(gateway.ErrTransient, "the device does not answer: %w", ctx.Err())
	}
}

// carryOut writes, and reads back where that can be.
func (g *gatt) carryOut(o order, p Peer, list []Characteristic) {
	c, ok := find(list, o.at.uuid, canWrite|canWriteCommand)
	if !ok {
		o.reply <- answer{err: gateway.Errorf(gateway.ErrInvalid, "the device has no %s that can be written", o.at.name)}
		return
	}
	ctx, cancel := context.WithTimeout(o.ctx, g.timeout)
	defer cancel()
	if err := p.Write(ctx, c, o.value); err != nil {
		o.reply <- answer{err: err}
		return
	}
	var a answer
	if c.Properties&canRead != 0 {
		var value []byte
		if value, a.err = p.Read(ctx, c); a.err == nil {
			var parts []string
			readings, err := o.at.decode(value)
			for _, v := range readings {
				parts = append(parts, v.Value)
			}
			a = answer{strings.Join(parts, " "), err}
		}
	}
	o.reply <- a
}
