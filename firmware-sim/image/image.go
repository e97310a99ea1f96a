// Package image is a file system of one's own: ext4 in a file, on a loop device. It can be filled,
// stopped and counted without anybody else noticing. It takes root.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Make makes a file of size bytes with a file system in it and mounts that at a directory. The
// process has to be Private.
func Make(file, at string, size int64) error {
	if !Private() {
		return errors.New("it takes root, to mount a file system that ends with this program")
	}
	// Systemd shares mounts between namespaces by default.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	if err := program("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", file); err != nil {
		return err
	}
	return Mount(file, at)
}

// Mount mounts what Make made. After a hard stop it repairs itself from its log.
func Mount(file, at string) error { return program("mount", "-o", "loop", file, at) }

// unmountLimit bounds how long Unmount waits for who still uses the file system.
const unmountLimit = time.Minute

// Unmount waits for who still uses it: all are to end, but a child of a process that was killed may take a moment.
func Unmount(at string) error {
	for end := time.Now().Add(unmountLimit); ; time.Sleep(5 * time.Millisecond) { // between two looks; the look decides
		err := syscall.Unmount(at, 0)
		if err == nil {
			return nil
		}
		if err != syscall.EBUSY || time.Now().After(end) {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
}

// program runs one and returns what it said if it failed.
func program(name string, args ...string) error {
	if found, err := exec.LookPath(name); err == nil {
		name = found
	} else if _, err := os.Stat("/usr/sbin/" + name); err == nil {
		name = "/usr/sbin/" + name
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// Private tells whether this process has mounts that are seen by nobody else and end with it.
func Private() bool {
	mine, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil || os.Geteuid() != 0 {
		return false
	}
	parents, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	return err == nil && mine != parents
}

// ErrFailed says that the private process ended with an exit code, and has said why.
var ErrFailed = errors.New("the private process failed")

// Rerun runs this program again with args, and with mounts of its own, until it ends or, asked to, with ctx.
func Rerun(ctx context.Context, args []string, out, errOut io.Writer) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = out, errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return ErrFailed
	}
	return err
}
