package modbus_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
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
	var seq modbus.Register
	seq.Holding = modbus.At(0)
	d, err := modbus.New(modbus.Config{UnitID: 3, Interval: time.Millisecond, Registers: map[string]modbus.Register{"seq": seq}}, bus, 0)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// served runs serve, one after the other, in a goroutine that is there before the suite looks for
// leaks.
func served(t *testing.T) (serve chan<- func()) {
	work := make(chan func())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for f := range work {
			f()
		}
	}()
	t.Cleanup(func() { close(work); <-done })
	return work
}

func TestConformanceRTU(t *testing.T) {
	serve := served(t)
	devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig {
		link := filepath.Join(t.TempDir(), "rs485")
		slave := modbusslave.New(1)
		slave.Set(modbusslave.Holding, 0, 0)
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
			Plug:   plug,
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
	serve := served(t)
	devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig {
		slave := modbusslave.New(1)
		slave.Set(modbusslave.Holding, 0, 0)
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
			Plug:   plug,
		}
	})
}
