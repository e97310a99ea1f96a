package mqtt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway"
)

func start(t *testing.T, b *bridgetest.Broker) *bridgetest.Broker {
	t.Helper()
	b.Start(t)
	return b
}

func TestConfig(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(notPEM, []byte("hello"), 0o600)
	for _, c := range []struct {
		c    mqtt.Config
		want string
	}{
		{mqtt.Config{URL: "mqtt://h"}, ""},
		{mqtt.Config{URL: "mqtts://h:1", Version: "5", Window: 1000}, ""},
		{mqtt.Config{URL: "mqtt://[::1]:1883/", Version: "3.1.1"}, ""},
		{mqtt.Config{}, "url: url is missing: mqtt://host, mqtts://host, ws://host/path or wss://host/path"},
		{mqtt.Config{URL: "tcp://h"}, `url: unknown scheme "tcp": mqtt://host, mqtts://host, ws://host/path or wss://host/path`},
		{mqtt.Config{URL: "broker.example.com:1883"}, `url: unknown scheme "broker.example.com": mqtt://host, mqtts://host, ws://host/path or wss://host/path`},
		{mqtt.Config{URL: "mqtt://u:secret@h"}, "url: the account goes into username and password, not into the url"},
		{mqtt.Config{URL: "mqtt://u:secret@h:port"}, "url: not a URL: mqtt://host, mqtts://host, ws://host/path or wss://host/path"},
		{mqtt.Config{URL: "mqtt://h/path"}, "url: an MQTT url ends after host and port"},
		{mqtt.Config{URL: "mqtt://:1883"}, "url: url has no host"},
		{mqtt.Config{URL: "mqtt://h", Config: dial.Config{CAFile: "ca.pem"}}, "ca_file: ca_file is for TLS, and this url has none"},
		{mqtt.Config{URL: "mqtts://h", Config: dial.Config{CAFile: notPEM}}, "ca_file: " + notPEM + ": no certificate in PEM form"},
		{mqtt.Config{URL: "mqtt://h", Version: "4"}, `version: unknown MQTT version "4": 5 or 3.1.1`},
		{mqtt.Config{URL: "mqtt://h", Version: "3.1.1", Password: "p"}, "password: MQTT 3.1.1 has no password without a username"},
		{mqtt.Config{URL: "mqtt://h", Window: -1}, "window: window -1 is not from 1 to 1000"},
		{mqtt.Config{URL: "mqtt://h", Window: 1001}, "window: window 1001 is not from 1 to 1000"},
		{mqtt.Config{URL: "mqtt://h", KeepAlive: 19 * time.Hour}, "keep_alive: 19h0m0s is not from 10ms to 18h"},
		{mqtt.Config{URL: "mqtt://h", AckTimeout: -1}, "ack_timeout: -1ns is not from 10ms to 18h"},
		{mqtt.Config{URL: "mqtt://h", ClientID: "a\x00"}, "client_id: text is not valid UTF-8"},
	} {
		_, err := mqtt.New(c.c, "gw", "cloud", 0, bridgetest.Age)
		bridgetest.CheckConfig(t, c.c, err, c.want)
	}
}

func TestHello(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		b := start(t, &bridgetest.Broker{})
		s := newSink(t, b.Addr(), version, func(c *mqtt.Config) {
			c.Username, c.Password, c.KeepAlive = "plant1", "secret", 90*time.Second
		})
		c := bridgetest.Send(t, s)
		<-c.Up
		if _, err := c.Finish(); err != nil {
			t.Error(err)
		}
		want := bridgetest.Connect{Version: 5, Clean: true, KeepAlive: 90, ClientID: "weir-test-gw-far", Username: "plant1", Password: "secret"}
		if version != "5" {
			want.Version = 4
		}
		if got := b.Connects(); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %+v, not %+v", version, got, want)
		}
	}
}

func TestForwards(t *testing.T) {
	b := start(t, &bridgetest.Broker{})
	c := bridgetest.Send(t, newSink(t, b.Addr(), "5"))
	accepted := time.Now().Add(-59*time.Minute - 30*time.Second - time.Millisecond)
	c.Event(gateway.Event{
		Topic: "up/a", Payload: []byte("21.5"), QoS: 2, Retain: true, UTF8: true, Expiry: time.Hour,
		Accepted: accepted, Age: bridgetest.Age() - time.Since(accepted),
		Source:  time.Date(2026, 11, 23, 13, 0, 0, 5e6, time.FixedZone("", 3600)),
		Quality: gateway.Bad, Origin: gateway.Origin{ID: "oven"},
		ContentType: "text/plain", ResponseTopic: "answers/1", CorrelationData: []byte{0, 1},
		UserProperties: []gateway.UserProperty{{Key: "a", Value: "1"}, {Key: "weir-id", Value: "other/e9-7"}, {Key: "weir-device", Value: "other"}, {Key: "a", Value: "2"}},
	})
	c.Event(gateway.Event{Topic: "up/b", Accepted: accepted})
	for range 2 {
		if err := c.Outcome(); err != nil {
			t.Fatal(err)
		}
	}
	thirty := uint32(30)
	want := []bridgetest.Publish{
		{Topic: "up/a", Payload: []byte("21.5"), QoS: 1, Retain: true, PacketID: 1, Properties: bridgetest.Properties{
			UTF8: true, Expiry: &thirty, ContentType: "text/plain", ResponseTopic: "answers/1", CorrelationData: []byte{0, 1},
			User: [][2]string{
				{"weir-id", "test-gw/e1-1"}, {"weir-time", "2026-11-23T12:00:00.005Z"}, {"weir-device", "oven"}, {"weir-quality", "bad"},
				{"a", "1"}, {"a", "2"},
			},
		}},
		{Topic: "up/b", Payload: []byte{}, QoS: 1, PacketID: 2, Properties: bridgetest.Properties{
			User: [][2]string{{"weir-id", "test-gw/e1-2"}, {"weir-time", accepted.UTC().Format(time.RFC3339Nano)}},
		}},
	}
	if got, want := describe(b.Published()), describe(want); got != want {
		t.Errorf("got\n%s\nnot\n%s", got, want)
	}
}

func describe(all []bridgetest.Publish) string {
	var out strings.Builder
	for _, p := range all {
		expiry := "none"
		if p.Properties.Expiry != nil {
			expiry = strconv.Itoa(int(*p.Properties.Expiry))
			p.Properties.Expiry = nil
		}
		fmt.Fprintf(&out, "%+v expiry %s\n", p, expiry)
	}
	return out.String()
}

func TestForwards311(t *testing.T) {
	b := start(t, &bridgetest.Broker{})
	c := bridgetest.Send(t, newSink(t, b.Addr(), "3.1.1"))
	c.Event(gateway.Event{Topic: "up/a", Payload: []byte("21.5"), Retain: true, ContentType: "text/plain"})
	if err := c.Outcome(); err != nil {
		t.Fatal(err)
	}
	want := []bridgetest.Publish{{Topic: "up/a", Payload: []byte("21.5"), QoS: 1, Retain: true, PacketID: 1}}
	if got, want := describe(b.Published()), describe(want); got != want {
		t.Errorf("got\n%s\nnot\n%s", got, want)
	}
}

// What a PUBACK's reason code means for the event.
func TestReasonCodes(t *testing.T) {
	for _, c := range []struct {
		code int
		kind error // nil: accepted
		text string
	}{
		{0x00, nil, ""},
		{0x10, nil, ""},
		{0x80, gateway.ErrTransient, "no reason given (0x80)"},
		{0x83, gateway.ErrTransient, "its own reasons (0x83)"},
		{0x87, gateway.ErrDenied, "not authorized (0x87)"},
		{0x90, gateway.ErrInvalid, "it does not allow this topic (0x90)"},
		{0x91, gateway.ErrTransient, "packet identifier in use (0x91)"},
		{0x97, gateway.ErrFull, "quota exceeded (0x97)"},
		{0x99, gateway.ErrInvalid, "the payload is not what its format indicator says (0x99)"},
	} {
		b := start(t, &bridgetest.Broker{Answer: func(bridgetest.Publish) int { return c.code }})
		s := bridgetest.Send(t, newSink(t, b.Addr(), "5"))
		s.Event(gateway.Event{Topic: "up/a"})
		err := s.Outcome()
		if !errors.Is(err, c.kind) || err != nil && err.Error() != c.text {
			t.Errorf("0x%02x: %v", c.code, err)
		}
	}
}

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		version string
		connack []byte // properties
		want    int
	}{
		{"5", nil, 64},                   // the config's
		{"5", []byte{0x21, 0, 10}, 10},   // the far end's Receive Maximum
		{"5", []byte{0x21, 0xff, 1}, 64}, // the smaller of both
		{"3.1.1", nil, 64},
	} {
		b := start(t, &bridgetest.Broker{
			Connack: func(bridgetest.Connect) (int, []byte) { return 0, c.connack },
			Answer:  func(bridgetest.Publish) int { return -1 },
		})
		s := bridgetest.Send(t, newSink(t, b.Addr(), c.version, impatient))
		for i := range 200 {
			s.Event(gateway.Event{Topic: "up/a", Payload: []byte(strconv.Itoa(i))})
		}
		bridgetest.Until(t, "the window is full", func() bool { return len(b.Published()) >= c.want })
		if err := s.End(); err == nil || err.Error() != "no acknowledgement for 300ms" {
			t.Errorf("ended with %v", err)
		}
		got := b.Published()
		if len(got) != c.want {
			t.Errorf("%+v: %d in flight", c, len(got))
		}
		for i, p := range got {
			if string(p.Payload) != strconv.Itoa(i) {
				t.Fatalf("publish %d is %s", i, p.Payload)
			}
		}
	}
}

// Packet identifiers wrap around, over one that stays unanswered.
func TestPacketIDsWrap(t *testing.T) {
	if testing.Short() {
		t.Skip("sends 70,000 publishes")
	}
	held := false
	b := start(t, &bridgetest.Broker{Answer: func(p bridgetest.Publish) int {
		if p.PacketID == 5 && !held {
			held = true
			return -1
		}
		return 0
	}})
	s := bridgetest.Send(t, newSink(t, b.Addr(), "3.1.1", func(c *mqtt.Config) { c.AckTimeout = time.Minute }))
	const n = 70_000
	go func() {
		for i := range n {
			s.Events <- &gateway.Event{Topic: "t", Offset: uint64(i + 1)}
		}
	}()
	for range n - 1 {
		if err := s.Outcome(); err != nil {
			t.Fatal(err)
		}
	}
	fives := 0
	for _, p := range b.Published() {
		if p.PacketID == 0 {
			t.Fatal("packet identifier 0")
		}
		if p.PacketID == 5 {
			fives++
		}
	}
	if fives != 1 {
		t.Errorf("packet identifier 5 was used %d times while in flight", fives)
	}
}

func TestLimitsOfTheFarEnd(t *testing.T) {
	b := start(t, &bridgetest.Broker{Connack: func(bridgetest.Connect) (int, []byte) {
		return 0, []byte{0x27, 0, 0, 0, 100, 0x25, 0} // maximum packet size 100; retain not available
	}})
	c := bridgetest.Send(t, newSink(t, b.Addr(), "5"))
	c.Event(gateway.Event{Topic: "up/a", Payload: make([]byte, 100)})
	if err := c.Outcome(); !errors.Is(err, gateway.ErrInvalid) {
		t.Errorf("too large: %v", err)
	}
	c.Event(gateway.Event{Topic: "up/b", Retain: true})
	if err := c.Outcome(); err != nil {
		t.Error(err)
	}
	if got := b.Published(); len(got) != 1 || got[0].Topic != "up/b" || got[0].Retain {
		t.Errorf("published %+v", got)
	}
}

// What would end the connection, again and again, is refused before it is sent.
func TestUnsendable(t *testing.T) {
	b := start(t, &bridgetest.Broker{})
	c := bridgetest.Send(t, newSink(t, b.Addr(), "5"))
	long := strings.Repeat("x", 65536)
	for _, e := range []gateway.Event{
		{Topic: "t", ResponseTopic: "a/#"},
		{Topic: "t", ContentType: "\xff"},
		{Topic: "t", ContentType: "a\x00"},
		{Topic: "t", CorrelationData: []byte(long)},
		{Topic: "t", UserProperties: []gateway.UserProperty{{Key: "a", Value: long}}},
		{Topic: "t", UserProperties: []gateway.UserProperty{{Key: "\xff"}}},
	} {
		c.Event(e)
		if err := c.Outcome(); !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%.60v: %v", e, err)
		}
	}
	c.Event(gateway.Event{Topic: "t"})
	if err := c.Outcome(); err != nil || len(b.Published()) != 1 {
		t.Errorf("%v; published %d", err, len(b.Published()))
	}
}

func TestConnectFails(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	for _, c := range []struct {
		name, version string
		code          int
		properties    []byte
		want          string
	}{
		{"bad password", "5", 0x86, nil, "the far end refused the connection: bad user name or password (0x86)"},
		{"with words", "5", 0x87, append([]byte{0x1F, 0, 6}, "go off"...), `the far end refused the connection: not authorized (0x87: "go off")`},
		{"new code", "5", 0xEE, nil, "the far end refused the connection: no reason known (0xee)"},
		{"QoS 0 only", "5", 0, []byte{0x24, 0}, "the far end takes QoS 0 only, and that has no acknowledgement"},
		{"silence", "5", -1, nil, "no CONNACK within 300ms"},
		{"client id", "3.1.1", 2, nil, "the far end refused the connection: it does not allow this client id (code 2)"},
		{"bad password 3.1.1", "3.1.1", 4, nil, "the far end refused the connection: bad user name or password (code 4)"},
		{"not authorized 3.1.1", "3.1.1", 5, nil, "the far end refused the connection: not authorized (code 5)"},
		{"silence 3.1.1", "3.1.1", -1, nil, "no CONNACK within 300ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, &bridgetest.Broker{Connack: func(bridgetest.Connect) (int, []byte) { return c.code, c.properties }})
			change := func(*mqtt.Config) {}
			if c.code < 0 {
				change = impatient
			}
			s := bridgetest.Send(t, newSink(t, b.Addr(), c.version, change))
			if err := s.End(); err == nil || err.Error() != c.want {
				t.Errorf("%v, not %q", err, c.want)
			}
			select {
			case <-s.Up:
				t.Error("up was called")
			default:
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		err := bridgetest.Send(t, newSink(t, nobody.Addr().String(), "5")).End()
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
	})
	t.Run("no answer to TCP", func(t *testing.T) {
		err := bridgetest.Send(t, newSink(t, fullBacklog(t), "5", impatient)).End()
		if err == nil || !strings.HasSuffix(err.Error(), ": no answer within 300ms") {
			t.Error(err)
		}
	})
	t.Run("context ends while dialling", func(t *testing.T) {
		c := bridgetest.Send(t, newSink(t, fullBacklog(t), "5", func(c *mqtt.Config) { c.ConnectTimeout = time.Hour }))
		c.Cancel()
		if err := c.End(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// fullBacklog returns an address at which the kernel answers no further SYN.
func fullBacklog(t *testing.T) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for range 4 {
		conn, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the backlog does not fill")
	return ""
}

// A link that lies still while there is nothing to send is noticed by its pings.
func TestIdleLinkLiesStill(t *testing.T) {
	for _, version := range []string{"5", "3.1.1"} {
		b := start(t, &bridgetest.Broker{Silent: true})
		c := bridgetest.Send(t, newSink(t, b.Addr(), version, impatient))
		<-c.Up
		if err := c.End(); err == nil || err.Error() != "no answer to a ping for 300ms" {
			t.Errorf("%s: %v", version, err)
		}
		if b.Pings() != 1 {
			t.Errorf("%d pings", b.Pings())
		}
	}
}

// Pings that are answered do not hide that publishes are not, nor do further publishes.
func TestPublishesAreNotAcknowledged(t *testing.T) {
	b := start(t, &bridgetest.Broker{Answer: func(bridgetest.Publish) int { return -1 }})
	c := bridgetest.Send(t, newSink(t, b.Addr(), "5", impatient, func(c *mqtt.Config) { c.KeepAlive = 40 * time.Millisecond }))
	<-c.Up
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(5 * time.Second); ; {
		select {
		case <-tick.C:
			c.Event(gateway.Event{Topic: "up/a"})
			continue
		case <-c.Ended:
			if err := c.End(); err == nil || err.Error() != "no acknowledgement for 300ms" {
				t.Error(err)
			}
		case <-deadline:
			t.Error("not noticed")
		}
		return
	}
}

func TestIdleLinkIsKeptAlive(t *testing.T) {
	b := start(t, &bridgetest.Broker{Connack: func(bridgetest.Connect) (int, []byte) {
		return 0, []byte{0x13, 0, 1} // server keep alive 1 s, less than the config's
	}})
	c := bridgetest.Send(t, newSink(t, b.Addr(), "5", func(c *mqtt.Config) { c.KeepAlive, c.AckTimeout = time.Hour, time.Hour }))
	<-c.Up
	bridgetest.Until(t, "it has pinged twice", func() bool { return b.Pings() >= 2 })
	if _, err := c.Finish(); err != nil {
		t.Error(err)
	}
}

func TestFarEndSpeaks(t *testing.T) {
	for _, c := range []struct {
		name, version string
		raw           []byte
		want          string
	}{
		{"session taken over", "5", []byte{0xE0, 1, 0x8E}, "the far end ended the connection: another client connected with the same client id (0x8e)"},
		{"shutting down", "5", []byte{0xE0, 2, 0x8B, 0}, "the far end ended the connection: it is shutting down (0x8b)"},
		{"unknown ack", "5", []byte{0x40, 2, 0, 9}, "the far end acknowledged packet 9, which is not in flight"},
		{"unknown ack 3.1.1", "3.1.1", []byte{0x40, 2, 0, 9}, "the far end acknowledged packet 9, which is not in flight"},
		{"a second CONNACK", "3.1.1", []byte{0x20, 2, 0, 0}, "the far end sent a packet of type 2, which makes no sense here"},
		{"a PUBLISH", "5", []byte{0x30, 5, 0, 1, 'a', 0, 'x'}, "the far end sent a packet of type 3, which makes no sense here"},
		{"a huge packet", "5", []byte{0xE0, 0xff, 0xff, 0xff, 0x7f}, "the far end sent a packet of 268435455 bytes; at most 65536 make sense here"},
		{"a malformed length", "3.1.1", []byte{0x40, 0xff, 0xff, 0xff, 0xff}, "the far end sent a packet with a malformed length"},
		{"a DISCONNECT in 3.1.1", "3.1.1", []byte{0xE0, 0}, "the far end sent a packet that makes no sense here: *packets.DisconnectPacket"},
		{"end of file", "5", nil, "the far end closed the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, &bridgetest.Broker{})
			s := bridgetest.Send(t, newSink(t, b.Addr(), c.version))
			<-s.Up
			b.Send(c.raw...)
			if err := s.End(); err == nil || err.Error() != c.want {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	authority := bridgetest.NewAuthority(t)
	file := authority.File
	b := start(t, &bridgetest.Broker{TLS: &tls.Config{Certificates: []tls.Certificate{authority.Server("127.0.0.1")}}})
	secure := func(ca string) func(*mqtt.Config) {
		return func(c *mqtt.Config) { c.URL, c.CAFile, c.ConnectTimeout = "mqtts://"+b.Addr(), ca, 5*time.Second }
	}
	c := bridgetest.Send(t, newSink(t, b.Addr(), "5", secure(file)))
	big := bytes.Repeat([]byte("x"), 300<<10)
	c.Event(gateway.Event{Topic: "up/a", Payload: big})
	if err := c.Outcome(); err != nil {
		t.Error(err)
	}
	if got := b.Published(); !bytes.Equal(got[0].Payload, big) {
		t.Error("the payload changed on its way")
	}

	err := bridgetest.Send(t, newSink(t, b.Addr(), "5", secure(""))).End()
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("an unknown authority: %v", err)
	}
	plain := start(t, &bridgetest.Broker{})
	err = bridgetest.Send(t, newSink(t, plain.Addr(), "5", impatient, func(c *mqtt.Config) { c.URL, c.CAFile = "mqtts://"+plain.Addr(), file })).End()
	if err == nil || !strings.Contains(err.Error(), "TLS: ") {
		t.Errorf("a broker without TLS: %v", err)
	}
}
