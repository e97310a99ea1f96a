package serial_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	set    serial.Command           // sets level
	heard  func(sent []byte) string // what a command's bytes, which end it, say that level is
	answer func(level string) []byte
}

var percent = 100.0

type m = map[string]any

var lines = language{codec.Config{Format: "key=value"}, func(n int) []byte { return fmt.Appendf(nil, "seq=%d\r\n", n) }, "\x00\xff noise\r\n",
	serial.Command{Write: "set {value}", Max: &percent, Reply: `^ok (\d+)$`},
	func(sent []byte) string {
		text, _ := strings.CutPrefix(string(sent), "set ")
		return strings.TrimSuffix(text, "\n")
	},
	func(level string) []byte { return []byte("ok " + level + "\n") },
}

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
		serial.Command{Write: "{value}", Max: &percent},
		func(sent []byte) string { return string(sent[2 : len(sent)-1]) }, // without the ends and the code
		nil,
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
		serial.Command{Hex: "ca{value}0d0a", Values: hexes(), Reply: `"level":`},
		func(sent []byte) string { return fmt.Sprint(sent[1] - 128) },
		func(level string) []byte {
			text := `{"level":` + level + "}"
			sum := byte(0)
			for _, b := range []byte(text) {
				sum += b
			}
			return append(append([]byte{0xaa, 0x55, 0, byte(len(text))}, text...), sum)
		},
	}
)

// hexes are the numbers up to 100 as a byte each, none of which ends a command.
func hexes() map[string]string {
	all := map[string]string{}
	for n := 1; n <= 100; n++ {
		all[fmt.Sprint(n)] = fmt.Sprintf("%02x", 128+n)
	}
	return all
}

// bench is a rig whose device is a pseudo-terminal.
type bench struct {
	*devicetest.Rig
	port *pty.PTY

	saying sync.Mutex // what the device says is said whole

	mu   sync.Mutex
	told []string
	mute bool
}

// listen is the device's own program: it does as it is told and says so.
func (b *bench) listen(p *pty.PTY, l language) {
	end := byte('\n')
	if l.config.Framing == "cobs" {
		end = 0
	}
	for in := bufio.NewReader(p); ; {
		sent, err := in.ReadBytes(end)
		if err != nil {
			return
		}
		if len(sent) == 1 { // the end before a frame
			next, err := in.ReadBytes(end)
			if err != nil {
				return
			}
			sent = append(sent, next...)
		}
		level := l.heard(sent)
		b.mu.Lock()
		b.told = append(b.told, level)
		mute := b.mute
		b.mu.Unlock()
		if l.answer != nil && !mute {
			b.send(l.answer(level))
		}
	}
}

func newBench(t *testing.T, l language, serve chan<- func()) *bench {
	link := filepath.Join(t.TempDir(), "device")
	c, err := codec.New(l.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := serial.New(serial.Config{Config: port.Config{Port: link}, Commands: map[string]serial.Command{"level": l.set}}, c)
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
			p := b.port
			serve <- func() { b.listen(p, l) }
		},
		Stream:  true,
		Setting: "level",
		Told: func() []string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return slices.Clone(b.told)
		},
	}
	if l.answer != nil {
		b.Rig.Mute = func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.mute = true
		}
	}
	b.Plug()
	t.Cleanup(func() { b.port.Close() })
	return b
}

// send says it all: this device has patience.
func (b *bench) send(wire []byte) {
	b.saying.Lock()
	defer b.saying.Unlock()
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
			serve := devicetest.Served(t)
			devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig { return newBench(t, l, serve).Rig })
		})
	}
}

// What a weather station sends over a bad contact.
func TestPlayback(t *testing.T) {
	b := newBench(t, lines, devicetest.Served(t))
	got := devicetest.Play(t, b.Rig, b.send, devicetest.Recorded(t, "testdata/weather.rec"), "end=1")
	want, err := os.ReadFile("testdata/weather.frames")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
