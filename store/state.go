package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

// State is what is keyed and small: cursors, sessions, retained messages, QoS 2
// identifiers. It is a view of the journal: whoever keeps something here also keeps
// the offset it reflects, and rolls it forward at start. It is safe for concurrent use.
//
// Badger does the work, boxed: one goroutine commits, one transaction and one sync for
// all who wait; every value carries a sum; and a directory that Badger cannot open,
// or panics on, is set aside and a fresh one begun, because the gateway always boots.
type State struct {
	dir  string
	log  *slog.Logger
	lock *os.File
	db   *badger.DB

	requests chan *change
	stopped  chan struct{} // closed when no request will be taken any more
	ended    chan struct{}
	once     sync.Once

	full       bool                 // opened for reading only
	pending    map[valueName][]byte // what a large change sets, or deletes, that can be made only when there is room
	unfinished bool                 // a large change was begun and has not ended; the committer's own

	mu      sync.Mutex     // guards closed, and is held while a large change is made visible
	closed  bool           // no reader may begin
	readers sync.WaitGroup // those that have begun
	commits atomic.Uint64
}

// OpenState opens the state in dir, or begins one. It fails if another process has it, or if
// the disk is full (ErrFull); a damaged one is renamed to dir.damaged-N, which the log says, and
// the callers roll forward from the journal.
func OpenState(dir string, log *slog.Logger) (*State, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	// The lock is beside the directory, because that may be set aside.
	lock, err := lockFile(dir + ".lock")
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	s := &State{
		dir: dir, log: log, lock: lock,
		requests: make(chan *change, 64), stopped: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := openGuarded(dir, log, s.open); err != nil {
		lock.Close()
		return nil, fmt.Errorf("open state in %s: %w", dir, err)
	}
	go s.commit()
	return s, nil
}

// Lost tells whether a damaged state was set aside, now or at an earlier start, and still
// lies beside this one: what is absent here may have been there.
func (s *State) Lost() bool { return stateLost(s.dir) }

func stateLost(dir string) bool {
	aside, err := filepath.Glob(dir + ".damaged-*")
	return err != nil || len(aside) > 0
}

func (s *State) open() error {
	if err := checkTables(s.dir); err != nil {
		return err
	}
	db, err := openBadger(s.dir, false, s.log)
	if err != nil {
		return err
	}
	s.db = db
	if err := s.finishStaged(); err != nil {
		db.Close()
		return err
	}
	return nil
}

// Values are kept under 'v', bucket, key: a sum over key and value, the number of
// further pieces, and the first piece. The further ones are under 'p'. 's' is for changes
// that are staged.
const (
	spaceValue  = 'v'
	spacePiece  = 'p'
	spaceStaged = 's'
)

func valueKey(bucket, key string) []byte {
	k := make([]byte, 0, 2+len(bucket)+len(key))
	k = append(k, spaceValue, byte(len(bucket)))
	k = append(k, bucket...)
	return append(k, key...)
}

// pieceKey has the lengths in front, so that no piece of one key is another's.
func pieceKey(bucket, key string, n int) []byte {
	k := append([]byte{spacePiece, byte(len(bucket))}, bucket...)
	k = binary.BigEndian.AppendUint32(k, uint32(len(key)))
	k = append(k, key...)
	return binary.BigEndian.AppendUint32(k, uint32(n))
}

func valueSum(bucket, key string, value []byte) uint32 {
	sum := crc32.Checksum(appendString(nil, bucket), castagnoli)
	sum = crc32.Update(sum, castagnoli, appendString(nil, key))
	return crc32.Update(sum, castagnoli, value)
}

var errDamagedValue = errors.New("the value is not what was written")

// load puts the value of an item together again.
func load(txn *badger.Txn, item *badger.Item, bucket, key string) ([]byte, error) {
	head, err := item.ValueCopy(nil)
	if err != nil {
		return nil, err
	}
	if len(head) < 8 {
		return nil, errDamagedValue
	}
	value := head[8:]
	for n := range int(binary.LittleEndian.Uint32(head[4:])) {
		piece, err := txn.Get(pieceKey(bucket, key, n))
		if err != nil {
			return nil, errors.Join(errDamagedValue, err)
		}
		if err := piece.Value(func(b []byte) error { value = append(value, b...); return nil }); err != nil {
			return nil, err
		}
	}
	if binary.LittleEndian.Uint32(head) != valueSum(bucket, key, value) {
		return nil, errDamagedValue
	}
	return value, nil
}

// Get returns the value of key in bucket, and whether there is one. A value that is damaged
// is none: it is logged, and what it was comes back from the journal or begins again.
func (s *State) Get(bucket, key string) (value []byte, ok bool, err error) {
	if err := checkName(bucket, key); err != nil {
		return nil, false, err
	}
	err = s.read(func(txn *badger.Txn) error {
		if v, changed := s.pending[valueName{bucket, key}]; changed {
			value, ok = v, v != nil
			return nil
		}
		item, err := txn.Get(valueKey(bucket, key))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err == nil {
			value, err = load(txn, item, bucket, key)
		}
		if err != nil {
			s.tellDamaged(bucket, key, err)
			return nil
		}
		ok = true
		return nil
	})
	return value, ok, err
}

// Each calls fn with every key of bucket that begins with prefix, in order, and stops at the
// first error. It sees the state as it was when it was called. fn may keep value. Damaged
// values are passed, as in Get.
func (s *State) Each(bucket, prefix string, fn func(key string, value []byte) error) error {
	if err := checkName(bucket, prefix); err != nil {
		return err
	}
	return s.read(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.PrefetchValues = false
		o.Prefix = valueKey(bucket, prefix)
		it := txn.NewIterator(o)
		defer it.Close()
		pending := s.pendingKeys(bucket, prefix)
		tell := func() error { // the first of them
			key := pending[0]
			pending = pending[1:]
			if value := s.pending[valueName{bucket, key}]; value != nil {
				return fn(key, value)
			}
			return nil
		}
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			key := string(item.Key()[2+len(bucket):])
			changed := false
			for len(pending) > 0 && pending[0] <= key {
				changed = pending[0] == key
				if err := tell(); err != nil {
					return err
				}
			}
			if changed {
				continue
			}
			value, err := load(txn, item, bucket, key)
			if err != nil {
				s.tellDamaged(bucket, key, err)
				continue
			}
			if err := fn(key, value); err != nil {
				return err
			}
		}
		for len(pending) > 0 {
			if err := tell(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *State) tellDamaged(bucket, key string, err error) {
	s.log.Error("a value of the state is damaged and counts as missing", "bucket", bucket, "key", key, "error", err)
}

// read calls fn with a view in which no change is half made.
func (s *State) read(fn func(*badger.Txn) error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errStateClosed
	}
	if s.db == nil { // nothing was stored when the disk was full
		s.mu.Unlock()
		return nil
	}
	s.readers.Add(1)
	defer s.readers.Done()
	txn := s.db.NewTransaction(false)
	s.mu.Unlock()
	defer txn.Discard()
	return fn(txn)
}

var errStateClosed = gateway.Errorf(gateway.ErrTransient, "the state is closed")

func checkName(bucket, key string) error {
	if bucket == "" || len(bucket) > maxBucket || len(key) > maxKey {
		return gateway.Errorf(gateway.ErrInvalid, "bucket of %d and key of %d bytes; 1 to %d and up to %d are possible", len(bucket), len(key), maxBucket, maxKey)
	}
	return nil
}

// Close commits what was handed to Apply, waits for readers and closes the state.
func (s *State) Close() error {
	s.once.Do(func() { close(s.stopped) })
	<-s.ended
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.readers.Wait()
	if s.db == nil {
		return s.lock.Close()
	}
	return errors.Join(s.db.Close(), s.lock.Close())
}
