package serial

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/gateway"
)

func TestCommandErrors(t *testing.T) {
	one := 1.0
	for _, c := range []struct {
		bytes     codec.Config
		command   Command
		key, want string
	}{
		{jsonLines, Command{}, "write", "a command has either write, text, or hex"},
		{jsonLines, Command{Write: "a", Hex: "00"}, "write", "a command has either"},
		{jsonLines, Command{Write: "a", Values: map[string]string{"on": "1"}}, "values", "there is no {value}"},
		{jsonLines, Command{Write: "a", Max: &one}, "min", "min and max bound a {value}"},
		{jsonLines, Command{Hex: "00{value}"}, "values", "missing; they say in hexadecimal"},
		{jsonLines, Command{Hex: "0g"}, "hex", `"0g" is not bytes in hexadecimal`},
		{jsonLines, Command{Hex: "00{value}", Values: map[string]string{"on": "1"}}, "hex", `"001" is not bytes in hexadecimal`},
		{jsonLines, Command{Write: "a", Timeout: time.Second}, "timeout", "is for the reply, and there is none"},
		{jsonLines, Command{Write: "a", Reply: "("}, "reply", "missing closing )"},
		{jsonLines, Command{Write: "a\nb"}, "", `"a\nb" has the end of a line in it`},
		{codec.Config{Protocol: "pms5003"}, Command{Write: "a"}, "", "the protocol takes no commands that Weir could frame"},
	} {
		b, err := codec.New(c.bytes, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = New(Config{Config: port.Config{Port: "/dev/a"}, Commands: map[string]Command{"x": c.command}}, b)
		key := strings.TrimSuffix("commands.x."+c.key, ".")
		var at *gateway.KeyError
		if !errors.As(err, &at) || at.Key != key || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s: %s", c.command, err, key, c.want)
		}
	}
}

func TestWhatIsSent(t *testing.T) {
	low, high := 10.0, 30.0
	b, err := codec.New(codec.Config{Framing: map[string]any{"line": map[string]any{"end": "crlf"}}, Format: "json"}, map[string]codec.Measurement{"speed": {Unit: "rpm"}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Config: port.Config{Port: "/dev/a"}, Commands: map[string]Command{
		"text":  {Write: "SAY {value}!"},
		"level": {Write: "L{value}", Min: &low, Max: &high},
		"speed": {Write: "{value}"},
		"relay": {Hex: "a0 01 {value}", Values: map[string]string{"on": "01a2", "off": "00a1"}},
		"mode":  {Write: "M{value}", Values: map[string]string{"eco": "0", "boost": "1", "off": "2"}},
		"reset": {Write: "RST"},
	}}, b)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, form, value, want string }{
		{"text", codec.Text, "hi", "SAY hi!\r\n"}, {"text", codec.Text, "hi\r\nRST", "a control character"},
		{"level", codec.Numeric, "21.50", "L21.50\r\n"}, {"level", codec.Numeric, "31", "out of bounds"}, {"level", codec.Numeric, "nan", "not a number"},
		{"level", codec.Numeric, "0x11", "not a number"}, {"speed", codec.Numeric, "-1e3", "-1e3\r\n"}, {"speed", codec.Numeric, "fast", "not a number"},
		{"relay", codec.Switch, "on", "\xa0\x01\x01\xa2"}, {"relay", codec.Switch, "ON", `"ON" is none of on, off`},
		{"mode", codec.Choice, "boost", "M1\r\n"}, {"mode", codec.Choice, "1", `"1" is none of boost, eco, off`},
		{"reset", codec.Button, "PRESS", "RST\r\n"},
	} {
		cmd := d.commands[c.name]
		wire, err := cmd.wire(c.value, b)
		if err != nil {
			if !errors.Is(err, gateway.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s=%q: %v", c.name, c.value, err)
			}
			continue
		}
		if string(wire) != c.want || cmd.setting.Form != c.form {
			t.Errorf("%s=%q: %q, a %s", c.name, c.value, wire, cmd.setting.Form)
		}
	}
}

// A device that takes nothing holds up its own command, and that until the deadline; readings go on, and when it
// takes something again it gets the next command, and nothing of what was given up.
func TestStalledWrite(t *testing.T) {
	link := filepath.Join(t.TempDir(), "tty")
	p, err := pty.Open(link)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b, err := codec.New(codec.Config{Format: "key=value"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Config: port.Config{Port: link}, Commands: map[string]Command{"say": {Write: "{value}"}}}, b)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	frames := make(chan codec.Frame, 10)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, func(f codec.Frame) { frames <- f }) }()
	<-frames
	reads := func() {
		t.Helper()
		p.Write([]byte("\nt=1\n"))
		for {
			select {
			case f := <-frames:
				if len(f.Readings) > 0 {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no reading")
			}
		}
	}
	reads()
	const deadline = 200 * time.Millisecond
	for n := 0; err == nil; n++ { // until what the kernel holds for the device is full
		if n == 1000 {
			t.Fatal("the device takes everything")
		}
		within, end := context.WithTimeout(ctx, deadline)
		began := time.Now()
		_, err = d.Write(within, "say", strings.Repeat("x", 4000))
		if took := time.Since(began); took > deadline+time.Second {
			t.Errorf("a write ended after %v", took)
		}
		end()
	}
	if !errors.Is(err, gateway.ErrTransient) || !strings.Contains(err.Error(), "the device takes nothing: ") {
		t.Error(err)
	}
	reads()

	// What the kernel held was thrown away, not kept for later, but for what had reached the device's end; a
	// line of that is ended.
	heard := make(chan string)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := p.Read(buf)
			if err != nil {
				close(heard)
				return
			}
			heard <- string(buf[:n])
		}
	}()
	if _, err := d.Write(ctx, "say", "hello"); err != nil {
		t.Error(err)
	}
	got := ""
	for !strings.HasSuffix(got, "hello\n") {
		select {
		case more := <-heard:
			got += more
		case <-time.After(10 * time.Second):
			t.Fatalf("heard %d bytes that end in %q", len(got), got[max(0, len(got)-20):])
		}
	}
	if taken, rest, _ := strings.Cut(got, "\nhello\n"); rest != "" || strings.Trim(taken, "x\n") != "" || len(taken) > 4096 {
		t.Errorf("heard %d bytes of what was given up, and then %q", len(taken), rest)
	}
	reads()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := d.Write(t.Context(), "say", "bye"); !errors.Is(err, gateway.ErrTransient) {
		t.Error(err)
	}
	p.Close()
	for range heard {
	}
}
