package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

// change is one call of Apply.
type change struct {
	bucket string
	values map[string][]byte
	bytes  int
	keys   int
	done   chan error
}

// Apply makes all changes, or none, and returns when they are on stable storage; a nil
// value deletes. Concurrent calls share a sync. It fails with ErrFull when the disk
// has little room left, and then nothing changed. After another error, ErrTransient, the
// change may or may not have been made.
func (s *State) Apply(bucket string, changes map[string][]byte) error {
	if len(changes) == 0 {
		return nil
	}
	if s.full {
		return errReadOnly
	}
	c := &change{bucket: bucket, values: changes, done: make(chan error, 1)}
	for key, value := range changes {
		if err := checkName(bucket, key); err != nil {
			return err
		}
		pieces := 1 + len(value)/pieceSize
		c.keys += pieces
		c.bytes += len(value) + pieces*(len(bucket)+len(key)+32)
	}
	select {
	case s.requests <- c:
	case <-s.stopped:
		return errStateClosed
	}
	select {
	case err := <-c.done:
		return err
	case <-s.ended: // it may have been answered just before
		select {
		case err := <-c.done:
			return err
		default:
			return errStateClosed
		}
	}
}

// commit is the one goroutine that writes.
func (s *State) commit() {
	defer close(s.ended)
	for {
		select {
		case c := <-s.requests:
			s.commitGroup(c)
		case <-s.stopped:
			for {
				select {
				case c := <-s.requests:
					s.commitGroup(c)
				default:
					return
				}
			}
		}
	}
}

// commitGroup commits c, and with it whoever else waits and fits in the transaction.
func (s *State) commitGroup(c *change) {
	for c != nil {
		group, keys, bytes := []*change{c}, c.keys, c.bytes
		var next *change
	gather:
		for next == nil {
			select {
			case c := <-s.requests:
				if keys+c.keys > txnKeys || bytes+c.bytes > txnBytes {
					next = c
				} else {
					group, keys, bytes = append(group, c), keys+c.keys, bytes+c.bytes
				}
			default:
				break gather
			}
		}
		err := s.commitNow(group, keys > txnKeys || bytes > txnBytes)
		for _, c := range group {
			c.done <- err
		}
		c = next
	}
}

func (s *State) commitNow(group []*change, large bool) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = gateway.Errorf(gateway.ErrTransient, "write state: badger panicked: %v", p)
		}
	}()
	if err := checkFree(s.dir); err != nil {
		return err
	}
	if s.unfinished {
		if err := s.finishStaged(); err != nil {
			return gateway.Errorf(writeKind(err), "finish an earlier change: %w", err)
		}
		s.unfinished = false
	}
	s.commits.Add(1)
	if large { // alone in its group
		s.unfinished = true
		if err = s.stage(group[0]); err == nil {
			s.unfinished = false
		}
	} else {
		err = s.db.Update(func(txn *badger.Txn) error {
			for _, c := range group {
				for key, value := range c.values {
					if err := set(txn.Get, txn, c.bucket, key, value); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err != nil {
		return gateway.Errorf(writeKind(err), "write state: %w", err)
	}
	return nil
}

// setter is a transaction, or several in a row.
type setter interface {
	Set(key, value []byte) error
	Delete(key []byte) error
}

// set writes or deletes one value with all its pieces, and the pieces the old one had more.
func set(get func([]byte) (*badger.Item, error), to setter, bucket, key string, value []byte) error {
	old := 0
	item, err := get(valueKey(bucket, key))
	switch {
	case err == nil:
		err = item.Value(func(head []byte) error {
			if len(head) >= 8 {
				old = int(binary.LittleEndian.Uint32(head[4:]))
			}
			return nil
		})
	case errors.Is(err, badger.ErrKeyNotFound):
		err = nil
	}
	if err != nil {
		return err
	}
	pieces := 0
	if value == nil {
		if err := to.Delete(valueKey(bucket, key)); err != nil {
			return err
		}
	} else {
		first := value[:min(len(value), pieceSize)]
		rest := value[len(first):]
		pieces = (len(rest) + pieceSize - 1) / pieceSize
		head := binary.LittleEndian.AppendUint32(make([]byte, 0, 8+len(first)), valueSum(bucket, key, value))
		head = binary.LittleEndian.AppendUint32(head, uint32(pieces))
		if err := to.Set(valueKey(bucket, key), append(head, first...)); err != nil {
			return err
		}
		for n := range pieces {
			if err := to.Set(pieceKey(bucket, key, n), rest[n*pieceSize:min(len(rest), (n+1)*pieceSize)]); err != nil {
				return err
			}
		}
	}
	for n := pieces; n < old; n++ {
		if err := to.Delete(pieceKey(bucket, key, n)); err != nil {
			return err
		}
	}
	return nil
}

// series is a setter that needs as many transactions as it takes. It is for what may be
// done in part, because it will be done again or undone.
type series struct {
	db    *badger.DB
	txn   *badger.Txn
	keys  int
	bytes int
}

func (t *series) Set(key, value []byte) error {
	return t.do(len(key)+len(value), func() error { return t.txn.Set(key, value) })
}

func (t *series) Delete(key []byte) error {
	return t.do(len(key), func() error { return t.txn.Delete(key) })
}

func (t *series) do(size int, op func() error) error {
	t.keys++
	t.bytes += size + 32
	if t.txn != nil && (t.keys > txnKeys || t.bytes > txnBytes) {
		if err := t.end(); err != nil {
			return err
		}
		t.keys, t.bytes = 1, size+32
	}
	if t.txn == nil {
		t.txn = t.db.NewTransaction(true)
	}
	return op()
}

func (t *series) end() error {
	if t.txn == nil {
		return nil
	}
	txn := t.txn
	t.txn, t.keys, t.bytes = nil, 0, 0
	return txn.Commit()
}

func (t *series) discard() {
	if t.txn != nil {
		t.txn.Discard()
	}
}

// A change that is larger than a transaction is first written under 's', piece by
// piece; then, with one transaction, marked as complete; then made; then removed from
// 's'. A crash before the mark undoes it, one after the mark makes it again at the next
// open: all or nothing.
func stagedKey(n int) []byte {
	return binary.BigEndian.AppendUint32([]byte{spaceStaged, 1}, uint32(n))
}

var stagedMark = []byte{spaceStaged, 0}

func (s *State) stage(c *change) error {
	data := encodeChange(c)
	n, err := s.putStaged(data)
	if err != nil {
		return err
	}
	if err := s.markStaged(data, n); err != nil {
		return err
	}
	return s.makeStaged(data, n)
}

func encodeChange(c *change) []byte {
	data := appendString(nil, c.bucket)
	for _, key := range slices.Sorted(maps.Keys(c.values)) {
		data = appendValue(data, key, c.values[key])
	}
	return data
}

func (s *State) putStaged(data []byte) (n int, err error) {
	out := &series{db: s.db}
	defer out.discard()
	for ; n*pieceSize < len(data); n++ {
		if err := out.Set(stagedKey(n), data[n*pieceSize:min(len(data), (n+1)*pieceSize)]); err != nil {
			return 0, err
		}
	}
	return n, out.end()
}

func (s *State) markStaged(data []byte, n int) error {
	mark := binary.LittleEndian.AppendUint32(nil, uint32(n))
	mark = binary.LittleEndian.AppendUint32(mark, valueSum("", "", data))
	return s.db.Update(func(txn *badger.Txn) error { return txn.Set(stagedMark, mark) })
}

// makeStaged makes the change in data, which is staged in n pieces and marked.
func (s *State) makeStaged(data []byte, n int) error {
	s.mu.Lock() // nobody begins to read while half of it is made
	defer s.mu.Unlock()
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	out := &series{db: s.db}
	defer out.discard()
	err := eachStaged(data, func(bucket, key string, value []byte) error { return set(txn.Get, out, bucket, key, value) })
	if err != nil {
		return err
	}
	if err := out.end(); err != nil {
		return err
	}
	if err := s.db.Update(func(txn *badger.Txn) error { return txn.Delete(stagedMark) }); err != nil {
		return err
	}
	for i := range n {
		if err := out.Delete(stagedKey(i)); err != nil {
			return err
		}
	}
	return out.end()
}

// eachStaged calls fn with the changes in data.
func eachStaged(data []byte, fn func(bucket, key string, value []byte) error) error {
	d := decoder{rest: data}
	bucket := d.string()
	if d.err != nil {
		return fmt.Errorf("staged change: %w", d.err)
	}
	return decodeValues(&d, func(key string, value []byte) error { return fn(bucket, key, value) })
}

// staged reads what was staged: the keys of the pieces, and the data if they are marked as complete.
func staged(db *badger.DB) (pieces [][]byte, data []byte, marked bool, err error) {
	var mark []byte
	err = db.View(func(txn *badger.Txn) error {
		return each(txn, []byte{spaceStaged}, func(key, value []byte) error {
			if bytes.Equal(key, stagedMark) {
				mark = slices.Clone(value)
			} else {
				pieces, data = append(pieces, slices.Clone(key)), append(data, value...)
			}
			return nil
		})
	})
	marked = len(mark) == 8
	if err == nil && marked && binary.LittleEndian.Uint32(mark[4:]) != valueSum("", "", data) {
		err = errors.New("a staged change is damaged")
	}
	return pieces, data, marked, err
}

// finishStaged makes a marked change again, or removes what was staged and never marked.
func (s *State) finishStaged() error {
	pieces, data, marked, err := staged(s.db)
	if err != nil {
		return err
	}
	if marked {
		return s.makeStaged(data, len(pieces))
	}
	out := &series{db: s.db}
	defer out.discard()
	for _, key := range pieces {
		if err := out.Delete(key); err != nil {
			return err
		}
	}
	return out.end()
}
