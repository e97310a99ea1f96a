package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/firmware-sim/sim"
)

// startTimeout bounds how long a program may take until it listens, on a slow machine
// and under the race detector.
const startTimeout = 30 * time.Second

// freePort returns an address on loopback that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	address, err := fault.FreeAddress("tcp")
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// waitListening returns when something accepts connections at address.
func waitListening(network, address string) error {
	for end := time.Now().Add(startTimeout); ; {
		c, err := net.Dial(network, address)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("nothing listens at %s: %w", address, err)
		}
		time.Sleep(5 * time.Millisecond) // between two looks; the look decides
	}
}

// cmdListening is the script command "listening ADDRESS|SOCKET…".
func cmdListening(ts *testscript.TestScript, neg bool, args []string) {
	for _, address := range args {
		network := "tcp"
		if strings.Contains(address, "/") {
			network, address = "unix", ts.MkAbs(address)
		}
		if err := waitListening(network, address); err != nil || neg {
			ts.Fatalf("listening: %v", err)
		}
	}
}

// cmdExpand is the script command "expand FILE TO": a copy with $NAME filled in, but not ${…}, which is weir's.
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: expand FILE TO")
	}
	text := regexp.MustCompile(`\$[A-Z]+`).ReplaceAllStringFunc(ts.ReadFile(args[0]), func(name string) string { return ts.Getenv(name[1:]) })
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// cmdWaitFor is the script command "wait-for REGEXP COMMAND…": it runs the command until its output matches. With "!" the
// command has to fail.
func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] wait-for REGEXP COMMAND…")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(startTimeout); ; {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout")
		if (err != nil) == neg && want.MatchString(out) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%q does not come: %v\n%s", args[0], err, out)
		}
		time.Sleep(20 * time.Millisecond) // between two looks; the look decides
	}
}

// cmdFirstID is the script command "firstid REGEXP": $ID is what its group matches first in stdout.
func cmdFirstID(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: firstid REGEXP")
	}
	m := regexp.MustCompile(args[0]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("%q does not match", args[0])
	}
	ts.Setenv("ID", m[1])
}

// cmdTTY is the script command "tty LINK FILE": a serial device at LINK that says the lines of FILE over and over, and
// answers every line that it is sent with "ok" and the line.
func cmdTTY(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: tty LINK FILE")
	}
	p, err := pty.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	lines := strings.SplitAfter(ts.ReadFile(args[1]), "\n")
	answers := make(chan string, 100)
	var both sync.WaitGroup
	stop := make(chan struct{})
	both.Go(func() {
		for in := bufio.NewScanner(p); in.Scan(); {
			answers <- "ok " + in.Text() + "\n"
		}
	})
	both.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond) // as a device does
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case answer := <-answers:
				p.Write([]byte(answer))
			case <-tick.C:
				p.Write([]byte(lines[n%len(lines)]))
			}
		}
	})
	ts.Defer(func() { close(stop); p.Close(); both.Wait() })
}

// process is a program that runs beside the test.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	log []string // its newest lines
}

// startProcess starts a program. The test ends it, and shows its newest lines on failure.
func startProcess(t testing.TB, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: filepath.Base(name), cmd: exec.Command(name, args...), done: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	// Should the test binary be killed, its children go with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go p.read(r)
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("the last lines of %s (pid %d):\n%s", p.name, p.cmd.Process.Pid, strings.Join(p.log, "\n"))
		}
	})
	return p
}

func (p *process) read(r io.ReadCloser) {
	defer r.Close()
	for s := bufio.NewScanner(r); s.Scan(); {
		p.mu.Lock()
		if strings.Contains(s.Text(), "DATA RACE") {
			p.t.Errorf("%s: data race, see its output", p.name)
		}
		if p.log = append(p.log, s.Text()); len(p.log) > 200 {
			p.log = p.log[1:]
		}
		p.mu.Unlock()
	}
	p.cmd.Wait()
	close(p.done)
}

// kill ends the process as a power switch would, and waits until it is gone.
func (p *process) kill() {
	var children []string // of whichever thread
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		children = append(children, strings.Fields(string(b))...)
	}
	p.cmd.Process.Kill()
	<-p.done
	// The process with the databases closes them before it goes, and until then it writes.
	for _, pid := range children {
		for end := time.Now().Add(startTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil || strings.Contains(string(stat), ") Z ") { // gone, but for somebody to take note
				break
			}
		}
	}
}

// stop asks the process to end and returns how it did.
func (p *process) stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(startTimeout):
		p.kill()
		return fmt.Errorf("%s did not stop within %v", p.name, startTimeout)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with exit code %d", p.name, code)
	}
	return nil
}

// rig is a weir with a directory of its own, which a test starts, kills and starts again.
type rig struct {
	*process   // as it was started last
	t          testing.TB
	dir        string // the data is in data below it
	conf       string
	mqtt, http string // its addresses
}

// newRig writes the config of test-gw, with more in it; health events are off unless that speaks of them.
func newRig(t testing.TB, more string) *rig {
	t.Helper()
	w := &rig{t: t, dir: t.TempDir(), mqtt: freePort(t), http: freePort(t)}
	w.conf = filepath.Join(w.dir, "weir.yaml")
	if !strings.Contains(more, "health:") {
		more += "health: {interval: 0}\n"
	}
	text := fmt.Sprintf("gateway: {id: test-gw, site: plant1, data_dir: data}\nlisteners:\n  mqtt: {address: %q}\n  http: {address: %q}\n%s", w.mqtt, w.http, more)
	if err := os.WriteFile(w.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// startRig is newRig and start.
func startRig(t testing.TB, more string) *rig {
	t.Helper()
	w := newRig(t, more)
	w.start()
	return w
}

// start starts it, and returns when devices and browsers can connect.
func (w *rig) start() {
	w.t.Helper()
	w.process = startProcess(w.t, "weir", "-c", w.conf, "run")
	for _, address := range []string{w.mqtt, w.http} {
		if err := waitListening("tcp", address); err != nil {
			w.t.Fatal(err)
		}
	}
}

// end stops it, in order.
func (w *rig) end() {
	w.t.Helper()
	if err := w.stop(); err != nil {
		w.t.Error(err)
	}
}

// load has eight devices publish at rate events a second each, padded to pad bytes, until stop, which fails the test if
// weir does not answer for everything.
func (w *rig) load(rate float64, pad int) (ledger *sim.Ledger, stop func()) {
	ledger = sim.NewLedger()
	load := &sim.Load{Address: w.mqtt, Clients: 8, Rate: rate, Seed: 1, Ledger: ledger, Pad: pad}
	ctx, cancel := context.WithCancel(w.t.Context())
	over := make(chan error, 1)
	go func() { over <- load.Run(ctx, 2*time.Minute) }()
	return ledger, func() {
		w.t.Helper()
		cancel()
		if err := <-over; err != nil {
			w.t.Fatalf("the gateway did not answer for everything: %v", err)
		}
	}
}

// account is the ledger's row of the only route of the weir at address, which has to add up.
func account(t testing.TB, address, when string) web.LedgerAccount {
	t.Helper()
	var l web.Ledger
	get(t, "http://"+address+"/api/ledger", &l)
	if l.Unaccounted != 0 || len(l.Routes) != 1 {
		t.Fatalf("%s: the ledger does not add up: %+v", when, l)
	}
	return l.Routes[0]
}

// get decodes the JSON answer at url into v.
func get(t testing.TB, url string, v any) {
	t.Helper()
	if code := getStatus(t, url, v); code != http.StatusOK {
		t.Fatalf("%s: %d", url, code)
	}
}

// getStatus is get for an answer of any status, which it returns.
func getStatus(t testing.TB, url string, v any) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return resp.StatusCode
}
