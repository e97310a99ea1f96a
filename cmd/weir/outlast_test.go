package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/firmware-sim/sim"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// TestOutlastsTheJournal is an outage longer than the journal's window, on the default config but for
// its size: what the uplink still needs moves to the reservoir, while weir is killed again
// and again. When the far end is back everything acknowledged arrives, backlog first, in order per
// topic, and the ledger adds up before, between and after.
func TestOutlastsTheJournal(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	far := bridgetest.StartMosquitto(t)
	far.Stop()
	dir := t.TempDir()
	mqtt, httpAddress := freePort(t), freePort(t)
	conf := filepath.Join(dir, "weir.yaml")
	text := fmt.Sprintf(`gateway: {id: outlast, data_dir: data}
health: {interval: 0}
listeners: {mqtt: {address: "%s"}, http: {address: "%s"}}
journal: {max_size: 8MiB}
uplinks: {far: {sink: mqtt, url: "mqtt://%s"}}
routes: {all: {topics: ["#"], uplink: far}}
`, mqtt, httpAddress, far.Addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var weir *process
	start := func() {
		weir = startProcess(t, "weir", "-c", conf, "run")
		if err := waitListening("tcp", mqtt); err != nil {
			t.Fatal(err)
		}
	}
	balanced := func(when string) web.LedgerAccount {
		t.Helper()
		var l web.Ledger
		get(t, "http://"+httpAddress+"/api/ledger", &l)
		if l.Unaccounted != 0 || len(l.Routes) != 1 {
			t.Errorf("%s: the ledger does not add up: %+v", when, l)
		}
		return l.Routes[0]
	}
	start()

	ledger := sim.NewLedger()
	load := &sim.Load{Address: mqtt, Clients: 8, Rate: 200, Seed: 1, Ledger: ledger, Pad: 2000}
	sending, stopSending := context.WithCancel(t.Context())
	defer stopSending()
	loaded := make(chan error, 1)
	go func() { loaded <- load.Run(sending, time.Minute) }()
	waiting := func() (journal, backlog uint64) {
		var uplinks []web.Uplink
		get(t, "http://"+httpAddress+"/api/uplinks", &uplinks)
		return uplinks[0].Routes[0].Journal, uplinks[0].Routes[0].Backlog
	}
	for kills := 0; kills < 6; { // each after some more has moved
		before := uint64(0)
		_, before = waiting()
		for end := time.Now().Add(startTimeout); ; {
			if _, now := waiting(); now > before {
				break
			}
			if time.Now().After(end) {
				t.Fatal("nothing moves to the backlog")
			}
			pause(t.Context(), 20*time.Millisecond)
		}
		balanced(fmt.Sprintf("before kill %d", kills))
		weir.kill()
		kills++
		start()
		balanced(fmt.Sprintf("after kill %d", kills))
	}
	stopSending()
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	journal, backlog := waiting()
	if journal == 0 || backlog == 0 {
		t.Errorf("%d wait in the journal and %d in the backlog", journal, backlog)
	}
	balanced("before the far end is back")

	farEnd := &farReader{}
	far.Start()
	subscriber := mqttclient.New(mqttclient.Options{Address: far.Addr, ClientID: "far-reader", Version: mqttclient.V5, Received: farEnd.received})
	reading, stopReading := context.WithCancel(t.Context())
	read := make(chan struct{})
	go func() { defer close(read); subscriber.Run(reading) }()
	defer func() { stopReading(); <-read }()
	if _, err := subscriber.Subscribe(t.Context(), mqttclient.Sub{Filter: "#", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	var report sim.Report
	for end := time.Now().Add(4 * startTimeout); ; {
		if report = ledger.Check(farEnd.all()); len(report.Lost) == 0 || time.Now().After(end) {
			break
		}
		pause(t.Context(), 100*time.Millisecond)
	}
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	for _, problem := range farEnd.problems() {
		t.Error(problem)
	}
	for end := time.Now().Add(startTimeout); ; {
		j, b := waiting()
		if j == 0 && b == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%d wait in the journal and %d in the backlog when all has arrived", j, b)
			break
		}
		pause(t.Context(), 20*time.Millisecond)
	}
	if a := balanced("after all"); a.Queued != 0 || a.Delivered != a.Routed {
		t.Errorf("%+v", a)
	}
	t.Logf("%d waited in the journal, %d in the backlog\n%v", journal, backlog, &report)
	if err := weir.stop(); err != nil {
		t.Error(err)
	}
}

// get decodes the JSON answer at url into v.
func get(t *testing.T, url string, v any) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
}
