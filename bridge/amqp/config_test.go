package amqp_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

func TestConfig(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, c := range []struct {
		key    string
		change func(*amqp.Config)
		want   string
	}{
		{"url", func(c *amqp.Config) { c.URL = "" }, "url: url is missing: amqp://host or amqps://host"},
		{"url", func(c *amqp.Config) { c.URL = "mqtt://h" }, `url: unknown scheme "mqtt": amqp:// or amqps://`},
		{"url", func(c *amqp.Config) { c.URL = "amqp://:5672" }, "url: url has no host"},
		{"url", func(c *amqp.Config) { c.URL = "amqp://a:secret@h" }, "url: the account goes into username and password, not into the url"},
		{"url", func(c *amqp.Config) { c.URL = "amqp://a:sec ret@h:x" }, "url: not a URL: amqp://host:port or amqps://host:port"},
		{"url", func(c *amqp.Config) { c.URL = "amqp://h/v" }, "url: the virtual host goes into vhost, not into the url"},
		{"url", func(c *amqp.Config) { c.URL = "amqp://h?heartbeat=5" }, "url: an AMQP url ends after host and port"},
		{"ca_file", func(c *amqp.Config) { c.CAFile = "x.pem" }, "ca_file: ca_file is for TLS, and this url has none"},
		{"exchange", func(c *amqp.Config) { c.Exchange = &long }, "exchange: 256 bytes; 255 is the most"},
		{"vhost", func(c *amqp.Config) { c.VHost = long }, "vhost: 256 bytes; 255 is the most"},
		{"password", func(c *amqp.Config) { c.Password = "x" }, "password: password needs a username"},
		{"routing_key", func(c *amqp.Config) { c.RoutingKey = "a.{tpoic}" }, "routing_key: there is no {tpoic}, only {topic}, {device}, {gateway}"},
		{"routing_key", func(c *amqp.Config) { c.RoutingKey = "{topic" }, `routing_key: "{topic": a { without its }`},
		{"routing_key", func(c *amqp.Config) { c.RoutingKey = "a.}" }, `routing_key: "a.}": a } without its {`},
		{"format", func(c *amqp.Config) { c.Format = "xml" }, `format: unknown format "xml": payload or cloudevents`},
		{"window", func(c *amqp.Config) { c.Window = 1001 }, "window: window 1001 is not from 1 to 1000"},
		{"window", func(c *amqp.Config) { c.Window = -1 }, "window: window -1 is not from 1 to 1000"},
		{"heartbeat", func(c *amqp.Config) { c.Heartbeat = 1500 * time.Millisecond }, "heartbeat: 1.5s is not in whole seconds from 1s to 1h"},
		{"ack_timeout", func(c *amqp.Config) { c.AckTimeout = time.Millisecond }, "ack_timeout: 1ms is not from 10ms to 1h"},
		{"down_exchange", func(c *amqp.Config) { c.DownExchange = long }, "down_exchange: 256 bytes; 255 is the most"},
		{"down_queue", func(c *amqp.Config) { c.DownQueue = "a-{gateway}" }, `down_queue: "a-{gateway}": the one placeholder is {downlink}`},
		{"down_queue", func(c *amqp.Config) { c.DownQueue = "{downlink}-{downlink}" }, `down_queue: "{downlink}-{downlink}": the one placeholder is {downlink}`},
		{"down_exchange", func(c *amqp.Config) { c.DownQueue, c.DownExchange = "q", "x" }, "down_exchange: who made down_queue has bound it, so there is nothing to bind"},
	} {
		config := amqp.Config{URL: "amqp://h"}
		c.change(&config)
		_, err := amqp.New(config, "gw", "far", bridgetest.Age)
		var at *gateway.KeyError
		if !errors.As(err, &at) || at.Key != c.key || err.Error() != c.want {
			t.Errorf("%v, not %s", err, c.want)
		}
	}
}

func TestSourceConfig(t *testing.T) {
	long, none := strings.Repeat("x", 256), ""
	for _, c := range []struct {
		change func(*amqp.Config)
		filter string
		want   string // empty: it is right
	}{
		{func(c *amqp.Config) {}, "a/+/b.c/#", ""},
		{func(c *amqp.Config) { c.URL = "" }, "a", "url: url is missing: amqp://host or amqps://host"},
		{func(c *amqp.Config) { c.Exchange = &none }, "a", "down_exchange: a downlink needs an exchange, or a down_queue; nothing can be bound to AMQP's default exchange"},
		{func(c *amqp.Config) { c.Exchange, c.DownExchange = &none, "amq.topic" }, "a", ""},
		{func(c *amqp.Config) { c.Exchange, c.DownQueue = &none, "q" }, "a/*", ""},
		{func(c *amqp.Config) {}, "a/*/b", `downlink "commands": filter "a/*/b": a level * would be any level to AMQP`},
		{func(c *amqp.Config) {}, long, `downlink "commands": filter "` + long + `" has 256 bytes; AMQP has room for 255`},
	} {
		config := amqp.Config{URL: "amqp://h"}
		c.change(&config)
		_, err := amqp.NewSource(config, "gw", "far", "commands", gateway.Filters{gateway.MustFilter(c.filter)})
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%v, not %s", err, c.want)
		}
	}
}
