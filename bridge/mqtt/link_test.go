package mqtt

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/gateway"
)

func TestRemainingExpiry(t *testing.T) {
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
		if got := remaining(&gateway.Event{Expiry: c.expiry, Age: time.Hour - c.age}, time.Hour); got != c.want {
			t.Errorf("expiry %v, age %v: %d, not %d", c.expiry, c.age, got, c.want)
		}
	}
}

// What a far end says for now only is throttling, in whatever packet it says it.
func TestThrottled(t *testing.T) {
	for code := range reasons {
		want := code == 0x89 || code == 0x96 || code == 0x97 || code == 0x9F
		if err := reason(code, nil); errors.Is(err, gateway.ErrFull) != want {
			t.Errorf("0x%02x is throttling: %t", code, !want)
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
	f.Add([]byte{0x32, 0xff, 0xff, 0x7f, 0, 1, 'a', 0, 1, 'x'})
	f.Add([]byte{0x90, 3, 0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, l := range []*link{{s: &Sink{codec: v5{}}}, {s: &Sink{codec: v311{}}}, {s: &Sink{codec: v5{}}, source: true}, {s: &Sink{codec: v311{}}, source: true}} {
			l.r = bufio.NewReader(bytes.NewReader(b))
			for {
				if _, err := l.read(); err != nil {
					break
				}
			}
		}
	})
}

// Whatever a far end sends as frames, reading it ends without a panic, and pings are answered by
// frames that are well formed.
func FuzzWebSocket(f *testing.F) {
	for _, seed := range [][]byte{
		{0x82, 2, 0x20, 0x03}, {0x02, 1, 'a', 0x80, 1, 'b'}, {0x82, 126, 0, 3, 'a', 'b', 'c'}, {0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'x'},
		{0x89, 1, 'p', 0x82, 1, 'x'}, {0x88, 2, 3, 0xe8}, {0x88, 0}, {0x81, 1, 'x'}, {0x82, 0x81, 1, 2, 3, 4, 5}, {0x89, 126, 0, 1}, {0xC2, 0},
		{0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 'x'}, {0x82, 0, 0x82, 1, 'a'},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var sent bytes.Buffer
		c := webSocket{Conn: written{&sent}, r: bufio.NewReader(bytes.NewReader(b)), limit: time.Second}
		if got, _ := io.ReadAll(&c); len(got) > len(b) {
			t.Fatalf("%d bytes out of %d", len(got), len(b))
		}
		for frames := sent.Bytes(); len(frames) > 0; { // pongs, masked
			if frames[0] != 0x8A || frames[1]&0x80 == 0 {
				t.Fatalf("answered % x", frames)
			}
			frames = frames[6+int(frames[1]&0x7F):]
		}
	})
}

// written is a connection that can be written to only.
type written struct{ io.Writer }

func (written) Read([]byte) (int, error)         { return 0, io.EOF }
func (written) Close() error                     { return nil }
func (written) LocalAddr() net.Addr              { return nil }
func (written) RemoteAddr() net.Addr             { return nil }
func (written) SetDeadline(time.Time) error      { return nil }
func (written) SetReadDeadline(time.Time) error  { return nil }
func (written) SetWriteDeadline(time.Time) error { return nil }

// What binary frames hold is read, whatever lies between and however it is cut.
func TestWebSocketFrames(t *testing.T) {
	in := []byte{
		0x02, 1, 'a', 0x89, 1, 'p', 0x80, 1, 'b', 0x82, 0, 0x82, 126, 0, 2, 'c', 'd', 0x8A, 0,
		0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'e', 0x88, 4, 0x03, 0xE9, 'o', 'k',
	}
	c := webSocket{Conn: written{io.Discard}, r: bufio.NewReader(iotest.OneByteReader(bytes.NewReader(in)))}
	got, err := io.ReadAll(&c)
	if string(got) != "abcde" || err == nil || err.Error() != `the far end closed the WebSocket (1001 "ok")` {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range [][]byte{{0xC2, 0}, {0x82, 0x81, 0, 0, 0, 0, 0}, {0x89, 126, 0, 1}, {0x09, 0}, {0x81, 0}, {0x83, 0}} {
		c := webSocket{Conn: written{io.Discard}, r: bufio.NewReader(bytes.NewReader(bad))}
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("% x: %v", bad, err)
		}
	}
}

// No second has more publishes than the rate and what late timers allow, and none is lost to them.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []int{1, 90, 5000} {
			p := pace{every: time.Second / time.Duration(rate)}
			var at []time.Time
			for began := time.Now(); time.Since(began) < 5*time.Second; {
				if w := p.wait(time.Now()); w > 0 {
					time.Sleep(w + time.Millisecond) // a late timer
					continue
				}
				p.took(time.Now())
				at = append(at, time.Now())
				if len(at) == 2*rate { // a pause must not be made up for
					time.Sleep(500 * time.Millisecond)
				}
			}
			most := 0
			for i, from := 0, 0; i < len(at); i++ {
				for at[i].Sub(at[from]) >= time.Second {
					from++
				}
				most = max(most, i-from+1)
			}
			if allowed := rate + rate/50 + 1; most > allowed {
				t.Errorf("%d in a second, at a rate of %d", most, rate)
			}
			if len(at) < 42*rate/10 {
				t.Errorf("%d in five seconds, at a rate of %d", len(at), rate)
			}
		}
	})
}
