package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/firmware-sim/sim"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// TestFullDisk has another program fill the disk under a weir that is at work, to the last byte. The
// process that serves MQTT stays, tells senders that it stores nothing, and goes on when there is room;
// what it acknowledged is all there.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("a disk that is small takes a mount, and that takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	far := bridgetest.StartMosquitto(t)
	mqtt, httpAddress := freePort(t), freePort(t)
	conf := filepath.Join(dir, "weir.yaml")
	text := fmt.Sprintf(`gateway: {id: full, data_dir: disk/data}
listeners: {mqtt: {address: "%s"}, http: {address: "%s"}}
journal: {max_size: 64MiB}
health: {interval: 0}
uplinks: {far: {sink: mqtt, url: "mqtt://%s"}}
routes: {all: {topics: ["#"], uplink: far}}
`, mqtt, httpAddress, far.Addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	weir := startProcess(t, "weir", "-c", conf, "run")
	if err := waitListening("tcp", mqtt); err != nil {
		t.Fatal(err)
	}
	farEnd := &farReader{}
	subscriber := mqttclient.New(mqttclient.Options{Address: far.Addr, ClientID: "far-reader", Version: mqttclient.V5, Received: farEnd.received})
	reading, stopReading := context.WithCancel(t.Context())
	read := make(chan struct{})
	go func() { defer close(read); subscriber.Run(reading) }()
	defer func() { stopReading(); <-read }()
	if _, err := subscriber.Subscribe(t.Context(), mqttclient.Sub{Filter: "#", QoS: 1}); err != nil {
		t.Fatal(err)
	}

	ledger := sim.NewLedger()
	load := &sim.Load{Address: mqtt, Clients: 8, Rate: 100, Seed: 1, Ledger: ledger, Pad: 2000}
	sending, stopSending := context.WithCancel(t.Context())
	defer stopSending()
	loaded := make(chan error, 1)
	go func() { loaded <- load.Run(sending, 2*time.Minute) }()
	until := func(what string, cond func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * startTimeout); !cond(); pause(t.Context(), 10*time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain until %s", what)
			}
			select {
			case <-weir.done:
				t.Fatalf("the gateway ended before %s", what)
			default:
			}
		}
	}
	answered := func() int { return len(ledger.Acked()) }
	refusals := func() (n int) {
		for _, e := range ledger.Entries() {
			if e.Reason >= 0x80 {
				n++
			}
		}
		return n
	}
	for round := range 3 {
		before := answered()
		until("something is stored", func() bool { return answered() > before+200 })
		hog := filepath.Join(disk, "hog")
		fill(t, hog)
		refused := refusals()
		until("a sender is told that nothing is stored", func() bool { return refusals() > refused })
		var problem struct{ Detail string }
		if code := getStatus(t, "http://"+httpAddress+"/readyz", &problem); code != 503 {
			t.Errorf("round %d: /readyz answers %d while the disk is full: %s", round, code, problem.Detail)
		}
		if err := os.Remove(hog); err != nil {
			t.Fatal(err)
		}
		freed, before := time.Now(), answered()
		until("events are stored again", func() bool { return answered() > before })
		t.Logf("round %d: stored again %v after space was freed", round, time.Since(freed).Round(time.Millisecond))
	}
	stopSending()
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	var report sim.Report
	for end := time.Now().Add(4 * startTimeout); ; pause(t.Context(), 50*time.Millisecond) {
		if report = ledger.Check(farEnd.all()); len(report.Lost) == 0 || time.Now().After(end) {
			break
		}
	}
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	var l web.Ledger
	get(t, "http://"+httpAddress+"/api/ledger", &l)
	if l.Unaccounted != 0 {
		t.Errorf("%+v", l)
	}
	t.Logf("%v", &report)
	if err := weir.stop(); err != nil {
		t.Error(err)
	}
}

// fill writes until there is no room for another byte.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write([]byte(strings.Repeat("x", size))); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
}

// getStatus is get for an answer of any status, which it returns.
func getStatus(t *testing.T, url string, v any) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return resp.StatusCode
}
