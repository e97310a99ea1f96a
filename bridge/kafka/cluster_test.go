package kafka_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a broker behind a link that can fail. It tells clients to come over the link; the
// test itself goes around it.
type cluster struct {
	link    *bridgetest.Proxy // nil: none
	direct  string
	tls     *tls.Config // for the test's own way
	options []kgo.Opt
}

// startFake starts kfake, franz-go's own broker, until the test ends.
func startFake(t *testing.T, options ...kfake.Opt) (*cluster, *kfake.Cluster) {
	t.Helper()
	c := &cluster{}
	options = append(options, kfake.NumBrokers(1), kfake.ListenFn(func(network, _ string) (net.Listener, error) {
		l, err := net.Listen(network, "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		c.direct = l.Addr().String()
		c.link = bridgetest.NewProxy(t, c.direct)
		return behindLink{l, c.link.Addr()}, nil
	}))
	fake, err := kfake.NewCluster(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	return c, fake
}

// behindLink is a listener that says it is somewhere else.
type behindLink struct {
	net.Listener
	addr string
}

func (l behindLink) Addr() net.Addr {
	a, err := net.ResolveTCPAddr("tcp", l.addr)
	if err != nil {
		panic(err)
	}
	return a
}

// client returns a client that goes around the link. Close it.
func (c *cluster) client(t testing.TB, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.direct), kgo.DisableClientMetrics(), kgo.DisableFetchSessions(),
		kgo.FetchMaxWait(10 * time.Millisecond), kgo.MetadataMinAge(10 * time.Millisecond),
		kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			if c.link != nil {
				address = c.direct
			}
			if c.tls != nil {
				return (&tls.Dialer{Config: c.tls}).DialContext(ctx, network, address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}),
	}, append(options, c.options...)...)...)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

// create makes a topic, and returns its name when the broker serves it.
func (c *cluster) create(t testing.TB, topic string, partitions int32, configs ...string) string {
	t.Helper()
	cl := c.client(t)
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	ct := kmsg.NewCreateTopicsRequestTopic()
	ct.Topic, ct.NumPartitions, ct.ReplicationFactor = topic, partitions, 1
	for kv := range slices.Chunk(configs, 2) {
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name, config.Value = kv[0], &kv[1]
		ct.Configs = append(ct.Configs, config)
	}
	req.Topics, req.TimeoutMillis = append(req.Topics, ct), 10000
	resp, err := req.RequestWith(t.Context(), cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
	(&reader{c: c, t: t, topic: topic}).all()
	return topic
}

// reader reads all that is in a topic. It is behind nothing and nothing of it runs between
// calls, so that a test can look for what a sink leaves running.
type reader struct {
	c     *cluster
	t     testing.TB
	topic string

	mu   sync.Mutex
	next map[int32]int64
	got  []*kgo.Record
}

// all returns the records that the broker has now, in order per partition.
func (r *reader) all() []*kgo.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cl := r.c.client(r.t)
	defer cl.Close()
	ends, err := r.ends(ctx, cl)
	for ; err != nil && ctx.Err() == nil; ends, err = r.ends(ctx, cl) { // a new topic takes a moment
	}
	if err != nil {
		r.t.Errorf("read %s: %v", r.topic, err)
		return nil
	}
	from := map[int32]kgo.Offset{}
	for p, end := range ends {
		if r.next[p] < end {
			from[p] = kgo.NewOffset().At(r.next[p])
		}
	}
	if len(from) == 0 {
		return r.got
	}
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: from})
	for missing := true; missing; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			r.t.Errorf("read %s: %v", r.topic, err)
			return r.got
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			r.got = append(r.got, rec)
			r.next[rec.Partition] = rec.Offset + 1
		})
		missing = false
		for p, end := range ends {
			missing = missing || r.next[p] < end
		}
	}
	return r.got
}

// ends returns where each partition ends.
func (r *reader) ends(ctx context.Context, cl *kgo.Client) (map[int32]int64, error) {
	meta := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &r.topic
	meta.Topics = append(meta.Topics, topic)
	found, err := meta.RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	if err := kerr.ErrorForCode(found.Topics[0].ErrorCode); err != nil {
		return nil, err
	}
	list := kmsg.NewPtrListOffsetsRequest()
	lt := kmsg.NewListOffsetsRequestTopic()
	lt.Topic = r.topic
	for _, p := range found.Topics[0].Partitions {
		lp := kmsg.NewListOffsetsRequestTopicPartition()
		lp.Partition, lp.Timestamp = p.Partition, -1
		lt.Partitions = append(lt.Partitions, lp)
	}
	list.Topics = append(list.Topics, lt)
	resp, err := list.RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	if r.next == nil {
		r.next = map[int32]int64{}
	}
	ends := map[int32]int64{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, err
			}
			ends[p.Partition] = p.Offset
		}
	}
	if len(ends) == 0 {
		return nil, errors.New("no partitions")
	}
	return ends, nil
}

func (r *reader) arrivals() []bridgetest.Arrival {
	records := r.all()
	out := make([]bridgetest.Arrival, len(records))
	for i, rec := range records {
		out[i] = bridgetest.Arrival{ID: header(rec, "weir-id"), Topic: header(rec, "weir-topic"), Payload: string(rec.Value)}
	}
	return out
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

func byTopic(e *gateway.Event) string { return e.Topic }

// newSink returns a sink that a busy machine does not make impatient.
func newSink(t testing.TB, addr, topic string, change ...func(*kafka.Config)) *kafka.Sink {
	t.Helper()
	c := kafka.Config{Brokers: []string{addr}, Topic: topic, AckTimeout: 10 * time.Second}
	for _, f := range change {
		f(&c)
	}
	s, err := kafka.New(c, bridgetest.GatewayID, "far", byTopic)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
