package amqp

import (
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/gateway"
)

// fault is what a closed channel says about the one message that was in flight: invalid, denied,
// or nil if it says nothing about it, but about the exchange, the account or the far end. Those
// are never held against an event.
func fault(e *amqp.Error) error {
	if e == nil || !e.Server {
		return nil
	}
	switch e.Code {
	case amqp.ContentTooLarge, amqp.PreconditionFailed: // larger than max_message_size
		return gateway.ErrInvalid
	case amqp.AccessRefused:
		// The code is the same for the exchange, which is wrong for all events, and for one
		// routing key (RabbitMQ's topic permissions). Only the text tells them apart.
		if strings.Contains(e.Reason, " to topic '") {
			return gateway.ErrDenied
		}
	}
	return nil
}
