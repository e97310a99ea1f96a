package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
)

// One Weir sends to the next, over WebSocket on its HTTP port, and renames topics; it is
// killed on the way and comes back. Everything arrives, in order, under the first one's ids.
func TestChain(t *testing.T) {
	far := startRig(t, "")
	near := startRig(t, fmt.Sprintf(`uplinks:
  next: {sink: mqtt, url: "ws://%s", topic: "plants/{gateway}/{topic}", strip_prefix: bench, ack_timeout: 2s}
routes:
  all: {topics: ["bench/#"], uplink: next}
`, far.http))
	got := bridgetest.Collect(t, far.mqtt, "plants/#")
	publishMany(t, near.mqtt, 200, 50)
	near.kill()
	near.start()
	publishMany(t, near.mqtt, 200, 50)

	deadline := time.Now().Add(30 * time.Second)
	var order []string
	for len(order) < 400 && time.Now().Before(deadline) {
		order = order[:0]
		seen := map[string]bool{}
		for _, p := range got.Published() {
			if id := p.Properties.ID(); !seen[id] {
				seen[id] = true
				order = append(order, id)
			}
			if p.Topic != "plants/test-gw/pipeline" {
				t.Fatalf("arrived at %s", p.Topic)
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	if len(order) != 400 {
		t.Fatalf("%d of 400 have arrived", len(order))
	}
	history := strings.TrimSuffix(order[0], "-1") // the gateway and its epoch, which a kill does not end
	if !strings.HasPrefix(history, "test-gw/") {
		t.Errorf("the first id is %s", order[0])
	}
	for i, id := range order {
		if want := history + "-" + strconv.Itoa(i+1); id != want {
			t.Fatalf("arrival %d is %s, not %s", i, id, want)
		}
	}
}
