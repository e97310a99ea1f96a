package modbus_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/devicetest"
	"github.com/weir-iot/weir/devices/modbus"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/firmware-sim/sim/modbusslave"
)

var _ devices.Writer = (*modbus.Driver)(nil)

// driver reads one register, seq, as often as it can.
func driver(t *testing.T, cfg modbus.BusConfig) *modbus.Driver {
	t.Helper()
	cfg.Timeout = 200 * time.Millisecond
	bus, err := modbus.NewBus("b", cfg)
	if err != nil {
		t.Fatal(err)
	}
	var seq, level modbus.Register
	changes := 0.0
	seq.Holding, level.Holding = modbus.At(0), modbus.At(1000)
	level.Write, level.Interval, level.Deadband = true, time.Hour, &changes
	d, err := modbus.New(modbus.Config{UnitID: 3, Interval: time.Millisecond, Registers: map[string]modbus.Register{"seq": seq, "level": level}}, bus, 0)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newSlave has the registers, and notes what level is set to.
func newSlave() (slave *modbusslave.Slave, told func() []string) {
	slave = modbusslave.New(1)
	slave.Set(modbusslave.Holding, 0, 0)
	slave.Set(modbusslave.Holding, 1000, 0)
	var mu sync.Mutex
	var all []string
	last := uint16(0)
	slave.Refresh(func() { // a write is read back, so none is missed
		mu.Lock()
		defer mu.Unlock()
		if now := slave.Get(modbusslave.Holding, 1000); now != last {
			last, all = now, append(all, fmt.Sprint(now))
		}
	})
	return slave, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func TestConformanceRTU(t *testing.T) {
	serve := devicetest.Served(t)
	devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig {
		link := filepath.Join(t.TempDir(), "rs485")
		slave, told := newSlave()
		line := &modbusslave.Line{Slaves: map[byte]*modbusslave.Slave{3: slave}}
		var tty *pty.PTY
		plug := func() {
			p, err := pty.Open(link)
			if err != nil {
				t.Fatal(err)
			}
			tty = p
			serve <- func() { line.ServeRTU(p) }
		}
		plug()
		t.Cleanup(func() { tty.Close() })
		return &devicetest.Rig{
			Driver: driver(t, modbus.BusConfig{Config: port.Config{Port: link, Baud: 115200}}),
			Say:    func(n int) { slave.Set(modbusslave.Holding, 0, uint16(n)) },
			Noise:  func() { slave.Behave(modbusslave.Habit{Noise: 9, Spoilt: true}, 1) },
			Unplug: func() { tty.Close() },
			Plug:   plug, Setting: "level", Told: told,
			Mute: func() { slave.Behave(modbusslave.Habit{Dead: true}, -1) },
		}
	})
}

func TestConformanceTCP(t *testing.T) {
	t.Run("tcp", func(t *testing.T) {
		conformanceTCP(t, "", (*modbusslave.Line).ServeTCP, modbusslave.Habit{Exception: 4})
	})
	t.Run("rtu", func(t *testing.T) {
		conformanceTCP(t, "rtu", (*modbusslave.Line).ServeRTU, modbusslave.Habit{Noise: 9, Spoilt: true})
	})
}

func conformanceTCP(t *testing.T, framing string, one func(*modbusslave.Line, io.ReadWriter) error, noise modbusslave.Habit) {
	serve := devicetest.Served(t)
	devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig {
		slave, told := newSlave()
		line := &modbusslave.Line{Slaves: map[byte]*modbusslave.Slave{3: slave}}
		address := "127.0.0.1:0"
		var unplug func()
		plug := func() {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			address = l.Addr().String()
			ctx, cancel := context.WithCancel(t.Context())
			var once sync.Once
			ended := make(chan struct{})
			unplug = func() { once.Do(func() { cancel(); <-ended }) }
			serve <- func() {
				line.Serve(ctx, l, func(c io.ReadWriter) error { return one(line, c) })
				close(ended)
			}
		}
		plug()
		t.Cleanup(func() { unplug() })
		return &devicetest.Rig{
			Driver: driver(t, modbus.BusConfig{Address: address, Framing: framing}),
			Say:    func(n int) { slave.Set(modbusslave.Holding, 0, uint16(n)) },
			Noise:  func() { slave.Behave(noise, 1) },
			Unplug: func() { unplug() },
			Plug:   plug, Setting: "level", Told: told,
			Mute: func() { slave.Behave(modbusslave.Habit{Dead: true}, -1) },
		}
	})
}
