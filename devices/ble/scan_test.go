package ble

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/firmware-sim/hci"
)

// TestScanned: what devices of every kind advertise arrives, with a controller of Bluetooth 4 and one of 5.
func TestScanned(t *testing.T) {
	for name, extended := range map[string]bool{"bluetooth 4": false, "bluetooth 5": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, AirConfig{Decoders: []adv.Table{seqTable()}})
			r.ctl.Change(func() { r.ctl.Extended = extended })
			beacon := [6]byte{0x42, 1, 2, 3, 4, 5} // resolvable: it changes
			long := append([]byte{221, 0xff, 0xff, 0xff, 0x5e, 0x39, 0x05}, make([]byte, 215)...)
			for addr, data := range map[[6]byte][]byte{
				thermometer:        hci.PVVX(thermometer, 1, 21.5, 40),
				other:              hci.BTHome(1, 23.5),
				{1, 2, 3, 4, 5, 6}: hci.Ruuvi([6]byte{1, 2, 3, 4, 5, 6}, 7, -10.5),
				beacon:             hci.IBeacon([16]byte{15: 1}, 2, 3),
				strap:              {2, 1, 6},
				{1, 1, 1, 1, 1, 1}: long,
			} {
				p := &hci.Peripheral{Addr: addr, RSSI: -50, Random: addr == beacon, Every: 20 * time.Millisecond, Data: data}
				if addr == strap {
					p.Response = hci.Name("the strap")
				}
				if len(data) <= 31 || extended {
					r.ctl.Add(p)
				}
			}
			r.keep()
			want := map[string]string{
				thermometer.ID(): "atc temperature=21.50 °C", other.ID(): "bthome_v2 temperature=23.50 °C", "010203040506": "ruuvi_rawv2 temperature=-10.500 °C",
				"ibeacon-00000000000000000000000000000001-2-3": "ibeacon uuid=00000000000000000000000000000001, major=2, minor=3", strap.ID(): "the strap",
			}
			if extended {
				want["010101010101"] = "seq seq=1337"
			}
			eventually(t, "not all are heard", func() bool {
				found := 0
				for _, s := range r.air.Status().Seen {
					if text, known := want[s.ID]; known && strings.Contains(s.Format+" "+s.Name+strings.Join(s.Readings, ", "), text) {
						found++
					}
				}
				return found == len(want)
			})
			if got := r.air.Status().Controller; got.Address != r.ctl.Address || got.Extended != extended {
				t.Errorf("the controller is %+v", got)
			}
		})
	}
}

// TestTaken: an adapter that somebody has switched on is taken, and that is said.
func TestTaken(t *testing.T) {
	if !hci.InVM() {
		t.Skip("needs adapters of the kernel: make test-ble-vm")
	}
	r := newRig(t, AirConfig{})
	r.ctl.Add(&hci.Peripheral{Addr: other, RSSI: -50, Every: 20 * time.Millisecond, Data: hci.BTHome(1, 20)})
	fd, err := syscall.Socket(syscall.AF_BLUETOOTH, syscall.SOCK_RAW, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	const deviceUp = 0x400448c9
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), deviceUp, uintptr(r.index)); errno != 0 && errno != syscall.EALREADY {
		t.Fatal(errno)
	}
	r.keep()
	r.hears()
	if !strings.Contains(r.log.String(), "is taken from another program") {
		t.Errorf("the log says %q", r.log)
	}
}
