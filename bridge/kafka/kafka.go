// Package kafka is the sink for Apache Kafka and what speaks its protocol (Redpanda, Event
// Hubs, MSK). An event becomes one record: its key is the ordering key, so that one key is one
// partition; its value the payload; the event's id is the header "weir-id".
//
// # Rounds
//
// Events are sent in rounds. A round gathers what is there, hands all of it to the client
// before anything leaves (that is what kgo.ManualFlushing is for), and waits for every answer
// before the next one begins:
//
//	gather ─► one batch per partition ─► acks=all ─► done for each ─► gather …
//
// The pump reads ahead 512 events and no further, so rounds are about as fast as a stream would
// be, and they make order easy to see. Kafka answers for a batch as a whole and franz-go
// fails a partition as a whole: in a stream, an event that is handed over just between a
// batch's refusal and our hearing of it would overtake the refused ones. Between rounds nothing
// is under way.
//
// # What holds, and why
//
//   - acks=all: an answer means that every replica in sync has the record.
//   - Within Send, franz-go sends a batch again when its answer is lost, the leader moves or
//     the connection breaks. Producer id, epoch and sequence number stay with the batch, so the broker
//     writes it once. This is the one repetition that is not the pump's. It is
//     bounded by AckTimeout for the whole round: then Send ends, the client with it, and the
//     pump decides. What has no answer is sent again by a new producer, under new sequence
//     numbers; such a repeat carries the same weir-id.
//   - franz-go's own bounds are not used for this. With idempotence RecordDeliveryTimeout and
//     RecordRetries cannot fail a batch that may have been written, which is the very case that
//     matters, and RecordDeliveryTimeout counts from the record's timestamp, which here is
//     the time the event was accepted: a backlog would be too old at once. RecordRetries is
//     set only so that an error the broker keeps answering (NOT_ENOUGH_REPLICAS) becomes a reason
//     for people to read.
//   - An ended connection throws away what it had not sent yet (SO_LINGER 0). Otherwise the kernel
//     might deliver an old batch minutes later, behind its own repetition.
//   - OUT_OF_ORDER_SEQUENCE_NUMBER and UNKNOWN_PRODUCER_ID say that the broker has
//     forgotten this producer, say by retention. franz-go then goes on under a new epoch and
//     repeats the batch. StopProducerOnDataLossDetected would stop instead, and gain nothing: an event is
//     ours until its own answer is there.
//   - After a failure nothing behind it in its partition counts as delivered: see settle.
//
// # Poison
//
// A batch that is too large or has an invalid record is refused with all that is in it. Its
// events are then sent one at a time, within the same Send and before anything new: who is
// refused alone is the one. What is said of a topic is an event's fault only if the event chose
// the topic; see [verdict].
package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

// Config is the uplink's section of weir.yaml.
type Config struct {
	dial.Config

	Brokers  []string `yaml:"brokers"` // host or host:port, port 9092; any of the cluster
	TLS      bool     `yaml:"tls"`
	SASL     string   `yaml:"sasl"` // plain, scram-256 or scram-512; default: none
	Username string   `yaml:"username"`
	Password string   `yaml:"password"`
	ClientID string   `yaml:"client_id"` // for quotas and the broker's log; default weir-<gateway id>-<uplink id>

	// Topic is a name, or a name with {topic} in it, which stands for the event's topic; see
	// [template]. Default "weir".
	Topic       string `yaml:"topic"`
	Format      string `yaml:"format"`      // payload (default) or cloudevents
	Compression string `yaml:"compression"` // none (default), gzip, snappy, lz4 or zstd

	// Linger is how long a round waits for more events; default 5ms, 1ms to 1m.
	Linger time.Duration `yaml:"linger"`
	// BatchEvents and BatchBytes bound a round; a larger event goes alone. Default 500, 1 to 10000,
	// and 512 KiB, 1 KiB to 1 MiB.
	BatchEvents int `yaml:"batch_events"`
	BatchBytes  int `yaml:"batch_bytes"`

	// AckTimeout is how long the answers to a round may take; default 20s, 100ms to 15m. After
	// as long without events the far end has to answer a ping.
	AckTimeout time.Duration `yaml:"ack_timeout"`
}

// Sink sends to one cluster.
type Sink struct {
	c         Config
	gatewayID string
	key       func(*gateway.Event) string
	topic     template
	dialer    *dial.Dialer
	options   []kgo.Opt // what does not change from one connection to the next

	// What one Send learned and the next one goes on with; Sends do not overlap.
	pace pace

	dialed atomic.Pointer[error] // how the last attempt to reach a broker ended
}

// New returns a sink for uplink of gatewayID; key is the ordering key of an event. It opens
// nothing. A wrong value is a gateway.KeyError.
func New(c Config, gatewayID, uplink string, key func(*gateway.Event) string) (*Sink, error) {
	s := &Sink{c: c, gatewayID: gatewayID, key: key}
	if err := s.defaults(uplink); err != nil {
		return nil, err
	}
	var err error
	if s.topic, err = parseTemplate(s.c.Topic); err != nil {
		return nil, gateway.BadKey("topic", "%w", err)
	}
	if s.dialer, err = dial.New(c.Config, c.TLS); err != nil {
		return nil, err
	}
	if s.options, err = s.clientOptions(); err != nil {
		return nil, err
	}
	s.pace = newPace(s.c.BatchBytes)
	return s, nil
}

// CertificateExpiry is bridge.Certified.
func (s *Sink) CertificateExpiry() time.Time { return s.dialer.CertificateExpiry() }

// Send is bridge.Sink.
func (s *Sink) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	// franz-go ends whatever it is doing with life, a read or a dial that does not get on
	// included, and nothing else ends all of it.
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	client, err := kgo.NewClient(append(s.options, kgo.WithContext(life))...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer client.Close()
	c := &connection{s: s, client: client, life: life, end: end, done: done}
	s.dialed.Store(nil)

	err = c.within(s.dialer.Timeout(), "no answer", c.hello)
	if err == nil {
		up()
		err = c.run(events)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// connection is one Send.
type connection struct {
	s      *Sink
	client *kgo.Client
	life   context.Context // of everything that the client does
	end    context.CancelCauseFunc
	done   func(*gateway.Event, error)

	again []*gateway.Event // refused together, to be sent one at a time before anything else
}

// within calls fn, and ends the client if that takes longer than limit.
func (c *connection) within(limit time.Duration, what string, fn func() error) error {
	still := fmt.Errorf("%s within %v", what, limit)
	timer := time.AfterFunc(limit, func() { c.end(still) })
	defer timer.Stop()
	err := fn()
	if !errors.Is(context.Cause(c.life), still) {
		return err
	}
	if last := c.s.dialed.Load(); last != nil && *last != nil {
		return fmt.Errorf("%w: %w", still, *last)
	}
	return still
}

// hello finds out that the cluster is there, knows us, and lets us produce. The producer id is
// asked for here so that an account without the right to write anything is the
// uplink's state and no event's fault.
func (c *connection) hello() error {
	err := c.ping()
	if errors.Is(err, io.EOF) {
		err = errors.New("the far end closed the connection: are tls and the account right?")
	}
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, _, err := c.client.ProducerID(c.life); err != nil {
		return fmt.Errorf("ask for a producer id: %w", err)
	}
	return nil
}

// ping asks any broker who else there is: the cheapest question. The client's own Ping gives one
// request to a second broker while the first may still look at it.
func (c *connection) ping() error {
	who := kmsg.NewPtrMetadataRequest()
	who.Topics = []kmsg.MetadataRequestTopic{}
	_, err := who.RequestWith(c.life, c.client)
	return err
}

// run sends until events is closed and all is answered, or the connection is lost.
func (c *connection) run(events <-chan *gateway.Event) error {
	for {
		batch, open, err := c.gather(events)
		if err == nil && len(batch) > 0 {
			err = c.round(batch)
		}
		if err == nil && open && len(batch) == 0 {
			err = c.within(c.s.c.AckTimeout, "no answer to a ping", c.ping)
		}
		if err != nil {
			return err
		}
		if !open && len(c.again) == 0 {
			return nil
		}
	}
}

// dial is the client's way to a broker.
func (s *Sink) dial(ctx context.Context, _, address string) (net.Conn, error) {
	conn, err := s.dialer.Dial(ctx, address)
	s.dialed.Store(&err)
	if err != nil {
		return nil, err
	}
	raw := conn
	if secure, ok := conn.(*tls.Conn); ok {
		raw = secure.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok { // a proxy's tunnel may not be one
		if err := tcp.SetLinger(0); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}
