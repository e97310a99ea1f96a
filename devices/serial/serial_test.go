package serial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/gateway"
)

// TestMain can also be another process that holds a port.
func TestMain(m *testing.M) {
	if path := os.Getenv("WEIR_TEST_HOLD"); path != "" {
		d := newDriver(port.Config{Port: path}, jsonLines)
		err := d.Run(context.Background(), func(codec.Frame) { fmt.Println("open") })
		fmt.Println(err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// A recording is read as the line was: a pause ends what was cut short, and what was sent counts for nothing.
func TestPlay(t *testing.T) {
	d := newDriver(port.Config{Port: "/dev/a", Baud: 115200}, codec.Config{Framing: map[string]any{"length": nil}, Format: "json"})
	frame := func(text string) []byte { return append([]byte{byte(len(text))}, text...) }
	var got []string
	d.Play([]codec.Chunk{
		{At: time.Second, Bytes: frame(`{"a":1}`)},
		{At: 2 * time.Second, Bytes: frame(`{"a":2}`)[:3]},
		{At: 2100 * time.Millisecond, Bytes: frame(`{"a":2}`)[3:]},
		{At: 2100 * time.Millisecond, Sent: true, Bytes: []byte("noise")},
		{At: 3 * time.Second, Bytes: frame(`{"a":3}`)[:3]},
		{At: 4 * time.Second, Bytes: frame(`{"a":4}`)},
		{At: 5 * time.Second, Bytes: frame(`{"a":5}`)[:3]},
	}, func(f codec.Frame) {
		text := f.Garbage
		for _, r := range f.Readings {
			text += r.Value
		}
		got = append(got, text)
	})
	if want := "1 2 malformed 4 malformed"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, " "), want)
	}
}

func newDriver(cfg port.Config, bytes codec.Config) *Driver {
	c, err := codec.New(bytes, nil)
	if err != nil {
		panic(err)
	}
	d, err := New(Config{Config: cfg}, c)
	if err != nil {
		panic(err)
	}
	return d
}

// running is a driver under test. Frames come as text: "up", "name=value …" or "!reason".
type running struct {
	t      *testing.T
	frames chan string
	cancel context.CancelFunc
	ended  chan error
}

func start(t *testing.T, cfg port.Config) *running {
	t.Helper()
	return startAs(t, cfg, jsonLines)
}

var jsonLines = codec.Config{Format: "json"}

func startAs(t *testing.T, cfg port.Config, bytes codec.Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t, make(chan string, 100), cancel, make(chan error, 1)}
	d := newDriver(cfg, bytes)
	go func() {
		r.ended <- d.Run(ctx, func(f codec.Frame) {
			s := "up"
			if f.Garbage != "" {
				s = "!" + f.Garbage
			}
			for i, v := range f.Readings {
				if i == 0 {
					s = ""
				}
				s += v.Name + "=" + v.Value + " "
			}
			r.frames <- strings.TrimSpace(s)
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-r.ended:
		case <-time.After(10 * time.Second):
			t.Error("did not end")
		}
	})
	return r
}

func (r *running) want(frames ...string) {
	r.t.Helper()
	for _, want := range frames {
		select {
		case got := <-r.frames:
			if got != want {
				r.t.Fatalf("got frame %q, want %q", got, want)
			}
		case err := <-r.ended:
			r.ended <- err
			r.t.Fatalf("ended with %v, want %q", err, want)
		case <-time.After(10 * time.Second):
			r.t.Fatalf("no frame, want %q", want)
		}
	}
}

func (r *running) wantEnd(part string) {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		if err == nil || !strings.Contains(err.Error(), part) {
			r.t.Fatalf("ended with %v, want %q", err, part)
		}
	case <-time.After(10 * time.Second):
		r.t.Fatalf("did not end, want %q", part)
	}
}

func plug(t *testing.T, link string) *pty.PTY {
	t.Helper()
	p, err := pty.Open(link)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func send(t *testing.T, p *pty.PTY, text string) {
	t.Helper()
	if _, err := p.Write([]byte(text)); err != nil {
		t.Fatal("send: ", err)
	}
}

func TestReadsLines(t *testing.T) {
	p := plug(t, "")
	r := start(t, port.Config{Port: p.Path()})
	r.want("up")
	// As long as somebody is sending we cannot know that a line begins.
	send(t, p, `"half":1}`+"\r\n"+`{"a":1.50}`+"\r\n\x00\xff\r\n"+`{"b":`)
	r.want("!partial", "a=1.50", "!binary")
	send(t, p, "2}\r\n")
	r.want("b=2")
	send(t, p, strings.Repeat("x", 5000)+"\r\n{\"c\":3}\r\n")
	r.want("!overlong", "c=3")
}

// What was said before we listened would get the wrong time.
func TestOldLinesAreNotRead(t *testing.T) {
	p := plug(t, "")
	other, err := os.OpenFile(p.Path(), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	send(t, p, `{"old":1}`+"\n")
	r := start(t, port.Config{Port: p.Path()})
	r.want("up")
	send(t, p, "\n"+`{"a":1}`+"\n")
	r.want("a=1")
}

func TestFirstLineAfterSilenceIsWhole(t *testing.T) {
	p := plug(t, "")
	r := start(t, port.Config{Port: p.Path(), Baud: 4_000_000})
	r.want("up")
	select { // the silence is the input here
	case got := <-r.frames:
		t.Fatalf("got frame %q in the silence", got)
	case <-time.After(300 * time.Millisecond):
	}
	send(t, p, `{"a":1}`+"\n")
	r.want("a=1")
}

// A frame that only says how long it is has nothing else to be found by than the pause before
// it.
func TestAPauseEndsAFrame(t *testing.T) {
	p := plug(t, "")
	r := startAs(t, port.Config{Port: p.Path(), Baud: 300}, codec.Config{Framing: map[string]any{"length": nil}, Format: "raw"})
	r.want("up")
	send(t, p, "\x02") // in the middle of one, as far as we know
	r.want("!partial")
	time.Sleep(600 * time.Millisecond) // the pause is the input here
	send(t, p, "\x02ab\x01c")
	r.want("raw=ab", "raw=c")
	send(t, p, "\x05abc")
	r.want("!malformed") // after a pause, and then a frame begins
	send(t, p, "\x02de")
	r.want("raw=de")
}

// A device that has begun a line may pause as long as it likes.
func TestAPauseInALineIsNone(t *testing.T) {
	p := plug(t, "")
	r := start(t, port.Config{Port: p.Path(), Baud: 4_000_000})
	r.want("up")
	send(t, p, "\n{\"a\":")
	time.Sleep(300 * time.Millisecond) // the pause is the input here
	send(t, p, "1}\n")
	r.want("a=1")
}

func TestUnplugIsReportedAtOnce(t *testing.T) {
	p := plug(t, "")
	r := start(t, port.Config{Port: p.Path()})
	r.want("up")
	p.Close()
	r.wantEnd("unplugged")
}

func TestCancelIsQuick(t *testing.T) {
	p := plug(t, "")
	// The least of several: a wait in the driver is there each time, a busy machine is not.
	least := time.Hour
	for range 5 {
		r := start(t, port.Config{Port: p.Path()})
		r.want("up")
		began := time.Now()
		r.cancel()
		r.wantEnd("context canceled")
		least = min(least, time.Since(began))
		if p.Listening() {
			t.Fatal("left the port open")
		}
	}
	if least > 50*time.Millisecond {
		t.Errorf("took %v", least)
	}
}

// A cancel that comes while the port is being opened must not wait for anything either: at 50
// baud we would listen for 1.1 s whether a line is under way.
func TestCancelWhileItOpens(t *testing.T) {
	p := plug(t, "")
	d := newDriver(port.Config{Port: p.Path(), Baud: 50}, jsonLines)
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		d.Run(ctx, func(codec.Frame) { cancel(); runtime.Gosched() })
		cancel()
		if took := time.Since(began); took > 900*time.Millisecond {
			t.Fatalf("took %v", took)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, port.Config{Port: filepath.Join(dir, "none")}).wantEnd("none: not there: not plugged in?")
	start(t, port.Config{Port: file}).wantEnd("file: not a serial port")
	start(t, port.Config{Port: "/dev/null"}).wantEnd("/dev/null: not a serial port")
	start(t, port.Config{Port: dir}).wantEnd("is a directory")
	start(t, port.Config{Port: "usb:ffff:ffff:none"}).wantEnd("port usb:ffff:ffff:none: not there: not plugged in?")
}

func TestOneAtATime(t *testing.T) {
	p := plug(t, "")
	r := start(t, port.Config{Port: p.Path()})
	r.want("up")
	start(t, port.Config{Port: p.Path()}).wantEnd("in use by another device of this gateway")
	r.cancel()
	r.wantEnd("canceled")
	start(t, port.Config{Port: p.Path()}).want("up")
}

func TestAnotherProcessIsNamed(t *testing.T) {
	p := plug(t, "")
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), "WEIR_TEST_HOLD="+p.Path())
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	who := fmt.Sprintf("(process %d)", holder.Process.Pid)
	start(t, port.Config{Port: p.Path()}).wantEnd(who)
	// Killed, it leaves nothing behind that would keep us out, root or not.
	holder.Process.Kill()
	holder.Wait()
	err = withPort(t, p.Path(), func(fd int) error {
		if n, err := unix.IoctlGetInt(fd, unix.TIOCGEXCL); n != 0 || err != nil {
			return fmt.Errorf("exclusive %d, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	start(t, port.Config{Port: p.Path()}).want("up")
}

func TestOthersExclusiveUseIsHonoured(t *testing.T) {
	p := plug(t, "")
	f, err := os.OpenFile(p.Path(), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := control(f, func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCEXCL, 0) }); err != nil {
		t.Fatal(err)
	}
	start(t, port.Config{Port: p.Path()}).wantEnd("in use by another process")
}

func withPort(t *testing.T, path string, fn func(fd int) error) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return control(f, fn)
}

func control(f *os.File, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	return errors.Join(conn.Control(func(fd uintptr) { failed = fn(int(fd)) }), failed)
}

func TestModeReachesThePort(t *testing.T) {
	p := plug(t, "")
	off := false
	// A pseudo-terminal has no modem lines, and dtr: false must not fail for it.
	r := start(t, port.Config{Port: p.Path(), Baud: 19200, DataBits: 7, Parity: "even", StopBits: 2, DTR: &off})
	r.want("up")
	withPort(t, p.Path(), func(fd int) error {
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		// Linux, pty_set_termios: a pseudo-terminal is always CS8 and without parity.
		if tio.Cflag&unix.CBAUD != unix.B19200 || tio.Cflag&unix.CSTOPB == 0 {
			t.Errorf("cflag %x", tio.Cflag)
		}
		return nil
	})
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "port: missing; it is a path such as /dev/serial/by-id/… or usb:VID:PID"},
		{Config{Config: port.Config{Port: "ttyUSB0"}}, `port: "ttyUSB0" is neither an absolute path nor usb:VID:PID`},
		{Config{Config: port.Config{Port: "usb:1a86"}}, `port: "usb:1a86" is not usb:VID:PID or usb:VID:PID:SERIAL, such as usb:1a86:7523`},
		{Config{Config: port.Config{Port: "usb:1a86:752x"}}, `port: "usb:1a86:752x" is not usb:VID:PID or usb:VID:PID:SERIAL, such as usb:1a86:7523`},
		{Config{Config: port.Config{Port: "/dev/a", Baud: -1}}, "baud: -1 is not between 1 and 4000000"},
		{Config{Config: port.Config{Port: "/dev/a", DataBits: 9}}, "data_bits: 9 is not between 5 and 8"},
		{Config{Config: port.Config{Port: "/dev/a", Parity: "evne"}}, `parity: "evne" is none of none, odd, even, mark, space`},
		{Config{Config: port.Config{Port: "/dev/a", StopBits: 3}}, "stop_bits: 3 is neither 1 nor 2"},
	} {
		_, err := New(c.cfg, nil)
		var key *gateway.KeyError
		if !errors.As(err, &key) || err.Error() != c.want {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}
