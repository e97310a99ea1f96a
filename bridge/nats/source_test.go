package nats_test

import (
	"context"
	"errors"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/gateway"
)

func newSource(t *testing.T, addr string) *nats.Source {
	t.Helper()
	c := nats.Config{URLs: []string{"nats://" + addr}, AckTimeout: 2 * time.Second, KeepAlive: 300 * time.Millisecond}
	s, err := nats.NewSource(c, bridgetest.GatewayID, "far", "commands", gateway.Filters{gateway.MustFilter("down/#")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// begun has the server start what it keeps for a consumer.
func begun(t *testing.T, s *nats.Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Receive(ctx, cancel, func(*gateway.Event, string, func(error)) {})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// With ids of the sender's, and without any: then the place in the stream is one.
func TestSource(t *testing.T) {
	for name, ids := range map[string]bool{"ids": true, "none": false} {
		t.Run(name, func(t *testing.T) {
			bridgetest.RunSource(t, func(t *testing.T) *bridgetest.FarSource {
				s := start(t)
				nc := connect(t, s.ClientURL())
				newStream(t, nc, func(c *jetstream.StreamConfig) { c.Name, c.Subjects = "DOWN", []string{"down.>"} })
				begun(t, newSource(t, address(s)))
				p := bridgetest.NewProxy(t, address(s))
				return &bridgetest.FarSource{
					Source: newSource(t, p.Addr()), Window: 1, Patience: 30 * time.Second,
					Send: func(all ...bridgetest.Message) error {
						for _, m := range all {
							msg := client.NewMsg("down." + m.Topic[len("down/"):])
							msg.Data = []byte(m.Payload)
							if ids {
								msg.Header.Set(client.MsgIdHdr, m.ID)
							}
							if _, err := js(t, nc).PublishMsg(t.Context(), msg); err != nil {
								return err
							}
						}
						return nil
					},
					Cut: p.Cut, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
				}
			})
		})
	}
}
