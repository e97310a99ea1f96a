package port

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/devices/serial/pty"
)

// bus is the wires of a port whose characters leave at a rate, and notes when what happens.
type bus struct {
	began time.Time
	char  time.Duration
	until time.Time // when the last bit leaves
	stuck bool
	said  []string
}

func (b *bus) note(what string) {
	b.said = append(b.said, fmt.Sprintf("%v %s", time.Since(b.began), what))
}
func (b *bus) rts(high bool) error {
	b.note(fmt.Sprintf("rts %t", high))
	return nil
}
func (b *bus) queued() int {
	if b.stuck {
		return 1
	}
	return 0
}
func (b *bus) idle() bool { return !time.Now().Before(b.until) }
func (b *bus) discard()   { b.note("discard") }
func (b *bus) write(p []byte) (int, error) {
	b.note("write")
	b.until = time.Now().Add(time.Duration(len(p)+2) * b.char) // two were on their way
	return len(p), nil
}

// The transceiver is on before the first bit and off once the last has left, whatever happens between.
func TestTurn(t *testing.T) {
	failing := errors.New("no")
	for name, c := range map[string]struct {
		RS485
		stuck bool
		write error
		want  []string
		err   error
	}{
		"plain":  {RS485: RS485{By: "rts"}, want: []string{"0s rts true", "0s write", "12ms rts false"}},
		"low":    {RS485: RS485{By: "rts", RTS: "low"}, want: []string{"0s rts false", "0s write", "12ms rts true"}},
		"delays": {RS485: RS485{By: "rts", Before: 3 * time.Millisecond, After: 5 * time.Millisecond}, want: []string{"0s rts true", "3ms write", "20ms rts false"}},
		"stuck": {RS485: RS485{By: "rts"}, stuck: true, err: os.ErrDeadlineExceeded,
			want: []string{"0s rts true", "0s write", "261ms discard", "261ms rts false"}},
		"failing": {RS485: RS485{By: "rts"}, write: failing, err: failing, want: []string{"0s rts true", "0s discard", "0s rts false"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bus{began: time.Now(), char: time.Millisecond, stuck: c.stuck}
				turn := &turn{c.RS485, b, b.char}
				write := b.write
				if c.write != nil {
					write = func([]byte) (int, error) { return 0, c.write }
				}
				if _, err := turn.write(make([]byte, 10), write); !errors.Is(err, c.err) {
					t.Errorf("%v, not %v", err, c.err)
				}
				if !slices.Equal(b.said, c.want) {
					t.Errorf("%q, not %q", b.said, c.want)
				}
			})
		})
	}
}

func TestRS485Config(t *testing.T) {
	on := true
	for want, c := range map[string]Config{
		"":                                   {RS485: RS485{By: "kernel", RTS: "low", Before: time.Millisecond}},
		`rs485.by: "" is neither`:            {RS485: RS485{RTS: "low"}},
		`rs485.by: "me" is neither`:          {RS485: RS485{By: "me"}},
		`rs485.rts: "up" is neither`:         {RS485: RS485{By: "rts", RTS: "up"}},
		"rs485.delay_before: 1s is not":      {RS485: RS485{By: "rts", Before: time.Second}},
		"rs485.delay_after: -1ms is not":     {RS485: RS485{By: "rts", After: -time.Millisecond}},
		"rts: the RTS line is what rs485 sw": {RS485: RS485{By: "rts"}, RTS: &on},
	} {
		c.Port = "/dev/ttyS0"
		if _, err := New(c); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c.RS485, err)
		}
	}
}

func TestRS485Settings(t *testing.T) {
	high := RS485{By: "kernel", Before: 2 * time.Millisecond, After: time.Millisecond}.settings()
	low := RS485{By: "kernel", RTS: "low"}.settings()
	if (high != kernelRS485{flags: 1 | 2, before: 2, after: 1}) || (low != kernelRS485{flags: 1 | 4}) {
		t.Errorf("%+v, %+v", high, low)
	}
}

// A port that cannot do it says so when it is opened, and what else could be done.
func TestRS485IsNotThere(t *testing.T) {
	tty, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	for by, want := range map[string]string{"kernel": "set rs485.by to rts", "rts": "rs485 by rts: switch the RTS line"} {
		p, err := New(Config{Port: tty.Path(), RS485: RS485{By: by}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Open(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", by, err)
		}
	}
}

func TestCharacters(t *testing.T) {
	for want, c := range map[time.Duration]Config{
		time.Second * 10 / 9600:  {},
		time.Second * 11 / 19200: {Baud: 19200, Parity: "even"},
		time.Second * 12 / 1200:  {Baud: 1200, Parity: "odd", StopBits: 2},
	} {
		c.Port = "/dev/ttyS0"
		p, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.char(); got != want {
			t.Errorf("%s: %v, not %v", p.Line(), got, want)
		}
	}
}
