package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
	"unsafe"

	"github.com/go-ble/ble/linux/hci/socket"
	"golang.org/x/sys/unix"
)

// upTime is how long an adapter may take to be set up by the kernel: firmware is loaded then.
const upTime = 5 * time.Second

// Open takes the adapter hci<index> from the kernel and everybody else, as HCI user channel. It needs CAP_NET_ADMIN, and
// CAP_NET_RAW. It can block as long as the kernel does. Errors are in words for a person, and do not name the adapter.
func Open(index int) (io.ReadWriteCloser, error) {
	for end := time.Now().Add(upTime); ; time.Sleep(200 * time.Millisecond) {
		s, err := socket.NewSocket(index)
		if errors.Is(cause(err), unix.EBUSY) && time.Now().Before(end) {
			continue // it is being set up
		}
		if err != nil {
			return nil, words(cause(err))
		}
		return s, nil
	}
}

// cause is what go-ble wrapped.
func cause(err error) error {
	for {
		c, ok := err.(interface{ Cause() error })
		if !ok {
			return err
		}
		err = c.Cause()
	}
}

func words(err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return errors.New("it is not there: is it plugged in, and does the kernel have its driver (dmesg)?")
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return errors.New("not allowed; Weir needs the capabilities CAP_NET_ADMIN and CAP_NET_RAW")
	case errors.Is(err, unix.EAFNOSUPPORT):
		return errors.New("this kernel has no Bluetooth (module bluetooth)")
	case errors.Is(err, unix.ERFKILL):
		return errors.New("it is switched off: rfkill unblock bluetooth")
	case errors.Is(err, unix.EBUSY):
		return errors.New("another program uses it: bluetoothd (systemctl disable --now bluetooth), or another gateway")
	case errors.Is(err, unix.ETIMEDOUT):
		return errors.New("it does not answer the kernel: unplug it and plug it in again")
	}
	return fmt.Errorf("it cannot be opened: %w", err)
}

// The kernel's interface (include/net/bluetooth/hci_sock.h).
const (
	getDeviceInfo = 0x800448d3
	infoFlags     = 16 // offset of the flags in what it answers
	infoSize      = 256
	flagUp        = 1 << 0
)

// InUse tells whether somebody has the adapter switched on: the kernel itself switches off those that nobody uses.
func InUse(index int) bool {
	fd, err := unix.Socket(unix.AF_BLUETOOTH, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.BTPROTO_HCI)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var info [infoSize]byte
	binary.NativeEndian.PutUint16(info[:], uint16(index))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getDeviceInfo, uintptr(unsafe.Pointer(&info)))
	return errno == 0 && binary.NativeEndian.Uint32(info[infoFlags:])&flagUp != 0
}
