package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/firmware-sim/sim"
	"github.com/weir-iot/weir/firmware-sim/sim/snclient"
)

// freeUDP returns an address on loopback that nobody listens on.
func freeUDP(t testing.TB) string {
	t.Helper()
	address, err := fault.FreeAddress("udp")
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// history is what is stored of a topic, as text.
func (w *rig) history(topic string) (payloads []string) {
	w.t.Helper()
	var got web.Events
	get(w.t, "http://"+w.http+"/api/history?limit=5000&topic="+topic, &got)
	for _, e := range got.Events {
		if e.Text != nil {
			payloads = append(payloads, *e.Text)
		} else {
			payloads = append(payloads, string(e.Payload))
		}
	}
	return payloads
}

// Nodes publish over MQTT-SN at QoS 1 and 2 while weir is killed again and again. What was accepted is stored, at QoS 2
// once, and in order.
func TestNodesKilled(t *testing.T) {
	udp := freeUDP(t)
	weir := startRig(t, fmt.Sprintf("  mqttsn: {address: %q, retry_interval: 500ms}\n", udp))
	const nodes, kills = 4, 6
	var work sync.WaitGroup
	stop := make(chan struct{})
	accepted := make([][]int, nodes)
	var counts [nodes]atomic.Int64 // of accepted
	for i := range nodes {
		work.Go(func() {
			c, err := snclient.Dial(udp, snclient.Options{ID: fmt.Sprint("node", i), Retry: 100 * time.Millisecond, Retries: 20})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				err := errors.New("not connected yet")
				for n == 0 && err != nil {
					err = c.Connect(t.Context())
				}
				err = c.Publish(t.Context(), fmt.Sprint("sn/", i), int8(1+i%2), false, []byte(strconv.Itoa(n)))
				if err == nil {
					accepted[i] = append(accepted[i], n)
					counts[i].Add(1)
				}
				for err != nil {
					select {
					case <-stop:
						return
					default:
						err = c.Connect(t.Context())
					}
				}
			}
		})
	}
	for k := range kills + 1 { // each node gets on between two kills, and after the last
		for i := range nodes {
			for from, end := counts[i].Load(), time.Now().Add(startTimeout); counts[i].Load() < from+5 && !t.Failed(); pause(t.Context(), time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("node %d does not get on", i)
				}
			}
		}
		if k < kills {
			weir.kill()
			weir.start()
		}
	}
	close(stop)
	work.Wait()
	for i := range nodes {
		stored, times, most := map[int]int{}, 0, -1
		for _, text := range weir.history(fmt.Sprint("sn/", i)) {
			n, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			if stored[n]++; n < most && stored[n] == 1 {
				t.Errorf("node %d: %d is stored behind %d", i, n, most)
			}
			most = max(most, n)
			times = max(times, stored[n])
		}
		for _, n := range accepted[i] {
			if stored[n] == 0 {
				t.Errorf("node %d: %d was accepted and is not stored", i, n)
			}
		}
		if i%2 == 1 && times > 1 {
			t.Errorf("node %d: one is stored %d times at QoS 2", i, times)
		}
		t.Logf("node %d: %d accepted, %d stored", i, len(accepted[i]), len(stored))
	}
}

// A node on the network as it would be: with users, named, with a role, asleep.
func TestNodeSleeps(t *testing.T) {
	udp := freeUDP(t)
	const roles = `  mqttsn:
    address: %q
    clients: {node7: {role: node}}
    predefined: {1: plant1/door}
roles:
  node: {publish: ["plant1/%%u/#", plant1/door], subscribe: ["plant1/%%c/set"]}
  page: {publish: ["#"], subscribe: ["#"]}
`
	weir := startRig(t, fmt.Sprintf(roles, udp))
	var mu sync.Mutex
	var got []string
	c, err := snclient.Dial(udp, snclient.Options{ID: "node7", Clean: true, Retry: time.Second, Predefined: map[uint16]string{1: "plant1/door"},
		Message: func(m snclient.Message) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, m.Topic+" "+string(m.Payload))
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(c.Connect(t.Context()))
	step(c.Subscribe(t.Context(), "plant1/node7/set", 1))
	step(c.Publish(t.Context(), "plant1/door", 1, true, []byte("open")))
	var refused *snclient.Refused
	if err := c.Publish(t.Context(), "plant1/node8/t", 1, false, nil); !errors.As(err, &refused) {
		t.Errorf("not its topic: %v", err)
	}
	step(c.Sleep(t.Context(), time.Hour))
	resp, err := http.Post("http://"+weir.http+"/api/publish", "application/json", strings.NewReader(`{"topic": "plant1/node7/set", "payload": 21.5, "qos": 1}`))
	step(err)
	if resp.Body.Close(); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	metrics := body(t, "http://"+weir.http+"/metrics")
	for _, line := range []string{"weir_mqttsn_clients 1", "weir_mqttsn_asleep_clients 1", "weir_mqttsn_lost_clients_total 0", "weir_mqtt_clients 1"} {
		if !strings.Contains(metrics, "\n"+line+"\n") {
			t.Errorf("the metrics have no %q", line)
		}
	}
	step(c.Check(t.Context()))
	mu.Lock()
	if len(got) != 1 || got[0] != "plant1/node7/set 21.5" {
		t.Errorf("%q", got)
	}
	mu.Unlock()

	stranger, err := snclient.Dial(udp, snclient.Options{ID: "node8", Retry: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := stranger.Connect(t.Context()); !errors.As(err, &refused) {
		t.Errorf("not named: %v", err)
	}
	for topic, want := range map[string]string{"plant1/node7/t": "yes", "plant1/node8/t": "no"} {
		var out, errOut bytes.Buffer
		run(context.Background(), []string{"-c", weir.conf, "can", "node7", "publish", topic}, nil, &out, &errOut)
		if text := out.String() + errOut.String(); !strings.Contains(text, want+": ") {
			t.Errorf("weir can: %q, want %s", text, want)
		}
	}
	weir.end() // with a node that sleeps
}

// The simulated node that sleeps publishes when it wakes up, and does what it was told meanwhile.
func TestSimulatedNode(t *testing.T) {
	udp := freeUDP(t)
	weir := startRig(t, fmt.Sprintf("  mqttsn: {address: %q}\n", udp))
	ledger := sim.NewLedger()
	fleet, err := sim.Open(sim.Config{MQTTSN: udp, Site: "s", Rate: 50, Only: []string{"mailbox"}, Sent: ledger.Sent, Answered: ledger.Answered})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { fleet.Run(ctx) })
	defer func() {
		cancel()
		running.Wait()
		if err := fleet.Close(); err != nil {
			t.Error(err)
		}
	}()
	wait := func(topic, want string) {
		t.Helper()
		for end := time.Now().Add(startTimeout); ; pause(ctx, 20*time.Millisecond) {
			got := weir.history(topic)
			if want == "" && len(got) > 3 || slices.Contains(got, want) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %q", topic, got)
			}
		}
	}
	wait("s/mailbox/battery", "")
	resp, err := http.Post("http://"+weir.http+"/api/publish", "application/json", strings.NewReader(`{"topic": "s/mailbox/set", "payload": "flag up", "qos": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	wait("s/mailbox/shown", `"flag up"`)
	if len(ledger.Acked()) == 0 || !strings.Contains(fleet.Summary(), "mailbox") || !strings.Contains(fleet.Describe(), "s/mailbox/#") {
		t.Errorf("%s%s", fleet.Describe(), fleet.Summary())
	}
}

// A client that others wrote: every kind of topic at every QoS it has, a will, and messages on topics that it is told
// of. At QoS 1 it never acknowledges what it gets, so it subscribes at QoS 0.
func TestPythonNode(t *testing.T) {
	if out, err := exec.Command("python3", "-c", "import mqttsn12").CombinedOutput(); err != nil {
		t.Skipf("the Python package mqtt-sn-12 is not installed (python3 -m pip install mqtt-sn-12): %s", out)
	}
	udp := freeUDP(t)
	weir := startRig(t, fmt.Sprintf("  mqttsn: {address: %q, predefined: {1: plant1/door}}\n", udp))
	host, port, err := net.SplitHostPort(udp)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*startTimeout)
	defer cancel()
	python := func(module string, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "python3", append([]string{"-u", "-m", module, "-h", host, "-p", port}, args...)...)
	}
	reader := python("mqttsn12.mqtt_sn_sub", "-i", "reader", "-t", "plant1/#", "-d")
	said, err := reader.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	hear := func(want string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Errorf("the reader did not say %q", want)
	}
	defer func() {
		reader.Process.Kill()
		reader.Wait()
	}()
	hear("SUBACK return code: 0")
	publish := func(args ...string) {
		t.Helper()
		if out, err := python("mqttsn12.mqtt_sn_pub", args...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	for _, qos := range []string{"0", "1", "2"} {
		publish("-i", "node", "-q", qos, "-t", "plant1/t", "-m", "named "+qos)
	}
	publish("-i", "node", "-q", "1", "-T", "1", "-m", "predefined")
	publish("-i", "node", "-q", "2", "-t", "ab", "-m", "short")
	publish("-q", "-1", "-T", "1", "-m", "no connection")
	publish("-i", "node", "-q", "1", "-t", "plant1/w", "-m", "has a will", "--will-topic", "plant1/will", "--will-payload", "gone")
	for topic, want := range map[string][]string{
		"plant1/t": {"named 0", "named 1", "named 2"}, "plant1/door": {"predefined", "no connection"}, "ab": {"short"}, "plant1/w": {"has a will"}, "plant1/will": nil,
	} {
		if got := weir.history(topic); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", topic, got, want)
		}
	}
	hear("Registering topic") // §6.10: a wildcard's topic is told before its first message
	hear("payload=b'named 0'")
}

func body(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A UDP port that is taken is said as a TCP port is.
func TestUDPPortInUse(t *testing.T) {
	l, err := listenUDP("listeners.mqttsn.address", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = listenUDP("listeners.mqttsn.address", l.LocalAddr().String())
	want := fmt.Sprintf(`^listeners\.mqttsn\.address: 127\.0\.0\.1:[0-9]+ is in use by .* \(pid %d\): stop it, or set another address in listeners\.mqttsn\.address$`, os.Getpid())
	if err == nil || !regexp.MustCompile(want).MatchString(err.Error()) {
		t.Errorf("%v", err)
	}
}
