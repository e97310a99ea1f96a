package kinesis_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	api "github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/kinesis"
	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func byTopic(e *gateway.Event) string { return e.Topic }

// newSink returns a sink to addr, host:port.
func newSink(t *testing.T, addr string, change ...func(*kinesis.Config)) *kinesis.Sink {
	t.Helper()
	c := kinesis.Config{
		Stream: "readings", Region: "eu-central-1", Endpoint: "http://" + addr,
		AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "secret", AckTimeout: 10 * time.Second,
	}
	for _, f := range change {
		f(&c)
	}
	s, err := kinesis.New(c, bridgetest.GatewayID, byTopic)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func impatient(c *kinesis.Config) {
	c.AckTimeout, c.ConnectTimeout = 300*time.Millisecond, 300*time.Millisecond
}

func overProxy(t *testing.T, target string, change ...func(*kinesis.Config)) *bridgetest.FarEnd {
	p := bridgetest.NewProxy(t, target)
	return &bridgetest.FarEnd{
		Sink: newSink(t, p.Addr(), append(change, impatient)...),
		Cut:  p.Cut, LoseAcks: p.LoseAnswers, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
	}
}

// The fake has an event before it acknowledges it, so here a commit that leads is seen at the
// moment it is made.
func TestFake(t *testing.T) {
	bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
		f := start(t)
		far := overProxy(t, f.Listener.Addr().String())
		far.Arrivals = f.arrivals
		return far
	})
}

// kinesalite is an emulator of the service, from npm.
const kinesaliteVersion = "3.3.3"

func TestKinesalite(t *testing.T) {
	addr := startKinesalite(t)
	n := 0
	bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
		n++
		stream := fmt.Sprintf("readings-%d", n)
		r := newReader(t, addr, stream)
		far := overProxy(t, addr, func(c *kinesis.Config) { c.Stream = stream })
		far.Arrivals, far.Late = r.arrivals, true
		return far
	})
}

// startKinesalite installs it into the user's cache directory the first time, and runs it on a free
// loopback port until the test ends.
func startKinesalite(t *testing.T) (addr string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed (apt-get install nodejs npm): tests against kinesalite are left out")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache directory for kinesalite: ", err)
	}
	dir := filepath.Join(cache, "weir-test", "kinesalite-"+kinesaliteVersion)
	module := filepath.Join(dir, "node_modules", "kinesalite")
	if _, err := os.Stat(module); err != nil {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		// Beside the place first, so that two tests at a time, or a broken one, leave nothing half.
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			t.Skip("no place for kinesalite: ", err)
		}
		fresh, err := os.MkdirTemp(filepath.Dir(dir), "install-")
		if err != nil {
			t.Skip("no place for kinesalite: ", err)
		}
		defer os.RemoveAll(fresh)
		out, err := exec.CommandContext(ctx, "npm", "install", "--prefix", fresh, "--ignore-scripts", "--no-audit", "--no-fund", "kinesalite@"+kinesaliteVersion).CombinedOutput()
		if err != nil {
			t.Skipf("npm cannot install kinesalite, so its tests are left out: %v %.300s", err, out)
		}
		if err := os.Rename(fresh, dir); err != nil {
			if _, there := os.Stat(module); there != nil {
				t.Skip("no place for kinesalite: ", err)
			}
		}
	}
	// It throws when a request breaks off, which would end it.
	const script = `process.on("uncaughtException", (e) => console.error(e.message));
const s = require(process.argv[1])({createStreamMs: 1, shardLimit: 1000});
s.listen(0, "127.0.0.1", () => console.log("listening on " + s.address().port));`
	cmd := exec.Command(node, "-e", script, module)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var trouble strings.Builder
	cmd.Stderr = &trouble
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	port, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("kinesalite does not start: %q %v %s", line, err, trouble.String())
	}
	return "127.0.0.1:" + port
}

// reader reads a stream of its own, of three shards.
type reader struct {
	t     *testing.T
	c     *api.Client
	at    []*string // an iterator per shard
	found [][]types.Record

	failed sync.Once
}

func newReader(t *testing.T, addr, stream string) *reader {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true} // the suite looks for what is left running
	c := api.New(api.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String("http://" + addr), HTTPClient: &http.Client{Transport: transport},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "x", SecretAccessKey: "x"}, nil
		}),
	})
	if _, err := c.CreateStream(t.Context(), &api.CreateStreamInput{StreamName: &stream, ShardCount: aws.Int32(3)}); err != nil {
		t.Fatal(err)
	}
	var d *api.DescribeStreamOutput
	bridgetest.Until(t, "the stream is there", func() bool {
		var err error
		d, err = c.DescribeStream(t.Context(), &api.DescribeStreamInput{StreamName: &stream})
		return err == nil && d.StreamDescription.StreamStatus == types.StreamStatusActive
	})
	r := &reader{t: t, c: c}
	for _, s := range d.StreamDescription.Shards {
		it, err := c.GetShardIterator(t.Context(), &api.GetShardIteratorInput{
			StreamName: &stream, ShardId: s.ShardId, ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
		})
		if err != nil {
			t.Fatal(err)
		}
		r.at = append(r.at, it.ShardIterator)
	}
	r.found = make([][]types.Record, len(r.at))
	return r
}

// arrivals reads on. A key is in one shard, so shard after shard keeps its order.
func (r *reader) arrivals() (all []bridgetest.Arrival) {
	for i := range r.at {
		for {
			out, err := r.c.GetRecords(context.Background(), &api.GetRecordsInput{ShardIterator: r.at[i]})
			if err != nil {
				r.failed.Do(func() { r.t.Error(err) })
				return nil
			}
			r.at[i] = out.NextShardIterator
			r.found[i] = append(r.found[i], out.Records...)
			if len(out.Records) == 0 {
				break
			}
		}
		for _, record := range r.found[i] {
			all = append(all, arrival(record.Data, aws.ToString(record.PartitionKey)))
		}
	}
	return all
}
