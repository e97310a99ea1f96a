package port

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Send writes wire, by one goroutine at a time, and returns when it has left the machine as far as
// the kernel knows, or when ctx ends. What has not left by then is thrown away: it would go out when whoever holds
// the line up lets go of it, long after somebody was told that it had failed.
func (l *Line) Send(ctx context.Context, wire []byte) error {
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		l.SetWriteDeadline(time.Unix(1, 0))
		close(cut)
	})
	n, err := l.Write(wire)
	if !stop() {
		<-cut
	}
	l.SetWriteDeadline(time.Time{})
	left := 0
	for err == nil {
		if left = queued(l.File); left == 0 {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond): // the kernel has no event for it that ends with ctx
		case <-ctx.Done():
			err = os.ErrDeadlineExceeded
		}
	}
	l.Discard()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the device takes nothing: %d of %d bytes went out (is flow control on, or is nobody there?)", max(n-left, 0), len(wire))
	case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EIO), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return errors.New("unplugged")
	}
	return fmt.Errorf("write: %w", err)
}

// queued is how many bytes the kernel holds that have not been sent.
func queued(f *os.File) (n int) {
	err := control(f, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCOUTQ)
		return err
	})
	if err != nil { // it does not tell, or is gone
		return 0
	}
	return n
}

// Discard throws away what has not been sent. A port is closed after it, because closing one waits half a minute
// for a device that takes nothing.
func (l *Line) Discard() { discard(l.File) }

func discard(f *os.File) {
	_ = control(f, func(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCOFLUSH) })
}
