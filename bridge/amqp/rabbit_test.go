package amqp_test

import (
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
)

// start returns the one RabbitMQ of these tests.
func start(t *testing.T) *bridgetest.RabbitMQ {
	t.Helper()
	return bridgetest.StartRabbitMQ(t, bridgetest.RabbitOptions{})
}
