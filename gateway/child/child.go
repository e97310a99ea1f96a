// Package child runs a part of Weir in a process of its own, so that what ends or hangs that part does
// not end or hang the gateway. The two speak over a socket pair; what, is theirs.
package child

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// file is the descriptor of the child's end.
const file = 3

// Command is what starts this program again, with args.
func Command(args ...string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return append([]string{self}, args...), nil
}

// Process is a child that was started.
type Process struct {
	Conn *os.File // the parent's end; deadlines work. Closing it asks the child to end.
	cmd  *exec.Cmd
}

// Start starts command, with env beside this process's own. What the child writes to its
// outputs goes to log, and name says there whose words they are. The caller closes Conn and calls Wait.
func Start(command, env []string, name string, log *slog.Logger) (*Process, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "child"), os.NewFile(uintptr(fds[1]), "parent")
	defer theirs.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(os.Environ(), env...)
	out := &lines{log: log, name: name}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	return &Process{Conn: ours, cmd: cmd}, nil
}

// Pid is the child's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the child at once.
func (p *Process) Kill() { p.cmd.Process.Kill() }

// Wait returns when the child has ended, with how.
func (p *Process) Wait() error { return p.cmd.Wait() }

// Conn is the child's end.
func Conn() (net.Conn, error) {
	f := os.NewFile(file, "parent")
	if f == nil {
		return nil, errors.New("no gateway started this")
	}
	defer f.Close()
	return net.FileConn(f)
}
