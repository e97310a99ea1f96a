package store

import (
	"log/slog"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// TestOptionsThatDestroyDataAreRefused: what Badger does with such options on a 32-bit machine was
// seen there; here it must not be possible to open with them anywhere.
func TestOptionsThatDestroyDataAreRefused(t *testing.T) {
	ours := badgerOptions("d", slog.New(slog.DiscardHandler))
	if err := checkOptions(ours); err != nil {
		t.Error(err)
	}
	for name, o := range map[string]badger.Options{
		"defaults":      badger.DefaultOptions("d"),
		"memtable":      ours.WithMemTableSize(2 << 20),
		"small block":   ours.WithBlockSize(32 << 10),
		"large block":   ours.WithBlockSize(512 << 10),
		"level 0":       ours.WithNumLevelZeroTablesStall(4),
		"larger tables": ours.WithBaseTableSize(2 << 20),
		"compression":   ours.WithCompression(options.Snappy),
		"encryption":    ours.WithEncryptionKey(make([]byte, 16)),
		"sizes":         func() badger.Options { o := ours; o.TableSizeMultiplier = 2; return o }(),
	} {
		if err := checkOptions(o); err == nil {
			t.Errorf("%s: taken", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
