package mqtt_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// The broker itself goes away and comes back, a few times, while events keep coming.
func TestMosquittoRestarts(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			m := bridgetest.StartMosquitto(t)
			c := bridgetest.Collect(t, m.Addr, "up/#")
			p := bridgetest.RunPump(t, newSink(t, m.Addr, version))
			n := 0
			add := func(more int) {
				for range more {
					n++
					p.Log.Append(&gateway.Event{Topic: "up/a", Payload: []byte(strconv.Itoa(n)), Accepted: time.Now()})
				}
			}
			for range 3 {
				add(200)
				bridgetest.Until(t, "some are delivered", func() bool { return p.Status().Delivered > uint64(n-150) })
				m.Stop()
				add(50)
				bridgetest.Until(t, "it is seen", func() bool { return !p.Status().Up })
				m.Start()
			}
			bridgetest.Until(t, "all are delivered", func() bool { return p.Status().Delivered == uint64(n) })
			first := func() []int {
				var order []int
				seen := map[string]bool{}
				for _, a := range c.Arrivals() {
					if !seen[a.Payload] {
						seen[a.Payload] = true
						i, _ := strconv.Atoi(a.Payload)
						order = append(order, i)
					}
				}
				return order
			}
			bridgetest.Until(t, "all have arrived", func() bool { return len(first()) == n })
			for i, got := range first() {
				if got != i+1 {
					t.Fatalf("arrival %d is event %d", i+1, got)
				}
			}
		})
	}
}

// What the broker's access list forbids becomes a dead letter in version 5, and the rest goes on.
func TestMosquittoDenies(t *testing.T) {
	acl := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(acl, []byte("topic read #\ntopic write up/open\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := bridgetest.StartMosquitto(t, "acl_file "+acl)
	p := bridgetest.RunPump(t, newSink(t, m.Addr, "5"))
	for i := range 30 {
		topic := "up/open"
		if i%10 == 5 {
			topic = "up/closed"
		}
		p.Log.Append(&gateway.Event{Topic: topic, Accepted: time.Now()})
	}
	bridgetest.Until(t, "all are done with", func() bool { return p.Status().Position.Offset == 30 })
	if s := p.Status(); s.Delivered != 27 || s.Dead != 3 || !s.Up || s.Retried != 0 {
		t.Errorf("%+v", s)
	}
}
