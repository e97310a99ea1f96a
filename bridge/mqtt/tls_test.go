package mqtt_test

import (
	"fmt"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway"
)

// startMutual starts a mosquitto that also listens at port with TLS and wants a certificate of ca.
func startMutual(t *testing.T, ca *bridgetest.Authority, port string) *bridgetest.Mosquitto {
	t.Helper()
	cert, key := ca.ServerFiles("broker.example.com", "127.0.0.1")
	return bridgetest.StartMosquitto(t, "listener "+port+" 127.0.0.1", "cafile "+ca.File, "certfile "+cert, "keyfile "+key,
		"require_certificate true", "use_identity_as_username true")
}

// The whole suite over TLS, with faults on the link.
func TestMosquittoTLS(t *testing.T) {
	bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
		ca, port := bridgetest.NewAuthority(t), freePort(t)
		m := startMutual(t, ca, port)
		c := bridgetest.Collect(t, m.Addr, "up/#")
		p := bridgetest.NewProxy(t, "127.0.0.1:"+port)
		return &bridgetest.FarEnd{
			Sink: newSink(t, "", "5", lively, func(c *mqtt.Config) {
				c.URL, c.CAFile = "mqtts://"+p.Addr(), ca.File
				c.CertFile, c.KeyFile = ca.ClientFiles("gw")
			}),
			Arrivals: c.Arrivals, Late: true,
			Cut: p.Cut, LoseAcks: p.LoseAnswers, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
		}
	})
}

// A broker that wants a certificate, through a proxy that wants an account.
func TestMosquittoMutualTLS(t *testing.T) {
	ca, stranger := bridgetest.NewAuthority(t), bridgetest.NewAuthority(t)
	port := freePort(t)
	m := startMutual(t, ca, port)
	far := bridgetest.Collect(t, m.Addr, "up/#")
	proxy := (&bridgetest.Tunnel{User: "u", Password: "p"}).Start(t)
	sink := func(a *bridgetest.Authority) *mqtt.Sink {
		return newSink(t, "", "5", func(c *mqtt.Config) {
			c.URL, c.Proxy, c.CAFile = "mqtts://broker.example.com:"+port, proxy.URL(), ca.File
			if a != nil {
				c.CertFile, c.KeyFile = a.ClientFiles("gw")
			}
		})
	}
	s := sink(ca)
	for i := range 2 { // the second connection has a renewed certificate
		deliver(t, s, gateway.Event{Topic: "up/a", Payload: fmt.Append(nil, i)})
		ca.ClientFiles("gw")
	}
	bridgetest.Until(t, "both have arrived", func() bool { return len(far.Arrivals()) == 2 })
	for _, a := range []*bridgetest.Authority{nil, stranger} {
		if err := bridgetest.Send(t, sink(a)).End(); err == nil {
			t.Error("connected without a certificate of the authority")
		} else {
			t.Logf("refused: %v", err)
		}
	}
}
