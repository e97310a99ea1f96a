package hci

import (
	"fmt"
	"io"
	"os"
)

// OpenVHCI makes an adapter of the kernel, whose controller is at the other end of what it returns. It needs the module hci_vhci.
// Closing pulls the adapter out.
func OpenVHCI() (rw io.ReadWriteCloser, index int, err error) {
	f, err := os.OpenFile("/dev/vhci", os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	// Vendor packet: make a primary controller. It is answered with the same and the index.
	if _, err := f.Write([]byte{0xff, 0x00}); err != nil {
		f.Close()
		return nil, 0, err
	}
	var b [16]byte
	n, err := f.Read(b[:])
	if err != nil || n < 4 || b[0] != 0xff {
		f.Close()
		return nil, 0, fmt.Errorf("/dev/vhci answers %x, %w", b[:n], err)
	}
	return f, int(b[2]) | int(b[3])<<8, nil
}
