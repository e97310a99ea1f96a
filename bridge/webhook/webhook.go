// Package webhook is the sink for anything that takes HTTP requests: a receiver of Standard
// Webhooks (version 1.0.0), or, through a template, the HTTP API of some product.
//
//	events ─► item ─► batch ─► request ─► answer ─► done
//	          format,  max_events,  id,       2xx, poison,
//	          template max_bytes,   signature try again, gone
//	                   linger
//
// One request is on its way at a time, so that the far end sees the events in order; what
// makes it fast over a long round trip is the batch.
//
// The id of a request is the event's own. That of a batch is made of its first and last event
// and their number, and the Sink remembers where the batches ended that had no answer, so
// that a repeat has the same events, bytes and id. It forgets that with the process; then,
// and when an event of the batch has expired meanwhile, batches are cut anew. Bodies
// of the formats event and cloudevents have the id of each event in them, which always stays.
package webhook

import (
	"context"
	"net/http"
	"net/url"
	"text/template"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

// Config is the uplink's section of weir.yaml.
type Config struct {
	dial.Config

	URL     string            `yaml:"url"`     // http:// or https://; a secret in its path is never shown
	Method  string            `yaml:"method"`  // POST (default), PUT or PATCH
	Headers map[string]string `yaml:"headers"` // sent with each request

	// Secrets sign each request: whsec_ and 24 to 64 bytes in base64. More than one, at most
	// 4, is for the time of a change. Default: none, and then no signature.
	Secrets []string `yaml:"secrets"`

	// Format is "event" (default, the JSON that the rest of Weir shows), "cloudevents"
	// or "payload" (the bare bytes, the rest in headers).
	Format string `yaml:"format"`
	// Body, a text/template, takes the place of Format; see Fields for what it can use.
	Body string `yaml:"body"`
	// Compression is "none" (default) or "gzip".
	Compression string `yaml:"compression"`

	// MaxEvents is how many events one request may carry: 1 (default) to 500. Above 1 the body
	// is a JSON array, also of one; with Body or the format payload it is the
	// events' texts with BatchSeparator, default a newline, between them.
	MaxEvents      int    `yaml:"max_events"`
	BatchSeparator string `yaml:"batch_separator"`
	// MaxBytes bounds the body of a batch before compression: 1024 to 16777216, default 262144.
	// An event that is larger by itself goes alone.
	MaxBytes int `yaml:"max_bytes"`
	// Linger is how long an incomplete batch waits for more events; default 10ms, at most 1m.
	Linger time.Duration `yaml:"linger"`

	// AckTimeout is how long the far end may take nothing of a request, or owe the answer to a
	// whole one; default 20s.
	AckTimeout time.Duration `yaml:"ack_timeout"`
}

// Sink sends to one URL. What it keeps from one connection to the next is touched by Send
// only, of which there is one at a time.
type Sink struct {
	c         Config
	gatewayID string
	url       *url.URL
	dialer    *dial.Dialer
	header    http.Header // of every request
	keys      [][]byte    // of the signatures
	encode    encoder
	template  *template.Template // nil without Body

	cuts    []uint64 // the last offsets of batches that had no answer, in order
	unasked bool     // the far end does not know Expect: 100-continue
}

// New returns a sink of gatewayID. It opens nothing. A wrong value is a gateway.KeyError.
func New(c Config, gatewayID string) (*Sink, error) {
	s := &Sink{c: c, gatewayID: gatewayID}
	for _, check := range []func() error{s.setURL, s.setLimits, s.setHeader, s.setKeys, s.setFormat} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// CertificateExpiry is bridge.Certified.
func (s *Sink) CertificateExpiry() time.Time { return s.dialer.CertificateExpiry() }

// Send is bridge.Sink.
func (s *Sink) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	l := &link{s: s, events: events, done: done, conn: s.dialer.HTTP(s.url, s.c.AckTimeout)}
	defer l.conn.Close()
	err := l.conn.Connect(ctx)
	if err == nil {
		up()
		err = l.run(ctx)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
