package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
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
	growFree  = 2 * stateFree
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

// openBadger opens the database in dir, only for reading if so asked: then it does not need a byte
// of the disk. It turns a panic, which some damage causes, into an error.
func openBadger(dir string, readOnly bool, log *slog.Logger) (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("badger panicked: %v", p)
		}
	}()
	o := badgerOptions(dir, log).WithReadOnly(readOnly)
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

// tidy removes what is unused, and cuts logs after their last whole transaction, as Badger would: for
// reading only it does not open others, it asks for the memory that damaged lengths name, and a log
// without a byte, which a kill between open(2) and ftruncate(2) leaves, it does not open at all. All
// this makes files smaller, so it can be done on a full disk.
func tidy(dir string) error {
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
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return err
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch end := logEnd(b); {
		case end <= logHead:
			err = os.Remove(path)
		case end < len(b):
			err = os.Truncate(path, int64(end))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A log of Badger: a head, then entries: meta, user meta, lengths of key and value and expiry as
// uvarints, key, value, CRC-32C of all that, big endian. The last of a transaction has its time stamp as its
// value; the others have it, inverted, at the end of their keys.
const (
	logHead  = 20
	logTxn   = 1 << 6
	logFin   = 1 << 7
	logStamp = 8
)

// logEnd is where the last whole transaction ends.
func logEnd(b []byte) int {
	end, pos, stamp := logHead, logHead, uint64(0)
	for pos < len(b) {
		d := decoder{rest: b[pos:]}
		meta, _ := d.byte(), d.byte()
		klen, vlen := d.uvarint(), d.uvarint()
		d.uvarint()
		if d.err != nil || klen > 1<<16 || klen+vlen+4 > uint64(len(d.rest)) || klen == 0 {
			return end
		}
		body := len(b) - len(d.rest)
		next := body + int(klen+vlen) + 4
		if crc32.Checksum(b[pos:next-4], castagnoli) != binary.BigEndian.Uint32(b[next-4:]) {
			return end
		}
		key, value := b[body:body+int(klen)], b[body+int(klen):next-4]
		pos = next
		switch {
		case meta&logTxn != 0:
			if len(key) < logStamp {
				return end
			}
			ts := math.MaxUint64 - binary.BigEndian.Uint64(key[len(key)-logStamp:])
			if stamp == 0 {
				stamp = ts
			}
			if ts != stamp {
				return end
			}
		case meta&logFin != 0:
			if ts, err := strconv.ParseUint(string(value), 10, 64); err != nil || ts != stamp {
				return end
			}
			stamp, end = 0, pos
		default:
			if stamp != 0 {
				return end
			}
			end = pos
		}
	}
	return end
}

// openGuarded calls open, which opens what is in dir. If it fails, or broke the process three times,
// dir is renamed to dir.damaged-N, which the log says, and open is called for a fresh one.
func openGuarded(dir string, log *slog.Logger, open func() error) error {
	if err := checkFree(dir); err != nil {
		return err
	}
	attempts := strikesOf(dir)
	tooMany, err := attempts.begin()
	switch {
	case err != nil:
		return err
	case tooMany:
		err = fmt.Errorf("it broke the process that opened it %d times", maxStrikes)
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

func checkFree(dir string) error { return checkRoom(dir, stateFree) }

func checkRoom(dir string, least int64) error {
	free, _, err := OSDisk{}.Space(filepath.Dir(dir))
	if err != nil {
		return err
	}
	if free < least {
		return gateway.Errorf(gateway.ErrFull, "%s needs %d bytes free on the disk and there are %d", filepath.Base(dir), least, free)
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
