package sim

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/weir-iot/weir/firmware-sim/sim/snclient"
)

// node is the radio of a device that sleeps: it speaks MQTT-SN.
type node struct {
	*snclient.Client
	there bool // connected, or asleep

	mu   sync.Mutex
	told []string // what came while it was awake, for which it has yet to show that it knows
}

// wire makes d a node.
func (d *device) wire() (err error) {
	d.node = &node{}
	d.node.Client, err = snclient.Dial(d.c.MQTTSN, snclient.Options{
		ID: d.name, Clean: true, KeepAlive: time.Minute, Retry: time.Second, Retries: 3,
		Message: func(m snclient.Message) {
			d.node.mu.Lock()
			defer d.node.mu.Unlock()
			d.node.told = append(d.node.told, string(m.Payload))
		},
	})
	return err
}

// wake sends values, takes what came meanwhile, and sleeps again. What it was told at …/set it says at …/shown.
func (d *device) wake(ctx context.Context, values []value) {
	n, base := d.node, d.c.Site+"/"+d.name
	err := n.Connect(ctx)
	if err == nil && !n.there {
		err = n.Subscribe(ctx, base+"/set", 1)
		n.there = err == nil
	}
	publish := func(topic, payload string) {
		if err != nil {
			d.lost.Add(1)
			return
		}
		d.seq[topic]++
		d.sent.Add(1)
		d.c.Sent("mqttsn", topic, d.seq[topic], 1, false)
		var refused *snclient.Refused
		switch err = n.Publish(ctx, topic, 1, false, []byte(payload)); {
		case err == nil:
			d.acked.Add(1)
			d.c.Answered(topic, d.seq[topic], 0)
		case errors.As(err, &refused):
			d.refused.Add(1)
			d.c.Answered(topic, d.seq[topic], 0x80)
			err = nil
		}
	}
	for _, v := range values {
		publish(base+"/"+v.name, v.text)
	}
	n.mu.Lock()
	told := n.told
	n.told = nil
	n.mu.Unlock()
	for _, text := range told {
		publish(base+"/shown", text)
	}
	if err == nil {
		err = n.Sleep(ctx, 10*d.every)
	}
	if err != nil { // the next time it begins from the start
		n.there = false
	}
}
