package fault

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/weir-iot/weir/store"
)

// Disk is the real disk, whose power can be cut: it remembers what was under each sector that was
// written since the file's last sync, and puts it back. So a process can meet, without a machine
// that goes dark, what it would find afterwards.
//
// It forgets contents, the length of a file and the name of a new one. A name that was changed
// or removed stays so, even if its directory was not synced.
type Disk struct {
	store.OSDisk

	mu    sync.Mutex // held for ever by PowerCut: nothing is written, synced or named after it
	files map[string]*unsynced
}

// unsynced is what a power cut takes from a file.
type unsynced struct {
	old   map[int64][]byte // sectors as of the last sync
	size  int64            // as of the last sync
	fresh bool             // its directory was not synced since it was made
}

const sector = 512

// NewDisk returns a disk that has power.
func NewDisk() *Disk { return &Disk{files: map[string]*unsynced{}} }

// PowerCut takes the power away: what was synced stays, and of the rest each sector with the
// probability keep. Whoever writes, syncs, makes, renames or removes a file then waits for
// ever, so the process is to be ended.
func (d *Disk) PowerCut(rng *rand.Rand, keep float64) error {
	d.mu.Lock()
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(d.files)) {
		u := d.files[path]
		lost := func() bool { return rng.Float64() >= keep }
		if u.fresh && lost() {
			errs = append(errs, os.Remove(path))
			continue
		}
		errs = append(errs, u.restore(path, lost))
	}
	return errors.Join(errs...)
}

func (u *unsynced) restore(path string, lost func() bool) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(u.old)) {
		if lost() {
			if _, err := f.WriteAt(u.old[n], n*sector); err != nil {
				return err
			}
		}
	}
	if info.Size() > u.size && lost() {
		return f.Truncate(u.size)
	}
	return nil
}

// Open is part of store.Disk, as are the other methods.
func (d *Disk) Open(path string, create bool) (store.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.OSDisk.Open(path, create)
	if err != nil {
		return nil, err
	}
	if d.files[path] == nil || create {
		size, err := f.Size()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		d.files[path] = &unsynced{old: map[int64][]byte{}, size: size, fresh: create}
	}
	return &file{f, d, d.files[path]}, nil
}

func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.OSDisk.Rename(from, to); err != nil {
		return err
	}
	if u := d.files[from]; u != nil {
		d.files[to] = u
		delete(d.files, from)
	}
	return nil
}

func (d *Disk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.OSDisk.Remove(path); err != nil {
		return err
	}
	delete(d.files, path)
	return nil
}

func (d *Disk) SyncDir(dir string) error {
	if err := d.OSDisk.SyncDir(dir); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, u := range d.files {
		if filepath.Dir(path) == filepath.Clean(dir) {
			u.fresh = false
		}
	}
	return nil
}

type file struct {
	store.File
	d *Disk
	u *unsynced
}

// remember keeps the sectors from off to end, unless they are kept already.
func (f *file) remember(off, end int64) error {
	for n := off / sector; n*sector < end; n++ {
		if f.u.old[n] != nil {
			continue
		}
		old := make([]byte, sector)
		if _, err := f.File.ReadAt(old, n*sector); err != nil && err != io.EOF {
			return fmt.Errorf("read what is to be overwritten: %w", err)
		}
		f.u.old[n] = old
	}
	return nil
}

func (f *file) WriteAt(b []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.remember(off, off+int64(len(b))); err != nil {
		return 0, err
	}
	return f.File.WriteAt(b, off)
}

func (f *file) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	have, err := f.Size()
	if err != nil {
		return err
	}
	if err := f.remember(size, have); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *file) Allocate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.File.Allocate(size)
}

// Sync makes durable what was written before it, not what is written meanwhile.
func (f *file) Sync() error {
	f.d.mu.Lock()
	before := f.u.old
	f.u.old = map[int64][]byte{}
	size, err := f.Size()
	f.d.mu.Unlock()
	if err == nil {
		err = f.File.Sync()
	}
	f.d.mu.Lock() // after a power cut it never returns
	defer f.d.mu.Unlock()
	if err == nil {
		f.u.size = size
		return nil
	}
	maps.Copy(f.u.old, before)
	return err
}
