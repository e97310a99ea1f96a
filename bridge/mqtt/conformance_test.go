package mqtt_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/mqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newSink returns a sink that a busy machine does not make impatient.
func newSink(t *testing.T, addr, version string, change ...func(*mqtt.Config)) *mqtt.Sink {
	t.Helper()
	c := mqtt.Config{
		URL: "mqtt://" + addr, Version: version, Window: 64,
		KeepAlive: time.Second, AckTimeout: 10 * time.Second,
	}
	for _, f := range change {
		f(&c)
	}
	s, err := mqtt.New(c, bridgetest.GatewayID, "far", 0, bridgetest.Age)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// impatient is for tests in which the far end does not answer.
func impatient(c *mqtt.Config) {
	c.KeepAlive, c.AckTimeout, c.ConnectTimeout = 200*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
}

// lively notices a far end that lies still within the suite's two seconds, and is not put off by a
// busy machine.
func lively(c *mqtt.Config) {
	c.KeepAlive, c.AckTimeout, c.ConnectTimeout = 300*time.Millisecond, time.Second, 5*time.Second
}

func overProxy(t *testing.T, target, version string) *bridgetest.FarEnd {
	p := bridgetest.NewProxy(t, target)
	return &bridgetest.FarEnd{
		Sink: newSink(t, p.Addr(), version, lively), NoIDs: version == "3.1.1",
		Cut: p.Cut, LoseAcks: p.LoseAnswers, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
	}
}

func TestMosquitto(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
				m := bridgetest.StartMosquitto(t)
				c := bridgetest.Collect(t, m.Addr, "up/#")
				far := overProxy(t, m.Addr, version)
				far.Arrivals, far.Late = c.Arrivals, true
				return far
			})
		})
	}
}

// The scripted broker has an event before it acknowledges it, so here a commit that leads is
// seen at the moment it is made.
func TestScriptedBroker(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		t.Run(version, func(t *testing.T) {
			bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
				var b bridgetest.Broker
				b.Start(t)
				far := overProxy(t, b.Addr(), version)
				far.Arrivals = func() []bridgetest.Arrival { return bridgetest.Arrivals(b.Published()) }
				return far
			})
		})
	}
}
