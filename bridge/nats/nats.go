// Package nats is the sink for NATS JetStream. An event is accepted when a stream has stored it
// and said so: the PubAck.
//
//	events ─► one per ordering key in flight ─► publish, reply to an inbox ─► stream
//	                                                      ▲                      │
//	                       done(e, nil) ◄── inbox ◄───────┴───── PubAck ◄────────┘
//
// Of the client library only the connection is used. Its reconnects are switched off, and its
// JetStream publisher is left aside: that one sends again by itself when nobody listens on the
// subject, while here the pump is the one layer that retries.
//
// The same section also serves downlinks: a [Source] reads with a durable consumer; see source.go.
//
// Between a publisher and a stream NATS promises at most once: a message may get lost on the way
// (the stream's leader moves, a leaf node's link breaks, a full stream gets room again) while the
// next one arrives. To have a topic in order all the same, one event per ordering key is under way
// at a time, and the window is filled with those of other keys. Where the stream has no other
// writer, exclusive lets all of them go at once: each says which one must be before it. It is for
// streams with one replica: in a cluster, nats-server 2.15.2 then often leaves a node that was
// restarted behind.
package nats

import (
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

// Config is the uplink's section of weir.yaml.
type Config struct {
	// URLs are servers of one cluster, nats://host:4222 or tls://host:4222, all of one kind. A
	// connection that fails is followed by one to the next.
	URLs []string `yaml:"urls"`
	// Subject is where events are published; {topic} stands for the event's topic as NATS' own
	// MQTT gateway maps it, {gateway} for this gateway's id. Default "{topic}".
	Subject string `yaml:"subject"`
	// Format is "payload" (default), the payload as it is, or "cloudevents".
	Format string `yaml:"format"`

	// One way to log in, or none.
	Username  string `yaml:"username"`
	Password  string `yaml:"password"`
	Token     string `yaml:"token"`
	NkeyFile  string `yaml:"nkey_file"`  // a file with an nkey seed
	CredsFile string `yaml:"creds_file"` // a user's .creds: JWT and seed

	// InboxPrefix is where acknowledgements are listened for; default "_INBOX".
	InboxPrefix string `yaml:"inbox_prefix"`
	// Exclusive says that nobody else writes to the stream; see the package.
	Exclusive bool `yaml:"exclusive"`
	// Window is how many events may wait for their PubAck: 1 to 1000, default 128.
	Window int `yaml:"window"`
	// KeepAlive is the time between pings; two without an answer end the connection; default 30s.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// AckTimeout is how long the oldest event may wait for its PubAck until the connection is
	// given up; default 20s.
	AckTimeout time.Duration `yaml:"ack_timeout"`

	dial.Config
}

// Sink publishes to JetStream.
type Sink struct {
	c         Config
	gatewayID string
	name      string // of the connection, for the server's own lists
	key       func(*gateway.Event) string
	dialer    *dial.Dialer
	servers   []server
	next      int // the server of the next connection
	subject   subject
	login     login
}

type server struct{ url, address string }

// New returns a sink for uplink of gatewayID; key is the ordering key of an event. It opens
// nothing. A wrong value is a gateway.KeyError.
func New(c Config, gatewayID, uplink string, key func(*gateway.Event) string) (*Sink, error) {
	s := &Sink{c: c, gatewayID: gatewayID, name: "weir-" + gatewayID + "-" + uplink, key: key}
	secure, err := s.parseURLs()
	if err != nil {
		return nil, err
	}
	if s.dialer, err = dial.New(c.Config, secure); err != nil {
		return nil, err
	}
	if s.login, err = newLogin(&c); err != nil {
		return nil, err
	}
	if s.subject, err = newSubject(c.Subject, gatewayID); err != nil {
		return nil, err
	}
	if c.Format != "" && c.Format != "payload" && c.Format != "cloudevents" {
		return nil, gateway.BadKey("format", "unknown format %q: payload or cloudevents", c.Format)
	}
	if s.c.InboxPrefix == "" {
		s.c.InboxPrefix = "_INBOX"
	}
	if len(s.c.InboxPrefix) > 128 || strings.HasPrefix(s.c.InboxPrefix, "$") {
		return nil, gateway.BadKey("inbox_prefix", "longer than 128 bytes, or begins with $")
	}
	if err := checkSubject(s.c.InboxPrefix); err != nil {
		return nil, gateway.BadKey("inbox_prefix", "%w", err)
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
	}{{"keep_alive", &s.c.KeepAlive, 30 * time.Second}, {"ack_timeout", &s.c.AckTimeout, 20 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.unset
		}
		if *d.value < 10*time.Millisecond || *d.value > time.Hour {
			return nil, gateway.BadKey(d.key, "%v is not from 10ms to 1h", *d.value)
		}
	}
	return s, nil
}

func (s *Sink) parseURLs() (secure bool, err error) {
	if len(s.c.URLs) == 0 {
		return false, gateway.BadKey("urls", "urls is missing: [nats://host] or [tls://host]")
	}
	for i, raw := range s.c.URLs {
		u, err := url.Parse(raw)
		switch {
		case err != nil:
			return false, gateway.BadKey("urls", "not a URL: nats://host:port or tls://host:port") // err may show a password
		case u.Scheme != "nats" && u.Scheme != "tls":
			return false, gateway.BadKey("urls", "unknown scheme %q: nats:// or tls://", u.Scheme)
		case u.Hostname() == "":
			return false, gateway.BadKey("urls", "url has no host")
		case u.User != nil:
			return false, gateway.BadKey("urls", "the account goes into username and password, not into the url")
		case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
			return false, gateway.BadKey("urls", "a NATS url ends after host and port")
		case i > 0 && secure != (u.Scheme == "tls"):
			return false, gateway.BadKey("urls", "all urls are nats://, or all are tls://")
		}
		secure = u.Scheme == "tls"
		port := u.Port()
		if port == "" {
			port = "4222"
		}
		address := net.JoinHostPort(u.Hostname(), port)
		s.servers = append(s.servers, server{u.Scheme + "://" + address, address})
	}
	return secure, nil
}
