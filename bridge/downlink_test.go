package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// bench takes messages by hand.
type bench struct {
	t     *testing.T
	log   *bridgetest.Log
	state *bridgetest.State

	commands *bridge.Commands
	down     *bridge.Downlink
	take     func(*gateway.Event, string, func(error))
	stop     func()
	up       chan bool
}

func (b *bench) Receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	b.take = take
	up()
	close(b.up)
	<-ctx.Done()
	return context.Cause(ctx)
}

func newBench(t *testing.T, c config.Downlink) *bench {
	b := &bench{t: t, state: bridgetest.NewState()}
	b.log, _ = bridgetest.NewLog("e1")
	b.start(c)
	return b
}

// start is a new process.
func (b *bench) start(c config.Downlink) {
	b.t.Helper()
	b.up = make(chan bool)
	hub := b.log.Restart("", func(batch []*gateway.Event) { b.commands.Released(batch) })
	var err error
	if b.commands, err = bridge.OpenCommands(hub, b.state, false, slog.New(slog.DiscardHandler)); err != nil {
		b.t.Fatal(err)
	}
	if c.Topic == "" {
		c.Topic = "{topic}"
	}
	c.Uplink, c.Topics = "cloud", gateway.Filters{gateway.MustFilter("gw/#")}
	b.down = bridge.NewDownlink(bridge.DownlinkOptions{
		ID: "commands", Config: c, GatewayID: gw, Source: b, Commands: b.commands, Account: "operator",
		May: func(topic string) error { return nil },
		Ingest: func(_ context.Context, e *gateway.Event, done func(error)) error {
			b.log.Append(e)
			done(nil)
			return nil
		},
	})
	ctx, cancel := context.WithCancel(b.t.Context())
	over := make(chan bool)
	go func() { b.down.Run(ctx); close(over) }()
	b.stop = func() { cancel(); <-over }
	<-b.up
}

// save stores what is known, as at an orderly end.
func (b *bench) save() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.commands.Run(ctx); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) gets(e gateway.Event, id string) error {
	b.t.Helper()
	var got error = fmt.Errorf("no answer")
	b.take(&e, id, func(err error) { got = err })
	return got
}

func (b *bench) events() []*gateway.Event {
	batch, _ := b.log.Read(1, gateway.Filters{gateway.MustFilter("#")}, math.MaxInt)
	return batch.Events
}

func TestDownlinkShapes(t *testing.T) {
	b := newBench(t, config.Downlink{StripPrefix: "gw", Topic: "cmd/{topic}", TTL: time.Minute, Retain: true})
	defer func() { b.stop() }()
	if err := b.gets(gateway.Event{
		Topic: "gw/oven/set", Payload: []byte("1"), QoS: 1, Expiry: time.Hour, ContentType: "text/plain", ResponseTopic: "r",
		UserProperties: []gateway.UserProperty{{Key: "weir-id", Value: "other/e1-5"}, {Key: "by", Value: "me"}, {Key: "weir-topic", Value: "x"}},
	}, ""); err != nil {
		t.Fatal(err)
	}
	e := *b.events()[0]
	want := gateway.Event{
		Topic: "cmd/oven/set", Payload: []byte("1"), QoS: 1, Retain: true, Expiry: time.Minute, ContentType: "text/plain", ResponseTopic: "r",
		UserProperties: []gateway.UserProperty{{Key: "by", Value: "me"}, {Key: "weir-command-id", Value: "other/e1-5"}},
		Origin:         gateway.Origin{Via: "uplink", ID: "cloud", User: "operator"},
		Epoch:          e.Epoch, Offset: e.Offset, Age: e.Age,
	}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("%+v, not %+v", e, want)
	}
	if b.gets(gateway.Event{Topic: "gw/oven/set", Expiry: time.Second}, ""); b.events()[1].Expiry != time.Second {
		t.Error("the message's own expiry is smaller and does not count")
	}
	for _, topic := range []string{"gw", "gw/", "other/a", "gw/a+b"} {
		if err := b.gets(gateway.Event{Topic: topic}, ""); !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%q: %v", topic, err)
		}
	}
	// Our own, come back round some way: dropped, and the far end told that it is done.
	for _, own := range []gateway.Event{
		{Topic: "gw/a", UserProperties: []gateway.UserProperty{{Key: "weir-id", Value: gw + "/e1-1"}, {Key: "weir-command-id", Value: "x"}}},
		{Topic: "gw/a"},
	} {
		if err := b.gets(own, gw+"/e1-1"); err != nil {
			t.Error(err)
		}
	}
	if s := b.down.Status(); s.Stored != 2 || s.Invalid != 4 || s.Own != 2 || len(b.events()) != 2 {
		t.Errorf("%+v, %d events", s, len(b.events()))
	}
}

// An id is known over a restart, also when nothing was stored in State since, and a thousand behind it.
func TestCommandsAreKnown(t *testing.T) {
	b := newBench(t, config.Downlink{})
	say := func(id string) { b.gets(gateway.Event{Topic: "gw/a"}, id) }
	say("1")
	say("1")
	say("2")
	if s := b.down.Status(); s.Stored != 2 || s.Repeated != 1 {
		t.Errorf("%+v", s)
	}
	b.stop()
	b.start(config.Downlink{}) // killed: nothing was saved
	say("1")
	say("2")
	say("3")
	if s := b.down.Status(); s.Stored != 1 || s.Repeated != 2 {
		t.Errorf("after a kill: %+v", s)
	}
	b.save()
	b.stop()
	b.log.Trim(math.MaxUint64) // what is stored has to do
	b.start(config.Downlink{})
	say("3")
	if s := b.down.Status(); s.Repeated != 1 {
		t.Errorf("after an orderly end: %+v", s)
	}
	// The same id under another topic, and with none, is another message.
	b.gets(gateway.Event{Topic: "gw/b"}, "3")
	say("")
	say("")
	if s := b.down.Status(); s.Stored != 3 {
		t.Errorf("%+v", s)
	}
	for i := range 999 { // with gw/b's there are 1000 behind 3
		say(fmt.Sprint("n", i))
	}
	b.save()
	b.stop()
	b.start(config.Downlink{})
	say("n0")
	say("n998")
	if s := b.down.Status(); s.Repeated != 2 {
		t.Errorf("%+v", s)
	}
	say("3")
	if s := b.down.Status(); s.Stored != 1 {
		t.Errorf("an id is kept for ever: %+v", s)
	}
	b.stop()
}

// An id is not stored before its event is on stable storage: else a power cut takes the event and leaves
// the id, and the command would never be executed.
func TestCommandsWaitForSync(t *testing.T) {
	b := newBench(t, config.Downlink{})
	defer func() { b.stop() }()
	writes := b.state.Writes()
	b.log.Hold()
	b.gets(gateway.Event{Topic: "gw/a"}, "1")
	b.save()
	if n := b.state.Writes(); n != writes {
		t.Error("stored an id whose event is not synced")
	}
	b.log.Sync()
	b.save()
	if n := b.state.Writes(); n != writes+1 {
		t.Error("not stored when it was synced")
	}
}

// What came down an uplink does not go up it again, goes up others, and is accounted for.
func TestFiltered(t *testing.T) {
	bubble(t, "by its origin", func(t *testing.T, r *rig) {
		r.run()
		r.add(1, "up/a")
		for _, o := range []gateway.Origin{{Via: "uplink", ID: "far"}, {Via: "uplink", ID: "near"}, {Via: "mqtt", ID: "far"}} {
			r.log.Append(&gateway.Event{Topic: "up/a", Payload: []byte(o.Via + o.ID), Origin: o})
		}
		settle(5 * time.Second)
		r.want("1 uplinknear mqttfar")
		c, err := bridge.ParseCommit(func() []byte { v, _, _ := r.state.Get("cursors", "far/all"); return v }())
		if err != nil || c.Filtered != 1 || c.Delivered != 3 || c.At != "e1:4" {
			t.Errorf("%+v, %v", c, err)
		}
	})
}
