package chaos

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// gateway is the weir under test. One that ends by itself is started again, and that is noted.
type gateway struct {
	binary, conf, log string
	env               []string
	mqtt, http        string // where it listens
	say               func(format string, args ...any)

	mu      sync.Mutex
	cmd     *exec.Cmd // nil: it is down, as it should be
	done    chan struct{}
	crashes []string
}

// hasFaults tells whether a weir was built with the tag "faults", which lets its power be cut.
func hasFaults(binary string) (bool, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return false, fmt.Errorf("the gateway's program: %w", err)
	}
	for _, s := range info.Settings {
		if s.Key == "-tags" {
			for _, tag := range strings.Split(s.Value, ",") {
				if tag == "faults" {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// start returns when it takes connections.
func (g *gateway) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd == nil {
		if err := g.launch(); err != nil {
			return err
		}
	}
	for end := time.Now().Add(startLimit); ; {
		c, err := net.Dial("tcp", g.mqtt)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("weir does not listen after %v, its log is %s: %w", startLimit, g.log, err)
		}
		select {
		case <-g.done: // it could not start
			g.crashes = append(g.crashes, g.ended())
			time.Sleep(restartPause)
			if err := g.launch(); err != nil {
				return err
			}
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// restartPause is how long a service manager waits when its service has ended.
const restartPause = 200 * time.Millisecond

// launch needs the lock.
func (g *gateway) launch() error {
	log, err := os.OpenFile(g.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(g.binary, "--config", g.conf, "run")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), g.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the gateway: %w", err)
	}
	done := make(chan struct{})
	g.cmd, g.done = cmd, done
	go func() {
		cmd.Wait()
		close(done)
		time.Sleep(restartPause)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.cmd != cmd { // as it should, or it is seen to already
			return
		}
		g.crashes = append(g.crashes, g.ended())
		if err := g.launch(); err != nil {
			g.crashes = append(g.crashes, err.Error())
		}
	}()
	return nil
}

func (g *gateway) ended() string {
	said := fmt.Sprintf("%s weir ended by itself: %v", time.Now().Format("15:04:05.000"), g.cmd.ProcessState)
	go g.say("%s", said)
	return said
}

// end sends a signal that the process does not survive and waits for its end. How it ended
// is nil if it was down already. The process with the databases, its child, ends by itself then, in a while.
func (g *gateway) end(sig syscall.Signal, patience time.Duration) (*os.ProcessState, error) {
	g.mu.Lock()
	cmd, done := g.cmd, g.done
	g.cmd = nil
	g.mu.Unlock()
	if cmd == nil {
		return nil, nil
	}
	cmd.Process.Signal(sig)
	select {
	case <-done:
		return cmd.ProcessState, nil
	case <-time.After(patience):
		cmd.Process.Kill()
		<-done
		return cmd.ProcessState, fmt.Errorf("weir has not ended %v after %v", patience, sig)
	}
}

// kill is kill -9 of the gateway. Its child notices and closes the databases, while the next one may be starting already.
func (g *gateway) kill() { g.end(syscall.SIGKILL, startLimit) }

// killAll takes the child too, as a power cut does.
func (g *gateway) killAll() {
	pid := g.pid()
	g.signalAll(syscall.SIGSTOP) // at one moment
	g.kill()
	if pid != 0 {
		syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// killBox is kill -9 of the child alone; the gateway starts another.
func (g *gateway) killBox() error {
	pid := g.pid()
	if pid == 0 {
		return nil
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil { // it has ended meanwhile
			continue
		}
		// PID (NAME) STATE PPID PGRP …, proc_pid_stat(5); the name may have anything in it.
		var state string
		var child, parent, group int
		fmt.Sscan(string(text), &child)
		fmt.Sscan(string(text[bytes.LastIndexByte(text, ')')+1:]), &state, &parent, &group)
		if group == pid && child != pid {
			syscall.Kill(child, syscall.SIGKILL)
		}
	}
	return err
}

// powerCut asks the part of it that plays the disk to forget what was not synced. It ends its
// whole process group.
func (g *gateway) powerCut() error {
	state, err := g.end(syscall.SIGUSR1, startLimit)
	if err != nil || state == nil {
		return err
	}
	if how := state.Sys().(syscall.WaitStatus); !how.Signaled() || how.Signal() != syscall.SIGKILL {
		return fmt.Errorf("the power cut went wrong: weir ended with %v, its log is %s", state, g.log)
	}
	return nil
}

// stop is how a service manager ends it.
func (g *gateway) stop() error {
	state, err := g.end(syscall.SIGTERM, startLimit)
	switch {
	case err != nil:
		return err
	case state == nil:
		return errors.New("weir was down when it was to stop")
	case !state.Success():
		return fmt.Errorf("weir did not stop well: %v", state)
	}
	return nil
}

// signalAll sends a signal to the gateway and its child.
func (g *gateway) signalAll(sig syscall.Signal) {
	if pid := g.pid(); pid != 0 {
		syscall.Kill(-pid, sig)
	}
}

// pid is that of the gateway, and its process group; 0: it is down.
func (g *gateway) pid() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd == nil {
		return 0
	}
	return g.cmd.Process.Pid
}

func (g *gateway) crashed() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.crashes
}
