package port

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Info is a serial port of this machine.
type Info struct {
	Path string `json:"path"`
	// Name is what stays the same when it is plugged in again, as it can stand at port: in the configuration.
	Name string `json:"name,omitempty"`
	USB  string `json:"usb,omitempty"`  // usb:VID:PID[:SERIAL]
	What string `json:"what,omitempty"` // what the adapter says it is
}

// List returns the serial ports there are. It reads sysfs and opens nothing, because opening a port can
// take half a minute, and resets boards.
func List() ([]Info, error) { return list("/sys/class/tty", "/dev/serial/by-id") }

func list(class, byID string) ([]Info, error) {
	ttys, err := os.ReadDir(class)
	if err != nil {
		return nil, fmt.Errorf("list ports: %w", err)
	}
	names := map[string]string{}
	links, _ := filepath.Glob(filepath.Join(byID, "*"))
	for _, link := range links {
		if path, err := filepath.EvalSymlinks(link); err == nil {
			names[filepath.Base(path)] = link
		}
	}
	var all []Info
	for _, tty := range ttys {
		device, err := filepath.EvalSymlinks(filepath.Join(class, tty.Name(), "device"))
		if err != nil || attribute(filepath.Join(class, tty.Name()), "type") == "0" { // a virtual terminal; a UART that is not there
			continue
		}
		i := Info{Path: "/dev/" + tty.Name(), Name: names[tty.Name()]}
		if id, above, ok := usbOf(device); ok {
			i.USB = id.String()
			i.What = strings.TrimSpace(attribute(above, "manufacturer") + " " + attribute(above, "product"))
			if i.Name == "" {
				i.Name = i.USB
			}
		}
		all = append(all, i)
	}
	return all, nil
}
