// Package mqtt is the sink for an MQTT broker: version 5 (the default) and 3.1.1, over TCP, TLS or
// WebSocket.
//
// The same section also serves downlinks: a [Source] subscribes in a session of its own that outlasts
// its connections; see source.go.
//
// Of the two paho modules only the packet codecs are used, not the clients: these keep
// their own store of unacknowledged publishes and send it again when they like, while here
// the pump is the one layer that retries. What is left for a publisher is small: one
// connection, a window of QoS 1 publishes in flight, and a watch on a link that lies still.
//
// An event is shaped first: topics.go says what it is called at the far end, message.go what it carries.
// preset.go knows what some services want; it fills in what the config leaves open.
//
// The event's id travels in the version 5 user property "weir-id". Version 3.1.1 has no
// place for it but the payload (formats event and cloudevents), and its PUBACK has no place for a
// refusal: a broker that discards a publish it does not allow acknowledges it all the same. Use
// version 5 where the broker has it.
package mqtt

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

// Config is the uplink's section of weir.yaml.
type Config struct {
	dial.Config

	// URL is mqtt://host:1883, mqtts://host:8883, ws://host:80/mqtt or wss://host:443/mqtt.
	URL string `yaml:"url"`
	// Preset names a service whose needs are known; see presets. Other keys override it.
	Preset   string `yaml:"preset"`
	Username string `yaml:"username"`
	Password string `yaml:"password"`
	ClientID string `yaml:"client_id"` // default weir-<gateway id>-<uplink id>; one per broker
	Version  string `yaml:"version"`   // "5" (default) or "3.1.1"

	// Topic is the topic at the far end, with {topic}, {gateway} and {device}; default "{topic}".
	Topic string `yaml:"topic"`
	// StripPrefix are levels that are taken off an event's topic before it becomes {topic}.
	StripPrefix string `yaml:"strip_prefix"`
	Format      string `yaml:"format"` // one of formats; default payload
	// Retain keeps the retain flag of an event (keep, the default) or leaves it out (never).
	Retain string `yaml:"retain"`

	// Window is how many publishes may be in flight: 1 to 1000, default 512; the far end's
	// Receive Maximum bounds it further.
	Window int `yaml:"window"`
	// Rate is how many publishes may go in a second; 0 does not limit them.
	Rate int `yaml:"rate"`
	// MaxPacket is the largest PUBLISH that is sent, in bytes; what is larger is a dead letter. The
	// far end's Maximum Packet Size bounds it further; 0 is that alone.
	MaxPacket int `yaml:"max_packet"`
	// KeepAlive is how long the link may be silent before a ping; default 30s, at most 18h.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// AckTimeout is how long a publish or a ping may wait for its answer before
	// the link counts as dead; default 20s.
	AckTimeout time.Duration `yaml:"ack_timeout"`

	// SharedAccessKey is a device's key at Azure IoT Hub, in base64. Passwords are made of it.
	SharedAccessKey string `yaml:"shared_access_key"`
	// TokenLifetime is how long such a password holds; default 1h, 1m to 30d. The sink connects
	// again, with a new one, when four fifths of it are over.
	TokenLifetime time.Duration `yaml:"token_lifetime"`
}

// Sink sends to one broker.
type Sink struct {
	c      Config
	at     endpoint
	dialer *dial.Dialer
	codec  codec
	shaper shaper
	age    func() time.Duration
	key    []byte // Azure's shared access key
}

// New returns a sink for uplink of gatewayID. An uplink may have parallel connections, lanes 0, 1, …:
// all but the first put their number behind the client id. age is the clock
// of gateway.Event.Age. It opens nothing. A wrong value is a gateway.KeyError.
func New(c Config, gatewayID, uplink string, lane int, age func() time.Duration) (*Sink, error) {
	s := &Sink{c: c, age: age}
	p, known := presets[c.Preset]
	if !known {
		return nil, gateway.BadKey("preset", "unknown preset %q: %s", c.Preset, list(presets))
	}
	var err error
	if s.at, err = parseURL(c.URL, p); err != nil {
		return nil, err
	}
	if s.c.ClientID == "" {
		s.c.ClientID = "weir-" + gatewayID + "-" + uplink
		if p.thing {
			s.c.ClientID = gatewayID
		}
	}
	if lane > 0 {
		s.c.ClientID += "-" + strconv.Itoa(lane)
	}
	s.c.fill(p.defaults)
	if p.complete != nil {
		if err := p.complete(s, lane); err != nil {
			return nil, err
		}
	}
	s.c.fill(Config{Version: "5", Topic: "{topic}", Format: "payload", Retain: "keep", Window: 512})
	if err := s.check(); err != nil {
		return nil, err
	}
	s.shaper = shaper{gatewayID: gatewayID, format: formats[s.c.Format], retain: s.c.Retain == "keep", check: p.check, address: p.address}
	if s.shaper.topics, err = parseTopics(s.c.Topic, s.c.StripPrefix, gatewayID); err != nil {
		return nil, err
	}
	if s.dialer, err = dial.New(s.c.Config, s.at.secure); err != nil {
		return nil, err
	}
	if p.offer != nil {
		s.dialer.Offer(p.offer(s)...)
	}
	// What lies in the kernel's buffer looks sent. A small buffer keeps a slow link from
	// looking like a dead one: with it, AckTimeout has to cover 64 KiB, not megabytes.
	s.dialer.WriteBuffer(32 << 10)
	s.dialer.QuickAck() // mosquitto writes each PUBACK by itself, and waits with the second
	return s, nil
}

// check looks at the values that are not looked at elsewhere, all defaults filled in.
func (s *Sink) check() error {
	c := &s.c
	switch c.Version {
	case "5":
		s.codec = v5{}
	case "3.1.1":
		s.codec = v311{}
		if c.Password != "" && c.Username == "" {
			return gateway.BadKey("password", "MQTT 3.1.1 has no password without a username") // §3.1.2.9
		}
	default:
		return gateway.BadKey("version", "unknown MQTT version %q: 5 or 3.1.1", c.Version)
	}
	if formats[c.Format] == nil {
		return gateway.BadKey("format", "unknown format %q: %s", c.Format, list(formats))
	}
	if c.Retain != "keep" && c.Retain != "never" {
		return gateway.BadKey("retain", "retain is keep or never, not %q", c.Retain)
	}
	for _, t := range []struct{ key, value string }{{"client_id", c.ClientID}, {"username", c.Username}, {"password", c.Password}} {
		if err := checkText(t.value); err != nil {
			return gateway.BadKey(t.key, "%w", err)
		}
	}
	for _, n := range []struct {
		key              string
		value, min, most int
	}{
		{"window", c.Window, 1, 1000},
		{"rate", c.Rate, 0, 100_000},
		{"max_packet", c.MaxPacket, 0, 268_435_455},
	} {
		if n.value < n.min || n.value > n.most {
			return gateway.BadKey(n.key, "%s %d is not from %d to %d", n.key, n.value, n.min, n.most)
		}
	}
	for _, d := range []struct {
		key   string
		value *time.Duration
		unset time.Duration
	}{
		{"keep_alive", &c.KeepAlive, 30 * time.Second},
		{"ack_timeout", &c.AckTimeout, 20 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.unset
		}
		if *d.value < 10*time.Millisecond || *d.value > 18*time.Hour { // a keep alive has 16 bits of seconds
			return gateway.BadKey(d.key, "%v is not from 10ms to 18h", *d.value)
		}
	}
	return s.checkToken()
}

func (s *Sink) checkToken() (err error) {
	c := &s.c
	switch {
	case c.Preset != azure && c.SharedAccessKey != "":
		return gateway.BadKey("shared_access_key", "shared_access_key is for preset: %s", azure)
	case c.Preset != azure && c.TokenLifetime != 0:
		return gateway.BadKey("token_lifetime", "token_lifetime is for preset: %s", azure)
	}
	if c.TokenLifetime == 0 {
		c.TokenLifetime = time.Hour
	}
	if c.TokenLifetime < time.Minute || c.TokenLifetime > 30*24*time.Hour {
		return gateway.BadKey("token_lifetime", "%v is not from 1m to 30d", c.TokenLifetime)
	}
	if s.key, err = base64.StdEncoding.DecodeString(c.SharedAccessKey); err != nil {
		return gateway.BadKey("shared_access_key", "shared_access_key is not base64") // err may show some of it
	}
	return nil
}

func list[V any](m map[string]V) string {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(s string) bool { return s == "" })
	return strings.Join(names, ", ")
}

// CertificateExpiry is bridge.Certified.
func (s *Sink) CertificateExpiry() time.Time { return s.dialer.CertificateExpiry() }

// Send is bridge.Sink.
func (s *Sink) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	return s.with(ctx, 0, newLink, func(l *link) error {
		up()
		return l.run(ctx, events, done)
	})
}

// with runs fn on a connection that has said hello. When ctx ends, what fn reads or writes then
// ends after grace.
func (s *Sink) with(ctx context.Context, grace time.Duration, makeLink func(*Sink, net.Conn) *link, fn func(*link) error) error {
	return s.within(ctx, grace, func(conn net.Conn, deadline time.Time) error {
		l := makeLink(s, conn)
		c, lasts := s.hello(time.Now())
		if err := l.connect(c, lasts, deadline); err != nil {
			return err
		}
		return fn(l)
	})
}

// within dials, and calls fn with a connection that ends with fn, and grace after ctx. The CONNACK is due at deadline.
func (s *Sink) within(ctx context.Context, grace time.Duration, fn func(conn net.Conn, deadline time.Time) error) error {
	deadline := time.Now().Add(s.dialer.Timeout())
	raw, err := s.dialer.Dial(ctx, s.at.address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.at.address, err)
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() {
		if grace > 0 {
			time.AfterFunc(grace, func() { raw.Close() })
			return
		}
		raw.Close()
	})()
	conn := raw
	if s.at.path != "" {
		conn, err = s.openWebSocket(raw, deadline)
	}
	if err == nil {
		err = fn(conn, deadline)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// hello is what a connection at now says of itself, and how long it may last; 0: for ever.
func (s *Sink) hello(now time.Time) (Config, time.Duration) {
	c := s.c
	if len(s.key) == 0 || c.Password != "" {
		return c, 0
	}
	c.Password = sasToken(s.hub(), c.ClientID, s.key, now.Add(c.TokenLifetime))
	return c, c.TokenLifetime * 4 / 5
}
