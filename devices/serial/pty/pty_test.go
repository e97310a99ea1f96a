package pty_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/devices/serial/pty"
)

func TestPTY(t *testing.T) {
	link := filepath.Join(t.TempDir(), "scale")
	p, err := pty.Open(link)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write([]byte("lost\n")); !errors.Is(err, pty.ErrUnread) || p.Listening() {
		t.Fatalf("before anybody opens it: %v", err)
	}
	open := func() *os.File {
		f, err := os.OpenFile(p.Path(), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for range 2 { // a reader that comes again
		f := open()
		if !p.Listening() {
			t.Fatal("does not see its reader")
		}
		if _, err := p.Write([]byte("1\r\n\x03\x04")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := f.Read(buf)
		if string(buf[:n]) != "1\r\n\x03\x04" {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
		f.Close()
		if p.Listening() {
			t.Fatal("does not see that its reader left")
		}
	}

	f := open()
	defer f.Close()
	for {
		if _, err = p.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a reader that does not read: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(f); err != nil {
		t.Fatalf("after the unplug: %v", err)
	}
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("link is still there: %v", err)
	}
}
