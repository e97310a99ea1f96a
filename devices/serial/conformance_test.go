package serial_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/devicetest"
	"github.com/weir-iot/weir/devices/serial"
	"github.com/weir-iot/weir/devices/serial/pty"
)

// bench is a rig whose device is a pseudo-terminal.
type bench struct {
	*devicetest.Rig
	port *pty.PTY
}

func newBench(t *testing.T, format any) *bench {
	link := filepath.Join(t.TempDir(), "device")
	line, err := codec.New(codec.Config{Format: format}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := serial.New(serial.Config{Port: link}, line)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{}
	b.Rig = &devicetest.Rig{
		Driver: d,
		Say:    func(n int) { b.send(fmt.Appendf(nil, "seq=%d\r\n", n)) },
		Noise:  func() { b.send([]byte("\x00\xff noise\r\n")) },
		Unplug: func() { b.port.Close() },
		Plug: func() {
			if b.port, err = pty.Open(link); err != nil {
				t.Fatal(err)
			}
		},
		Stream: true,
	}
	b.Plug()
	t.Cleanup(func() { b.port.Close() })
	return b
}

// send says it all: this device has patience.
func (b *bench) send(wire []byte) {
	for len(wire) > 0 {
		n, err := b.port.Write(wire)
		wire = wire[n:]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, pty.ErrUnread) {
			return // unplugged
		}
	}
}

func TestConformance(t *testing.T) {
	devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig { return newBench(t, "key=value").Rig })
}

// What a weather station sends over a bad contact.
func TestPlayback(t *testing.T) {
	b := newBench(t, "key=value")
	wire, err := os.ReadFile("testdata/weather.wire")
	if err != nil {
		t.Fatal(err)
	}
	got := devicetest.Play(t, b.Rig, b.send, wire, "end=1")
	want, err := os.ReadFile("testdata/weather.frames")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
