package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// DownlinkOptions are what a Downlink needs. Logger, Observer and the times are optional.
type DownlinkOptions struct {
	ID        string
	Config    config.Downlink
	Sink      string // the kind of its uplink
	GatewayID string
	Source    Source
	Commands  *Commands
	// Account is the name under which events are taken in, and May what that account may publish.
	Account string
	May     func(topic string) error
	Ingest  func(context.Context, *gateway.Event, func(error)) error // gateway.Gateway.Ingest
	Logger  *slog.Logger
	// Observer is told what is refused here; Ingest tells the rest.
	Observer gateway.Observer

	MinPause, MaxPause time.Duration // as in PumpOptions
}

// Downlink brings messages of an uplink's far end in, as events:
//
//	far end ─► Source.Receive ─► our own? ─► name ─► may it? ─► known? ─► Ingest
//	   ▲                           drop      refuse   refuse     done       │
//	   └──────────────────────── acknowledgement ◄──── stored ◄─────────────┘
//
// It takes in nothing that the account could not publish itself, and the far end has its
// acknowledgement only when the event is stored. What came down an uplink does not go up it again: the
// pump knows it by its origin, and counts it as filtered. What went up and comes back, round
// some other way, is known by its id.
type Downlink struct {
	o DownlinkOptions

	mu     sync.Mutex
	status DownlinkStatus
	told   time.Time // when a refusal was last logged
}

// DownlinkStatus is how a downlink does. Counts are of messages since the process started.
type DownlinkStatus struct {
	Downlink, Uplink string
	Sink             string // the kind of the uplink

	Up     bool
	Reason string    // why it is down, in plain words
	Since  time.Time // when Up last changed

	Stored   uint64
	Repeated uint64 // known already, by their id
	Denied   uint64 // the account may not publish there
	Invalid  uint64 // has no valid topic here, or is too large
	Own      uint64 // were sent by this gateway
	Failed   uint64 // could not be stored then; the far end sends them again
	Last     time.Time
}

// NewDownlink returns a Downlink that does nothing until Run.
func NewDownlink(o DownlinkOptions) *Downlink {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("downlink", o.ID)
	o.Observer = o.Observer.OrNop()
	if o.MinPause == 0 {
		o.MinPause = minPause
	}
	if o.MaxPause == 0 {
		o.MaxPause = maxPause
	}
	return &Downlink{o: o, status: DownlinkStatus{
		Downlink: o.ID, Uplink: o.Config.Uplink, Sink: o.Sink, Reason: "not started", Since: time.Now(),
	}}
}

// Status may be called at any time, from any goroutine.
func (d *Downlink) Status() DownlinkStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

// Run makes one connection after the other until ctx ends.
func (d *Downlink) Run(ctx context.Context) {
	pause := pauses(d.o.MinPause, d.o.MaxPause)
	for ctx.Err() == nil {
		began, before := time.Now(), d.Status().Stored
		take := func(e *gateway.Event, id string, done func(error)) { d.take(ctx, e, id, done) }
		err := d.o.Source.Receive(ctx, func() { d.setState(true, "") }, take)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			err = errors.New("the far end ended the connection")
		}
		if d.Status().Stored != before || time.Since(began) > d.o.MaxPause {
			pause.Reset()
		}
		d.setState(false, err.Error())
		wait(ctx, pause.NextBackOff())
	}
	d.setState(false, "stopped")
}

func (d *Downlink) setState(up bool, reason string) {
	d.mu.Lock()
	same := d.status.Up == up && d.status.Reason == reason
	if d.status.Up != up {
		d.status.Since = time.Now()
	}
	d.status.Up, d.status.Reason = up, reason
	d.mu.Unlock()
	switch {
	case same:
	case up:
		d.o.Logger.Info("downlink is up")
	default:
		d.o.Logger.Warn("downlink is down", "reason", reason)
	}
}

// take is what the source calls.
func (d *Downlink) take(ctx context.Context, e *gateway.Event, id string, done func(error)) {
	far := e.Topic
	id, own := d.identify(e, id)
	if own {
		d.count(func(s *DownlinkStatus) { s.Own++ })
		done(nil)
		return
	}
	if err := d.shape(e, id); err != nil {
		d.o.Observer.Refused(e, err)
		d.settled(far, err)
		done(err)
		return
	}
	landed := d.o.Commands.begin(e.Origin.ID, e.Topic, id, done)
	if landed == nil {
		d.count(func(s *DownlinkStatus) { s.Repeated++ })
		return
	}
	stored := func(err error) {
		d.settled(far, err)
		landed(err)
	}
	if err := d.o.Ingest(ctx, e, stored); err != nil {
		stored(err)
	}
}

// identify returns the id of the message: what the sender calls it, or what the protocol does, or
// what another gateway that sent it did. A message that bears an id of this gateway is its own.
func (d *Downlink) identify(e *gateway.Event, native string) (id string, own bool) {
	sent := property(e, "weir-id")
	ours := d.o.GatewayID + "/"
	if strings.HasPrefix(native, ours) || strings.HasPrefix(sent, ours) {
		return "", true
	}
	for _, id := range []string{property(e, commandID), native, sent} {
		if id != "" {
			return id, false
		}
	}
	return "", false
}

// shape makes an event of this gateway of what the far end sent, if the account may.
func (d *Downlink) shape(e *gateway.Event, id string) error {
	c := &d.o.Config
	topic, err := c.Local(e.Topic)
	if err != nil {
		return err
	}
	e.Topic, e.Retain = topic, c.Retain
	if c.TTL > 0 && (e.Expiry == 0 || c.TTL < e.Expiry) {
		e.Expiry = c.TTL
	}
	e.Origin = gateway.Origin{Via: viaUplink, ID: c.Uplink, User: d.o.Account}
	var kept []gateway.UserProperty
	for _, p := range e.UserProperties {
		if !strings.HasPrefix(p.Key, "weir-") {
			kept = append(kept, p)
		}
	}
	if id != "" {
		kept = append(kept, gateway.UserProperty{Key: commandID, Value: id})
	}
	e.UserProperties = kept
	return d.o.May(topic)
}

func (d *Downlink) count(add func(*DownlinkStatus)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	add(&d.status)
	d.status.Last = time.Now()
}

// tellEvery bounds how often a refusal is logged: the far end decides how many there are.
const tellEvery = time.Minute

// settled counts what has become of a message of the far end's topic.
func (d *Downlink) settled(far string, err error) {
	d.mu.Lock()
	s := &d.status
	s.Last = time.Now()
	switch {
	case err == nil:
		s.Stored++
	case errors.Is(err, gateway.ErrDenied):
		s.Denied++
	case errors.Is(err, gateway.ErrInvalid):
		s.Invalid++
	default:
		s.Failed++
	}
	tell := err != nil && time.Since(d.told) >= tellEvery
	if tell {
		d.told = time.Now()
	}
	denied, invalid, failed := s.Denied, s.Invalid, s.Failed
	d.mu.Unlock()
	if tell {
		d.o.Logger.Warn("a message of the far end is not taken in", "topic", far, "error", err,
			"denied", denied, "invalid", invalid, "failed", failed)
	}
}

// newDownlinks makes the downlinks of o.
func (b *Bridge) newDownlinks(o Options) (err error) {
	if len(o.Downlinks) == 0 {
		return forgetCommands(o.State)
	}
	if b.commands, err = OpenCommands(o.Hub, o.State, o.StateLost, o.Logger); err != nil {
		return err
	}
	var wrong []error
	for _, id := range slices.Sorted(maps.Keys(o.Downlinks)) {
		c := o.Downlinks[id]
		section, ok := o.Uplinks[c.Uplink]
		if !ok {
			return gateway.Errorf(gateway.ErrInvalid, "downlink %q comes from uplink %q, which does not exist", id, c.Uplink)
		}
		kind, source, err := newDownSource(section, o.GatewayID, id, c.Topics)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		account, err := o.Auth.Anonymous()
		if !o.Auth.Open() {
			account, err = o.Auth.Account(c.User)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("downlink %q: %w", id, err))
			continue
		}
		b.downlinks = append(b.downlinks, NewDownlink(DownlinkOptions{
			ID: id, Config: c, Sink: kind, GatewayID: o.GatewayID, Source: source, Commands: b.commands,
			Account: account.Name(), May: func(topic string) error { return account.CanPublish(topic, "") },
			Ingest: o.Ingest, Logger: o.Logger, Observer: o.Observer,
		}))
	}
	return errors.Join(wrong...)
}

// Receive brings down what the far ends have until ctx ends. It belongs to what takes events in.
func (b *Bridge) Receive(ctx context.Context) error {
	var all sync.WaitGroup
	for _, d := range b.downlinks {
		all.Go(func() { d.Run(ctx) })
	}
	var err error
	if b.commands != nil {
		err = b.commands.Run(ctx)
	}
	all.Wait()
	<-ctx.Done()
	return err
}

// Commands is what has to be told of everything that is released; nil if there are no downlinks.
func (b *Bridge) Commands() *Commands { return b.commands }

// Downlinks returns the state of every downlink, in order of id.
func (b *Bridge) Downlinks() []DownlinkStatus {
	all := make([]DownlinkStatus, len(b.downlinks))
	for i, d := range b.downlinks {
		all[i] = d.Status()
	}
	return all
}
