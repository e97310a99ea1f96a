package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/firmware-sim/image"
)

// What is written in a round: so many commits of so many payloads. Engines that clean up later are given the
// bytes that closing them costs.
const (
	deviceCommits = 1000
	deviceBatch   = 64
)

// measureDevice counts what reaches the device for each byte of payload.
func measureDevice(ctx context.Context, b *bench) ([]result, error) {
	dir := filepath.Join(b.dir, "device")
	said := ""
	err := image.Make(filepath.Join(b.dir, "device.img"), dir, 1<<30)
	if err == nil {
		defer image.Unmount(dir)
	} else {
		said = fmt.Sprintf(" (no file system of its own: %v)", err)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	count, how := blockCounter(dir)
	if count == nil {
		count, how = processCounter, "/proc/self/io, what the program wrote"
	}
	engines := []struct {
		name  string
		open  func(string) (engine, error)
		bytes []float64 // for each of payload
	}{
		{name: "raw append to a growing file", open: openRaw(growing)}, {name: "weir journal", open: openJournal},
		{name: "raw, allocated file", open: openRaw(allocated)}, {name: "badger, txn per group", open: openBadger},
	}
	var payloads [][]byte
	for range deviceBatch {
		payloads = append(payloads, payload())
	}
	for range b.few() {
		for i := range engines {
			e := &engines[i]
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			written, err := deviceBytes(filepath.Join(dir, "e"), e.open, payloads, count)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.name, err)
			}
			e.bytes = append(e.bytes, float64(written)/float64(deviceCommits*deviceBatch*payloadSize))
		}
	}
	raw, weir, badger := engines[0], engines[1], engines[3]
	fmt.Printf("\nbytes written for each byte of payload, %d commits of %d x %d B, counted by %s%s\n\n", deviceCommits, deviceBatch, payloadSize, how, said)
	for _, e := range engines {
		fmt.Printf("%-30s %5.2f\n", e.name, median(e.bytes))
	}
	what := fmt.Sprintf("device bytes per payload byte, %d per commit", deviceBatch)
	return []result{
		{what, "<= raw append", fmt.Sprintf("%.2f: %.2f x", median(weir.bytes), ratio(weir.bytes, raw.bytes)), fmt.Sprintf("%s: %.2f", raw.name, median(raw.bytes))},
		{what, "<= 0.7 x Badger", fmt.Sprintf("%.2f: %.2f x", median(weir.bytes), ratio(weir.bytes, badger.bytes)), fmt.Sprintf("%s: %.2f", badger.name, median(badger.bytes))},
	}, nil
}

// deviceBytes is what count counts while an engine is filled in dir and closed.
func deviceBytes(dir string, open func(string) (engine, error), payloads [][]byte, count func() (int64, error)) (int64, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := syncFS(dir); err != nil { // what was removed before, too
		return 0, err
	}
	before, err := count()
	if err != nil {
		return 0, err
	}
	e, err := open(dir)
	if err != nil {
		return 0, err
	}
	for range deviceCommits {
		if err := e.commit(payloads); err != nil {
			return 0, errors.Join(err, e.close())
		}
	}
	if err := errors.Join(e.close(), syncFS(dir)); err != nil {
		return 0, err
	}
	after, err := count()
	return after - before, err
}

func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// blockCounter counts the bytes that are written to the device under dir, by whomever. It is nil if that
// cannot be had.
func blockCounter(dir string) (count func() (int64, error), how string) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, ""
	}
	dev := uint64(info.Sys().(*syscall.Stat_t).Dev)
	path := fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(dev), unix.Minor(dev))
	count = func() (int64, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(text)) // Documentation/block/stat.rst
		if len(fields) < 7 {
			return 0, fmt.Errorf("%s: %d fields", path, len(fields))
		}
		var sectors int64
		_, err = fmt.Sscan(fields[6], &sectors)
		return sectors * 512, err
	}
	if _, err := count(); err != nil {
		return nil, ""
	}
	return count, path
}

// processCounter counts what this process made dirty, which is less than what a file system writes.
func processCounter() (n int64, err error) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), "\nwrite_bytes: ")
	if !ok {
		return 0, errors.New("no write_bytes in /proc/self/io")
	}
	_, err = fmt.Sscan(rest, &n)
	return n, err
}
