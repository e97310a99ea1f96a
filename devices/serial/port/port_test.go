package port

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/devices/serial/pty"
)

func TestOneAtATime(t *testing.T) {
	tty, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	p, err := New(Config{Port: tty.Path()})
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(); err == nil || err.Error() != "in use by another device of this gateway" {
		t.Errorf("a second time: %v", err)
	}
	if err := claimAs(tty.Path()); err == nil || !strings.Contains(err.Error(), "in use by ") {
		t.Errorf("the lock itself: %v", err)
	}
	f.Close()
	if f, err = p.Open(); err != nil {
		t.Fatalf("after the first one left: %v", err)
	}
	f.Close()
}

// claimAs claims without asking /proc/locks first, which would answer before the lock is tried.
func claimAs(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return claim(f, path)
}

func TestFindUSB(t *testing.T) {
	root := t.TempDir()
	add := func(tty, device, vid, pid, serial string) {
		usb := filepath.Join(root, "devices", device)
		deep := filepath.Join(usb, device+":1.0", tty)
		class := filepath.Join(root, "class", tty)
		for _, err := range []error{
			os.MkdirAll(deep, 0o700), os.MkdirAll(class, 0o700), os.Symlink(deep, filepath.Join(class, "device")),
			os.WriteFile(filepath.Join(usb, "idVendor"), []byte(vid+"\n"), 0o600),
			os.WriteFile(filepath.Join(usb, "idProduct"), []byte(pid+"\n"), 0o600),
			os.WriteFile(filepath.Join(usb, "serial"), []byte(serial+"\n"), 0o600),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	add("ttyUSB0", "1-1", "1a86", "7523", "")
	add("ttyUSB1", "1-2", "0403", "6001", "A50285BI")
	add("ttyUSB2", "1-3", "0403", "6001", "A50285BJ")
	add("ttyACM0", "1-4", "303a", "1001", "7C:DF:A1:00:00:01")
	os.MkdirAll(filepath.Join(root, "class", "tty0"), 0o700)

	for in, want := range map[string]string{
		"usb:1A86:7523":                   "/dev/ttyUSB0",
		"usb:0403:6001:A50285BJ":          "/dev/ttyUSB2",
		"usb:303a:1001:7C:DF:A1:00:00:01": "/dev/ttyACM0",
		"usb:1a86:7524":                   "not there: not plugged in?",
		"usb:0403:6001": "not one port but 2: /dev/ttyUSB1 (usb:0403:6001:A50285BI), " +
			"/dev/ttyUSB2 (usb:0403:6001:A50285BJ); name one by its serial number or its path in /dev/serial/by-path",
	} {
		id, err := parseUSB(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := id.find(filepath.Join(root, "class"))
		if err != nil {
			got = err.Error()
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}
