package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// publishMany publishes n messages at QoS 1 with so many in flight, and returns when all are
// acknowledged.
func publishMany(t testing.TB, address string, n, window int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var refused error
	c := mqttclient.New(mqttclient.Options{Address: address, ClientID: "publisher", Clean: true, Window: window,
		Acked: func(_ *mqttclient.Message, reason byte) {
			if reason >= 0x80 {
				refused = fmt.Errorf("refused with 0x%x", reason)
			}
		}})
	running, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { c.Run(running) })
	defer done.Wait()
	defer stop()
	for range n {
		if err := c.Publish(ctx, &mqttclient.Message{Topic: "bench/pipeline", Payload: []byte("21.5"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if refused != nil {
		t.Fatal(refused)
	}
}

// Under strace, as the kernel sees it: one fdatasync acknowledges many publishes, and a
// sensor nobody waits for causes one in a flush interval.
func TestSyncsAreShared(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed (.ci/deps installs it on Debian)")
	}
	weir, err := exec.LookPath("weir")
	if err != nil {
		t.Fatal(err)
	}
	port := filepath.Join(t.TempDir(), "tty")
	w := newRig(t, "journal: {flush_interval: 500ms}\ndevices:\n  oven: {driver: serial, port: "+port+", format: key=value}\n")
	trace := filepath.Join(t.TempDir(), "trace")
	// -D: the process we start is weir, and strace is its grandchild; so stop reaches weir.
	// A sync takes 5 ms more, as on an SD card: on a disk that is as fast as a round trip of
	// the publisher there is little to share.
	p := startProcess(t, strace, "-D", "-f", "--seccomp-bpf", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=5000",
		"-o", trace, weir, "-c", w.conf, "run")
	if err := waitListening("tcp", w.mqtt); err != nil {
		t.Fatal(err)
	}
	syncs := func() int {
		b, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("fdatasync("))
	}

	const acks = 5000
	before := syncs()
	publishMany(t, w.mqtt, acks, 100)
	if n := syncs() - before; n == 0 || n > acks/20 {
		t.Errorf("%d syncs for %d acknowledgements with 100 in flight; want one for many", n, acks)
	} else {
		t.Logf("%d syncs for %d acknowledgements", n, acks)
	}

	line, err := pty.Open(port)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	frames := func() bool {
		resp, err := http.Get("http://" + w.http + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return strings.Contains(string(b), `weir_device_frames_total{device="oven"}`)
	}
	tick := time.NewTicker(100 * time.Millisecond) // 10 Hz
	defer tick.Stop()
	for end := time.Now().Add(startTimeout); !frames(); <-tick.C { // until the port is found
		line.Write([]byte("temperature=21.5\n"))
		if time.Now().After(end) {
			t.Fatal("no reading arrived")
		}
	}
	before, begin := syncs(), time.Now()
	for range 40 {
		<-tick.C
		line.Write([]byte("temperature=21.5\n"))
	}
	// One for each interval, and one that was under way at either end.
	most := int(time.Since(begin)/(500*time.Millisecond)) + 2
	if n := syncs() - before; n == 0 || n > most {
		t.Errorf("%d syncs for 40 readings in %v; want at most %d", n, time.Since(begin).Round(time.Millisecond), most)
	} else {
		t.Logf("%d syncs for 40 readings in %v", n, time.Since(begin).Round(time.Millisecond))
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

// BenchmarkPublish is what a device feels: QoS 1 publishes through a real weir process, one
// at a time and with 100 in flight.
func BenchmarkPublish(b *testing.B) {
	w := startRig(b, "")
	for _, window := range []int{1, 100} {
		b.Run(fmt.Sprintf("inflight=%d", window), func(b *testing.B) {
			publishMany(b, w.mqtt, b.N, window)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acks/s")
		})
	}
}
