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
	board := filepath.Join(root, "devices", "uart")
	byID := filepath.Join(root, "by-id")
	stable := filepath.Join(byID, "usb-FTDI-if00")
	for _, err := range []error{
		os.WriteFile(filepath.Join(root, "devices", "1-2", "product"), []byte("FT232R USB UART\n"), 0o600),
		os.MkdirAll(board, 0o700), os.MkdirAll(byID, 0o700), os.WriteFile(filepath.Join(root, "ttyUSB1"), nil, 0o600),
		os.Symlink(filepath.Join(root, "ttyUSB1"), stable),
		os.MkdirAll(filepath.Join(root, "class", "ttyS0"), 0o700), os.Symlink(board, filepath.Join(root, "class", "ttyS0", "device")),
		os.WriteFile(filepath.Join(root, "class", "ttyS0", "type"), []byte("0\n"), 0o600),
		os.MkdirAll(filepath.Join(root, "class", "ttyAMA0"), 0o700), os.Symlink(board, filepath.Join(root, "class", "ttyAMA0", "device")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := list(filepath.Join(root, "class"), byID)
	if want := []Info{
		{Path: "/dev/ttyACM0", Name: "usb:303a:1001:7C:DF:A1:00:00:01", USB: "usb:303a:1001:7C:DF:A1:00:00:01"},
		{Path: "/dev/ttyAMA0"},
		{Path: "/dev/ttyUSB0", Name: "usb:1a86:7523", USB: "usb:1a86:7523"},
		{Path: "/dev/ttyUSB1", Name: stable, USB: "usb:0403:6001:A50285BI", What: "FT232R USB UART"},
		{Path: "/dev/ttyUSB2", Name: "usb:0403:6001:A50285BJ", USB: "usb:0403:6001:A50285BJ"},
	}; err != nil || !reflect.DeepEqual(all, want) {
		t.Errorf("listed %+v, %v", all, err)
	}

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

// What is wrong with a port is said without opening it, and who holds it.
func TestDiagnose(t *testing.T) {
	tty, err := pty.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		tty.Path(): "", plain: plain + " is no serial port, but a file", plain + "x": "not there: not plugged in?", "usb:ffff:ffff": "not there: not plugged in?",
	} {
		p, err := New(Config{Port: path})
		if err != nil {
			t.Fatal(err)
		}
		problems, by := p.Diagnose()
		got := ""
		for _, one := range problems {
			got += one.What
			if one.Do == "" {
				t.Errorf("%s: %s, and nothing to do about it", path, one.What)
			}
		}
		if got != want || by != nil {
			t.Errorf("%s: %q, %v", path, got, by)
		}
	}
	// In the words for who has no rights; root has them all.
	if p := denied("/dev/ttyUSB0", "no-such-group"); !strings.Contains(p.What, "is not in group no-such-group") || !strings.Contains(p.Do, "usermod -aG no-such-group") {
		t.Errorf("%+v", p)
	}
}
