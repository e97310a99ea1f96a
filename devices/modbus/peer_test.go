package modbus_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/modbus"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/devices/serial/pty"
)

// python is Debian's, which has Debian's packages.
const python = "/usr/bin/python3"

// pymodbus starts an independent slave, and ends it with the test.
func pymodbus(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(python, "-c", "from pymodbus.server import StartSerialServer").CombinedOutput(); err != nil {
		t.Skipf("pymodbus is not installed (apt-get install python3-pymodbus python3-serial-asyncio): %s", out)
	}
	cmd := exec.Command(python, append([]string{"testdata/slave.py"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
}

func TestPymodbusTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, number, _ := net.SplitHostPort(address)
	pymodbus(t, "tcp", number)
	readPeer(t, modbus.BusConfig{Address: address})
}

func TestPymodbusRTU(t *testing.T) {
	// Two pseudo-terminals back to back are a line with two ends.
	a, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	b, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	var relays sync.WaitGroup
	t.Cleanup(func() { a.Close(); b.Close(); relays.Wait() })
	relay := func(from, to *pty.PTY) {
		buf := make([]byte, 512)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			to.Write(buf[:n])
		}
	}
	relays.Go(func() { relay(a, b) })
	relays.Go(func() { relay(b, a) })
	pymodbus(t, "rtu", a.Path())
	readPeer(t, modbus.BusConfig{Config: port.Config{Port: b.Path(), Baud: 19200}})
}

func readPeer(t *testing.T, cfg modbus.BusConfig) {
	bus, err := modbus.NewBus("peer", cfg)
	if err != nil {
		t.Fatal(err)
	}
	regs := map[string]modbus.Register{
		"float":  {Holding: modbus.At(100), Type: "float32"},
		"minus":  {Holding: modbus.At(102), Type: "int32"},
		"long":   {Holding: modbus.At(104), Type: "uint32"},
		"swap":   {Holding: modbus.At(104), Type: "uint32", WordOrder: "little", ByteOrder: "little"},
		"in":     {Input: modbus.At(299)},
		"bit":    {Discrete: modbus.At(1998)},
		"other":  {Discrete: modbus.At(1)},
		"coil":   {Coil: modbus.At(5), Write: true},
		"set":    {Holding: modbus.At(150), Type: "int16", Write: true},
		"double": {Holding: modbus.At(160), Type: "float64", Write: true},
		"beyond": {Holding: modbus.At(5000)},
	}
	d, err := modbus.New(modbus.Config{UnitID: 3, Interval: 50 * time.Millisecond, Registers: regs}, bus, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"float": "21.5", "minus": "-2", "long": "305419896", "swap": "2018915346",
		"in": "2093", "bit": "true", "other": "false", "coil": "true", "set": "-40", "double": "-0.1",
	}
	var mu sync.Mutex
	got := map[string]string{}
	refused := ""
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		for ctx.Err() == nil { // it may not listen yet
			d.Run(ctx, func(f codec.Frame) {
				mu.Lock()
				defer mu.Unlock()
				for _, r := range f.Readings {
					got[r.Name] = r.Value
				}
				if f.Garbage != "" {
					refused = string(f.Raw)
				}
			})
			time.Sleep(10 * time.Millisecond)
		}
	})
	for _, w := range []struct{ name, value string }{{"coil", "on"}, {"set", "-40"}, {"double", "-0.1"}} {
		wrote := false
		for deadline := time.Now().Add(20 * time.Second); !wrote && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			now, err := d.Write(t.Context(), w.name, w.value)
			wrote = err == nil && now == want[w.name]
			if err != nil {
				t.Log(err)
			}
		}
		if !wrote {
			t.Fatalf("%s cannot be written", w.name)
		}
	}
	text := func() string {
		mu.Lock()
		defer mu.Unlock()
		for name, value := range want {
			if got[name] != value {
				return fmt.Sprintf("%s is %q, want %q", name, got[name], value)
			}
		}
		if !strings.HasPrefix(refused, "holding register 45001 (address 5000): illegal data address") {
			return "beyond: " + refused
		}
		return ""
	}
	wrong := text()
	for deadline := time.Now().Add(20 * time.Second); wrong != "" && time.Now().Before(deadline); wrong = text() {
		time.Sleep(10 * time.Millisecond)
	}
	if wrong != "" {
		t.Error(wrong)
	}
}
