package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

// On a full disk a database is opened for reading only. What it has can be read, so that the gateway
// starts; changes are refused with ErrFull. Nothing but its lock file is written. It does not set anything
// aside either: that is for when there is room again. So is a large change that is marked and not made: until
// then it is kept in memory, and read as if it were made.

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
		_, data, marked, err := staged(db)
		if err == nil && marked { // it is made when there is room
			s.pending = map[valueName][]byte{}
			err = eachStaged(data, func(bucket, key string, value []byte) error {
				s.pending[valueName{bucket, key}] = value
				return nil
			})
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open %s for reading only: %w", dir, err), db.Close(), lock.Close())
		}
	}
	close(s.ended)
	return s, nil
}

type valueName struct{ bucket, key string }

// pendingKeys are those of the change in memory that begin with prefix, in order.
func (s *State) pendingKeys(bucket, prefix string) (keys []string) {
	for name := range s.pending {
		if name.bucket == bucket && strings.HasPrefix(name.key, prefix) {
			keys = append(keys, name.key)
		}
	}
	slices.Sort(keys)
	return keys
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
