package nats_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"

	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a real nats-server on a free loopback port, with a JetStream that is stored on disk,
// until the test ends.
func start(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true}
	for _, f := range change {
		f(o)
	}
	return startWith(t, o)
}

func startWith(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stop(s) })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server does not get ready")
	}
	return s
}

func stop(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func address(s *server.Server) string { return s.Addr().String() }

// connect is a connection for the test's own looks at a server.
func connect(t testing.TB, url string, options ...client.Option) *client.Conn {
	t.Helper()
	closed := make(chan struct{})
	nc, err := client.Connect(url, append(options, client.ClosedHandler(func(*client.Conn) { close(closed) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); <-closed })
	return nc
}

func js(t testing.TB, nc *client.Conn) jetstream.JetStream {
	t.Helper()
	j, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// newStream makes a stream named UP for subjects up.> unless change says otherwise.
func newStream(t testing.TB, nc *client.Conn, change ...func(*jetstream.StreamConfig)) jetstream.Stream {
	t.Helper()
	c := jetstream.StreamConfig{Name: "UP", Subjects: []string{"up.>"}, Storage: jetstream.FileStorage}
	for _, f := range change {
		f(&c)
	}
	s, err := js(t, nc).CreateStream(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func byTopic(e *gateway.Event) string { return e.Topic }

func newSink(t *testing.T, addr string, change ...func(*nats.Config)) *nats.Sink {
	t.Helper()
	c := nats.Config{URLs: []string{"nats://" + addr}, AckTimeout: 10 * time.Second}
	for _, f := range change {
		f(&c)
	}
	s, err := nats.New(c, bridgetest.GatewayID, "far", byTopic)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func impatient(c *nats.Config) {
	c.KeepAlive, c.AckTimeout, c.ConnectTimeout = 200*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
}

func exclusive(c *nats.Config) { c.Exclusive = true }

func arrival(h client.Header, payload []byte) bridgetest.Arrival {
	return bridgetest.Arrival{ID: h.Get(client.MsgIdHdr), Topic: h.Get("weir-topic"), Payload: string(payload)}
}

// wire sees every message that is published, before a stream drops repeats.
type wire struct {
	mu  sync.Mutex
	all []bridgetest.Arrival
}

func watch(t *testing.T, nc *client.Conn, subject string) *wire {
	t.Helper()
	w := &wire{}
	_, err := nc.Subscribe(subject, func(m *client.Msg) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all = append(w.all, arrival(m.Header, m.Data))
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *wire) arrivals() []bridgetest.Arrival {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]bridgetest.Arrival(nil), w.all...)
}

// stored is what a stream has, but for those that were deleted.
func stored(t *testing.T, s jetstream.Stream, deleted ...uint64) (all []bridgetest.Arrival) {
	t.Helper()
	info, err := s.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && info.State.Msgs > 0; seq++ {
		if slices.Contains(deleted, seq) {
			continue
		}
		m, err := s.GetMsg(context.Background(), seq)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, arrival(m.Header, m.Data))
	}
	return all
}

func freePort(t *testing.T) int {
	t.Helper()
	address, err := fault.FreeAddress("tcp")
	if err != nil {
		t.Fatal(err)
	}
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return at.Port
}

// event is the n-th of a topic.
func event(topic string, n int) *gateway.Event {
	return &gateway.Event{Topic: topic, Payload: fmt.Appendf(nil, "%d", n), Accepted: time.Now(), Epoch: "e1", Offset: uint64(n)}
}

var clientInbox = client.CustomInboxPrefix("_INBOX_gw")

func respond(answer string) client.MsgHandler {
	return func(m *client.Msg) { m.Respond([]byte(answer)) }
}
