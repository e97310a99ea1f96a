package bridge_test

import (
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/bridge/kinesis"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/bridge/webhook"
	"github.com/weir-iot/weir/gateway"
)

// Every sink can have a client certificate, so every sink says when it ends, and Status tells.
func TestCertificateExpiry(t *testing.T) {
	var _ = []bridge.Certified{(*amqp.Sink)(nil), (*kafka.Sink)(nil), (*kinesis.Sink)(nil), (*mqtt.Sink)(nil), (*nats.Sink)(nil), (*webhook.Sink)(nil)}

	authority := bridgetest.NewAuthority(t)
	cert, key := authority.ClientFiles("gw")
	status := func(c mqtt.Config) bridge.Status {
		sink, err := mqtt.New(c, "gw", "far", 0, func() time.Duration { return 0 })
		if err != nil {
			t.Fatal(err)
		}
		_, hub := bridgetest.NewLog("e1")
		p, err := bridge.NewPump(bridge.PumpOptions{Uplink: "far", Sinks: []bridge.Sink{sink}, Hub: hub, State: bridgetest.NewState(),
			Routes: []bridge.Route{{ID: "all", Match: gateway.Filters{gateway.MustFilter("#")}}},
			Count:  func(uint64, uint64, gateway.Matcher) (uint64, error) { return 0, nil },
			Age:    func() time.Duration { return 0 }})
		if err != nil {
			t.Fatal(err)
		}
		return p.Status()
	}
	with := status(mqtt.Config{URL: "mqtts://127.0.0.1:1", Config: dial.Config{CertFile: cert, KeyFile: key}})
	if left := time.Until(with.CertificateExpiry); left < 50*time.Minute || left > time.Hour {
		t.Errorf("it ends at %v", with.CertificateExpiry)
	}
	if without := status(mqtt.Config{URL: "mqtt://127.0.0.1:1"}); !without.CertificateExpiry.IsZero() {
		t.Errorf("there is none, and it ends at %v", without.CertificateExpiry)
	}
}
