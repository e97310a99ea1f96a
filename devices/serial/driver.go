// Package serial reads devices that send lines of text over a serial port: RS-232, USB
// adapters, boards with a USB port of their own, pseudo-terminals.
package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
)

// Driver reads one port.
type Driver struct {
	port    *port.Port
	maxLine int
	line    *codec.Line
}

// Run opens the port and emits a frame per line until ctx ends, the port goes, or it
// cannot be had. It keeps the promises of devices.Driver.
func (d *Driver) Run(ctx context.Context, emit func(codec.Frame)) error {
	p, err := d.port.Open()
	if err != nil {
		return fmt.Errorf("port %s: %w", d.port, err)
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
		return fmt.Errorf("port %s: unplugged", d.port)
	}
	return fmt.Errorf("port %s: read: %w", d.port, err)
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
	p.SetReadDeadline(time.Now().Add(100*time.Millisecond + 50*time.Second/time.Duration(d.port.Baud())))
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
