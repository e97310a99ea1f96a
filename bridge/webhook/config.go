package webhook

import (
	"encoding/base64"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

func (s *Sink) setURL() (err error) {
	if s.c.URL == "" {
		return gateway.BadKey("url", "url is missing: https://host/path")
	}
	u, err := url.Parse(s.c.URL)
	if err != nil {
		return gateway.BadKey("url", "not a URL: https://host/path") // err may show a secret
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return gateway.BadKey("url", "unknown scheme %q: http:// or https://", u.Scheme)
	case u.Hostname() == "":
		return gateway.BadKey("url", "url has no host")
	case u.User != nil:
		return gateway.BadKey("url", "the account goes into headers, as Authorization, not into the url")
	case u.Fragment != "":
		return gateway.BadKey("url", "a url to send to has no #")
	}
	s.url = u
	s.dialer, err = dial.New(s.c.Config, u.Scheme == "https")
	return err
}

func (s *Sink) setLimits() error {
	c := &s.c
	for _, n := range []struct {
		key                string
		value              *int
		unset, least, most int
	}{
		{"max_events", &c.MaxEvents, 1, 1, 500},
		{"max_bytes", &c.MaxBytes, 256 << 10, 1 << 10, 16 << 20},
	} {
		if *n.value == 0 {
			*n.value = n.unset
		}
		if *n.value < n.least || *n.value > n.most {
			return gateway.BadKey(n.key, "%d is not from %d to %d", *n.value, n.least, n.most)
		}
	}
	for _, d := range []struct {
		key         string
		value       *time.Duration
		unset, most time.Duration
		words       string
	}{
		{"linger", &c.Linger, 10 * time.Millisecond, time.Minute, "1m"},
		{"ack_timeout", &c.AckTimeout, 20 * time.Second, time.Hour, "1h"},
	} {
		if *d.value == 0 {
			*d.value = d.unset
		}
		if *d.value < time.Millisecond || *d.value > d.most {
			return gateway.BadKey(d.key, "%v is not from 1ms to %s", *d.value, d.words)
		}
	}
	return nil
}

// tokenChars are those of a header's name (RFC 9110 §5.6.2).
const tokenChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"

// ours are the headers that a config cannot set, besides those that begin with "webhook-" or "weir-".
var ours = []string{"Host", "Connection", "Content-Encoding", "Content-Length", "Expect", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func (s *Sink) setHeader() error {
	switch s.c.Method {
	case "":
		s.c.Method = http.MethodPost
	case http.MethodPost, http.MethodPut, http.MethodPatch:
	default:
		return gateway.BadKey("method", "unknown method %q: POST, PUT or PATCH", s.c.Method)
	}
	s.header = http.Header{"User-Agent": {"weir"}}
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(s.c.Headers)) {
		value, key := s.c.Headers[name], http.CanonicalHeaderKey(name)
		switch {
		case name == "" || strings.Trim(name, tokenChars) != "":
			return gateway.BadKey("headers", "%q is not the name of a header", name)
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			return gateway.BadKey("headers", "the value of %s has characters that a header cannot have", name) // it may be a secret
		case slices.Contains(ours, key) || strings.HasPrefix(key, "Webhook-") || strings.HasPrefix(key, "Weir-"):
			return gateway.BadKey("headers", "%s is set by weir", name)
		case seen[key] != "":
			return gateway.BadKey("headers", "%s and %s are the same header", seen[key], name)
		case key == "Content-Type":
			if _, _, err := mime.ParseMediaType(value); err != nil {
				return gateway.BadKey("headers", "%s: %w", name, err)
			}
		}
		seen[key] = name
		s.header.Set(key, value)
	}
	switch s.c.Compression {
	case "", "none":
	case "gzip":
		s.header.Set("Content-Encoding", "gzip")
	default:
		return gateway.BadKey("compression", "unknown compression %q: none or gzip", s.c.Compression)
	}
	return nil
}

const secretPrefix = "whsec_"

// setKeys reads the secrets: base64 of 24 to 64 bytes, behind a prefix that names the kind
// (Standard Webhooks, "Signature scheme").
func (s *Sink) setKeys() error {
	if len(s.c.Secrets) > 4 {
		return gateway.BadKey("secrets", "%d secrets; at most 4", len(s.c.Secrets))
	}
	for i, secret := range s.c.Secrets {
		text, ok := strings.CutPrefix(secret, secretPrefix)
		if !ok {
			return gateway.BadKey("secrets", "secret %d does not begin with %s", i+1, secretPrefix)
		}
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return gateway.BadKey("secrets", "secret %d is not base64 behind %s", i+1, secretPrefix)
		}
		if len(key) < 24 || len(key) > 64 {
			return gateway.BadKey("secrets", "secret %d has %d bytes, not 24 to 64", i+1, len(key))
		}
		s.keys = append(s.keys, key)
	}
	return nil
}

func (s *Sink) setFormat() (err error) {
	if s.c.Body != "" && s.c.Format != "" {
		return gateway.BadKey("body", "body takes the place of format; remove one of them")
	}
	texts := s.c.Body != "" || s.c.Format == "payload"
	if s.c.BatchSeparator != "" && !texts {
		return gateway.BadKey("batch_separator", "batch_separator is for body or format: payload; a batch of others is a JSON array")
	}
	if s.c.BatchSeparator == "" {
		s.c.BatchSeparator = "\n"
	}
	switch {
	case s.c.Body != "":
		if s.template, err = parseBody(s.c.Body, s.gatewayID); err != nil {
			return gateway.BadKey("body", "%w", err)
		}
		s.encode = s.encodeTemplate
	case s.c.Format == "" || s.c.Format == "event":
		s.encode = s.encodeEvent
	case s.c.Format == "cloudevents":
		s.encode = s.encodeCloudEvent
	case s.c.Format == "payload":
		s.encode = s.encodePayload
	default:
		return gateway.BadKey("format", "unknown format %q: event, payload or cloudevents", s.c.Format)
	}
	return nil
}
