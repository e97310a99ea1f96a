package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// checkTables reads every table of a Badger directory before Badger does. Badger opens and
// compacts tables in goroutines of its own, and panics there on some damage, which no
// recover of ours reaches; on other damage compaction drops what it cannot read without a
// word. The state is small, so this costs a fraction of a second.
func checkTables(dir string) (err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err == nil {
			err = checkTable(b)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

var errTableDamaged = errors.New("table is damaged")

// checkTable checks the sums of one table: blocks, index, length of the index, sum of the
// index, length of the sum.
func checkTable(b []byte) (err error) {
	defer func() { // lengths that are nonsense
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errTableDamaged, p)
		}
	}()
	rest, sum := cutTail(b)
	_, index := cutTail(rest)
	if err := checkSum(index, sum); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	x := fb.GetRootAsTableIndex(index, 0)
	for i := range x.OffsetsLength() {
		var o fb.BlockOffset
		if !x.Offsets(&o, i) {
			return errTableDamaged
		}
		block := b[o.Offset():][:o.Len()]
		data, sum := cutTail(block)
		if err := checkSum(data, sum); err != nil {
			return fmt.Errorf("block at %d: %w", o.Offset(), err)
		}
	}
	return nil
}

// cutTail takes a length (32 bits, big endian) off the end, and as many bytes before it.
func cutTail(b []byte) (rest, tail []byte) {
	end := len(b) - 4
	n := int(binary.BigEndian.Uint32(b[end:]))
	return b[:end-n], b[end-n : end]
}

func checkSum(data, sum []byte) error {
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return err
	}
	return y.VerifyChecksum(data, &want)
}

// strikes counts the attempts to open a state that ended with the process. Damage that is
// found by nothing else kills the process at every start; the third time it is taken as
// proven. One kill -9 at a bad moment is not.
type strikes struct{ path string }

const maxStrikes = 3

// begin notes an attempt and tells whether there were too many.
func (s strikes) begin() (tooMany bool, err error) {
	b, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	if n >= maxStrikes {
		return true, nil
	}
	return false, os.WriteFile(s.path, []byte(strconv.Itoa(n+1)+"\n"), 0o640)
}

func (s strikes) end() error {
	if err := os.Remove(s.path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
