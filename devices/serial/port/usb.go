package port

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// usbID names an adapter by what is burnt into it, which stays the same when it is plugged
// in again or elsewhere.
type usbID struct {
	vid, pid string // four lower-case hexadecimal digits
	serial   string // empty: any
}

func parseUSB(s string) (usbID, error) {
	// The serial number of many boards is their MAC address, colons included.
	parts := strings.SplitN(s, ":", 4)
	if len(parts) < 3 || !hex4(parts[1]) || !hex4(parts[2]) || len(parts) == 4 && parts[3] == "" {
		return usbID{}, fmt.Errorf("%q is not usb:VID:PID or usb:VID:PID:SERIAL, such as usb:1a86:7523", s)
	}
	id := usbID{vid: strings.ToLower(parts[1]), pid: strings.ToLower(parts[2])}
	if len(parts) == 4 {
		id.serial = parts[3]
	}
	return id, nil
}

func hex4(s string) bool {
	return len(s) == 4 && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}

func (id usbID) String() string {
	s := "usb:" + id.vid + ":" + id.pid
	if id.serial != "" {
		s += ":" + id.serial
	}
	return s
}

// find returns the path of the one port of the adapter.
func (id usbID) find(class string) (string, error) {
	all, err := list(class, "")
	if err != nil {
		return "", err
	}
	var found, described []string
	for _, p := range all {
		if p.USB == "" {
			continue
		}
		if got, err := parseUSB(p.USB); err == nil && got.vid == id.vid && got.pid == id.pid && (id.serial == "" || got.serial == id.serial) {
			found = append(found, p.Path)
			described = append(described, fmt.Sprintf("%s (%s)", p.Path, p.USB))
		}
	}
	switch len(found) {
	case 0:
		return "", errors.New("not there: not plugged in?")
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("not one port but %d: %s; name one by its serial number or its path in /dev/serial/by-path",
		len(found), strings.Join(described, ", "))
}

// usbOf looks for the USB device above a tty's device directory: the interface, and for
// some drivers a directory of their own, lie between. It returns the device's directory, too.
func usbOf(dir string) (id usbID, above string, ok bool) {
	for range 4 {
		if vid := attribute(dir, "idVendor"); vid != "" {
			return usbID{vid, attribute(dir, "idProduct"), attribute(dir, "serial")}, dir, true
		}
		dir = filepath.Dir(dir)
	}
	return usbID{}, "", false
}

func attribute(dir, name string) string {
	data, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(data))
}
