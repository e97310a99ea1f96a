package modbus

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/firmware-sim/sim/modbusslave"
)

// The lengths are those of the SunSpec models themselves, without the pad of model 1.
func TestModelLengths(t *testing.T) {
	for id, want := range map[int]int{
		1: 65, 101: 50, 102: 50, 103: 50, 111: 60, 112: 60, 113: 60,
		201: 105, 202: 105, 203: 105, 204: 105, 211: 124, 212: 124, 213: 124, 214: 124,
	} {
		n := 0
		factors := map[string]bool{}
		for point := range strings.FieldsSeq(models[id].points) {
			kind, rest, _ := strings.Cut(point, ":")
			t2, known := pointTypes[kind]
			if !known {
				t.Errorf("model %d: type of %q", id, point)
			}
			n += t2.words
			if kind == "sf" {
				factors[rest] = true
			}
		}
		if n != want {
			t.Errorf("model %d has %d registers, want %d", id, n, want)
		}
		for _, r := range registersOf(models[id].points, "x", 100, n) {
			if r.factor != "" && (!factors[r.factor] || r.scaleAt == 0) {
				t.Errorf("model %d: %s has no factor %s", id, r.name, r.factor)
			}
		}
	}
	if len(models) != 15 {
		t.Errorf("%d models", len(models))
	}
}

// sunspec fills a slave with a common block, a model that nobody knows, an inverter and two meters.
func sunspecSlave(s *modbusslave.Slave, base uint16) {
	at := base
	put := func(words ...uint16) {
		s.Set(modbusslave.Holding, at, words...)
		at += uint16(len(words))
	}
	str := func(text string, n int) []uint16 {
		w := make([]uint16, n)
		for i := range text {
			w[i/2] |= uint16(text[i]) << (8 * (1 - i%2))
		}
		return w
	}
	float := func(f float32) []uint16 {
		b := math.Float32bits(f)
		return []uint16{uint16(b >> 16), uint16(b)}
	}
	put('S'<<8|'u', 'n'<<8|'S')
	put(1, 66)
	put(str("Weir", 16)...)
	put(str("Sim 3000", 16)...)
	put(make([]uint16, 8)...)
	put(str("1.2", 8)...)
	put(str("SN0042", 16)...)
	put(7, 0)
	put(64001, 3, 1, 2, 3)
	put(103, 50)
	put(1234, 411, 412, 0xffff, 0xfffe)             // A ×0.01, phase C not there
	put(4001, 4002, 4003, 2301, 2302, 2303, 0xffff) // V ×0.1
	put(2843, 0, 5000, 0xfffe)                      // W, Hz ×0.01
	put(0x8000, 0x8000, 0x8000, 0x8000, 0xff9c, 0xfffe)
	put(0, 50000, 2) // WH ×100
	put(0xffff, 0x8000, 0xffff, 0x8000, 0x8000, 0x8000)
	put(0xffec, 0x8000, 0x8000, 0x8000, 0) // TmpCab -20
	put(4, 0xffff)
	put(make([]uint16, 12)...)
	for range 2 {
		put(213, 124)
		put(float(5.5)...)
		for range (124-2)/2 - 1 {
			put(0x7fc0, 0)
		}
		put(0xffff, 0xffff)
	}
	put(0xffff, 0)
}

func TestSunSpec(t *testing.T) {
	for _, base := range sunspecBases {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, BusConfig{Address: "inverter"})
			slave := modbusslave.New(1)
			r.line.Slaves[1] = slave
			sunspecSlave(slave, base)
			d, err := New(Config{UnitID: 1, Interval: time.Second, SunSpec: true}, r.bus, 0)
			if err != nil {
				t.Fatal(err)
			}
			got := frames(t, d, 2500*time.Millisecond, func() {
				time.Sleep(1500 * time.Millisecond)
				addr := base + 2 + 68 + 5 + 2
				slave.Set(modbusslave.Holding, addr, 1300)
			})
			wantFrames(t, got, "0s -",
				"0s common.Mn=Weir common.Md=Sim 3000 common.Vr=1.2 common.SN=SN0042 common.DA=7",
				"0s inverter.A=12.34 inverter.AphA=4.11 inverter.AphB=4.12 inverter.PPVphAB=400.1 inverter.PPVphBC=400.2 inverter.PPVphCA=400.3"+
					" inverter.PhVphA=230.1 inverter.PhVphB=230.2 inverter.PhVphC=230.3 inverter.W=2843 inverter.Hz=50.00 inverter.PF=-1.00"+
					" inverter.WH=5000000 inverter.TmpCab=-20 inverter.St=mppt inverter.Evt1=0 inverter.Evt2=0 inverter.EvtVnd1=0 inverter.EvtVnd2=0 inverter.EvtVnd3=0 inverter.EvtVnd4=0",
				"0s meter.A=5.5", "0s meter2.A=5.5",
				"2s inverter.A=13.00")
		})
	}
}

func TestNoSunSpec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3)
		d, err := New(Config{UnitID: 3, SunSpec: true}, r.bus, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = d.Run(t.Context(), nil)
		if err == nil || err.Error() != "unit 3 on port /dev/rs485 at 19200 8N1 does not speak SunSpec: there is no SunS at 40000, 50000 or 0" {
			t.Error(err)
		}
	})
}

// A device with an older, shorter edition has no points whose factor it lacks.
func TestShortModel(t *testing.T) {
	var names []string
	for _, r := range registersOf(models[103].points, "x", 100, 11) { // up to PhVphC, without V_SF
		names = append(names, r.name)
	}
	if got := strings.Join(names, " "); got != "x.A x.AphA x.AphB x.AphC" {
		t.Error(got)
	}
}

// A device may say anything of itself: a list without an end, lengths beyond the last register.
func FuzzSunSpec(f *testing.F) {
	f.Add([]byte{0, 1, 0, 66, 0, 103, 0, 50, 0xff, 0xff})
	f.Add([]byte{0, 103, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		image := map[uint16]uint16{40000: 'S'<<8 | 'u', 40001: 'n'<<8 | 'S'}
		for i := 0; i+1 < len(b) && i < 2*25000; i += 2 {
			image[40002+uint16(i/2)] = uint16(b[i])<<8 | uint16(b[i+1])
		}
		found, err := findModels(func(addr uint16, n int) (out []uint16, err error) {
			for i := range n {
				w, there := image[addr+uint16(i)]
				if !there || int(addr)+i > 65535 {
					return nil, illegalAddress
				}
				out = append(out, w)
			}
			return out, nil
		})
		if err != nil || len(found) > maxModels {
			t.Fatalf("%d models, %v", len(found), err)
		}
		for _, m := range found {
			if int(m.addr)+m.n > 1<<16 {
				t.Fatalf("model %d ends beyond the last register", m.id)
			}
			for _, r := range registersOf(models[m.id].points, "x", m.addr, m.n) {
				if int(r.addr)+r.words > int(m.addr)+m.n || (r.factor != "") != (r.scaleAt > 0) || r.scaleAt >= int(m.addr)+m.n {
					t.Fatalf("%s is outside of its model", r.name)
				}
			}
		}
	})
}
