package store

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/skl"

	"github.com/weir-iot/weir/gateway"
)

// What fits in one Badger transaction of the options below, with room to spare. Values are cut in
// pieces, so that every entry fits in a block; see checkOptions.
const (
	txnBytes  = 192 << 10
	txnKeys   = 1500
	pieceSize = 8 << 10
	maxKey    = 32 << 10
	maxBucket = 255
	stateFree = 16 << 20 // bytes; with less on the disk nothing is written: Badger dies of a full one
)

// badgerOptions are for machines with little memory and, some of them, 32 bits.
func badgerOptions(dir string, log *slog.Logger) badger.Options {
	o := badger.DefaultOptions(dir).
		WithLogger(badgerLog{log}).
		WithSyncWrites(true).
		WithMemTableSize(1408 << 10).
		WithNumMemtables(2).
		WithBlockSize(48 << 10).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithValueLogFileSize(4 << 20).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(3).
		WithNumCompactors(2).
		WithBaseTableSize(1792 << 10).
		WithBaseLevelSize(8 << 20).
		WithCompression(options.None).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithNumGoroutines(1).
		WithValueThreshold(64 << 10). // above every piece: the value log stays empty
		WithNumVersionsToKeep(1).
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(options.OnBlockRead)
	o.TableSizeMultiplier = 1
	return o
}

// maxEntry is the largest entry that is ever written: a key of the state with its names and
// Badger's time stamp, a piece of a value with its head, and what both say about themselves.
const maxEntry = 2 + maxBucket + 4 + maxKey + 4 + 8 + 8 + pieceSize + 32

// checkOptions refuses options with which Badger destroys data on a 32-bit machine. There,
// ristretto's allocator starts over the first chunk when a table builder needs a second, because it
// shifts an int by 32. So no table may ever need more than the first chunk:
//
//   - Every table is of one size, so that chunks from the pool are large enough.
//   - Tables of level 0 are never merged with each other, because that has no bound (and asks for
//     2 x MaxUint32 bytes, which is -2 in 32 bits). Badger does so when four are there and the next
//     level is busy; so there are never four.
//   - Every entry fits in a block, because a block that grows is allocated again and the old one wasted.
//     Then two blocks in a row hold more than one block's worth, which bounds the blocks.
func checkOptions(o badger.Options) error {
	switch {
	case o.TableSizeMultiplier != 1:
		return errors.New("tables of several sizes")
	case o.NumLevelZeroTablesStall > 3:
		return errors.New("tables of level 0 may be merged with each other")
	case o.Compression != options.None || len(o.EncryptionKey) > 0:
		return errors.New("compression and encryption allocate without a bound")
	case maxEntry+64 > o.BlockSize:
		return fmt.Errorf("an entry of %d bytes does not fit in a block of %d", maxEntry, o.BlockSize)
	}
	batch := 15 * o.MemTableSize / 100 // as in badger.Open
	arena := o.MemTableSize + batch + batch/int64(skl.MaxNodeSize)*int64(skl.MaxNodeSize)
	table := o.BaseTableSize + int64(o.BlockSize) // ReachedCapacity does not count the block at hand
	blocks := 2*max(arena, table)/int64(o.BlockSize) + 2
	need := blocks * int64(o.BlockSize+256)
	chunk := int64(1) << bits.Len64(uint64(2*o.BaseTableSize-1))
	if need > chunk {
		return fmt.Errorf("a table may need %d bytes and its builder's first chunk has %d", need, chunk)
	}
	return nil
}

// openBadger opens the database in dir. It turns a panic, which some damage causes, into an error.
func openBadger(dir string, log *slog.Logger) (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("badger panicked: %v", p)
		}
	}()
	o := badgerOptions(dir, log)
	if err := checkOptions(o); err != nil {
		return nil, err
	}
	if err := tidy(dir); err != nil {
		return nil, err
	}
	return badger.Open(o)
}

// unused are the files in which nothing of ours is, as no value is large enough for the value
// log and nothing is encrypted. Damage in them is no reason to give a database up.
var unused = []string{"*.vlog", "DISCARD", "KEYREGISTRY"}

// tidy removes what is unused, and logs without a byte in them: a kill between open(2) and ftruncate(2)
// leaves such, and Badger does not open what has one.
func tidy(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err == nil && info.Size() == 0 {
			err = os.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	for _, pattern := range unused {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// openGuarded calls open, which opens what is in dir. If it fails, or ended the process three times,
// dir is renamed to dir.damaged-N, which the log says, and open is called for a fresh one.
func openGuarded(dir string, log *slog.Logger, open func() error) error {
	if err := checkFree(dir); err != nil {
		return err
	}
	attempts := strikes{dir + ".opening"}
	tooMany, err := attempts.begin()
	switch {
	case err != nil:
		return err
	case tooMany:
		err = fmt.Errorf("the process ended %d times while it was opened", maxStrikes)
	default:
		err = open()
	}
	if err == nil {
		return attempts.end()
	}
	if err := attempts.end(); err != nil {
		return err
	}
	if errors.Is(writeKind(err), gateway.ErrFull) {
		return gateway.Errorf(gateway.ErrFull, "%w", err)
	}
	aside := ""
	for n := 1; ; n++ {
		aside = fmt.Sprintf("%s.damaged-%d", dir, n)
		if _, serr := os.Stat(aside); errors.Is(serr, os.ErrNotExist) {
			break
		}
	}
	if rerr := os.Rename(dir, aside); rerr != nil {
		return errors.Join(err, rerr)
	}
	log.Error("the database is damaged; it is set aside and a fresh one begins", "path", aside, "error", err)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return open()
}

func checkFree(dir string) error {
	free, _, err := OSDisk{}.Space(filepath.Dir(dir))
	if err != nil {
		return err
	}
	if free < stateFree {
		return gateway.Errorf(gateway.ErrFull, "%s needs %d bytes free on the disk and there are %d", filepath.Base(dir), stateFree, free)
	}
	return nil
}

// badgerLog takes Badger's warnings and errors to the log; the rest it says is of no
// use to who runs a gateway.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any) {
	l.log.Error("badger", "said", strings.TrimSpace(fmt.Sprintf(f, a...)))
}

func (l badgerLog) Warningf(f string, a ...any) {
	l.log.Warn("badger", "said", strings.TrimSpace(fmt.Sprintf(f, a...)))
}

func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}
