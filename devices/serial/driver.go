// Package serial reads devices that send lines of text over a serial port: RS-232, USB
// adapters, boards with a USB port of their own, pseudo-terminals.
//
// go.bug.st/serial sets the port up; the reading is done on a descriptor of our own.
// For in that library Close races with Read (the number of a closed descriptor may already
// be another file's), an unplugged port looks like a closed one, and a write has no deadline.
// A descriptor under Go's own poller has none of these: a read waits without turning, ends
// at once when the context does, and an unplugged port is an end of file.
package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.bug.st/serial"

	"github.com/weir-iot/weir/devices/codec"
)

// Driver reads one port.
type Driver struct {
	path    string // or usb:…, and then usb is set
	usb     *usbID
	mode    serial.Mode
	maxLine int
	line    *codec.Line
}

// Run opens the port and emits a frame per line until ctx ends, the port goes, or it
// cannot be had. It keeps the promises of devices.Driver.
func (d *Driver) Run(ctx context.Context, emit func(codec.Frame)) error {
	p, err := d.open()
	if err != nil {
		return fmt.Errorf("port %s: %w", d.path, err)
	}
	defer p.Close()
	stop := context.AfterFunc(ctx, func() { p.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	emit(codec.Frame{})
	err = d.read(ctx, p, emit)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed):
		return fmt.Errorf("port %s: unplugged", d.path)
	}
	return fmt.Errorf("port %s: read: %w", d.path, err)
}

func (d *Driver) read(ctx context.Context, p *os.File, emit func(codec.Frame)) error {
	lines := codec.NewSplitter(d.maxLine)
	began, err := d.quiet(ctx, p, emit, lines)
	if err != nil {
		return err
	}
	if !began {
		lines = codec.NewSplitter(d.maxLine)
	}
	buf := make([]byte, 4096)
	for {
		n, err := p.Read(buf)
		d.line.Frames(lines, buf[:n], emit)
		if err != nil {
			return err
		}
	}
}

// quiet finds out whether we began to listen in the middle of a line, whose rest could
// pass for a whole one ("2.34 kg" of "12.34 kg"). If nothing comes for a while nobody was
// sending, and the next byte begins a line; else everything up to the next end is dropped.
func (d *Driver) quiet(ctx context.Context, p *os.File, emit func(codec.Frame), lines *codec.Splitter) (began bool, err error) {
	lines.SkipPartial()
	// Adapters hand bytes on every 16 ms or so; 5 characters at slow rates.
	p.SetReadDeadline(time.Now().Add(100*time.Millisecond + 50*time.Second/time.Duration(d.mode.BaudRate)))
	if ctx.Err() != nil { // its deadline may just have been overwritten, here and below
		return false, ctx.Err()
	}
	buf := make([]byte, 512)
	n, err := p.Read(buf)
	p.SetReadDeadline(time.Time{})
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if n > 0 {
		d.line.Frames(lines, buf[:n], emit)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n > 0, err
}
