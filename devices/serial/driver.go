// Package serial reads devices that send by themselves over a serial port: RS-232, USB adapters,
// boards with a USB port of their own, pseudo-terminals. What the bytes mean is package codec's.
package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
)

// Driver reads one port.
type Driver struct {
	codec.Taps
	port     *port.Port
	codec    *codec.Codec
	commands map[string]*command
	turn     chan struct{}           // who has put something in may send
	partial  bool                    // what was sent last was not sent whole; for who may send
	open     atomic.Pointer[line]    // nil while the port is not
	waiting  atomic.Pointer[waiting] // the command that is waiting for its reply
}

// Run opens the port and emits its frames until ctx ends, the port goes, or it
// cannot be had. It keeps the promises of devices.Driver.
func (d *Driver) Run(ctx context.Context, emit func(codec.Frame)) error {
	p, err := d.port.Open()
	if err != nil {
		return fmt.Errorf("port %s: %w", d.port, err)
	}
	l := &line{p, make(chan struct{})}
	d.open.Store(l)
	defer func() {
		d.open.Store(nil)
		close(l.closed)
		p.Discard()
		p.Close()
	}()
	stop := context.AfterFunc(ctx, func() { p.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	emit(codec.Frame{})
	err = d.read(ctx, p, emit)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed):
		return fmt.Errorf("port %s: unplugged", d.port)
	}
	return fmt.Errorf("port %s: read: %w", d.port, err)
}

func (d *Driver) read(ctx context.Context, p *port.Line, emit func(codec.Frame)) error {
	// Did we begin to listen in the middle of a frame, whose rest could pass for a whole one
	// ("2.34 kg" of "12.34 kg")? If nothing comes for a while nobody was sending, and the next
	// byte begins a frame.
	s := d.stream()
	s.SkipPartial()
	buf := make([]byte, 4096)
	n, err := d.within(ctx, p, buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s, err = d.stream(), nil
	}
	for ctx.Err() == nil {
		d.Tell(false, buf[:n])
		s.Feed(buf[:n], emit)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.Idle(emit)
		case err != nil:
			return err
		}
		if s.Pending() {
			n, err = d.within(ctx, p, buf)
		} else {
			n, err = p.Read(buf)
		}
	}
	return ctx.Err()
}

func (d *Driver) stream() *codec.Stream {
	s := d.codec.Stream()
	s.Answer = d.answers
	return s
}

// within reads what comes in a while that no device pauses inside a frame; if nothing does
// the error is os.ErrDeadlineExceeded.
func (d *Driver) within(ctx context.Context, p *port.Line, buf []byte) (n int, err error) {
	// The second read is for us: that we did not get to run in time is no pause of the device's, and takes what
	// has come by then.
	for _, wait := range []time.Duration{d.pause(), time.Millisecond} {
		p.SetReadDeadline(time.Now().Add(wait))
		if ctx.Err() != nil { // its deadline may just have been overwritten, here and below
			return 0, ctx.Err()
		}
		if n, err = p.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	p.SetReadDeadline(time.Time{})
	if ctx.Err() != nil {
		return n, ctx.Err()
	}
	return n, err
}
