// Package mqtt is the sink for an MQTT broker: version 5 (the default) and 3.1.1.
//
// Of the two paho modules only the packet codecs are used, not the clients: these keep
// their own store of unacknowledged publishes and send it again when they like, while here
// the pump is the one layer that retries. What is left for a publisher is small: one
// connection, a window of QoS 1 publishes in flight, and a watch on a link that lies still.
//
// The event's id travels in the version 5 user property "weir-id". Version 3.1.1 has no
// place for it, and its PUBACK has no place for a refusal: a broker that discards a
// publish it does not allow acknowledges it all the same. Use version 5 where
// the broker has it.
package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Config is the uplink's section of weir.yaml.
type Config struct {
	URL      string `yaml:"url"`     // mqtt://host:1883 or mqtts://host:8883
	CAFile   string `yaml:"ca_file"` // PEM; mqtts only; default: the system's authorities
	Username string `yaml:"username"`
	Password string `yaml:"password"`
	ClientID string `yaml:"client_id"` // default weir-<gateway id>-<uplink id>; one per broker
	Version  string `yaml:"version"`   // "5" (default) or "3.1.1"

	// Window is how many publishes may be in flight: 1 to 1000, default 128; the far end's
	// Receive Maximum bounds it further.
	Window int `yaml:"window"`
	// KeepAlive is how long the link may be silent before a ping; default 30s, at most 18h.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// AckTimeout is how long a publish or a ping may wait for its answer before
	// the link counts as dead; default 20s.
	AckTimeout time.Duration `yaml:"ack_timeout"`
	// ConnectTimeout bounds dialling, TLS and CONNACK together; default 10s.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
}

// Sink sends to one broker.
type Sink struct {
	c         Config
	gatewayID string
	address   string
	tls       *tls.Config // nil for mqtt://
	codec     codec
}

// New returns a sink for uplink of gatewayID. It opens nothing. A wrong value is a gateway.KeyError.
func New(c Config, gatewayID, uplink string) (*Sink, error) {
	s := &Sink{c: c, gatewayID: gatewayID}
	if err := s.parseURL(); err != nil {
		return nil, err
	}
	switch c.Version {
	case "", "5":
		s.codec = v5{}
	case "3.1.1":
		s.codec = v311{}
		if c.Password != "" && c.Username == "" {
			return nil, gateway.BadKey("password", "MQTT 3.1.1 has no password without a username") // §3.1.2.9
		}
	default:
		return nil, gateway.BadKey("version", "unknown MQTT version %q: 5 or 3.1.1", c.Version)
	}
	if s.c.ClientID == "" {
		s.c.ClientID = "weir-" + gatewayID + "-" + uplink
	}
	for _, t := range []struct{ key, value string }{{"client_id", s.c.ClientID}, {"username", c.Username}, {"password", c.Password}} {
		if err := checkText(t.value); err != nil {
			return nil, gateway.BadKey(t.key, "%w", err)
		}
	}
	if s.c.Window == 0 {
		s.c.Window = 128
	}
	if s.c.Window < 1 || s.c.Window > 1000 {
		return nil, gateway.BadKey("window", "window %d is not from 1 to 1000", c.Window)
	}
	for _, d := range []struct {
		key   string
		value *time.Duration
		unset time.Duration
	}{
		{"keep_alive", &s.c.KeepAlive, 30 * time.Second},
		{"ack_timeout", &s.c.AckTimeout, 20 * time.Second},
		{"connect_timeout", &s.c.ConnectTimeout, 10 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.unset
		}
		if *d.value < 10*time.Millisecond || *d.value > 18*time.Hour { // a keep alive has 16 bits of seconds
			return nil, gateway.BadKey(d.key, "%v is not from 10ms to 18h", *d.value)
		}
	}
	return s, nil
}

func (s *Sink) parseURL() error {
	if s.c.URL == "" {
		return gateway.BadKey("url", "url is missing: mqtt://host or mqtts://host")
	}
	u, err := url.Parse(s.c.URL)
	if err != nil {
		return gateway.BadKey("url", "not a URL: mqtt://host:port or mqtts://host:port") // err may show a password
	}
	port := u.Port()
	switch u.Scheme {
	case "mqtt":
		if s.c.CAFile != "" {
			return gateway.BadKey("ca_file", "ca_file needs a url with mqtts://")
		}
		if port == "" {
			port = "1883"
		}
	case "mqtts":
		if port == "" {
			port = "8883"
		}
		s.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		if s.c.CAFile != "" {
			if s.tls.RootCAs, err = readCA(s.c.CAFile); err != nil {
				return gateway.BadKey("ca_file", "%w", err)
			}
		}
	default:
		return gateway.BadKey("url", "unknown scheme %q: mqtt:// or mqtts://", u.Scheme)
	}
	switch {
	case u.Hostname() == "":
		return gateway.BadKey("url", "url has no host")
	case u.User != nil:
		return gateway.BadKey("url", "the account goes into username and password, not into the url")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return gateway.BadKey("url", "an MQTT url ends after host and port")
	}
	s.address = net.JoinHostPort(u.Hostname(), port)
	return nil
}

func readCA(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in PEM form", file)
	}
	return pool, nil
}

// Send is bridge.Sink.
func (s *Sink) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.address, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // ends a read or a write that does not get on
	l := newLink(s, conn)
	err = l.connect(time.Now().Add(s.c.ConnectTimeout))
	if err == nil {
		up()
		err = l.run(ctx, events, done)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// dial makes the TCP connection, and TLS on it.
func (s *Sink) dial(ctx context.Context) (net.Conn, error) {
	dialing, cancel := context.WithTimeout(ctx, s.c.ConnectTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(dialing, "tcp", s.address)
	if err != nil {
		return nil, s.timeout(err)
	}
	// What lies in the kernel's buffer looks sent. A small buffer keeps a slow link from
	// looking like a dead one: with it, AckTimeout has to cover 64 KiB, not megabytes.
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetWriteBuffer(32 << 10); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if s.tls == nil {
		return conn, nil
	}
	secure := tls.Client(conn, s.tls)
	if err := secure.HandshakeContext(dialing); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS: %w", s.timeout(err))
	}
	return secure, nil
}

func (s *Sink) timeout(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer within %v", s.c.ConnectTimeout)
	}
	return err
}
