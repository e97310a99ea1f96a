package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// Load publishes numbered messages from many clients and keeps the ledger of them. The
// clients differ in QoS (1 and 2) and version (3.1.1 and 5), and keep their session. A
// client has three topics, load/<client>/0 to 2; each numbers its messages from 1. A message
// ends with a checksum, so that ParseReceived finds a wrong byte.
type Load struct {
	Address string // host:port of the gateway
	Clients int
	Rate    float64 // messages a second of each client
	Seed    uint64
	Ledger  *Ledger
	Pad     int // bytes added to each message
}

type tag struct{ seq uint64 }

// Run publishes until ctx ends, and then waits up to drain until the gateway has answered
// for everything. The error says what it has not answered for.
func (l *Load) Run(ctx context.Context, drain time.Duration) error {
	connected, disconnect := context.WithCancel(context.WithoutCancel(ctx))
	defer disconnect()
	var running, clients sync.WaitGroup
	errs := make(chan error, l.Clients)
	for i := range l.Clients {
		c := mqttclient.New(mqttclient.Options{
			Address:  l.Address,
			ClientID: fmt.Sprintf("load-%d", i),
			Version:  []mqttclient.Version{mqttclient.V311, mqttclient.V5}[i/2%2],
			Sent: func(m *mqttclient.Message, dup bool) {
				l.Ledger.Sent("mqtt", m.Topic, m.Tag.(tag).seq, m.QoS, dup)
			},
			Acked: func(m *mqttclient.Message, reason byte) {
				l.Ledger.Answered(m.Topic, m.Tag.(tag).seq, reason)
			},
			KeepAlive:  5 * time.Second,
			BackoffMax: 500 * time.Millisecond,
		})
		clients.Go(func() { c.Run(connected) })
		running.Go(func() {
			l.publish(ctx, c, i)
			wait, cancel := context.WithTimeout(connected, drain)
			defer cancel()
			if err := c.Drain(wait); err != nil {
				errs <- fmt.Errorf("client %d: %w", i, err)
			}
		})
	}
	running.Wait()
	disconnect()
	clients.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func (l *Load) padding() string {
	if l.Pad == 0 {
		return ""
	}
	return `,"pad":"` + strings.Repeat("x", l.Pad) + `"`
}

func (l *Load) publish(ctx context.Context, c *mqttclient.Client, i int) {
	rng := rand.New(rand.NewPCG(l.Seed, uint64(i)))
	qos := byte(1 + i%2)
	var seq [3]uint64
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		next.Reset(time.Duration(rng.ExpFloat64() * float64(time.Second) / l.Rate))
		n := rng.IntN(len(seq))
		seq[n]++
		m := &mqttclient.Message{
			Topic:   fmt.Sprintf("load/%d/%d", i, n),
			Payload: fmt.Appendf(nil, `{"seq":%d,"value":%.3f%s`, seq[n], rng.NormFloat64(), l.padding()),
			QoS:     qos,
			Tag:     tag{seq[n]},
		}
		m.Payload = fmt.Appendf(m.Payload, `%s%08x"}`, sumMark, sum(m.Topic, m.Payload))
		if c.Publish(ctx, m) != nil { // ctx ended while the window was full: it was never sent
			return
		}
	}
}
