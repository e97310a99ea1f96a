package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsclient "github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/verify"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// looking is a weir verify that runs beside the test.
type looking struct {
	t    *testing.T
	out  bytes.Buffer // to be read when it has ended
	err  lines
	code chan int
}

// lines is a buffer that is read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// startVerify starts one, and returns when it listens.
func startVerify(t *testing.T, broker string, args ...string) *looking {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &looking{t: t, code: make(chan int, 1)}
	t.Cleanup(stop)
	go func() {
		l.code <- run(ctx, append([]string{"verify", "mqtt://" + broker, "--json"}, args...), nil, &l.out, &l.err)
	}()
	bridgetest.Until(t, "it listens", func() bool { return strings.HasPrefix(l.err.String(), "listening") })
	return l
}

// report waits for the end.
func (l *looking) report() (r verify.Report, code int) {
	l.t.Helper()
	select {
	case code = <-l.code:
	case <-time.After(2 * startTimeout):
		l.t.Fatal("weir verify does not end")
	}
	if err := json.Unmarshal(l.out.Bytes(), &r); err != nil {
		l.t.Fatalf("%v: %s%s", err, l.out.String(), l.err.String())
	}
	return r, code
}

// say publishes to a broker, one after the other.
func say(t *testing.T, broker string, messages ...mqttclient.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	c := mqttclient.New(mqttclient.Options{Address: broker, ClientID: "say", Clean: true, Version: mqttclient.V5})
	done := make(chan struct{})
	go func() { defer close(done); c.Run(running) }()
	defer func() { stop(); <-done }()
	for i := range messages {
		messages[i].QoS = 1
		if err := c.PublishWait(ctx, &messages[i]); err != nil {
			t.Fatal(err)
		}
	}
}

func withID(id, topic, payload string) mqttclient.Message {
	return mqttclient.Message{Topic: topic, Payload: []byte(payload), Properties: []mqttclient.UserProperty{{Key: "weir-id", Value: id}}}
}

// At a real mosquitto: what a lost link makes come twice is a repeat and no mistake, and all that
// the gateway says it has sent is there. Then one is taken away, and it is named.
func TestVerify(t *testing.T) {
	far := bridgetest.StartMosquitto(t)
	link := bridgetest.NewProxy(t, far.Addr)
	weir := startRig(t, fmt.Sprintf("uplinks:\n  far: {sink: mqtt, url: \"mqtt://%s\", topic: \"up/{topic}\", ack_timeout: 2s}\nroutes:\n  all: {topics: [\"bench/#\"], uplink: far}\n", link.Addr()))
	const n = 60
	arrived := bridgetest.Collect(t, far.Addr, "up/#")
	l := startVerify(t, far.Addr, "-c", weir.conf, "--topic", "up/#", "--expect-gateway", "test-gw", "--against", "far/all", "--for", "1h", "--count", fmt.Sprint(n+n/2+2))
	say(t, far.Addr, mqttclient.Message{Topic: "up/x", Payload: []byte("1")}, withID("other/e-1", "up/x", "1"))
	publishSome(t, weir.mqtt, 1, n/2)
	bridgetest.Until(t, "the first have arrived", func() bool { return len(arrived.Arrivals()) >= n/2+2 })
	link.LoseAnswers()
	publishSome(t, weir.mqtt, n/2+1, n)
	bridgetest.Until(t, "the others too, and nobody hears of it", func() bool { return len(arrived.Arrivals()) >= n+2 })
	link.Cut()
	link.Heal()
	r, code := l.report() // all have come once, and half of them twice
	if code != 0 || r.Wrong() || r.IDs != n || r.Repeats < n/2 || r.Topics != 2 || r.WithoutID != 1 || r.Others != 1 {
		t.Errorf("ended with %d: %s%s", code, l.out.String(), l.err.String())
	}
	// The acknowledgements of the last ones may be on their way.
	if r.Sent == nil || r.Sent.Due < n/4 || r.Sent.Missing.Count != 0 {
		t.Errorf("sent: %+v", r.Sent)
	}
}

// queued is what waits for the first uplink.
func queued(t *testing.T, conf string) int {
	t.Helper()
	var out bytes.Buffer
	if code := run(t.Context(), []string{"-c", conf, "queue", "--json"}, nil, &out, io.Discard); code != 0 {
		return -1
	}
	var all struct{ Uplinks []struct{ Queued int } }
	if err := json.Unmarshal(out.Bytes(), &all); err != nil || len(all.Uplinks) == 0 {
		t.Fatalf("%v: %s", err, out.String())
	}
	return all.Uplinks[0].Queued
}

// A far end that lost one event, and has others in the wrong order or twofold.
func TestVerifyFindsIt(t *testing.T) {
	far := bridgetest.StartMosquitto(t)
	weir := startRig(t, fmt.Sprintf("uplinks:\n  far: {sink: mqtt, url: \"mqtt://%s\"}\nroutes:\n  all: {topics: [\"bench/#\"], uplink: far}\n", far.Addr))
	arrived := bridgetest.Collect(t, far.Addr, "bench/#")
	publishSome(t, weir.mqtt, 1, 10)
	bridgetest.Until(t, "all have arrived", func() bool { return len(arrived.Arrivals()) == 10 && queued(t, weir.conf) == 0 })

	// The same again by hand, as a bad far end would have it.
	l := startVerify(t, far.Addr, "-c", weir.conf, "--topic", "bad/#", "--against", "far/all", "--count", "11")
	var bad []mqttclient.Message
	for i, a := range arrived.Arrivals() {
		if i == 4 {
			continue // lost
		}
		bad = append(bad, withID(a.ID, "bad/"+a.Topic, a.Payload))
	}
	bad[5], bad[7] = bad[7], bad[5] // of one topic, as those between them are of the other
	twofold := bad[0]
	twofold.Payload = []byte("something else")
	bad = append(bad, twofold, bad[1])
	say(t, far.Addr, bad...)
	r, code := l.report()
	lost := arrived.Arrivals()[4]
	if code != exitFailed || r.IDs != 9 || r.Repeats != 2 || r.Reordered.Count != 1 || r.Twofold.Count != 1 || r.Twofold.First[0].ID != arrived.Arrivals()[0].ID {
		t.Errorf("ended with %d: %s%s", code, l.out.String(), l.err.String())
	}
	if s := r.Sent; s == nil || s.Missing.Count != 1 || s.Missing.First[0].ID != lost.ID || s.Missing.First[0].Topic != lost.Topic {
		t.Errorf("missing is %s, found %s", lost.ID, l.out.String())
	}
	if !strings.Contains(l.err.String(), "1 out of order, 1 ids that name two things, 1 missing") {
		t.Errorf("it says %s", l.err.String())
	}
}

// A NATS stream is read from its beginning, and what a gateway has sent to it is there.
func TestVerifyStream(t *testing.T) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(startTimeout) {
		t.Fatal("nats-server does not get ready")
	}
	address := "nats://" + s.Addr().String()
	nc, err := natsclient.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err == nil {
		_, err = js.AddStream(&natsclient.StreamConfig{Name: "EVENTS", Subjects: []string{"bench.>"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	weir := startRig(t, fmt.Sprintf("uplinks:\n  far: {sink: nats, urls: [%q]}\nroutes:\n  all: {topics: [\"bench/#\"], uplink: far}\n", address))
	publishSome(t, weir.mqtt, 1, 40)
	bridgetest.Until(t, "all is done with", func() bool {
		info, err := js.StreamInfo("EVENTS")
		return err == nil && info.State.Msgs == 40 && queued(t, weir.conf) == 0
	})
	look := func() (r verify.Report, code int) {
		var out, errOut bytes.Buffer
		code = run(t.Context(), []string{"verify", address, "--stream", "EVENTS", "-c", weir.conf, "--against", "far/all", "--json"}, nil, &out, &errOut)
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatalf("%v: %s%s", err, out.String(), errOut.String())
		}
		return r, code
	}
	if r, code := look(); code != 0 || r.IDs != 40 || r.Repeats != 0 || r.Sent.Due != 40 {
		t.Errorf("ended with %d: %+v", code, r)
	}
	if err := js.DeleteMsg("EVENTS", 17); err != nil {
		t.Fatal(err)
	}
	if r, code := look(); code != exitFailed || r.IDs != 39 || r.Sent.Missing.Count != 1 {
		t.Errorf("without one, ended with %d: %+v", code, r)
	}
}

// Of a Kafka topic with several partitions: all that the gateway has sent is there. Then somebody puts there what
// came before, once more, and what had to come before: the one is a repeat, the other is named.
func TestVerifyKafka(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "weir"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	broker := fake.ListenAddrs()[0]
	weir := startRig(t, fmt.Sprintf("uplinks:\n  far: {sink: kafka, brokers: [%q]}\nroutes:\n  all: {topics: [\"bench/#\"], uplink: far}\n", broker))
	publishSome(t, weir.mqtt, 1, 40)
	bridgetest.Until(t, "all is done with", func() bool { return queued(t, weir.conf) == 0 })
	look := func() (r verify.Report, code int) {
		var out, errOut bytes.Buffer
		args := []string{"verify", "kafka://" + broker, "--topic", "weir", "-c", weir.conf, "--against", "far/all", "--json"}
		code = run(t.Context(), args, nil, &out, &errOut)
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatalf("%v: %s%s", err, out.String(), errOut.String())
		}
		return r, code
	}
	r, code := look()
	if code != 0 || r.IDs != 40 || r.Repeats != 0 || r.Sent.Due != 40 || r.Sent.Missing.Count != 0 {
		t.Errorf("ended with %d: %+v", code, r)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DefaultProduceTopic("weir"), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put := func(key, id string) {
		t.Helper()
		record := &kgo.Record{Key: []byte(key), Value: []byte("1"), Headers: []kgo.RecordHeader{{Key: "weir-id", Value: []byte(id)}, {Key: "weir-topic", Value: []byte("x")}}}
		if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"other/e-3", "other/e-4", "other/e-3"} {
		put("k", id)
	}
	for i := range 20 { // in many places: no order among them is promised
		put(fmt.Sprint("key", i), fmt.Sprintf("other/e-%d", 100-i))
	}
	if r, code := look(); code != 0 || r.IDs != 62 || r.Repeats != 1 || r.Reordered.Count != 0 {
		t.Errorf("with a repeat, ended with %d: %+v", code, r)
	}
	put("k", "other/e-2")
	r, code = look()
	if want := (verify.Finding{ID: "other/e-2", Topic: "x", Note: "first seen after other/e-4"}); code != exitFailed || r.Reordered.Count != 1 || r.Reordered.First[0] != want {
		t.Errorf("with one out of order, ended with %d: %+v", code, r)
	}
}

func TestVerifyUsage(t *testing.T) {
	pw := t.TempDir() + "/pw"
	if err := os.WriteFile(pw, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exitUsage, `there is no reader for "http"`, []string{"http://example.com"}},
		{exitUsage, "url: url has no host", []string{"mqtt://"}},
		{exitUsage, "# stands only", []string{"mqtt://127.0.0.1:1", "--topic", "a/#/b"}},
		{exitUsage, "which stream?", []string{"nats://127.0.0.1:1"}},
		{exitUsage, "which topic?", []string{"kafka://127.0.0.1:1"}},
		{exitUsage, "a Kafka url ends after host and port: kafka://127.0.0.1:1", []string{"kafka://127.0.0.1:1/weir"}},
		{exitUsage, "sasl: an account needs sasl", []string{"kafka://127.0.0.1:1", "--topic", "weir", "--username", "u", "--password-file", pw}},
		{exitFailed, "connection refused", []string{"kafkas://127.0.0.1:1", "--topic", "weir", "--sasl", "plain", "--username", "u", "--password-file", pw}},
		{exitUsage, "give UPLINK/ROUTE", []string{"mqtt://127.0.0.1:1", "--against", "cloud"}},
		{exitUsage, "no such file", []string{"mqtt://127.0.0.1:1", "--password-file", pw + "x"}},
		{exitFailed, "connection refused", []string{"mqtt://127.0.0.1:1", "--username", "u", "--password-file", pw}},
	} {
		var errOut bytes.Buffer
		code := run(t.Context(), append([]string{"verify"}, c.args...), nil, io.Discard, &errOut)
		if code != c.code || !strings.Contains(errOut.String(), c.says) {
			t.Errorf("weir verify %v ends with %d: %s", c.args, code, errOut.String())
		}
	}
}
