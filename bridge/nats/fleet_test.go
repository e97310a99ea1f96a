package nats_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/nats"
)

// The page's leaf node: the gateway's own server takes everything while the hub is away, and the
// hub fetches it by itself. Nothing is lost, nothing doubled, and a topic stays in order.
func TestLeafNode(t *testing.T) {
	hubPort, hubLeafPort, hubStore := freePort(t), freePort(t), t.TempDir()
	startHub := func() *server.Server {
		o := fromConf(t, "hub.conf", hubStore, "0.0.0.0:4222", fmt.Sprint("127.0.0.1:", hubPort), "0.0.0.0:7422", fmt.Sprint("127.0.0.1:", hubLeafPort))
		return startWith(t, o)
	}
	o := fromConf(t, "leaf.conf", t.TempDir(), "127.0.0.1:4222", "127.0.0.1:-1", "hub.example.com:7422", fmt.Sprint("127.0.0.1:", hubLeafPort))
	o.LeafNode.ReconnectInterval = 50 * time.Millisecond
	leaf := startWith(t, o)
	local := js(t, connect(t, leaf.ClientURL()))
	if _, err := local.CreateStream(t.Context(), streamFromDocs(t, "events.json")); err != nil {
		t.Fatal(err)
	}

	// Before the hub has ever been there.
	u := startUplink(t, newSink(t, address(leaf), func(c *nats.Config) { c.Subject = "plant1.{topic}" }))
	u.add(100)
	u.delivered(t, 100)

	hub := startHub()
	nc := connect(t, hub.ClientURL(), client.MaxReconnects(-1), client.ReconnectWait(50*time.Millisecond))
	fleet, err := js(t, nc).CreateStream(t.Context(), streamFromDocs(t, "fleet.json"))
	if err != nil {
		t.Fatal(err)
	}
	has := func(n uint64) func() bool {
		return func() bool {
			info, err := fleet.Info(context.Background())
			return err == nil && info.State.Msgs >= n
		}
	}
	bridgetest.Until(t, "the hub has fetched 100", has(100))

	// While it is away, and while it goes.
	u.add(50)
	stop(hub)
	u.add(100)
	u.delivered(t, 250)
	startHub()
	u.add(50)
	u.delivered(t, 300)
	bridgetest.Until(t, "the hub has fetched 300", has(300))
	once(t, stored(t, fleet), 300)
}

// The page's cluster: the stream's leader is stopped in mid-stream, three times, and comes back.
func TestCluster(t *testing.T) {
	const size = 3
	var ports, routes [size]int
	var stores [size]string
	for i := range size {
		ports[i], routes[i], stores[i] = freePort(t), freePort(t), t.TempDir()
	}
	startNode := func(i int) *server.Server {
		pairs := []string{
			"server_name: n1", fmt.Sprint("server_name: n", i+1),
			"0.0.0.0:4222", fmt.Sprint("127.0.0.1:", ports[i]), "0.0.0.0:6222", fmt.Sprint("127.0.0.1:", routes[i]),
		}
		for k := range size {
			pairs = append(pairs, fmt.Sprintf("n%d.example.com:6222", k+1), fmt.Sprint("127.0.0.1:", routes[k]))
		}
		s, err := server.NewServer(fromConf(t, "cluster.conf", stores[i], pairs...))
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		return s
	}
	var nodes [size]*server.Server
	for i := range size {
		nodes[i] = startNode(i)
	}
	t.Cleanup(func() {
		for _, s := range nodes {
			stop(s)
		}
	})
	var urls []string
	for i := range size {
		urls = append(urls, fmt.Sprint("nats://127.0.0.1:", ports[i]))
	}
	// A look at the cluster is a new one each time: which server answers does not matter.
	look := func(do func(context.Context, jetstream.JetStream) error) error {
		var last error
		for _, url := range urls {
			nc, err := client.Connect(url, client.NoReconnect())
			if err != nil {
				last = err
				continue
			}
			j, err := jetstream.New(nc)
			if err == nil {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				err = do(ctx, j)
				cancel()
			}
			nc.Close()
			if last = err; err == nil {
				return nil
			}
		}
		return last
	}
	config := streamFromDocs(t, "cluster-events.json")
	var lastError error
	bridgetest.Until(t, "the cluster makes a stream", func() bool {
		lastError = look(func(ctx context.Context, j jetstream.JetStream) error {
			_, err := j.CreateOrUpdateStream(ctx, config)
			return err
		})
		return lastError == nil
	})
	leader := func() (i int) {
		bridgetest.Until(t, "the stream has a leader", func() bool {
			for i = range nodes {
				if nodes[i].JetStreamIsStreamLeader("$G", config.Name) {
					return true
				}
			}
			return false
		})
		return i
	}

	u := startUplink(t, newSink(t, "", func(c *nats.Config) {
		c.URLs, c.Subject, c.AckTimeout, c.ConnectTimeout = urls, "plant1.{topic}", 2*time.Second, 2*time.Second
	}))
	n := 0
	for range size {
		was := leader()
		u.add(500)
		n += 500
		bridgetest.Until(t, "it is in mid-stream", func() bool { return u.Status().Delivered > uint64(n-450) })
		stop(nodes[was])
		u.add(500)
		n += 500
		u.delivered(t, n)
		nodes[was] = startNode(was)
		var lags error
		defer func() {
			if lags != nil {
				t.Log(lags)
			}
		}()
		bridgetest.Until(t, "the node is back and has caught up", func() bool {
			lags = look(func(ctx context.Context, j jetstream.JetStream) error {
				s, err := j.Stream(ctx, config.Name)
				if err != nil {
					return err
				}
				info, err := s.Info(ctx)
				if err != nil {
					return err
				}
				if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != size-1 {
					return fmt.Errorf("cluster %+v", info.Cluster)
				}
				for _, r := range info.Cluster.Replicas {
					if !r.Current {
						return fmt.Errorf("%s lags", r.Name)
					}
				}
				return nil
			})
			return lags == nil
		})
	}
	if d := u.Status().Dead; d != 0 {
		t.Errorf("%d events are dead", d)
	}
	t.Logf("%d events were sent again", u.Status().Retried)
	nc := connect(t, urls[0])
	s, err := js(t, nc).Stream(t.Context(), config.Name)
	if err != nil {
		t.Fatal(err)
	}
	once(t, stored(t, s), n)
}
