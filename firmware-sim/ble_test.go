package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/devices/ble/link"
	"github.com/weir-iot/weir/firmware-sim/hci"
	"github.com/weir-iot/weir/firmware-sim/sim"
	"github.com/weir-iot/weir/gateway/config"
)

// TestBLE: what the simulated devices advertise is what a gateway understands, and the config they come with is valid.
func TestBLE(t *testing.T) {
	ours, theirs := hci.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { radiate(ctx, sim.NewAir(7, time.Hour), theirs) })
	defer running.Wait()
	defer cancel()
	decoder, err := adv.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	heard := map[string]int{}
	host := link.New(ours, func(event []byte) {
		reports, _ := adv.ParseEvent(event)
		mu.Lock()
		defer mu.Unlock()
		for _, r := range reports {
			results, _ := decoder.Decode(r)
			for _, res := range results {
				heard[res.Format]++
			}
		}
	})
	defer host.Close()
	if err := host.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		var formats []string
		for f, n := range heard {
			if n > 2 { // also after the first step
				formats = append(formats, f)
			}
		}
		mu.Unlock()
		slices.Sort(formats)
		if slices.Equal(formats, []string{"atc", "bthome_v2", "ibeacon", "ruuvi_rawv2"}) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("heard %q", formats)
		}
	}
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte(sim.AirConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := devices.New(devices.Options{Sections: cfg.Devices, Radios: cfg.Radios}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/dev/vhci"); err == nil {
		return // it may work
	}
	var out bytes.Buffer
	if code := command(t.Context(), []string{"ble"}, &out, &out); code != 1 || !strings.Contains(out.String(), "modprobe hci_vhci") {
		t.Errorf("ended with %d: %s", code, &out)
	}
}
