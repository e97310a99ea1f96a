package port

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// locked returns an error that names the holder if somebody has a lock on path. It opens
// nothing; what it does not see, claim does.
func locked(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil { // no such kernel option; claim decides
		return nil
	}
	// "1: FLOCK  ADVISORY  WRITE 123 00:1a:3 0 EOF"; a waiter's line has "->" before FLOCK.
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	for line := range bytes.Lines(locks) {
		f := strings.Fields(string(line))
		if len(f) >= 6 && f[1] == "FLOCK" && f[5] == id {
			pid, _ := strconv.Atoi(f[4])
			return inUseBy(pid)
		}
	}
	return nil
}

// inUse returns the error for a port somebody else has, and looks for who it is.
func inUse(path string) error {
	var port unix.Stat_t
	if unix.Stat(path, &port) != nil {
		return inUseBy(0)
	}
	for _, h := range holders(port.Rdev) {
		if h.PID != os.Getpid() { // we have just opened it ourselves
			return inUseBy(h.PID)
		}
	}
	return inUseBy(0)
}

// Holder is a process that has a port open.
type Holder struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
}

// Holders are the processes that have the port at path open, as far as this user may see.
func Holders(path string) []Holder {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return nil
	}
	return holders(st.Rdev)
}

func holders(rdev uint64) (all []Holder) {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
		var st unix.Stat_t
		if unix.Stat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == rdev &&
			!slices.ContainsFunc(all, func(h Holder) bool { return h.PID == pid }) {
			all = append(all, Holder{pid, processName(pid)})
		}
	}
	return all
}

func processName(pid int) string {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(comm))
}

func inUseBy(pid int) error {
	switch {
	case pid == os.Getpid():
		return errors.New("in use by another device of this gateway")
	case pid <= 0:
		return errors.New("in use by another process")
	}
	if name := processName(pid); name != "" {
		return fmt.Errorf("in use by %s (process %d)", name, pid)
	}
	return fmt.Errorf("in use by process %d", pid)
}
