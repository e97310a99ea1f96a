package nats

import (
	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/gateway"
)

// Message is what a test wants to see of an event without a server.
func (s *Sink) Message(e *gateway.Event) (*nats.Msg, error) { return s.message(e) }
