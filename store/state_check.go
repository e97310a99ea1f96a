package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"
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
	paths, err := tables(dir)
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

// tables are the paths of the tables that the manifest names. Others are halves that a kill left, and
// Badger removes them.
func tables(dir string) ([]string, error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, 0, badgerOptions(dir, slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var paths []string
	for id := range m.Tables {
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%06d.sst", id)))
	}
	slices.Sort(paths)
	return paths, nil
}

// checkBigTables is checkTables for a database that is too big to be read at every start: of the
// tables beyond the first 16 MiB it reads the end, with the index. A block that is damaged is found
// when it is read.
func checkBigTables(dir string) error {
	paths, err := tables(dir)
	if err != nil {
		return err
	}
	left := int64(16 << 20)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err == nil {
			if left -= info.Size(); left < 0 {
				err = checkTableIndex(path, info.Size())
			} else {
				var b []byte
				if b, err = os.ReadFile(path); err == nil {
					err = checkTable(b)
				}
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// checkTableIndex reads the end of a table until it has the index.
func checkTableIndex(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for tail := min(size, 16<<10); ; tail = min(size, tail*4) {
		b := make([]byte, tail)
		if _, err := f.ReadAt(b, size-tail); err != nil {
			return err
		}
		_, err := tableIndex(b)
		if err == nil || tail == size {
			return err
		}
	}
}

// tableIndex is the index at the end of b, if its sum is right.
func tableIndex(b []byte) (index []byte, err error) {
	defer func() { // lengths that are nonsense
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errTableDamaged, p)
		}
	}()
	rest, sum := cutTail(b)
	_, index = cutTail(rest)
	if err := checkSum(index, sum); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return index, nil
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
	index, err := tableIndex(b)
	if err != nil {
		return err
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
