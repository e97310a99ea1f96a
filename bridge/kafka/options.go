package kafka

import (
	"net"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/weir-iot/weir/gateway"
)

const idleLimit = 9 * time.Minute // brokers close after ten

// tries is how often franz-go may ask again by itself about a topic that does not exist, and
// send again after an error that the broker has answered. pause is between two of them. Together they
// end within AckTimeout, but leave a broker time to create a topic or to elect a leader.
const tries = 8

func (s *Sink) pause() time.Duration {
	return max(10*time.Millisecond, min(s.c.AckTimeout/20, time.Second))
}

// A record may be as large as the broker likes; who says no is the broker.
const (
	maxRecord  = 64 << 20
	maxRequest = maxRecord + 1<<20
)

// defaults fills in what is not set and checks what is.
func (s *Sink) defaults(uplink string) error {
	c := &s.c
	if len(c.Brokers) == 0 {
		return gateway.BadKey("brokers", "brokers is missing: [host:9092]")
	}
	brokers := make([]string, len(c.Brokers))
	for i, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			b = net.JoinHostPort(strings.Trim(b, "[]"), "9092")
		}
		host, port, err := net.SplitHostPort(b)
		if err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
			return gateway.BadKey("brokers", "%q is not host or host:port", c.Brokers[i])
		}
		if _, err := net.LookupPort("tcp", port); err != nil || port == "0" {
			return gateway.BadKey("brokers", "%q has no port from 1 to 65535", c.Brokers[i])
		}
		brokers[i] = b
	}
	c.Brokers = brokers
	if c.ClientID == "" {
		c.ClientID = "weir-" + s.gatewayID + "-" + uplink
	}
	if len(c.ClientID) > 249 {
		return gateway.BadKey("client_id", "client_id of %d bytes; 249 is the most", len(c.ClientID))
	}
	if c.Topic == "" {
		c.Topic = "weir"
	}
	switch c.Format {
	case "":
		c.Format = "payload"
	case "payload", "cloudevents":
	default:
		return gateway.BadKey("format", "unknown format %q: payload or cloudevents", c.Format)
	}
	if c.Linger == 0 {
		c.Linger = 5 * time.Millisecond
	}
	if c.Linger < time.Millisecond || c.Linger > time.Minute {
		return gateway.BadKey("linger", "%v is not from 1ms to 1m", c.Linger)
	}
	if c.BatchEvents == 0 {
		c.BatchEvents = 500
	}
	if c.BatchEvents < 1 || c.BatchEvents > 10000 {
		return gateway.BadKey("batch_events", "%d is not from 1 to 10000", c.BatchEvents)
	}
	if c.BatchBytes == 0 {
		c.BatchBytes = 512 << 10
	}
	if c.BatchBytes < 1<<10 || c.BatchBytes > 1<<20 {
		return gateway.BadKey("batch_bytes", "%d is not from 1024 to 1048576", c.BatchBytes)
	}
	if c.AckTimeout == 0 {
		c.AckTimeout = 20 * time.Second
	}
	if c.AckTimeout < 100*time.Millisecond || c.AckTimeout > 15*time.Minute { // what franz-go takes for its own
		return gateway.BadKey("ack_timeout", "%v is not from 100ms to 15m", c.AckTimeout)
	}
	return nil
}

func (s *Sink) clientOptions() ([]kgo.Opt, error) {
	codec, err := s.codec()
	if err != nil {
		return nil, err
	}
	mechanism, err := s.mechanism()
	if err != nil {
		return nil, err
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(s.c.Brokers...),
		kgo.ClientID(s.c.ClientID),
		kgo.SoftwareNameAndVersion("weir", "1"),
		kgo.DisableClientMetrics(), // they cost bytes, and a second at Close
		kgo.Dialer(s.dial),
		kgo.ConnIdleTimeout(idleLimit),
		kgo.RequestTimeoutOverhead(s.c.AckTimeout),
		kgo.RequestRetries(len(s.c.Brokers)),
		kgo.MetadataMinAge(s.pause()),
		kgo.RetryBackoffFn(func(failures int) time.Duration {
			return min(50*time.Millisecond<<min(failures-1, 10), s.pause())
		}),

		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // as the Java client hashes keys
		kgo.ProducerBatchCompression(codec),
		kgo.ManualFlushing(),
		kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(s.c.BatchEvents),
		kgo.ProducerBatchMaxBytes(maxRecord),
		kgo.BrokerMaxWriteBytes(maxRequest),
		kgo.ProduceRequestTimeout(s.c.AckTimeout),
		kgo.RecordRetries(tries),
		kgo.UnknownTopicRetries(tries),
		kgo.AllowAutoTopicCreation(), // if the broker does
	}
	if mechanism != nil {
		options = append(options, kgo.SASL(mechanism))
	}
	return options, nil
}

func (s *Sink) mechanism() (sasl.Mechanism, error) {
	c := s.c
	if c.SASL == "" {
		if c.Username != "" || c.Password != "" {
			return nil, gateway.BadKey("sasl", "an account needs sasl: plain, scram-256 or scram-512")
		}
		return nil, nil
	}
	if c.Username == "" {
		return nil, gateway.BadKey("username", "sasl needs a username")
	}
	switch c.SASL {
	case "plain":
		return plain.Auth{User: c.Username, Pass: c.Password}.AsMechanism(), nil
	case "scram-256":
		return scram.Auth{User: c.Username, Pass: c.Password}.AsSha256Mechanism(), nil
	case "scram-512":
		return scram.Auth{User: c.Username, Pass: c.Password}.AsSha512Mechanism(), nil
	}
	return nil, gateway.BadKey("sasl", "unknown mechanism %q: plain, scram-256 or scram-512", c.SASL)
}

func (s *Sink) codec() (kgo.CompressionCodec, error) {
	switch s.c.Compression {
	case "", "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, gateway.BadKey("compression", "unknown compression %q: none, gzip, snappy, lz4 or zstd", s.c.Compression)
}
