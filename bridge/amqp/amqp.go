// Package amqp is the sink for RabbitMQ and whatever else speaks AMQP 0-9-1, and the source of its
// downlinks (source.go).
//
// The far end has an event when it has confirmed it (publisher confirms), which for a
// persistent message in a durable queue means that it is on disk there. Every publish is
// mandatory, so that one that no queue wants is not confirmed away in silence.
//
// The library's own recovery stays off: there is one layer that retries, the pump. What the
// library does not bound is bounded here, at the connection below it (wire.go): a write that
// does not get on holds locks that its Close wants too.
package amqp

import (
	"context"
	"net"
	"net/url"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

// Config is the uplink's section of weir.yaml.
type Config struct {
	URL         string `yaml:"url"` // amqp://host:5672 or amqps://host:5671
	dial.Config        // how it is reached

	VHost    string `yaml:"vhost"`    // default "/"
	Username string `yaml:"username"` // default guest; with cert_file, the certificate is the account
	Password string `yaml:"password"`

	// Exchange has to exist; default amq.topic. "" is AMQP's default exchange, whose
	// routing keys are names of queues.
	Exchange *string `yaml:"exchange"`
	// RoutingKey may have {topic}, {device} and {gateway} in it; default "{topic}".
	RoutingKey string `yaml:"routing_key"`
	Format     string `yaml:"format"` // "payload" (default) or "cloudevents"

	// DownExchange has what downlinks bring down: a queue of each is bound to it. It has to exist and
	// be a topic exchange; default Exchange.
	DownExchange string `yaml:"down_exchange"`
	// DownQueue is a queue that is there already, in place of that: nothing is declared and nothing
	// bound. It may have {downlink} in it, and each downlink needs its own.
	DownQueue string `yaml:"down_queue"`

	// Heartbeat is how often both ends show that they live; a link that is silent for one and
	// a half times as long is dead. Whole seconds, 1s to 1h, default 10s; the far end may
	// ask for less.
	Heartbeat time.Duration `yaml:"heartbeat"`
	// Window is how many publishes may wait for their confirm, and how many messages that come down
	// for their acknowledgement: 1 to 1000, default 128.
	Window int `yaml:"window"`
	// AckTimeout is how long the oldest of them may wait, while none is confirmed,
	// before the link counts as dead; 10ms to 1h, default 20s.
	AckTimeout time.Duration `yaml:"ack_timeout"`
}

// Sink sends to one exchange.
type Sink struct {
	c         Config
	gatewayID string
	name      string // of the connection
	age       func() time.Duration
	address   string
	exchange  string
	key       template
	dialer    *dial.Dialer

	// What one connection leaves to the next; only Send touches them.
	careful int  // so many events are to be sent one by one: something is wrong with one of them
	blocked bool // the far end took no publishes
}

// New returns a sink for uplink of gatewayID. age is the clock of gateway.Event.Age. It opens nothing. A wrong value is a gateway.KeyError.
func New(c Config, gatewayID, uplink string, age func() time.Duration) (*Sink, error) {
	s := &Sink{c: c, gatewayID: gatewayID, name: "weir " + gatewayID + " " + uplink, age: age, exchange: "amq.topic"}
	secure, err := s.parseURL()
	if err != nil {
		return nil, err
	}
	if s.dialer, err = dial.New(c.Config, secure); err != nil {
		return nil, err
	}
	if c.Exchange != nil {
		s.exchange = *c.Exchange
	}
	if s.c.VHost == "" {
		s.c.VHost = "/"
	}
	if c.RoutingKey == "" {
		s.c.RoutingKey = "{topic}"
	}
	if s.key, err = parseTemplate(s.c.RoutingKey); err != nil {
		return nil, gateway.BadKey("routing_key", "%w", err)
	}
	for _, t := range []struct{ key, value string }{{"exchange", s.exchange}, {"vhost", s.c.VHost}, {"routing_key", s.c.RoutingKey}, {"down_exchange", c.DownExchange}, {"down_queue", c.DownQueue}} {
		if len(t.value) > maxShort {
			return nil, gateway.BadKey(t.key, "%d bytes; %d is the most", len(t.value), maxShort)
		}
	}
	if strings.ContainsAny(strings.Replace(c.DownQueue, placeholder, "", 1), "{}") {
		return nil, gateway.BadKey("down_queue", "%q: the one placeholder is %s", c.DownQueue, placeholder)
	}
	if c.DownQueue != "" && c.DownExchange != "" {
		return nil, gateway.BadKey("down_exchange", "who made down_queue has bound it, so there is nothing to bind")
	}
	if c.Password != "" && c.Username == "" {
		return nil, gateway.BadKey("password", "password needs a username")
	}
	switch c.Format {
	case "":
		s.c.Format = "payload"
	case "payload", "cloudevents":
	default:
		return nil, gateway.BadKey("format", "unknown format %q: payload or cloudevents", c.Format)
	}
	if c.Window == 0 {
		s.c.Window = 128
	}
	if s.c.Window < 1 || s.c.Window > 1000 {
		return nil, gateway.BadKey("window", "window %d is not from 1 to 1000", c.Window)
	}
	if c.Heartbeat == 0 {
		s.c.Heartbeat = 10 * time.Second
	}
	if s.c.Heartbeat < time.Second || s.c.Heartbeat > time.Hour || s.c.Heartbeat%time.Second != 0 {
		return nil, gateway.BadKey("heartbeat", "%v is not in whole seconds from 1s to 1h", c.Heartbeat)
	}
	if c.AckTimeout == 0 {
		s.c.AckTimeout = 20 * time.Second
	}
	if s.c.AckTimeout < 10*time.Millisecond || s.c.AckTimeout > time.Hour {
		return nil, gateway.BadKey("ack_timeout", "%v is not from 10ms to 1h", c.AckTimeout)
	}
	return s, nil
}

func (s *Sink) parseURL() (secure bool, err error) {
	if s.c.URL == "" {
		return false, gateway.BadKey("url", "url is missing: amqp://host or amqps://host")
	}
	u, err := url.Parse(s.c.URL)
	if err != nil {
		return false, gateway.BadKey("url", "not a URL: amqp://host:port or amqps://host:port") // err may show a password
	}
	port := "5672"
	switch u.Scheme {
	case "amqp":
	case "amqps":
		secure, port = true, "5671"
	default:
		return false, gateway.BadKey("url", "unknown scheme %q: amqp:// or amqps://", u.Scheme)
	}
	switch {
	case u.Hostname() == "":
		return false, gateway.BadKey("url", "url has no host")
	case u.User != nil:
		return false, gateway.BadKey("url", "the account goes into username and password, not into the url")
	case strings.Trim(u.Path, "/") != "":
		return false, gateway.BadKey("url", "the virtual host goes into vhost, not into the url")
	case u.RawQuery != "" || u.Fragment != "":
		return false, gateway.BadKey("url", "an AMQP url ends after host and port")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	s.address = net.JoinHostPort(u.Hostname(), port)
	return secure, nil
}

// CertificateExpiry is bridge.Certified.
func (s *Sink) CertificateExpiry() time.Time { return s.dialer.CertificateExpiry() }

// Send is bridge.Sink.
func (s *Sink) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	err := s.send(ctx, events, up, done)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (s *Sink) send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	l, err := s.connect(ctx, (*link).open)
	if err != nil {
		return err
	}
	defer l.end()
	defer context.AfterFunc(ctx, l.wire.kill)() // ends what waits for the far end
	if err := l.awaitUnblocked(ctx); err != nil {
		return err
	}
	up()
	if err := l.run(ctx, events, done); err != nil {
		return err
	}
	// All is confirmed, so what becomes of the goodbye changes nothing.
	defer time.AfterFunc(s.c.AckTimeout, l.wire.kill).Stop()
	l.conn.Close()
	return nil
}

func (s *Sink) authentication() amqp.Authentication {
	switch {
	case s.c.Username != "":
		return &amqp.PlainAuth{Username: s.c.Username, Password: s.c.Password}
	case s.c.CertFile != "":
		return &amqp.ExternalAuth{}
	default: // as the far end knows it; RabbitMQ takes it from its own machine only
		return &amqp.PlainAuth{Username: "guest", Password: "guest"}
	}
}
