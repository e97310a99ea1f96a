package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/firmware-sim/sim/modbusslave"
)

func TestProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain, odd, sun := modbusslave.New(1), modbusslave.New(2), modbusslave.New(3)
	plain.Set(modbusslave.Holding, 0, 0x41ac, 0, 0x8000, 'W'<<8|'e')
	plain.Set(modbusslave.Holding, 5, 7)
	odd.Lacks(3)
	sun.Set(modbusslave.Holding, 0, 'S'<<8|'u', 'n'<<8|'S', 103, 2, 0, 0, 64001, 1, 0, 0xffff, 0)
	line := &modbusslave.Line{Slaves: map[byte]*modbusslave.Slave{3: plain, 7: odd, 9: sun}}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { line.Serve(ctx, l, func(c io.ReadWriter) error { return line.ServeTCP(c) }) })
	defer serving.Wait()
	defer cancel()

	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte("buses: {plant: {address: "+l.Addr().String()+"}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	weir := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := run(t.Context(), append([]string{"-c", file, "devices", "probe"}, args...), nil, &out, &out); got != code {
			t.Fatalf("%v ends with %d, want %d:\n%s", args, got, code, &out)
		}
		return out.String()
	}
	out := weir(0, "--bus", "plant", "--ids", "1-10", "--timeout", "200ms", "--count", "6")
	for _, want := range []string{
		"unit 3 is there\n",
		"  40001 (address 0)  0x41ac\n",
		"uint16 16812, int16 16812, float16 2.8359375\n",
		"uint32 1101791232, int32 1101791232, float32 21.5\n",
		"word_order little: uint32 16812",
		"word_order little, byte_order little: uint32 44097, int32 44097, float32 6.1793e-41\n",
		"40003 (address 2)  0x8000\n",
		"uint16 32768, int16 -32768",
		"bits 0101011101100101, string We",
		"40006 (address 5)  0x0007\n", // what is not there in between is left out
		"unit 7 is there; it refuses to read holding register 40001: illegal function",
		"  it speaks SunSpec, models 103 (inverter), 64001 (not known to Weir): sunspec: true reads them\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "unit 4") || strings.Count(out, "(address 4)") != 1 /* of unit 9 */ {
		t.Errorf("shows what is not there:\n%s", out)
	}
	var slaves []slave
	_, text, _ := strings.Cut(weir(0, "--bus", "plant", "--ids", "3", "--address", "5", "--count", "1", "--json"), "\n")
	if err := json.Unmarshal([]byte(text), &slaves); err != nil || len(slaves) != 1 || slaves[0].Registers[0].Values[0].Value != "7" {
		t.Errorf("%s: %v", text, err)
	}
	if out := weir(exitFailed, "--bus", "plant", "--ids", "20", "--timeout", "50ms"); !strings.Contains(out, "nobody answered") {
		t.Error(out)
	}
	for _, args := range [][]string{{"--bus", "plnat"}, {"--bus", "plant", "--ids", "9-3"}, {"--bus", "plant", "--table", "hold"}, {"--bus", "plant", "--count", "-1"}} {
		weir(exitUsage, args...)
	}
}

// Who subscribes sees how a device is, also after the gateway was killed while the device was online and
// went away meanwhile, and nothing any more when it is gone from the configuration.
func TestStatusOfADeviceSurvivesAKill(t *testing.T) {
	port := filepath.Join(t.TempDir(), "tty")
	line, err := pty.Open(port)
	if err != nil {
		t.Fatal(err)
	}
	w := startRig(t, "devices:\n  oven: {driver: serial, port: "+port+", format: key=value}\n")
	// retained is what a subscriber that comes now is told in the end.
	retained := func(want string) {
		t.Helper()
		c := bridgetest.Collect(t, w.mqtt, "plant1/oven/#")
		bridgetest.Until(t, "the status is "+want, func() bool {
			got := ""
			for _, p := range c.Published() {
				got = p.Topic + " " + string(p.Payload)
			}
			return got == want
		})
	}
	retained("plant1/oven/status online")
	w.kill()
	line.Close()
	w.start()
	retained("plant1/oven/status offline")
	if line, err = pty.Open(port); err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	retained("plant1/oven/status online")
	w.end()

	config, err := os.ReadFile(w.conf)
	if err != nil {
		t.Fatal(err)
	}
	config = bytes.ReplaceAll(config, []byte("  oven: {"), []byte("  kiln: {"))
	if err := os.WriteFile(w.conf, config, 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	all := bridgetest.Collect(t, w.mqtt, "plant1/+/status")
	bridgetest.Until(t, "the new one is online", func() bool {
		got := all.Published()
		return len(got) > 0 && string(got[len(got)-1].Payload) == "online"
	})
	bridgetest.Until(t, "nothing is retained for the old one", func() bool {
		for _, e := range w.last(t, "plant1/oven/status") {
			if e != "" {
				return false
			}
		}
		return len(w.last(t, "plant1/oven/status")) == 1
	})
	w.end()
}

// last are the payloads of the newest events that match.
func (w *rig) last(t *testing.T, filter string) (payloads []string) {
	t.Helper()
	resp, err := http.Get("http://" + w.http + "/api/last?topic=" + filter)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Events []struct {
			Text string `json:"payload_text"`
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	for _, e := range answer.Events {
		payloads = append(payloads, e.Text)
	}
	return payloads
}
