package mqtt_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway"
)

// service is a scripted broker under a service's name and on its port, reached through a proxy.
type service struct {
	*bridgetest.Broker
	ca    *bridgetest.Authority
	proxy *bridgetest.Tunnel

	mu     sync.Mutex
	states []tls.ConnectionState
}

func startService(t *testing.T, host string, c *tls.Config) *service {
	t.Helper()
	s := &service{ca: bridgetest.NewAuthority(t)}
	if c == nil {
		c = &tls.Config{}
	}
	c.Certificates = []tls.Certificate{s.ca.Server(host)}
	c.ClientCAs = s.ca.Pool
	c.VerifyConnection = func(state tls.ConnectionState) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.states = append(s.states, state)
		return nil
	}
	s.Broker = start(t, &bridgetest.Broker{TLS: c})
	s.proxy = (&bridgetest.Tunnel{To: s.Addr()}).Start(t)
	return s
}

func (s *service) hello() tls.ConnectionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[0]
}

// sink is one of a config as the docs have it, but for proxy and authority.
func (s *service) sink(t *testing.T, c mqtt.Config) *mqtt.Sink {
	t.Helper()
	c.Proxy, c.CAFile = s.proxy.URL(), s.ca.File
	sink, err := mqtt.New(c, bridgetest.GatewayID, "far", 0, bridgetest.Age)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

// deliver sends events that have to be accepted.
func deliver(t *testing.T, s *mqtt.Sink, events ...gateway.Event) {
	t.Helper()
	c := bridgetest.Send(t, s)
	for _, e := range events {
		c.Event(e)
		if err := c.Outcome(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Finish(); err != nil {
		t.Error(err)
	}
}

// AWS IoT Core: a client certificate, and on port 443 the protocol name that tells MQTT from HTTPS; no
// retained publishes, no topic with more than seven slashes, no packet above 128 KB: it would end the
// connection at each, again and again.
func TestAWS(t *testing.T) {
	const host = "a1b2-ats.iot.eu-west-1.amazonaws.com"
	for _, c := range []struct{ url, target, alpn string }{
		{"mqtts://" + host, host + ":8883", ""},
		{"mqtts://" + host + ":443", host + ":443", "x-amzn-mqtt-ca"},
	} {
		aws := startService(t, host, &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"x-amzn-mqtt-ca"}})
		cert, key := aws.ca.ClientFiles("gw")
		s := aws.sink(t, mqtt.Config{Preset: "aws-iot", URL: c.url, Config: dial.Config{CertFile: cert, KeyFile: key}})
		deliver(t, s, gateway.Event{Topic: "a/b/c/d/e/f/g/h", Payload: []byte("1"), Retain: true})
		if got := aws.hello(); got.ServerName != host || got.NegotiatedProtocol != c.alpn || got.PeerCertificates[0].Subject.CommonName != "gw" {
			t.Errorf("hello to %q, protocol %q", got.ServerName, got.NegotiatedProtocol)
		}
		if got := aws.proxy.Targets(); len(got) != 1 || got[0] != c.target {
			t.Errorf("connected to %v", got)
		}
		if got := aws.Connects()[0]; got.ClientID != bridgetest.GatewayID || got.Version != 5 {
			t.Errorf("CONNECT %+v", got)
		}
		if got := aws.Published(); len(got) != 1 || got[0].Retain || got[0].QoS != 1 || got[0].Properties.ID() != "test-gw/e1-1" {
			t.Errorf("published %+v", got)
		}
		poison := bridgetest.Send(t, s)
		for _, e := range []gateway.Event{
			{Topic: "a/b/c/d/e/f/g/h/i"}, {Topic: strings.Repeat("x", 257)}, {Topic: "a", Payload: make([]byte, 128<<10)},
		} {
			poison.Event(e)
			if err := poison.Outcome(); !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("%.20s: %v", e.Topic, err)
			}
		}
	}
}

// At most 100 in flight and 100 a second go over a connection to AWS IoT Core.
func TestAWSQuotas(t *testing.T) {
	const host = "a1b2-ats.iot.eu-west-1.amazonaws.com"
	aws := startService(t, host, nil)
	var mu sync.Mutex
	var at []time.Time
	hold := true
	aws.Answer = func(bridgetest.Publish) int {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, time.Now())
		if hold {
			return -1
		}
		return 0
	}
	cert, key := aws.ca.ClientFiles("gw")
	c := mqtt.Config{Preset: "aws-iot", URL: "mqtts://" + host, AckTimeout: time.Second, Config: dial.Config{CertFile: cert, KeyFile: key}}
	quick := c
	quick.Rate = 100_000 // the user's own
	held := bridgetest.Send(t, aws.sink(t, quick))
	for range 150 {
		held.Event(gateway.Event{Topic: "a"})
	}
	if err := held.End(); err == nil || err.Error() != "no acknowledgement for 1s" {
		t.Error(err)
	}
	mu.Lock()
	if len(at) != 100 {
		t.Errorf("%d in flight", len(at))
	}
	at, hold = nil, false
	mu.Unlock()
	slow := bridgetest.Send(t, aws.sink(t, c))
	for range 100 {
		slow.Event(gateway.Event{Topic: "a"})
	}
	for range 100 {
		if err := slow.Outcome(); err != nil {
			t.Fatal(err)
		}
	}
	if took := at[99].Sub(at[0]); took < time.Second {
		t.Errorf("100 publishes within %v", took)
	}
}

// Azure IoT Hub: 3.1.1; user name, password and topic are its own; everything else is in the property bag.
func TestAzure(t *testing.T) {
	const host = "contoso.azure-devices.net"
	key := []byte("a key of thirty-two bytes, no less")
	hub := startService(t, host, nil)
	s := hub.sink(t, mqtt.Config{
		Preset: "azure-iot-hub", URL: "mqtts://" + host, ClientID: "gw@7", SharedAccessKey: base64.StdEncoding.EncodeToString(key),
	})
	deliver(t, s, gateway.Event{
		Topic: "hall/oven 1", Payload: []byte(`{"t":1}`), Retain: true, Quality: gateway.Bad, Origin: gateway.Origin{ID: "oven"},
		Source:         time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		UserProperties: []gateway.UserProperty{{Key: "a&b", Value: "1=2+#/ü"}, {Key: "$.mid", Value: "spoofed"}, {Key: "weir-id", Value: "spoofed"}},
	}, gateway.Event{Topic: "hall/raw", Payload: []byte{0xff}, ContentType: "image/png"})

	c := hub.Connects()[0]
	if c.Version != 4 || !c.Clean || c.ClientID != "gw@7" || c.Username != host+"/gw@7/?api-version=2021-04-12" {
		t.Errorf("CONNECT %+v", c)
	}
	checkToken(t, c.Password, host+"/devices/gw@7", key, time.Hour)
	want := []string{
		"devices/gw@7/messages/events/$.mid=test-gw%3Ae1-1&$.ct=application%2Fjson&$.ce=utf-8&weir-id=test-gw%2Fe1-1" +
			"&weir-time=2026-11-23T12%3A00%3A00Z&weir-device=oven&weir-quality=bad&weir-topic=hall%2Foven%201&a%26b=1%3D2%2B%23%2F%C3%BC",
		"devices/gw@7/messages/events/$.mid=test-gw%3Ae1-2&$.ct=image%2Fpng&weir-id=test-gw%2Fe1-2",
	}
	for i, p := range hub.Published() {
		if !strings.HasPrefix(p.Topic, want[i]) || p.Retain || p.QoS != 1 {
			t.Errorf("published at %s, retained %t, not\n%s", p.Topic, p.Retain, want[i])
		}
		bag, err := url.ParseQuery(strings.TrimPrefix(p.Topic, "devices/gw@7/messages/events/"))
		if err != nil || len(bag["$.mid"]) != 1 || strings.ContainsRune(bag.Get("$.mid"), '/') {
			t.Errorf("%v, %v", bag, err)
		}
	}

	// Over WebSocket the path says how the device proves itself.
	plain := start(t, &bridgetest.Broker{})
	f := startFront(t, plain.Addr(), &tls.Config{Certificates: []tls.Certificate{hub.ca.Server(host)}})
	front := (&bridgetest.Tunnel{To: f.addr()}).Start(t)
	ws, err := mqtt.New(mqtt.Config{
		Preset: "azure-iot-hub", URL: "wss://" + host, SharedAccessKey: "a2V5", Config: dial.Config{Proxy: front.URL(), CAFile: hub.ca.File},
	}, bridgetest.GatewayID, "far", 0, bridgetest.Age)
	if err != nil {
		t.Fatal(err)
	}
	deliver(t, ws, gateway.Event{Topic: "a"})
	if got, _ := f.seen(); got[0] != host+"/$iothub/websocket?iothub-no-client-cert=true" || front.Targets()[0] != host+":443" {
		t.Errorf("asked %v for %v", front.Targets(), got)
	}
	// A certificate takes the place of the key.
	cert, keyFile := hub.ca.ClientFiles("gw")
	deliver(t, hub.sink(t, mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://" + host, Config: dial.Config{CertFile: cert, KeyFile: keyFile}}))
	if c := hub.Connects()[1]; c.Password != "" || c.ClientID != bridgetest.GatewayID {
		t.Errorf("CONNECT with a certificate %+v", c)
	}
}

// checkToken takes a shared access signature apart as Microsoft describes it.
func checkToken(t *testing.T, token, resource string, key []byte, lifetime time.Duration) {
	t.Helper()
	rest, ok := strings.CutPrefix(token, "SharedAccessSignature ")
	fields, err := url.ParseQuery(rest)
	if !ok || err != nil || fields.Get("sr") != resource {
		t.Fatalf("token %q: %v", token, err)
	}
	expiry, err := strconv.ParseInt(fields.Get("se"), 10, 64)
	if left := time.Until(time.Unix(expiry, 0)); err != nil || left > lifetime || left < lifetime-time.Minute {
		t.Errorf("it ends in %v: %v", left, err)
	}
	sum := hmac.New(sha256.New, key)
	sum.Write([]byte(url.QueryEscape(resource) + "\n" + fields.Get("se")))
	if got, err := base64.StdEncoding.DecodeString(fields.Get("sig")); err != nil || !hmac.Equal(got, sum.Sum(nil)) {
		t.Errorf("signature %q: %v", fields.Get("sig"), err)
	}
}

// Before its token ends, a connection ends in order: what is in flight is acknowledged, and the next
// connection has a new one.
func TestAzureRenewsToken(t *testing.T) {
	const host = "contoso.azure-devices.net"
	hub := startService(t, host, nil)
	s := hub.sink(t, mqtt.Config{Preset: "azure-iot-hub", URL: "mqtts://" + host, SharedAccessKey: "a2V5"})
	s.ShortenToken(2 * time.Second) // so it ends the connection after 1.6 s, and a publish is on its way then
	hub.Answer = func(bridgetest.Publish) int {
		<-time.After(1800 * time.Millisecond)
		return 0
	}
	for range 2 {
		c := bridgetest.Send(t, s)
		began := time.Now()
		c.Event(gateway.Event{Topic: "a"})
		if err := c.Outcome(); err != nil {
			t.Fatal(err)
		}
		if err := c.End(); err == nil || err.Error() != "the token is about to expire; connecting again with a new one" {
			t.Error(err)
		}
		if took := time.Since(began); took < 1800*time.Millisecond || took > 9*time.Second {
			t.Errorf("it ended after %v", took)
		}
	}
	if got := hub.Connects(); len(got) != 2 || got[0].Password == got[1].Password {
		t.Errorf("connected as %+v", got)
	}
}

// ThingsBoard: the token as user name; telemetry with the time of the measurement, for the device
// that measured.
func TestThingsBoard(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 123e6, time.UTC)
	const ts = "1795435200123"
	for _, c := range []struct {
		e              gateway.Event
		gateway, alone string // empty: poison
	}{
		{gateway.Event{Topic: "hall/oven/state", Payload: []byte(`{"t": 21.50, "on":true, "x":null}`), Origin: gateway.Origin{ID: "oven"}},
			`{"oven":[{"ts":` + ts + `,"values":{"on":true,"t":21.50}}]}`, `{"ts":` + ts + `,"values":{"on":true,"t":21.50}}`},
		{gateway.Event{Topic: "hall/oven/temp", Payload: []byte("21.50"), Origin: gateway.Origin{ID: "oven"}},
			`{"oven":[{"ts":` + ts + `,"values":{"temp":21.50}}]}`, `{"ts":` + ts + `,"values":{"temp":21.50}}`},
		{gateway.Event{Topic: "door", Payload: []byte("open"), Source: at.Add(time.Second)},
			`{"test-gw":[{"ts":1795435201123,"values":{"door":"open"}}]}`, `{"ts":1795435201123,"values":{"door":"open"}}`},
		{gateway.Event{Topic: "raw", Payload: []byte{0xff}}, `{"test-gw":[{"ts":` + ts + `,"values":{"raw":"/w=="}}]}`, `{"ts":` + ts + `,"values":{"raw":"/w=="}}`},
		{gateway.Event{Topic: "list", Payload: []byte("[1]")}, `{"test-gw":[{"ts":` + ts + `,"values":{"list":[1]}}]}`, `{"ts":` + ts + `,"values":{"list":[1]}}`},
		{gateway.Event{Topic: "a", Payload: []byte(" null ")}, "", ""},
		{gateway.Event{Topic: "a", Payload: []byte(`{"x":null}`)}, "", ""},
		{gateway.Event{Topic: "a"}, "", ""},
		{gateway.Event{Topic: "a/", Payload: []byte("1")}, "", ""},
	} {
		c.e.Accepted = at
		for format, want := range map[string]string{"thingsboard-gateway": c.gateway, "thingsboard-device": c.alone} {
			tb := start(t, &bridgetest.Broker{})
			s, err := mqtt.New(mqtt.Config{Preset: "thingsboard", URL: "mqtt://" + tb.Addr(), Username: "TOKEN", Format: format}, bridgetest.GatewayID, "far", 0, bridgetest.Age)
			if err != nil {
				t.Fatal(err)
			}
			sending := bridgetest.Send(t, s)
			sending.Event(c.e)
			if err := sending.Outcome(); errors.Is(err, gateway.ErrInvalid) != (want == "") {
				t.Errorf("%s: %v", c.e.Payload, err)
			}
			if c := tb.Connects()[0]; c.Username != "TOKEN" || c.Password != "" {
				t.Errorf("CONNECT %+v", c)
			}
			if want == "" {
				continue
			}
			topic := map[string]string{"thingsboard-gateway": "v1/gateway/telemetry", "thingsboard-device": "v1/devices/me/telemetry"}[format]
			if p := tb.Published()[0]; p.Topic != topic || string(p.Payload) != want || p.Retain || !json.Valid(p.Payload) {
				t.Errorf("%s: %s, not %s", p.Topic, p.Payload, want)
			}
		}
	}
}

// The services of EMQX and HiveMQ find a customer by the name in the TLS hello.
func TestCloudBrokers(t *testing.T) {
	for _, c := range []struct{ preset, host string }{
		{"emqx", "x1234567.ala.eu-central-1.emqxsl.com"}, {"hivemq", "0123abcd.s1.eu.hivemq.cloud"},
	} {
		far := startService(t, c.host, nil)
		deliver(t, far.sink(t, mqtt.Config{Preset: c.preset, URL: "mqtts://" + c.host, Username: "gw", Password: "secret"}),
			gateway.Event{Topic: "a", Payload: []byte("1"), Retain: true})
		if got := far.hello(); got.ServerName != c.host {
			t.Errorf("hello to %q", got.ServerName)
		}
		if got := far.Connects()[0]; got.Version != 5 || got.Username != "gw" || got.Password != "secret" {
			t.Errorf("CONNECT %+v", got)
		}
		if got := far.Published()[0]; got.Topic != "a" || !got.Retain || string(got.Payload) != "1" {
			t.Errorf("published %+v", got)
		}
		if got := far.proxy.Targets()[0]; got != c.host+":8883" {
			t.Errorf("connected to %s", got)
		}
		// On WebSocket they have ports of their own.
		f := startFront(t, far.Addr(), nil)
		front := (&bridgetest.Tunnel{To: f.addr()}).Start(t)
		s, err := mqtt.New(mqtt.Config{Preset: c.preset, URL: "ws://localhost", Config: dial.Config{Proxy: front.URL()}}, "gw", "far", 0, bridgetest.Age)
		if err != nil {
			t.Fatal(err)
		}
		bridgetest.Send(t, s).End() // the broker behind speaks TLS, so this comes to nothing
		if want := map[string]string{"emqx": "localhost:8083", "hivemq": "localhost:8000"}[c.preset]; front.Targets()[0] != want {
			t.Errorf("connected to %v, not %s", front.Targets(), want)
		}
	}
}
