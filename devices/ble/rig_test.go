package ble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/firmware-sim/hci"
	"github.com/weir-iot/weir/gateway/child"
)

// The test binary is also the radio's process: with an adapter of the kernel, whose name is in a file, or with a controller that
// waits at a socket. It is the first process of a virtual machine, too: see firmware-sim/hci/vm.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "radio" {
		conn, err := child.Conn()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		open := func() (io.ReadWriteCloser, error) {
			c, err := net.Dial("unixpacket", os.Args[2])
			if err != nil {
				return nil, errors.New("it is not there: " + err.Error())
			}
			return c, nil
		}
		if os.Remove(os.Args[2]+hang) == nil {
			open = func() (io.ReadWriteCloser, error) { select {} }
		} else if b, err := os.ReadFile(os.Args[2]); err == nil {
			index, err := AdapterIndex(string(b))
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
			open = Open(index, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
		}
		Serve(conn, open)
		os.Exit(0)
	}
	if hci.InVM() {
		hci.VM(m.Run)
	}
	os.Exit(m.Run())
}

// hang behind an adapter's path is a file for which the next process hangs when it opens the adapter, as in the kernel.
const hang = ".hang"

// rig is a controller, plugged into this machine's kernel where that is possible, and the radio that drives it.
type rig struct {
	t       *testing.T
	ctl     *hci.Controller
	radio   *Helper
	air     *Air
	path    string
	index   int // of the kernel's adapter
	log     *logged
	unplug  func()
	serving sync.WaitGroup
}

// logged is what the radio's processes say.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newRig(t *testing.T, cfg AirConfig) *rig {
	t.Helper()
	r := &rig{t: t, ctl: &hci.Controller{Address: [6]byte{1, 2, 3, 4, 5, 6}}, log: &logged{}}
	dir, err := os.MkdirTemp("", "hci") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r.path = filepath.Join(dir, "hci")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if r.radio, err = NewHelper("hci0", []string{self, "radio", r.path}, slog.New(slog.NewTextHandler(r.log, nil))); err != nil {
		t.Fatal(err)
	}
	if r.air, err = NewAir("hci0", cfg, r.radio); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.unplug != nil {
			r.unplug()
		}
		r.serving.Wait()
		if t.Failed() {
			text := r.log.String()
			t.Logf("the radio's processes said:\n%s", text[max(0, len(text)-4000):])
		}
	})
	r.plug()
	return r
}

func (r *rig) plug() {
	r.t.Helper()
	if r.unplug != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	if hci.InVM() {
		rw, index, err := hci.OpenVHCI()
		if err != nil {
			r.t.Fatal(err)
		}
		r.index = index
		r.name(index)
		r.serving.Go(func() { r.ctl.Serve(ctx, rw) })
		r.unplug = func() {
			r.name(99) // which is not there
			cancel()
		}
		return
	}
	l, err := net.Listen("unixpacket", r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.ctl.Serve(ctx, c)
		}
	})
	r.unplug = func() {
		cancel()
		l.Close()
	}
}

// name says which adapter of the kernel it is: the lowest that is free.
func (r *rig) name(index int) {
	if err := os.WriteFile(r.path, fmt.Appendf(nil, "hci%d", index), 0o600); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) pull() {
	r.unplug()
	r.unplug = nil
}

// pid is that of the radio's process.
func (r *rig) pid() int {
	r.radio.mu.Lock()
	defer r.radio.mu.Unlock()
	if r.radio.session == nil {
		return 0
	}
	return r.radio.session.process.Pid()
}

// hurry has the adapter looked for more often than outside of tests.
func (r *rig) hurry() { r.air.firstRetry, r.air.lastRetry = 10*time.Millisecond, 100*time.Millisecond }

// keep runs the air until the test ends.
func (r *rig) keep() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.air.Run(ctx) })
	r.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// hears waits until advertisements come that are newer than from now on.
func (r *rig) hears() {
	r.t.Helper()
	before := r.air.Status().Heard
	eventually(r.t, "nothing is heard", func() bool { return r.air.Status().Heard > before+2 })
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// The devices of tests.
var (
	thermometer = adv.Addr{0xa4, 0xc1, 0x38, 0x12, 0x34, 0x56}
	other       = adv.Addr{0xa4, 0xc1, 0x38, 0x65, 0x43, 0x21}
	strap       = adv.Addr{0xc0, 0x11, 0x22, 0x33, 0x44, 0x55}
)

// fakeRadio is a radio without anything.
type fakeRadio struct {
	reports chan adv.Report
	fail    chan error
}

func newFake() *fakeRadio { return &fakeRadio{make(chan adv.Report), make(chan error)} }

func (f *fakeRadio) Run(ctx context.Context, up func(Controller), heard func(adv.Report)) error {
	up(Controller{})
	for {
		select {
		case r := <-f.reports:
			heard(r)
		case err := <-f.fail:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fakeRadio) Connect(context.Context, adv.Addr, byte) (Peer, error) {
	return nil, errors.New("the device does not answer")
}

func report(addr adv.Addr, data []byte) adv.Report {
	return adv.Report{Addr: addr, TxPower: adv.NoPower, RSSI: -60, Data: data}
}

// noise is how many rounds a test of noise has; WEIR_NOISE says another number.
func noise(t *testing.T, rounds int) int {
	if text := os.Getenv("WEIR_NOISE"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return rounds
}
