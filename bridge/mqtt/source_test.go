package mqtt_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway"
)

func newSource(t *testing.T, addr, version string, change ...func(*mqtt.Config)) *mqtt.Source {
	t.Helper()
	c := mqtt.Config{URL: "mqtt://" + addr, Version: version, Window: 20, KeepAlive: time.Second, AckTimeout: 10 * time.Second}
	for _, f := range change {
		f(&c)
	}
	s, err := mqtt.NewSource(c, bridgetest.GatewayID, "far", "commands", gateway.Filters{gateway.MustFilter("down/#")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSourceMosquitto(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			bridgetest.RunSource(t, func(t *testing.T) *bridgetest.FarSource {
				m := bridgetest.StartMosquitto(t)
				p := bridgetest.NewProxy(t, m.Addr)
				return &bridgetest.FarSource{
					Source: newSource(t, p.Addr(), version, lively), NoIDs: version == "3.1.1",
					Send: func(all ...bridgetest.Message) error { return bridgetest.Tell(m.Addr, all...) },
					Cut:  p.Cut, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
				}
			})
		})
	}
}

// A message that is larger than a gateway takes does not stand before the others for ever: version 5 is
// told so and does not send it, from 3.1.1 it comes cut one byte behind the limit, to be refused.
func TestSourceLargeMessage(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		m := bridgetest.StartMosquitto(t)
		ctx, cancel := context.WithCancel(t.Context())
		up, sizes := make(chan bool), make(chan int, 2)
		over := make(chan error, 1)
		go func() {
			over <- newSource(t, m.Addr, version).Receive(ctx, func() { close(up) }, func(e *gateway.Event, _ string, done func(error)) {
				sizes <- len(e.Payload)
				done(nil)
			})
		}()
		<-up
		err := bridgetest.Tell(m.Addr,
			bridgetest.Message{Topic: "down/a", Payload: strings.Repeat("x", 3<<20)}, bridgetest.Message{Topic: "down/a", Payload: "small"})
		if err != nil {
			t.Fatal(err)
		}
		if version == "3.1.1" {
			if n := <-sizes; n != gateway.MaxPayload+1 {
				t.Errorf("the large one came with %d bytes", n)
			}
		}
		if n := <-sizes; n != len("small") {
			t.Errorf("%s: %d bytes", version, n)
		}
		cancel()
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
