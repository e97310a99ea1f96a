package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

// startLimit bounds how long a program may take until it listens, or ends.
const startLimit = 30 * time.Second

// process is a program that listens for MQTT.
type process struct {
	address string
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended

	mu    sync.Mutex
	lines []string // its newest
	more  chan struct{}
}

// start runs cmd and returns when something listens at address.
func start(ctx context.Context, cmd *exec.Cmd, address string) (*process, error) {
	p := &process{address: address, cmd: cmd, done: make(chan struct{}), more: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	go p.read(r)
	for end := time.Now().Add(startLimit); ; time.Sleep(5 * time.Millisecond) { // between two looks; the look decides
		c, err := net.Dial("tcp", address)
		if err == nil {
			return p, c.Close()
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("%s ended: %s", filepath.Base(cmd.Path), p.said())
		case <-ctx.Done():
		default:
			if time.Now().Before(end) {
				continue
			}
		}
		p.stop()
		return nil, fmt.Errorf("%s does not listen: %s", filepath.Base(cmd.Path), p.said())
	}
}

func (p *process) read(r *os.File) {
	defer r.Close()
	for s := bufio.NewScanner(r); s.Scan(); {
		p.mu.Lock()
		if p.lines = append(p.lines, s.Text()); len(p.lines) > 100 {
			p.lines = p.lines[1:]
		}
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
	p.cmd.Wait()
	close(p.done)
}

// wait waits until it has said a line.
func (p *process) wait(ctx context.Context, line string) error {
	for {
		p.mu.Lock()
		said, more := slices.Contains(p.lines, line), p.more
		p.mu.Unlock()
		if said {
			return nil
		}
		select {
		case <-more:
		case <-p.done:
			return errors.New("it has ended: " + p.said())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// said is the end of its log.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines[max(0, len(p.lines)-5):], "; ")
}

// stop asks it to end, and ends it.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(startLimit):
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// A program is a gateway that keeps what it takes in while the far end is away: weir, or mosquitto with a bridge. What it
// gets is a directory and where the far end will be; in is the cgroup it runs in, or nil.
type program struct {
	name  string
	start func(ctx context.Context, dir, far string, in *cgroup) (*process, error)
}

// weirProgram is weir on its default config, but for what is in more.
func weirProgram(b *bench, more string) program {
	return program{"weir", func(ctx context.Context, dir, far string, in *cgroup) (*process, error) {
		mqtt, err := fault.FreeAddress("tcp")
		if err != nil {
			return nil, err
		}
		conf := filepath.Join(dir, "weir.yaml")
		text := fmt.Sprintf(`gateway: {id: bench, data_dir: data}
listeners: {mqtt: {address: "%s"}, http: {address: "127.0.0.1:0"}}
health: {interval: 0}
uplinks: {far: {sink: mqtt, url: "mqtt://%s"}}
routes: {all: {topics: ["#"], uplink: far}}
%s`, mqtt, far, more)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return start(ctx, command(in, b.weir, "-c", conf, "run"), mqtt)
	}}
}

// mosquitto is where Debian has it.
func mosquitto() (string, error) {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", skipped("mosquitto is not installed: apt-get install mosquitto")
}

// mosquittoConf is that of a mosquitto that bridges everything to the far end, and does not limit what it keeps for it; what
// it does not say is as Debian has it.
const mosquittoConf = `listener %s 127.0.0.1
allow_anonymous true
user root
persistence false
max_queued_messages 0
max_queued_bytes 0
log_dest stderr
connection far
address %s
topic # out 1
cleansession false
notifications false
bridge_attempt_unsubscribe false
restart_timeout 1
`

func bridgeProgram() program {
	return program{"mosquitto's bridge", func(ctx context.Context, dir, far string, in *cgroup) (*process, error) {
		binary, err := mosquitto()
		if err != nil {
			return nil, err
		}
		address, err := fault.FreeAddress("tcp")
		if err != nil {
			return nil, err
		}
		_, port, _ := net.SplitHostPort(address)
		conf := filepath.Join(dir, "mosquitto.conf")
		if err := os.WriteFile(conf, fmt.Appendf(nil, mosquittoConf, port, far), 0o644); err != nil {
			return nil, err
		}
		return start(ctx, command(in, binary, "-c", conf), address)
	}}
}

func command(in *cgroup, program string, args ...string) *exec.Cmd {
	if in != nil {
		return in.command(program, args...)
	}
	return exec.Command(program, args...)
}
