package storetest

import (
	"bytes"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/weir-iot/weir/store"
)

// ErrDead is what a disk says after Kill.
var ErrDead = errors.New("storetest: the process is dead")

// Disk is the real disk with faults. Files must be small: it remembers each as of its last sync.
type Disk struct {
	store.OSDisk

	mu     sync.Mutex
	write  func(path string, n int) (allow int, err error)
	sync   func(path string) error
	dead   bool
	syncs  int
	images map[string]*image // what a power cut leaves of the files that were written
}

type image struct {
	data  []byte // as of the last sync
	named bool   // the directory was synced since it was made
}

// NewDisk returns a disk without faults.
func NewDisk() *Disk { return &Disk{images: map[string]*image{}} }

// OnWrite makes fn decide how many of the n bytes of a write, or of an allocation, are
// done before it fails with err. A nil fn ends it.
func (d *Disk) OnWrite(fn func(path string, n int) (allow int, err error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write = fn
}

// OnSync makes fn decide whether a sync fails. It may also block. A nil fn ends it.
func (d *Disk) OnSync(fn func(path string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sync = fn
}

// Syncs is how many syncs of files succeeded.
func (d *Disk) Syncs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// Kill makes every change fail from now on: what a process can still do after kill -9.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
}

// Revive undoes Kill, for the next process.
func (d *Disk) Revive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = false
}

const sector = 512

// PowerCut changes the files to what is left after the power was cut: everything that was
// synced, and of the rest the sectors that keep says. Nothing may have them open.
func (d *Disk) PowerCut(rnd *rand.Rand, keep float64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, im := range d.images {
		now, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !im.named && rnd.Float64() >= keep {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		left := make([]byte, max(len(im.data), len(now)))
		copy(left, im.data)
		for at := 0; at < len(now); at += sector {
			end := min(at+sector, len(now))
			if !bytes.Equal(left[at:end], now[at:end]) && rnd.Float64() < keep {
				copy(left[at:end], now[at:end])
			}
		}
		if err := os.WriteFile(path, left, 0o640); err != nil {
			return err
		}
	}
	d.images = map[string]*image{}
	return nil
}

func (d *Disk) alive() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return ErrDead
	}
	return nil
}

// Open is part of store.Disk, as are the other methods.
func (d *Disk) Open(path string, create bool) (store.File, error) {
	if create {
		if err := d.alive(); err != nil {
			return nil, err
		}
	}
	f, err := d.OSDisk.Open(path, create)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.images[path] == nil {
		im := &image{named: !create}
		if !create {
			if im.data, err = os.ReadFile(path); err != nil {
				f.Close()
				return nil, err
			}
		}
		d.images[path] = im
	}
	return &file{f, path, d}, nil
}

func (d *Disk) Rename(from, to string) error {
	if err := d.alive(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if im := d.images[from]; im != nil {
		d.images[to] = im
		delete(d.images, from)
	}
	return d.OSDisk.Rename(from, to)
}

func (d *Disk) Remove(path string) error {
	if err := d.alive(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.images, path)
	return d.OSDisk.Remove(path)
}

func (d *Disk) SyncDir(dir string) error {
	if err := d.alive(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, im := range d.images {
		if filepath.Dir(path) == strings.TrimSuffix(dir, "/") {
			im.named = true
		}
	}
	return d.OSDisk.SyncDir(dir)
}

type file struct {
	store.File
	path string
	d    *Disk
}

func (f *file) before(n int) (int, error) {
	if err := f.d.alive(); err != nil {
		return 0, err
	}
	f.d.mu.Lock()
	hook := f.d.write
	f.d.mu.Unlock()
	if hook == nil {
		return n, nil
	}
	return hook(f.path, n)
}

func (f *file) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.before(len(b))
	if err == nil {
		return f.File.WriteAt(b, off)
	}
	if n > 0 {
		if n, werr := f.File.WriteAt(b[:n], off); werr != nil {
			return n, werr
		}
	}
	return n, err
}

func (f *file) Allocate(size int64) error {
	if _, err := f.before(int(size)); err != nil {
		return err
	}
	return f.File.Allocate(size)
}

func (f *file) Truncate(size int64) error {
	if err := f.d.alive(); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *file) Sync() error {
	if err := f.d.alive(); err != nil {
		return err
	}
	f.d.mu.Lock()
	hook := f.d.sync
	f.d.mu.Unlock()
	if hook != nil {
		if err := hook(f.path); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(f.path) // only the writer syncs, so nothing changes meanwhile
	if err != nil {
		return err
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.d.syncs++
	if im := f.d.images[f.path]; im != nil {
		im.data = data
	}
	return nil
}
