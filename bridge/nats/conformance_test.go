package nats_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/nats"
)

// TestSink judges by what goes over the wire, repeats included; and then by what the stream has
// stored, without them.
func TestSink(t *testing.T) {
	for name, mode := range map[string]func(*nats.Config){"shared": func(*nats.Config) {}, "exclusive": exclusive} {
		t.Run(name, func(t *testing.T) {
			bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
				s := start(t)
				nc := connect(t, s.ClientURL())
				stream := newStream(t, nc)
				warm(t, stream, nc)
				t.Cleanup(func() { inOrder(t, stored(t, stream)) })
				p := bridgetest.NewProxy(t, address(s))
				far := &bridgetest.FarEnd{
					Sink: newSink(t, p.Addr(), impatient, mode), Arrivals: watch(t, nc, "up.>").arrivals, Late: true,
					Cut: p.Cut, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
				}
				if name == "exclusive" { // else ten events of five topics do not go without an answer
					far.LoseAcks = p.LoseAnswers
				}
				return far
			})
		})
	}
}

// warm stores and removes a message, so that what a server starts for a stream is there.
func warm(t *testing.T, s jetstream.Stream, nc interface {
	Publish(string, []byte) error
	Flush() error
}) {
	t.Helper()
	if err := nc.Publish("up.warm", nil); err != nil {
		t.Fatal(err)
	}
	bridgetest.Until(t, "the stream works", func() bool {
		info, err := s.Info(context.Background())
		return err == nil && info.State.Msgs == 1
	})
	if err := s.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
}
