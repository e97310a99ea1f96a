package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// cgroup bounds the memory of the processes in it, page cache and all.
type cgroup struct {
	dir  string
	kind cgroupKind
}

// cgroupKind is where a version of cgroups has what.
type cgroupKind struct {
	root, controller string // where it is mounted, and its line in /proc/self/cgroup
	limit, swap      string
	events           string // the file with a line "oom_kill N"
}

var cgroupKinds = []cgroupKind{
	{"/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control"},
	{"/sys/fs/cgroup", "", "memory.max", "memory.swap.max", "memory.events"},
}

// newCgroup makes a cgroup of limit bytes below that of this process or, where that one cannot have children with a
// limit, below one above it. close removes it.
func newCgroup(limit int64) (*cgroup, error) {
	mine, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	err = errors.New("no memory controller")
	for _, kind := range cgroupKinds {
		for _, line := range strings.Split(strings.TrimSpace(string(mine)), "\n") {
			parts := strings.SplitN(line, ":", 3)
			if len(parts) != 3 || parts[1] != kind.controller {
				continue
			}
			for at := parts[2]; ; at = filepath.Dir(at) {
				c := &cgroup{filepath.Join(kind.root, at, fmt.Sprintf("weir-bench-%d", os.Getpid())), kind}
				if err = c.make(limit); err == nil {
					return c, nil
				}
				if at == "/" {
					break
				}
			}
		}
	}
	return nil, err
}

func (c *cgroup) make(limit int64) error {
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return err
	}
	value := []byte(strconv.FormatInt(limit, 10))
	if err := os.WriteFile(filepath.Join(c.dir, c.kind.limit), value, 0); err != nil {
		os.Remove(c.dir)
		return err
	}
	if c.kind.controller == "" {
		value = []byte("0") // of swap alone
	}
	os.WriteFile(filepath.Join(c.dir, c.kind.swap), value, 0) // a kernel without swap has no such file
	return nil
}

// command runs a program within c.
func (c *cgroup) command(program string, args ...string) *exec.Cmd {
	return exec.Command("/proc/self/exe", append([]string{"within", c.procs(), program}, args...)...)
}

// within is the child: it enters a cgroup and becomes the program.
func within(args []string) error {
	if err := os.WriteFile(args[0], []byte("0"), 0); err != nil {
		return err
	}
	return syscall.Exec(args[1], args[1:], os.Environ())
}

func (c *cgroup) procs() string { return filepath.Join(c.dir, "cgroup.procs") }

// pids are those of the processes in it.
func (c *cgroup) pids() []string {
	text, _ := os.ReadFile(c.procs())
	return strings.Fields(string(text))
}

// killed is how many of its processes the kernel has killed for want of memory.
func (c *cgroup) killed() (n int) {
	text, _ := os.ReadFile(filepath.Join(c.dir, c.kind.events))
	if _, rest, ok := bytes.Cut(text, []byte("oom_kill ")); ok {
		fmt.Sscan(string(rest), &n)
	}
	return n
}

// close removes it, which works when its processes have ended.
func (c *cgroup) close() error { return os.Remove(c.dir) }
