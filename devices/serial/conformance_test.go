package serial_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/devicetest"
	"github.com/weir-iot/weir/devices/serial"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/devices/serial/pty"
)

// language is how a device says that seq is n.
type language struct {
	config codec.Config
	say    func(n int) []byte
	noise  string
}

type m = map[string]any

var lines = language{codec.Config{Format: "key=value"}, func(n int) []byte { return fmt.Appendf(nil, "seq=%d\r\n", n) }, "\x00\xff noise\r\n"}

// Two that are binary: one that has ends, and one that says how long it is.
var (
	cobs = language{
		codec.Config{Framing: "cobs", Format: m{"fields": m{"seq": m{"offset": int64(0), "type": "uint16"}}}},
		func(n int) []byte {
			var out []byte
			code := 1 // of a group that is being written; zeros end groups
			group := []byte{}
			for _, b := range binary.LittleEndian.AppendUint16(nil, uint16(n)) {
				if b == 0 {
					out = append(append(out, byte(code)), group...)
					code, group = 1, nil
					continue
				}
				code, group = code+1, append(group, b)
			}
			return append(append(append(out, byte(code)), group...), 0)
		},
		"\x07\xff\x00",
	}
	lengths = language{
		codec.Config{Framing: m{"length": m{"start": "aa55", "endian": "big", "size": int64(2), "crc": "sum8"}}, Format: "json"},
		func(n int) []byte {
			text := fmt.Appendf(nil, `{"seq":%d}`, n)
			sum := byte(0)
			for _, b := range text {
				sum += b
			}
			return append(append([]byte{0xaa, 0x55, 0, byte(len(text))}, text...), sum)
		},
		"\x00\xff\xaa noise",
	}
)

// bench is a rig whose device is a pseudo-terminal.
type bench struct {
	*devicetest.Rig
	port *pty.PTY
}

func newBench(t *testing.T, l language) *bench {
	link := filepath.Join(t.TempDir(), "device")
	c, err := codec.New(l.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := serial.New(serial.Config{Config: port.Config{Port: link}}, c)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{}
	b.Rig = &devicetest.Rig{
		Driver: d,
		Say:    func(n int) { b.send(l.say(n)) },
		Noise:  func() { b.send([]byte(l.noise)) },
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
	for name, l := range map[string]language{"lines": lines, "cobs": cobs, "length": lengths} {
		t.Run(name, func(t *testing.T) {
			devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig { return newBench(t, l).Rig })
		})
	}
}

// What a weather station sends over a bad contact.
func TestPlayback(t *testing.T) {
	b := newBench(t, lines)
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
