package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

// On a full disk a database is opened for reading only. What it has can be read, so that the gateway
// starts; changes are refused with ErrFull. Nothing but its lock file is written. It does not set anything
// aside either: that is for when there is room again.

var errReadOnly = gateway.Errorf(gateway.ErrFull, "the disk is full: what is stored can be read, and nothing changed")

// openFull opens dir for reading only. If nothing was ever stored there is no database: nil.
func openFull(dir string, log *slog.Logger) (db *badger.DB, lock *os.File, err error) {
	if lock, err = lockFile(dir + ".lock"); err != nil {
		return nil, nil, err
	}
	_, err = os.Stat(filepath.Join(dir, badger.ManifestFilename))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, lock, nil
	case err == nil:
		err = checkTables(dir)
	}
	if err == nil {
		db, err = openBadger(dir, true, log)
	}
	if err != nil {
		lock.Close()
		return nil, nil, fmt.Errorf("open %s for reading only: %w", dir, err)
	}
	return db, lock, nil
}

// openStateFull is OpenState on a full disk.
func openStateFull(dir string, log *slog.Logger) (*State, error) {
	db, lock, err := openFull(dir, log)
	if err != nil {
		return nil, err
	}
	s := &State{
		dir: dir, log: log, lock: lock, db: db, full: true,
		requests: make(chan *change), stopped: make(chan struct{}), ended: make(chan struct{}),
	}
	if db != nil {
		err = db.View(func(txn *badger.Txn) error {
			_, err := txn.Get(stagedMark)
			return err
		})
		if !errors.Is(err, badger.ErrKeyNotFound) { // a change that has to be finished before anything is read
			return nil, errors.Join(gateway.Errorf(gateway.ErrFull, "a large change has to be finished, and the disk is full"), err, db.Close(), lock.Close())
		}
	}
	close(s.ended)
	return s, nil
}

// openReservoirFull is OpenReservoir on a full disk.
func openReservoirFull(dir string, log *slog.Logger) (*Reservoir, error) {
	db, lock, err := openFull(dir, log)
	if err != nil {
		return nil, err
	}
	r := &Reservoir{dir: dir, log: log, lock: lock, db: db, full: true, holders: map[string]*backlog{}}
	if db != nil {
		if err := r.load(); err != nil {
			return nil, errors.Join(err, db.Close(), lock.Close())
		}
	}
	return r, nil
}

func (r *Reservoir) checkFree() error {
	if r.full {
		return errReadOnly
	}
	return checkFree(r.dir)
}
