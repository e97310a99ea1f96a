// Package kinesis is the sink for Amazon Kinesis Data Streams. The partition key is the event's ordering
// key, the topic if a route says nothing else, so that the events of one key are in one shard.
//
// # Order
//
// PutRecords takes up to 500 records, may take some of them and refuse the others, and promises no
// order among those of one call. So no call carries two records of one key, and one call
// is on its way at a time:
//
//	waiting   a1 b1 a2 c1 a3 b2
//	calls     {a1 b1 c1} {a2 b2} {a3}
//
// Whatever a call does to a1, a2 has not left yet. When a call was taken in part, Send ends; the pump
// waits, and hands all again from the first refused one on. Send remembers what was taken behind
// that, acknowledges it at once and does not send it a second time: it was taken rightly, for
// nothing of its key was before it. So only what was refused is sent again, by the one
// layer that retries.
//
// The price is that one key moves one event per call. Many keys go side by side; a single one gets on at
// the pace of the round trip.
//
// A call without an answer may have been taken. It is sent again as a whole; the records have
// the same ids. Kinesis itself drops no repeat.
//
// # Place
//
// A record has data and a key and no headers, so the id can only be in the data: the format
// "event" (the default) and "cloudevents" have it there; "payload" loses it.
package kinesis

import (
	"context"
	"net/url"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

// Config is the uplink's section of weir.yaml.
type Config struct {
	dial.Config

	Stream string `yaml:"stream"` // the stream's name
	Region string `yaml:"region"` // as in eu-central-1
	// Endpoint is http:// or https://, for a VPC endpoint or an emulator; default: the region's own.
	Endpoint string `yaml:"endpoint"`

	// AccessKeyID, SecretAccessKey and, for temporary ones, SessionToken. Default: what the AWS tools
	// would use here: the environment, ~/.aws with its profiles and credential processes, the
	// role of the machine. These are renewed before they expire.
	AccessKeyID     string `yaml:"access_key_id"`
	SecretAccessKey string `yaml:"secret_access_key"`
	SessionToken    string `yaml:"session_token"`

	// Format is "event" (default), "cloudevents" or "payload".
	Format string `yaml:"format"`
	// AckTimeout is how long the far end may take nothing of a call, or owe its answer; default 20s.
	AckTimeout time.Duration `yaml:"ack_timeout"`
}

// Sink sends to one stream. What it keeps from one connection to the next is touched by Send
// only, of which there is one at a time.
type Sink struct {
	c         Config
	gatewayID string
	key       func(*gateway.Event) string
	encode    func(*gateway.Event) ([]byte, error)
	endpoint  *url.URL
	dialer    *dial.Dialer
	conn      *dial.HTTP

	credentials aws.CredentialsProvider // nil until they are first needed
	client      *kinesis.Client         // nil until then; it learns how wrong the clock here is
	taken       map[uint64]bool         // offsets that were taken, from the first one on that was not
	alone       int                     // so many records go one by one: a call of them was called invalid
}

var (
	streamName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)
	regionName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`) // it becomes part of a host name
)

// New returns a sink of gatewayID; key is the ordering key of an event. It opens nothing. A wrong value
// is a gateway.KeyError.
func New(c Config, gatewayID string, key func(*gateway.Event) string) (*Sink, error) {
	s := &Sink{c: c, gatewayID: gatewayID, key: key, taken: map[uint64]bool{}}
	switch {
	case c.Stream == "":
		return nil, gateway.BadKey("stream", "stream is missing: the stream's name")
	case !streamName.MatchString(c.Stream):
		return nil, gateway.BadKey("stream", "%q is not the name of a stream: 1 to 128 of a-z A-Z 0-9 _ . -", c.Stream)
	case c.Region == "":
		return nil, gateway.BadKey("region", "region is missing, such as eu-central-1")
	case !regionName.MatchString(c.Region):
		return nil, gateway.BadKey("region", "%q is not a region, such as eu-central-1", c.Region)
	case c.AccessKeyID == "" && c.SecretAccessKey != "":
		return nil, gateway.BadKey("secret_access_key", "secret_access_key needs an access_key_id")
	case c.AccessKeyID != "" && c.SecretAccessKey == "":
		return nil, gateway.BadKey("access_key_id", "access_key_id needs a secret_access_key")
	case c.AccessKeyID == "" && c.SessionToken != "":
		return nil, gateway.BadKey("session_token", "session_token needs an access_key_id")
	}
	if s.c.AckTimeout == 0 {
		s.c.AckTimeout = 20 * time.Second
	}
	if s.c.AckTimeout < time.Millisecond || s.c.AckTimeout > time.Hour {
		return nil, gateway.BadKey("ack_timeout", "%v is not from 1ms to 1h", c.AckTimeout)
	}
	if err := s.setFormat(); err != nil {
		return nil, err
	}
	if err := s.setEndpoint(); err != nil {
		return nil, err
	}
	if c.AccessKeyID != "" {
		given := aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}
		s.credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return given, nil })
	}
	return s, nil
}

func (s *Sink) setEndpoint() (err error) {
	if s.c.Endpoint == "" {
		e, err := kinesis.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), kinesis.EndpointParameters{
			Region: &s.c.Region, UseDualStack: aws.Bool(false), UseFIPS: aws.Bool(false),
		})
		if err != nil {
			return gateway.BadKey("region", "%w", err)
		}
		s.endpoint = &e.URI
	} else {
		u, err := url.Parse(s.c.Endpoint)
		if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.Scheme != "http" && u.Scheme != "https" {
			return gateway.BadKey("endpoint", "not an endpoint: https://host or http://host:port")
		}
		s.endpoint = u
	}
	if s.dialer, err = dial.New(s.c.Config, s.endpoint.Scheme == "https"); err != nil {
		return err
	}
	s.conn = s.dialer.HTTP(s.endpoint, s.c.AckTimeout)
	return nil
}

// CertificateExpiry is bridge.Certified.
func (s *Sink) CertificateExpiry() time.Time { return s.dialer.CertificateExpiry() }

// Send is bridge.Sink.
func (s *Sink) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	l := &link{s: s, events: events, done: done}
	defer s.conn.Close()
	err := s.haveCredentials(ctx)
	if err == nil {
		err = s.conn.Connect(ctx)
	}
	if err == nil {
		up()
		err = l.run(ctx)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// haveCredentials gets them, with the client that uses them, or sees that they are still good. The SDK would do that too, but without an
// end, and without saying that it is this for which it waits.
func (s *Sink) haveCredentials(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.dialer.Timeout())
	defer cancel()
	if s.credentials == nil {
		c, err := config.LoadDefaultConfig(ctx, config.WithRegion(s.c.Region))
		if err != nil {
			return credentialError(err)
		}
		s.credentials = c.Credentials
	}
	if _, err := s.credentials.Retrieve(ctx); err != nil {
		return credentialError(err)
	}
	if s.client == nil {
		s.client = kinesis.New(kinesis.Options{
			Region: s.c.Region, BaseEndpoint: aws.String(s.endpoint.String()), Credentials: s.credentials,
			HTTPClient: s.conn, Retryer: aws.NopRetryer{},
		})
	}
	return nil
}
