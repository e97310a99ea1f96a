package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
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
	tables, _, err := manifest(dir)
	if err != nil {
		return err
	}
	for _, id := range tables {
		b, err := os.ReadFile(tablePath(dir, id))
		if err == nil {
			err = checkTable(b)
		}
		if err != nil {
			return fmt.Errorf("table %d: %w", id, err)
		}
	}
	return nil
}

// manifest is the list of the tables, and up to where its file is whole. Tables it does not name are halves that a
// kill left, and Badger removes them.
func manifest(dir string) (tables []uint64, end int64, err error) {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, os.ErrNotExist) {
		if left, _ := filepath.Glob(filepath.Join(dir, "*.sst")); len(left) > 0 {
			return nil, 0, errors.New("the manifest is missing")
		}
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	m, end, err := badger.ReplayManifestFile(f, 0, badgerOptions(dir, slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, 0, fmt.Errorf("manifest: %w", err)
	}
	return slices.Sorted(maps.Keys(m.Tables)), end, nil
}

func tablePath(dir string, id uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%06d.sst", id))
}

// dropBadTables is for a database that is too big to be read at every start, and in which each table is
// worth keeping. It reads the index of every table, and takes those out of the manifest, and out of
// the directory, that are missing or have none. A block that is damaged is found when it is read.
func dropBadTables(dir string, log *slog.Logger) error {
	tables, end, err := manifest(dir)
	if err != nil {
		return err
	}
	var changes pb.ManifestChangeSet
	for _, id := range tables {
		err := checkTableIndex(tablePath(dir, id))
		if err == nil {
			continue
		}
		log.Error("a table of the database is damaged and is set aside", "path", tablePath(dir, id), "error", err)
		aside := fmt.Sprintf("%s.damaged-table-%06d", dir, id)
		if err := os.Rename(tablePath(dir, id), aside); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		changes.Changes = append(changes.Changes, &pb.ManifestChange{Id: id, Op: pb.ManifestChange_DELETE})
	}
	if len(changes.Changes) == 0 {
		return nil
	}
	b, err := proto.Marshal(&changes)
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(b)))
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(b, y.CastagnoliCrcTable))
	f, err := os.OpenFile(filepath.Join(dir, badger.ManifestFilename), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(end); err != nil {
		return err
	}
	if _, err := f.WriteAt(append(head, b...), end); err != nil {
		return err
	}
	return f.Sync()
}

// checkTableIndex reads the end of a table until it has the index.
func checkTableIndex(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
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

// strikes counts how often a database broke the process that opened it. Damage that is found by nothing else does so at
// every start; the third time it is taken as proven.
//
// Only the gateway that saw how the process ended strikes (see (*Box).reap). An attempt that nobody judged, because
// the gateway was killed with it or the power went, counts for nothing, and neither does a kill from outside: an
// operator's, or that of a machine out of memory. That says nothing about the database.
//
// The file has the number of strikes, and "opening" while an attempt is under way.
type strikes struct{ path string }

const maxStrikes = 3

const underWay = "opening"

func strikesOf(dir string) strikes { return strikes{dir + ".opening"} }

func (s strikes) read() (n int, opening bool, err error) {
	b, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, false, err
	}
	number, rest, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	n, _ = strconv.Atoi(number)
	return n, rest == underWay, nil
}

func (s strikes) write(text string) error { return os.WriteFile(s.path, []byte(text+"\n"), 0o640) }

// begin notes an attempt and tells whether there were too many strikes.
func (s strikes) begin() (tooMany bool, err error) {
	n, _, err := s.read()
	if err != nil || n >= maxStrikes {
		return n >= maxStrikes, err
	}
	return false, s.write(fmt.Sprint(n, " ", underWay))
}

// strike counts the attempt that is under way, if there is one.
func (s strikes) strike() error {
	n, opening, err := s.read()
	if err != nil || !opening {
		return err
	}
	return s.write(strconv.Itoa(n + 1))
}

// end forgets them: the database is open, or set aside.
func (s strikes) end() error {
	if err := os.Remove(s.path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
