package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/web"
)

// Commands come down from a real broker while the gateway is killed again and again. Each becomes one event,
// though a kill may come between an event and its acknowledgement; none goes up again by the route that matches everything, and the ledger says so.
func TestDownlink(t *testing.T) {
	t.Run("mqtt", func(t *testing.T) {
		m := bridgetest.StartMosquitto(t)
		checkDownlink(t, "sink: mqtt, url: mqtt://"+m.Addr, func(all ...bridgetest.Message) error { return bridgetest.Tell(m.Addr, all...) })
	})
	t.Run("amqp", func(t *testing.T) {
		r := bridgetest.StartRabbitMQ(t, bridgetest.RabbitOptions{})
		t.Cleanup(bridgetest.StopRabbitMQ)
		checkDownlink(t, "sink: amqp, url: amqp://"+r.Addr, func(all ...bridgetest.Message) error { return tellRabbitMQ(r.Addr, all...) })
	})
}

// tellRabbitMQ is bridgetest.Tell for the exchange amq.topic.
func tellRabbitMQ(addr string, messages ...bridgetest.Message) error {
	conn, err := amqp091.Dial("amqp://guest:guest@" + addr + "/")
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, m := range messages {
		out := amqp091.Publishing{MessageId: m.ID, DeliveryMode: amqp091.Persistent, Body: []byte(m.Payload)}
		confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, "amq.topic", strings.ReplaceAll(m.Topic, "/", "."), true, false, out)
		if err != nil {
			return err
		}
		if _, err := confirm.WaitContext(ctx); err != nil {
			return err
		}
	}
	return nil
}

func checkDownlink(t *testing.T, uplink string, tell func(...bridgetest.Message) error) {
	near := startRig(t, fmt.Sprintf(`uplinks:
  cloud: {%s}
routes:
  all: {topics: ["#"], uplink: cloud}
downlinks:
  commands: {uplink: cloud, topics: ["test-gw/cmd/#"], strip_prefix: test-gw, ttl: 10m}
`, uplink))
	look := func(into any, command string) error {
		out, err := exec.Command("weir", "-c", near.conf, command, "--json").Output()
		if err == nil {
			err = json.Unmarshal(out, into)
		}
		if err != nil {
			return fmt.Errorf("weir %s: %w: %s", command, err, out)
		}
		return nil
	}
	waitUp := func() {
		t.Helper()
		bridgetest.Until(t, "the downlink is up", func() bool {
			var q struct{ Downlinks []web.Downlink }
			err := look(&q, "queue") // the socket may not be there yet
			return err == nil && len(q.Downlinks) == 1 && q.Downlinks[0].Up
		})
	}
	waitUp()
	device := bridgetest.Collect(t, near.mqtt, "cmd/#")
	n := 0
	for range 6 {
		var batch []bridgetest.Message
		for range 50 {
			n++
			batch = append(batch, bridgetest.Message{ID: "order-" + strconv.Itoa(n), Topic: "test-gw/cmd/oven", Payload: strconv.Itoa(n)})
		}
		told := make(chan error, 1)
		go func() { told <- tell(batch...) }()
		before := len(device.Published())
		bridgetest.Until(t, "it is in the middle of them", func() bool { return len(device.Published()) >= before+10 })
		near.kill()
		if err := <-told; err != nil {
			t.Fatal(err)
		}
		near.start()
		waitUp()
	}
	var l web.Ledger
	bridgetest.Until(t, "every command is kept from going up", func() bool {
		if err := look(&l, "ledger"); err != nil {
			t.Fatal(err)
		}
		return len(l.Routes) == 1 && l.Routes[0].Filtered >= uint64(n)
	})
	if r := l.Routes[0]; l.Accepted != uint64(n) || r.Routed != uint64(n) || r.Filtered != uint64(n) || r.Delivered != 0 || l.Unaccounted != 0 {
		t.Errorf("%d commands: %+v", n, l)
	}
	near.end()
}
