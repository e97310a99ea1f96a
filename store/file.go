package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weir-iot/weir/gateway"
)

// Disk is what the journal writes through. It is this small so that tests can put
// faults in between: short writes, a full disk, syncs that fail, a power cut that
// forgets what was not synced.
type Disk interface {
	// Open opens the file for reading and writing; with create it must not exist yet.
	Open(path string, create bool) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Space is how many bytes the file system of dir has left for us, and in all.
	Space(dir string) (free, total int64, err error)
}

// File is one file of the journal.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync is fdatasync(2).
	Sync() error
	Truncate(size int64) error
	// Allocate makes the file at least size bytes long, with blocks behind them where
	// the file system can, so that writing them cannot run into a full disk.
	Allocate(size int64) error
	Size() (int64, error)
}

// OSDisk is the Disk of the operating system.
type OSDisk struct{}

func (OSDisk) Open(path string, create bool) (File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0o640)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (OSDisk) Rename(from, to string) error { return os.Rename(from, to) }
func (OSDisk) Remove(path string) error     { return os.Remove(path) }

func (OSDisk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (OSDisk) Space(dir string) (free, total int64, err error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(fs.Bavail) * int64(fs.Bsize), int64(fs.Blocks) * int64(fs.Bsize), nil
}

type osFile struct{ *os.File }

func (f osFile) Sync() error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
		}
		return nil
	}
}

func (f osFile) Allocate(size int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
		switch err {
		case nil:
			return nil
		case syscall.EINTR:
			continue
		case syscall.EOPNOTSUPP, syscall.ENOSYS: // FAT, some network file systems
			have, err := f.Size()
			if err != nil || have >= size {
				return err
			}
			return f.Truncate(size)
		}
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

var errInUse = errors.New("another weir runs on it")

// lockDir takes the directory for this process, or says that another has it.
func lockDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return lock(d)
}

// lockFile is lockDir for a file that is there for nothing else.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	return lock(f)
}

func lock(f *os.File) (*os.File, error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if err == syscall.EWOULDBLOCK {
			return nil, gateway.Errorf(gateway.ErrTransient, "%s is in use: %w", f.Name(), errInUse)
		}
		return nil, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return f, nil
}

// writeKind is the kind of error a failed write is: the disk is full, or it may work
// another time.
func writeKind(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, gateway.ErrFull) {
		return gateway.ErrFull
	}
	return gateway.ErrTransient
}

// writeFileAtomic puts data in dir/name so that after a crash there is the old file or the
// new one.
func writeFileAtomic(d Disk, dir, name string, data []byte) error {
	tmp := filepath.Join(dir, name+".tmp")
	if err := d.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := d.Open(tmp, true)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.Rename(tmp, filepath.Join(dir, name))
	}
	if err == nil {
		err = d.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// readPage is the unit in which a range with unreadable sectors is read around.
const readPage = 4096

// readAround fills buf from f at off. Where the device gives an error, the bytes are
// 0xff, which is no frame and not the zeros of unwritten space, so that one bad sector
// costs the frames in it and not the segment. Past the end of the file buf is cut.
func readAround(f io.ReaderAt, buf []byte, off int64) []byte {
	n, err := f.ReadAt(buf, off)
	if err == nil || err == io.EOF {
		return buf[:n]
	}
	for pos := 0; pos < len(buf); {
		end := min(len(buf), pos+readPage-int((off+int64(pos))%readPage))
		n, err := f.ReadAt(buf[pos:end], off+int64(pos))
		if err == io.EOF {
			return buf[:pos+n]
		}
		if err != nil {
			for i := pos + n; i < end; i++ {
				buf[i] = 0xff
			}
		}
		pos = end
	}
	return buf
}
