package ble

import (
	"strconv"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/firmware-sim/hci"
)

// seqTable is the format of the device of devicetest: a number, sent again and again, as sensors do.
func seqTable() adv.Table {
	company := uint16(0xffff)
	return adv.Table{
		Name: "seq", Match: adv.Match{Company: &company, MinLength: 3, Bytes: []adv.Condition{{At: 0, Is: []int64{0x5e}}}},
		Fields: []adv.Field{{Name: "seq", At: 1, Type: "u16le"}},
	}
}

// ConformanceRig is a device that advertises a number. What is not to be understood is a broken iBeacon, which
// says so.
func ConformanceRig(t *testing.T) (d *Driver, say func(int), noise, unplug, plug func(), told func() []string, mute func()) {
	r := newRig(t, AirConfig{Decoders: []adv.Table{seqTable()}})
	r.hurry()
	p := &hci.Peripheral{Addr: thermometer, RSSI: -50, Every: 10 * time.Millisecond, Data: []byte{2, 1, 6}}
	level := &hci.Characteristic{UUID: 0xff01, Properties: 0x08}
	p.Services = []hci.Service{{UUID: 0xff00, Characteristics: []*hci.Characteristic{level}}}
	r.ctl.Add(p)
	d, err := New(Config{Address: thermometer.String(), Decoder: auto, GATT: &GATTConfig{
		Write: []Attribute{{UUID: "ff01", Name: "level", Fields: []adv.Field{{Name: "level", Type: "s16be"}}}},
	}}, r.air, 0)
	if err != nil {
		t.Fatal(err)
	}
	say = func(n int) { r.ctl.Say(p, []byte{6, 0xff, 0xff, 0xff, 0x5e, byte(n), byte(n >> 8)}) }
	noise = func() { r.ctl.Say(p, []byte{5, 0xff, 0x4c, 0x00, 0x02, 0x15}) }
	told = func() (all []string) {
		r.ctl.Change(func() {
			for _, b := range level.Written {
				all = append(all, strconv.Itoa(int(b[0])<<8|int(b[1])))
			}
		})
		return all
	}
	mute = func() { r.ctl.Change(func() { p.Silent = true }) }
	return d, say, noise, r.pull, r.plug, told, mute
}
