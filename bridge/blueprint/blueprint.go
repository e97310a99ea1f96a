// Package blueprint is a sink to copy. It appends events to a file as lines of JSON, and its
// far end is the disk: an event is acknowledged when fsync has returned.
//
// To make a sink of it: copy the package, rename it, replace what speaks to the file, add a
// line to bridge/kinds.go, and let the copied test run the suite of bridgetest. What has to
// stay is the shape of Send, and what [bridge.Sink] promises.
package blueprint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/weir-iot/weir/gateway"
)

// Config is the uplink's section of weir.yaml.
type Config struct {
	Path string `yaml:"path"` // the file; its directory must exist
}

// Sink appends to one file.
type Sink struct {
	c         Config
	gatewayID string
}

// New returns a sink. It opens nothing: that is for Send, which is called again when it fails.
func New(c Config, gatewayID string) (*Sink, error) {
	if c.Path == "" {
		return nil, gateway.BadKey("path", "path is missing")
	}
	return &Sink{c, gatewayID}, nil
}

// maxBatch bounds the events of one fsync.
const maxBatch = 256

// Send is bridge.Sink.
func (s *Sink) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	defer f.Close()
	up()

	var lines bytes.Buffer
	var batch []*gateway.Event
	for {
		lines.Reset()
		batch = batch[:0]
		select { // wait for the first
		case e, ok := <-events:
			if !ok {
				return nil // nothing is in flight here: the batch before is on disk
			}
			batch = append(batch, e)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for more := true; more && len(batch) < maxBatch; { // and take what else is there
			select {
			case e, ok := <-events:
				if more = ok; ok {
					batch = append(batch, e)
				}
			default:
				more = false
			}
		}
		encode := json.NewEncoder(&lines) // ends each value with a newline
		for i, e := range batch {
			if err := encode.Encode(e.Face(s.gatewayID)); err != nil {
				done(e, gateway.Errorf(gateway.ErrInvalid, "encode: %w", err))
				batch[i] = nil
			}
		}
		if _, err := f.Write(lines.Bytes()); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		for _, e := range batch {
			if e != nil {
				done(e, nil)
			}
		}
	}
}

// open opens the file behind its last whole line: what a crash left of a line was never
// acknowledged and comes again.
func (s *Sink) open() (*os.File, error) {
	f, err := os.OpenFile(s.c.Path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	end, err := wholeLines(f)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err == nil {
		err = syncDir(filepath.Dir(s.c.Path)) // so that the file's name is there too
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// wholeLines returns the size of f up to its last newline.
func wholeLines(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	block := make([]byte, 4096)
	for end > 0 {
		from := max(0, end-int64(len(block)))
		b := block[:end-from]
		if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
