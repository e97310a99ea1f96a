// Package pty makes pseudo-terminals that stand in for serial devices: what opens one finds
// a terminal like /dev/ttyUSB0, and can be unplugged from it. Tests and firmware-sim use it.
package pty

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUnread says that nobody has the terminal open.
var ErrUnread = errors.New("nobody has the port open")

// PTY is the device's end of a pseudo-terminal. Methods but Read are for one goroutine at a time.
type PTY struct {
	master *os.File
	path   string
	link   string
}

// Open makes a pseudo-terminal. If link is not empty it becomes a symbolic link to it, as
// udev makes in /dev/serial/by-id; one that is there is replaced.
func Open(link string) (*PTY, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make a pseudo-terminal: %w", err)
	}
	p := &PTY{master: master, link: link}
	err = p.control(func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		if err != nil {
			return err
		}
		p.path = fmt.Sprintf("/dev/pts/%d", n)
		return errors.Join(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), raw(fd))
	})
	if err == nil {
		err = p.hangUp()
	}
	if err == nil && link != "" {
		// Under a name of its own first: rename replaces at once.
		next := fmt.Sprintf("%s.%d", link, os.Getpid())
		if err = os.Symlink(p.path, next); err == nil {
			err = os.Rename(next, link)
		}
	}
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("make a pseudo-terminal: %w", err)
	}
	return p, nil
}

// raw switches off what a terminal does for people; echo above all, which would send
// every line back.
func raw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.ICRNL | unix.INLCR | unix.IGNCR | unix.IXON | unix.ISTRIP | unix.BRKINT | unix.PARMRK
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// hangUp opens and closes the terminal once: only after a first close does the kernel say
// that nobody has it open.
func (p *PTY) hangUp() error {
	f, err := os.OpenFile(p.path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Path is what to open: the link, or the terminal itself if there is none.
func (p *PTY) Path() string {
	if p.link != "" {
		return p.link
	}
	return p.path
}

// Listening tells whether somebody has the terminal open.
func (p *PTY) Listening() bool {
	open := false
	p.control(func(fd int) error {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(fds, 0)
		for err == unix.EINTR { // the runtime's own signals
			_, err = unix.Poll(fds, 0)
		}
		open = err == nil && fds[0].Revents&unix.POLLHUP == 0
		return err
	})
	return open
}

// Write sends b. It returns ErrUnread if nobody has the terminal open, and an error that is
// os.ErrDeadlineExceeded, with the bytes that went, if the reader leaves no room for 100 ms:
// a wire has no patience, the rest is lost.
func (p *PTY) Write(b []byte) (int, error) {
	if !p.Listening() {
		return 0, ErrUnread
	}
	p.master.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	return p.master.Write(b)
}

// Read reads what was sent to the device. While nobody has the terminal open it waits. It may be
// called beside the other methods, by one goroutine, and ends with Close.
func (p *PTY) Read(b []byte) (int, error) {
	for {
		n, err := p.master.Read(b)
		if !errors.Is(err, unix.EIO) {
			return n, err
		}
		time.Sleep(2 * time.Millisecond) // the kernel has no event for somebody who opens it
	}
}

// Close unplugs the device: the terminal and its link are gone, and who has it open reads
// the end of the file.
func (p *PTY) Close() error {
	if p.link != "" {
		if to, err := os.Readlink(p.link); err == nil && to == p.path {
			os.Remove(p.link)
		}
	}
	return p.master.Close()
}

func (p *PTY) control(fn func(fd int) error) error {
	conn, err := p.master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	return errors.Join(conn.Control(func(fd uintptr) { failed = fn(int(fd)) }), failed)
}
