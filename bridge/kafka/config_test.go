package kafka_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/gateway"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		key    string // of the error; empty: none
		change func(*kafka.Config)
	}{
		{"", func(c *kafka.Config) {}},
		{"", func(c *kafka.Config) { c.Brokers = []string{"a", "b:9093", "[::1]:9092", "::1"} }},
		{"brokers", func(c *kafka.Config) { c.Brokers = nil }},
		{"brokers", func(c *kafka.Config) { c.Brokers = []string{""} }},
		{"brokers", func(c *kafka.Config) { c.Brokers = []string{":9092"} }},
		{"brokers", func(c *kafka.Config) { c.Brokers = []string{"a:0"} }},
		{"brokers", func(c *kafka.Config) { c.Brokers = []string{"a:70000"} }},
		{"brokers", func(c *kafka.Config) { c.Brokers = []string{"kafka://a:9092"} }},
		{"", func(c *kafka.Config) { c.Topic = "plant1.{topic}" }},
		{"topic", func(c *kafka.Config) { c.Topic = "plant1/{topic}" }},
		{"topic", func(c *kafka.Config) { c.Topic = "{topic}{topic}" }},
		{"topic", func(c *kafka.Config) { c.Topic = "{site}" }},
		{"topic", func(c *kafka.Config) { c.Topic = ".." }},
		{"topic", func(c *kafka.Config) { c.Topic = strings.Repeat("a", 250) }},
		{"topic", func(c *kafka.Config) { c.Topic = "{topic}" + strings.Repeat("a", 249) }},
		{"format", func(c *kafka.Config) { c.Format = "avro" }},
		{"compression", func(c *kafka.Config) { c.Compression = "brotli" }},
		{"sasl", func(c *kafka.Config) { c.SASL, c.Username = "gssapi", "u" }},
		{"sasl", func(c *kafka.Config) { c.Username = "u" }},
		{"username", func(c *kafka.Config) { c.SASL = "plain" }},
		{"client_id", func(c *kafka.Config) { c.ClientID = strings.Repeat("a", 250) }},
		{"linger", func(c *kafka.Config) { c.Linger = 2 * time.Minute }},
		{"linger", func(c *kafka.Config) { c.Linger = -1 }},
		{"batch_events", func(c *kafka.Config) { c.BatchEvents = 10001 }},
		{"batch_events", func(c *kafka.Config) { c.BatchEvents = -1 }},
		{"batch_bytes", func(c *kafka.Config) { c.BatchBytes = 1 }},
		{"batch_bytes", func(c *kafka.Config) { c.BatchBytes = 2 << 20 }},
		{"ack_timeout", func(c *kafka.Config) { c.AckTimeout = 99 * time.Millisecond }},
		{"ack_timeout", func(c *kafka.Config) { c.AckTimeout = 16 * time.Minute }},
		{"ca_file", func(c *kafka.Config) { c.CAFile = "ca.pem" }}, // without tls
		{"ca_file", func(c *kafka.Config) { c.TLS, c.CAFile = true, "/not/there.pem" }},
		{"proxy", func(c *kafka.Config) { c.Config = dial.Config{Proxy: "ftp://a:1"} }},
	} {
		config := kafka.Config{Brokers: []string{"127.0.0.1:9092"}}
		c.change(&config)
		_, err := kafka.New(config, "gw", "far", byTopic)
		var at *gateway.KeyError
		switch {
		case c.key == "" && err != nil:
			t.Errorf("%+v: %v", config, err)
		case c.key != "" && (!errors.As(err, &at) || at.Key != c.key || !errors.Is(err, gateway.ErrInvalid)):
			t.Errorf("%+v: %v, want an error at %s", config, err, c.key)
		}
	}
}
