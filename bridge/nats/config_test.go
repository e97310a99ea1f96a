package nats_test

import (
	"errors"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/gateway"
)

// Every wrong value names its key.
func TestConfig(t *testing.T) {
	for _, c := range []struct {
		key    string
		change func(*nats.Config)
	}{
		{"urls", func(c *nats.Config) { c.URLs = nil }},
		{"urls", func(c *nats.Config) { c.URLs = []string{"ws://a"} }},
		{"urls", func(c *nats.Config) { c.URLs = []string{"a:4222"} }},
		{"urls", func(c *nats.Config) { c.URLs = []string{"nats://"} }},
		{"urls", func(c *nats.Config) { c.URLs = []string{"nats://u:p@a"} }},
		{"urls", func(c *nats.Config) { c.URLs = []string{"nats://a/x"} }},
		{"urls", func(c *nats.Config) { c.URLs = []string{"nats://a", "tls://b"} }},
		{"ca_file", func(c *nats.Config) { c.CAFile = "ca.pem" }},
		{"proxy", func(c *nats.Config) { c.Proxy = "ftp://a:1" }},
		{"subject", func(c *nats.Config) { c.Subject = "a b" }},
		{"subject", func(c *nats.Config) { c.Subject = "a..b" }},
		{"subject", func(c *nats.Config) { c.Subject = "a.*" }},
		{"subject", func(c *nats.Config) { c.Subject = "{topic}.>" }},
		{"subject", func(c *nats.Config) { c.Subject = "$JS.{topic}" }},
		{"subject", func(c *nats.Config) { c.Subject = "{topic}.{topic}" }},
		{"subject", func(c *nats.Config) { c.Subject = "{device}" }},
		{"format", func(c *nats.Config) { c.Format = "xml" }},
		{"token", func(c *nats.Config) { c.Username, c.Token = "u", "t" }},
		{"password", func(c *nats.Config) { c.Password = "p" }},
		{"nkey_file", func(c *nats.Config) { c.NkeyFile = "nowhere" }},
		{"nkey_file", func(c *nats.Config) { c.NkeyFile = file(t, "x", []byte("no seed")) }},
		{"creds_file", func(c *nats.Config) { c.CredsFile = "nowhere" }},
		{"creds_file", func(c *nats.Config) { c.CredsFile = file(t, "x", []byte("no creds")) }},
		{"inbox_prefix", func(c *nats.Config) { c.InboxPrefix = "a.>" }},
		{"window", func(c *nats.Config) { c.Window = 1001 }},
		{"window", func(c *nats.Config) { c.Window = -1 }},
		{"keep_alive", func(c *nats.Config) { c.KeepAlive = time.Millisecond }},
		{"ack_timeout", func(c *nats.Config) { c.AckTimeout = 2 * time.Hour }},
	} {
		config := nats.Config{URLs: []string{"nats://a"}}
		c.change(&config)
		_, err := nats.New(config, "gw", "far", byTopic)
		var at *gateway.KeyError
		if !errors.As(err, &at) || at.Key != c.key || !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%s: %v", c.key, err)
		}
	}
}
