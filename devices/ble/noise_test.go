package ble

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/hci"
)

// TestNoise: events of every format with bytes changed, cut, doubled and run together come through the radio's process, and a device is
// heard all the while. It is seeded. WEIR_NOISE is how many; make ble-noise takes a million.
func TestNoise(t *testing.T) {
	rounds := noise(t, 20_000)
	file, err := os.ReadFile("adv/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Event string `json:"hci_event_hex"`
	}
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	var events [][]byte
	for _, v := range vectors {
		if b, err := hex.DecodeString(v.Event); err == nil && len(b) > 4 {
			events = append(events, b)
		}
	}
	if len(events) < 20 {
		t.Fatalf("%d events in the vectors", len(events))
	}
	r := newRig(t, AirConfig{})
	d, err := New(Config{Address: thermometer.String(), Decoder: "bthome"}, r.air, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &hci.Peripheral{Addr: thermometer, RSSI: -50}
	r.ctl.Add(p)
	lines := r.drive(d)
	eventually(t, "it does not scan", r.ctl.Scanning)
	pid := r.pid()
	random := rand.New(rand.NewPCG(3, 4))
	slowest := time.Duration(0)
	packet := byte(0)
	say := func(temperature float64) {
		packet++
		r.ctl.Say(p, hci.BTHome(packet, temperature))
	}
	for n := range rounds {
		if n%50 == 0 { // so that broken packets are not all that comes
			say(99)
		}
		if n%1000 == 0 {
			began := time.Now()
			say(float64(n/1000%300) / 10)
			// One that is lost when much comes is said again, as sensors do.
			for heard := false; !heard; {
				select {
				case line := <-lines.out:
					heard = strings.HasSuffix(line, "="+fmt.Sprintf("%.2f", float64(n/1000%300)/10))
				case <-time.After(50 * time.Millisecond):
					say(float64(n/1000%300) / 10)
				}
				if time.Since(began) > 20*time.Second {
					t.Fatalf("after %d events the device is not heard", n)
				}
			}
			slowest = max(slowest, time.Since(began))
		}
		event := hci.Spoil(random, events[random.IntN(len(events))], events)
		if len(event) == 0 {
			event = []byte{4}
		}
		event[0] = 4
		if len(event) > 1 && event[1] == 0x10 { // a fault of the hardware is believed
			event[1] = 0x3e
		}
		if len(event) > 2 && len(event) < 258 && random.IntN(4) > 0 { // most have the length they say, or they are not looked at
			event[2] = byte(len(event) - 3)
		}
		r.ctl.Inject(event[:min(len(event), 258)])
	}
	if r.pid() != pid {
		t.Error("the radio's process was started again")
	}
	s := r.air.Status()
	t.Logf("%d events, %d advertisements heard, slowest answer of a device %v, %d not configured are remembered", rounds, s.Heard, slowest.Round(time.Millisecond), len(s.Seen))
	if len(s.Seen) > defaultRemember {
		t.Errorf("%d are remembered", len(s.Seen))
	}
}
