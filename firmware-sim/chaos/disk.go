package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/weir-iot/weir/firmware-sim/image"
)

// disk is what lies under the gateway's data: a file system of its own, where that can be had,
// and the directory through which a weir that is built for it is told to forget.
type disk struct {
	data    string
	control string // empty: this weir cannot forget
	boot    int

	image, at string // of the file system of its own
	noImage   string // why there is none
}

// imageSize bounds the file system of its own, in bytes. The journal is 8 MiB.
const imageSize = 256 << 20

func openDisk(dir string, tagged bool) (*disk, error) {
	d := &disk{image: filepath.Join(dir, "disk.img"), at: filepath.Join(dir, "disk")}
	if tagged {
		d.control = filepath.Join(dir, "faults")
		if err := os.MkdirAll(d.control, 0o700); err != nil {
			return nil, err
		}
		if err := d.reboot(); err != nil {
			return nil, err
		}
	}
	d.data = filepath.Join(dir, "data")
	if err := image.Make(d.image, d.at, imageSize); err != nil {
		d.noImage = err.Error()
		return d, nil
	}
	d.data = filepath.Join(d.at, "data")
	return d, nil
}

func (d *disk) mounted() bool { return d.noImage == "" }

// env is what weir's environment gets.
func (d *disk) env() []string {
	if d.control == "" {
		return nil
	}
	return []string{"WEIR_FAULTS=" + d.control}
}

// order tells a weir that can forget something, for when it is started or cut.
func (d *disk) order(name, value string) error {
	return os.WriteFile(filepath.Join(d.control, name), []byte(value), 0o600)
}

// reboot gives the next weir another boot id, as after a power cut.
func (d *disk) reboot() error {
	d.boot++
	return d.order("boot", "boot-"+strconv.Itoa(d.boot))
}

// fill leaves no byte free.
func (d *disk) fill() error {
	f, err := os.OpenFile(d.filler(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size := int64(0)
	for step := int64(imageSize); step >= 4096; {
		err := syscall.Fallocate(int(f.Fd()), 0, size, step)
		switch {
		case err == nil:
			size += step
		case errors.Is(err, syscall.ENOSPC):
			step /= 2
		case !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("fill the disk: %w", err)
		}
	}
	return nil
}

func (d *disk) filler() string { return filepath.Join(d.at, "filler") }

func (d *disk) free() error { return os.Remove(d.filler()) }

// pull stops the file system at once, as a pulled plug does: what it has not written to its
// device it forgets. Nobody who uses it may go on, so the gateway has to stand still.
func (d *disk) pull() error {
	f, err := os.Open(d.at)
	if err != nil {
		return err
	}
	defer f.Close()
	const shutdown, noFlush = 0x8004587d, 2 // FS_IOC_SHUTDOWN of linux/fs.h, FS_SHUTDOWN_FLAGS_NOLOGFLUSH
	how := uint32(noFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		return fmt.Errorf("stop the file system: %w", errno)
	}
	return nil
}

// plugIn mounts it again; it repairs itself from its log.
func (d *disk) plugIn() error {
	if err := image.Unmount(d.at); err != nil {
		return err
	}
	return image.Mount(d.image, d.at)
}

func (d *disk) close() error {
	if !d.mounted() {
		return nil
	}
	return image.Unmount(d.at)
}
