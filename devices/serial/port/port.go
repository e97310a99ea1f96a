package port

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// Open finds the port, makes sure that nobody else has it, and sets it up. What came in before is
// dropped.
func (p *Port) Open() (*Line, error) {
	path := p.path
	if p.usb != nil {
		var err error
		if path, err = p.usb.find("/sys/class/tty"); err != nil {
			return nil, err
		}
	}
	path, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("not there: not plugged in?")
	}
	if err != nil {
		return nil, err
	}
	// Asked before anything is opened, because opening raises DTR, and the board of
	// somebody who uses the port would reset.
	if err := locked(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, inUse(path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: is this user in the group that owns it (dialout, uucp)?", err)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EIO):
		return nil, fmt.Errorf("no device behind it: %w", err)
	case err != nil:
		return nil, err
	}
	err = claim(f, path)
	if err == nil {
		err = setUp(f, path, p.mode)
	}
	l := &Line{File: f}
	if err == nil {
		l.turn, err = p.direct(f)
	}
	if err == nil {
		err = f.SetReadDeadline(time.Time{}) // a file that cannot be polled could not be cancelled
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// claim makes the port ours. TIOCEXCL does not stop root, so a lock goes with it; and who
// honours only TIOCEXCL is asked for it.
func claim(f *os.File, path string) error {
	return control(f, func(fd int) error {
		if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
			return fmt.Errorf("not a serial port: %w", err)
		}
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			return inUse(path)
		} else if err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		if exclusive, err := unix.IoctlGetInt(fd, unix.TIOCGEXCL); err == nil && exclusive != 0 {
			return inUse(path)
		}
		return nil
	})
}

// setUp configures the port that f is open on. The library is gone when it returns, for
// its descriptor would be inherited by every process we start; what it has set stays as long
// as f is open.
func setUp(f *os.File, path string, mode serial.Mode) error {
	lines, isPTY, err := inspect(f)
	if err != nil {
		return err
	}
	if !lines { // nothing can be reset by modem lines that are not there
		mode.InitialStatusBits = nil
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	setup, err := serial.Open(path, &mode)
	if err != nil {
		return err
	}
	// Lines from before we listened would get the wrong time.
	if err := errors.Join(setup.ResetInputBuffer(), setup.Close()); err != nil || isPTY {
		// A pseudo-terminal outlives us, and so would TIOCEXCL if we are killed. The lock does not.
		return err
	}
	return control(f, func(fd int) error { return unix.IoctlSetInt(fd, unix.TIOCEXCL, 0) })
}

// inspect tells whether the port has modem lines, and whether it is a pseudo-terminal.
func inspect(f *os.File) (modemLines, pty bool, err error) {
	var st unix.Stat_t
	err = control(f, func(fd int) error {
		_, e := unix.IoctlGetInt(fd, unix.TIOCMGET)
		modemLines = !errors.Is(e, unix.ENOTTY) && !errors.Is(e, unix.EINVAL)
		return unix.Fstat(fd, &st)
	})
	major := unix.Major(uint64(st.Rdev))
	return modemLines, major >= 136 && major <= 143, err // Linux, admin-guide/devices: Unix98 PTY slaves
}

// control calls fn with f's descriptor.
func control(f *os.File, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	return errors.Join(conn.Control(func(fd uintptr) { failed = fn(int(fd)) }), failed)
}
