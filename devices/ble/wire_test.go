package ble

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
)

// loop is a wire to itself.
type loop struct{ bytes.Buffer }

func (*loop) Close() error { return nil }

func TestWire(t *testing.T) {
	w := newWire(&loop{})
	a := ask{wait: 1500 * time.Millisecond, peer: 7, addr: thermometer, random: true, handle: 300, last: 301, props: 0x12, command: true, value: []byte("on")}
	list := []Characteristic{
		{adv.UUID16(0x180f), adv.UUID16(0x2a19), 0x12, 3, 4},
		{adv.UUID{1, 2, 3}, adv.UUID{15: 1}, 8, 0x1234, 0xffff},
	}
	bodies := [][]byte{a.encode(), encodeCharacteristics(list), beat{1, 2, 1 << 40}.encode(), nil, make([]byte, maxFrame-frameHead)}
	for i, b := range bodies {
		if err := w.send(kind(i+1), uint32(i)<<20, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.send(sayTold, 0, make([]byte, maxFrame)); err == nil {
		t.Error("a frame that is too long was sent")
	}
	for i, b := range bodies {
		m, err := w.receive()
		if err != nil || m.kind != kind(i+1) || m.call != uint32(i)<<20 || !bytes.Equal(m.body, b) {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	if got, err := decodeAsk(bodies[0]); err != nil || got.wait != a.wait || got.addr != a.addr || !got.random || !got.command || got.handle != 300 || got.last != 301 || got.props != 0x12 || string(got.value) != "on" || got.peer != 7 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := decodeCharacteristics(bodies[1]); err != nil || !slices.Equal(got, list) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := decodeBeat(bodies[2]); err != nil || got != (beat{1, 2, 1 << 40}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// FuzzWire: whatever the other process sends, it is a frame or an error, and what is one is the same when it is sent again.
func FuzzWire(f *testing.F) {
	f.Add([]byte{0, 5, 1, 0, 0, 0, 0})
	f.Add(append([]byte{0, 26, byte(askRead), 0, 0, 0, 1}, ask{peer: 1, wait: time.Second}.encode()...))
	f.Add([]byte{0, 4, 1, 2, 3, 4, 5})
	f.Add([]byte{255, 255, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWire(struct {
			io.Reader
			io.Writer
			io.Closer
		}{iotest.OneByteReader(bytes.NewReader(b)), nil, nil})
		for used := 0; ; {
			m, err := w.receive()
			if err != nil {
				if errors.Is(err, io.EOF) && used != len(b) && used+2+frameHead <= len(b) {
					t.Fatalf("%d of %d bytes", used, len(b))
				}
				return
			}
			again := newWire(&loop{})
			if err := again.send(m.kind, m.call, m.body); err != nil {
				t.Fatal(err)
			}
			n := 2 + frameHead + len(m.body)
			if out := again.c.(*loop).Bytes(); !bytes.Equal(out, b[used:used+n]) {
				t.Fatalf("%x became %x", b[used:used+n], out)
			}
			used += n
			if a, err := decodeAsk(m.body); err == nil && !bytes.Equal(a.encode(), m.body) {
				t.Fatalf("%x became %x", m.body, a.encode())
			}
			if list, err := decodeCharacteristics(m.body); err == nil && !bytes.Equal(encodeCharacteristics(list), m.body) {
				t.Fatalf("%x became %x", m.body, encodeCharacteristics(list))
			}
			if b, err := decodeBeat(m.body); err == nil && !bytes.Equal(b.encode(), m.body) {
				t.Fatalf("%x became %x", m.body, b.encode())
			}
			decodeTold(m.body)
			decodeGone(m.body)
		}
	})
}
