package kafka_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/kafka"
)

// impatient is for tests in which the far end does not answer.
func impatient(c *kafka.Config) {
	c.AckTimeout, c.ConnectTimeout = 700*time.Millisecond, 700*time.Millisecond
}

var topics atomic.Int32

// newTopic creates a topic of its own for a test.
func (c *cluster) newTopic(t testing.TB, partitions int32, configs ...string) string {
	t.Helper()
	return c.create(t, fmt.Sprintf("t%d", topics.Add(1)), partitions, configs...)
}

func (c *cluster) farEnd(t *testing.T) *bridgetest.FarEnd {
	topic := c.newTopic(t, 3)
	return &bridgetest.FarEnd{
		Patience: time.Minute, // a broker, a producer and a reader, on a busy machine
		Sink:     newSink(t, c.link.Addr(), topic, impatient),
		Arrivals: (&reader{c: c, t: t, topic: topic}).arrivals,
		// Within one connection the broker knows a repeat by its sequence number.
		Once: true,
		Cut:  c.link.Cut, LoseAcks: c.link.LoseAnswers, Stall: c.link.Stall, Refuse: c.link.Refuse, Heal: c.link.Heal,
	}
}

func TestFake(t *testing.T) {
	bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
		c, _ := startFake(t)
		return c.farEnd(t)
	})
}
