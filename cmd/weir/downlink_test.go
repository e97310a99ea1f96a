package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/web"
)

// Commands come down from a real broker while the gateway is killed again and again. Each becomes one event,
// though a kill may come between an event and its acknowledgement; none goes up again by the route that matches everything, and the ledger says so.
func TestDownlink(t *testing.T) {
	m := bridgetest.StartMosquitto(t)
	near := startRig(t, fmt.Sprintf(`uplinks:
  cloud: {sink: mqtt, url: "mqtt://%s"}
routes:
  all: {topics: ["#"], uplink: cloud}
downlinks:
  commands: {uplink: cloud, topics: ["test-gw/cmd/#"], strip_prefix: test-gw, ttl: 10m}
`, m.Addr))
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
		go func() { told <- bridgetest.Tell(m.Addr, batch...) }()
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
