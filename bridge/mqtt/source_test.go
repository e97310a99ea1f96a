package mqtt_test

import (
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway"
)

func newSource(t *testing.T, addr, version string, change ...func(*mqtt.Config)) *mqtt.Source {
	t.Helper()
	c := mqtt.Config{URL: "mqtt://" + addr, Version: version, Window: 20, KeepAlive: time.Second, AckTimeout: 10 * time.Second}
	for _, f := range change {
		f(&c)
	}
	s, err := mqtt.NewSource(c, bridgetest.GatewayID, "far", "commands", gateway.Filters{gateway.MustFilter("down/#")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSourceMosquitto(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			bridgetest.RunSource(t, func(t *testing.T) *bridgetest.FarSource {
				m := bridgetest.StartMosquitto(t)
				p := bridgetest.NewProxy(t, m.Addr)
				return &bridgetest.FarSource{
					Source: newSource(t, p.Addr(), version, lively), NoIDs: version == "3.1.1",
					Send: func(all ...bridgetest.Message) error { return bridgetest.Tell(m.Addr, all...) },
					Cut:  p.Cut, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
				}
			})
		})
	}
}
