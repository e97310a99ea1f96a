package mqtt

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// A slow link may take longer for a large payload than the ack timeout, as long as it moves.
func TestSlowLinkIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		const size, chunk = 256 << 10, 16 << 10
		go func() {
			buf := make([]byte, chunk)
			for got := 0; got < size; {
				time.Sleep(time.Second)
				n, err := b.Read(buf)
				if err != nil {
					return
				}
				got += n
			}
		}()
		began := time.Now()
		w := pacedWriter{a, 2 * time.Second}
		if n, err := w.Write(make([]byte, size)); n != size || err != nil {
			t.Errorf("wrote %d after %v: %v", n, time.Since(began), err)
		}
		if took := time.Since(began); took < 10*time.Second {
			t.Errorf("took %v; the test proves nothing", took)
		}
		_, err := w.Write([]byte("x")) // nobody reads any more
		if err == nil || !strings.Contains(err.Error(), "taken nothing for 2s") {
			t.Errorf("a dead link: %v", err)
		}
	})
}

func TestRemainingExpiry(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		expiry, age time.Duration
		want        uint32
	}{
		{time.Minute, 0, 60},
		{time.Minute, time.Second, 59},
		{time.Minute, 1500 * time.Millisecond, 59}, // rounded up
		{time.Minute, 2 * time.Minute, 1},          // never 0, which would be "at once"
		{time.Minute, -time.Hour, 60},              // the clock went back
		{500 * time.Millisecond, 0, 1},
		{4294967295 * time.Second, 0, 4294967295},
		{9000000000 * time.Second, 0, 4294967295},
	} {
		if got := remaining(&gateway.Event{Expiry: c.expiry, Accepted: now.Add(-c.age)}, now); got != c.want {
			t.Errorf("expiry %v, age %v: %d, not %d", c.expiry, c.age, got, c.want)
		}
	}
}

// Whatever a far end sends, reading it ends in an answer or an error, not in a panic.
func FuzzRead(f *testing.F) {
	for _, seed := range [][]byte{
		{0x20, 3, 0, 0, 0}, {0x20, 2, 0, 5}, {0x20, 6, 0, 0, 3, 0x21, 0, 10}, {0x40, 2, 0, 1}, {0x40, 3, 0, 1, 0x97},
		{0x40, 5, 0, 1, 0x10, 1, 0x1f}, {0xD0, 0}, {0xE0, 0}, {0xE0, 1, 0x8E}, {0x30, 5, 0, 1, 'a', 0, 'x'}, {0xF0, 2, 0, 0}, {0x40, 9, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1}, // the last panics in 32 bits
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []codec{v5{}, v311{}} {
			l := link{s: &Sink{codec: c}, r: bufio.NewReader(bytes.NewReader(b))}
			for {
				if _, err := l.read(); err != nil {
					break
				}
			}
		}
	})
}
