package sim

import (
	"math"
	"time"

	"github.com/weir-iot/weir/firmware-sim/hci"
)

// Air is the Bluetooth devices around one adapter: three thermometers of different formats, a beacon, and a strap that can be
// connected to. What they measure depends on the seed alone.
type Air struct {
	Controller *hci.Controller
	step       func(t time.Duration)
}

// The addresses of an Air's devices.
var (
	shedAddr    = [6]byte{0xa4, 0xc1, 0x38, 0x00, 0x00, 0x01}
	freezerAddr = [6]byte{0xa4, 0xc1, 0x38, 0x00, 0x00, 0x02}
	saunaAddr   = [6]byte{0xa4, 0xc1, 0x38, 0x00, 0x00, 0x03}
	keysAddr    = [6]byte{0x5a, 0xc1, 0x38, 0x00, 0x00, 0x04}
	strapAddr   = [6]byte{0xc0, 0xc1, 0x38, 0x00, 0x00, 0x05}
)

// AirConfig is what a gateway's config says to hear them all.
const AirConfig = `devices:
  shed: {driver: ble, decoder: bthome, address: "A4:C1:38:00:00:01"}
  freezer: {driver: ble, decoder: pvvx, address: "A4:C1:38:00:00:02"}
  sauna: {driver: ble, decoder: ruuvi, address: "A4:C1:38:00:00:03"}
  keys: {driver: ble, id: ibeacon-00000000000000000000000000000001-1-1, presence: 1m}
  strap: {driver: ble, address: "C0:C1:38:00:00:05", gatt: {read: [battery, manufacturer], notify: [heart_rate]}}
`

// NewAir makes an Air with days of the given length.
func NewAir(seed uint64, day time.Duration) *Air {
	shed := &signal{base: 12, swing: 6, wander: 0.2, noise: 0.02, peak: 0.6, rng: source(seed, "shed")}
	freezer := &signal{base: -18, swing: 0.5, wander: 0.3, noise: 0.05, rng: source(seed, "freezer")}
	sauna := &signal{base: 60, swing: 30, wander: 1, noise: 0.1, peak: 0.8, rng: source(seed, "sauna")}
	heart := &signal{base: 75, swing: 15, wander: 6, noise: 1, peak: 0.5, rng: source(seed, "strap")}
	rate := &hci.Characteristic{UUID: 0x2a37, Properties: 0x10, Value: []byte{0, 75}}
	battery := &hci.Characteristic{UUID: 0x2a19, Properties: 0x02, Value: []byte{100}}
	p := map[string]*hci.Peripheral{
		"shed":    {Addr: shedAddr, RSSI: -71},
		"freezer": {Addr: freezerAddr, RSSI: -83},
		"sauna":   {Addr: saunaAddr, RSSI: -78},
		"keys":    {Addr: keysAddr, Random: true, RSSI: -60, Data: hci.IBeacon([16]byte{15: 1}, 1, 1)},
		"strap": {Addr: strapAddr, Random: true, RSSI: -55, Data: []byte{2, 1, 6}, Response: hci.Name("strap"), Services: []hci.Service{
			{UUID: 0x180f, Characteristics: []*hci.Characteristic{battery}},
			{UUID: 0x180a, Characteristics: []*hci.Characteristic{{UUID: 0x2a29, Properties: 0x02, Value: []byte("Weir")}}},
			{UUID: 0x180d, Characteristics: []*hci.Characteristic{rate}},
		}},
	}
	a := &Air{Controller: &hci.Controller{Address: [6]byte{0x02, 0, 0, 0, 0, 1}}}
	steps := 0
	a.step = func(t time.Duration) {
		steps++
		p["shed"].Data = hci.BTHome(byte(steps), shed.at(t, day))
		p["freezer"].Data = hci.PVVX(freezerAddr, byte(steps), freezer.at(t, day), 55)
		p["sauna"].Data = hci.Ruuvi(saunaAddr, uint16(steps), sauna.at(t, day))
		rate.Value = []byte{0, byte(math.Round(min(220, max(40, heart.at(t, day)))))}
		battery.Value = []byte{byte(100 - min(99, int(t.Hours())))}
	}
	a.Step(0)
	for _, name := range []string{"shed", "freezer", "sauna", "keys", "strap"} {
		p[name].Every = 500 * time.Millisecond
		a.Controller.Add(p[name])
	}
	return a
}

// Step has the devices measure, t after the start.
func (a *Air) Step(t time.Duration) { a.Controller.Change(func() { a.step(t) }) }
