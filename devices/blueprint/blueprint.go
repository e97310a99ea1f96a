// Package blueprint is a driver to copy. It is a real one, small: it reads a file of one line
// again and again, such as the kernel offers for a sensor
// (/sys/class/thermal/thermal_zone0/temp). To make a driver of it:
//
//  1. Copy the directory to devices/NAME and rename the package.
//  2. Make Config what the device's section in weir.yaml holds besides the keys that
//     every device has (name, area, topic, measurements, expire_after), with yaml tags for names of
//     more than one word, and check it in New; mistakes are gateway.BadKey.
//  3. Write Run. The promises are in devices/driver.go; keep what does not depend on the device.
//  4. In the test, describe how the device is played, and run devicetest.Conformance.
//  5. Add a line to devices/kinds.go.
package blueprint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Config is the driver's part of a device's section.
type Config struct {
	Path     string        `yaml:"path"`
	Interval time.Duration `yaml:"interval"` // default 10 s
}

// Driver reads one file.
type Driver struct {
	path     string
	interval time.Duration
	format   *codec.Format
}

// New returns a driver for the file that cfg names, whose line format decodes. Errors are
// gateway.KeyErrors. The file is not touched before Run.
func New(cfg Config, format *codec.Format) (*Driver, error) {
	if cfg.Path == "" {
		return nil, gateway.BadKey("path", "missing; it is the file to read")
	}
	if cfg.Interval < 0 {
		return nil, gateway.BadKey("interval", "%v is less than 0", cfg.Interval)
	}
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	return &Driver{cfg.Path, cfg.Interval, format}, nil
}

// Run emits what the file says, once every interval, until ctx ends or the file is gone. It
// keeps the promises of devices.Driver.
func (d *Driver) Run(ctx context.Context, emit func(codec.Frame)) error {
	if _, err := os.Stat(d.path); err != nil { // the device cannot be had: say so, at once
		return d.lost(err)
	}
	emit(codec.Frame{}) // it can: connected
	tick := time.NewTicker(d.interval)
	defer tick.Stop()
	for {
		if err := d.read(emit); err != nil {
			return d.lost(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Driver) read(emit func(codec.Frame)) error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	// One byte more than a line may have, so that one that is too long is seen to be.
	buf := make([]byte, codec.MaxFrame+1)
	n, err := f.Read(buf)
	if err != nil {
		return err
	}
	text := bytes.TrimSpace(buf[:n])
	if n > codec.MaxFrame {
		emit(codec.Frame{Garbage: codec.Overlong, Raw: text[:min(len(text), 64)]})
		return nil
	}
	readings, garbage := d.format.Decode(text)
	if garbage != "" {
		emit(codec.Frame{Garbage: garbage, Raw: text[:min(len(text), 64)]})
		return nil
	}
	emit(codec.Frame{Readings: readings})
	return nil
}

// lost words an error for the person who will look for the cable.
func (d *Driver) lost(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("file %s is not there: is the sensor's kernel module loaded?", d.path)
	}
	return fmt.Errorf("read sensor: %w", err)
}
