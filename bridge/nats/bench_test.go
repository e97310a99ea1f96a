package nats_test

import (
	"strconv"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/gateway"
)

// BenchmarkSend tells what order costs: one event per key is under way, unless the stream is ours.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct {
		name      string
		topics    int
		exclusive bool
	}{{"one topic", 1, false}, {"100 topics", 100, false}, {"one topic, exclusive", 1, true}} {
		b.Run(c.name, func(b *testing.B) {
			s := start(b)
			newStream(b, connect(b, s.ClientURL()))
			sink, err := nats.New(nats.Config{URLs: []string{s.ClientURL()}, Exclusive: c.exclusive}, bridgetest.GatewayID, "far", byTopic)
			if err != nil {
				b.Fatal(err)
			}
			events := make(chan *gateway.Event, b.N)
			for i := range b.N {
				events <- event("up/"+strconv.Itoa(i%c.topics), i+1)
			}
			close(events)
			b.ResetTimer()
			if err := sink.Send(b.Context(), events, func() {}, func(_ *gateway.Event, err error) {
				if err != nil {
					b.Error(err)
				}
			}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
