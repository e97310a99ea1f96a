package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReservoirBig puts 300 MB, 1.1 million records, reads every one of them, before and after another
// open, and drains it. On a 32-bit machine it is what shows that no table is destroyed.
func TestReservoirBig(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("a million records take too long with -short or under the race detector; go test without them runs it")
	}
	const records, size, each = 1_100_000, 256, 2000
	dir := filepath.Join(t.TempDir(), "reservoir")
	r := openReservoir(t, dir)
	start := time.Now()
	body := func(offset uint64) []byte {
		b := make([]byte, size)
		for i := range size / 8 {
			binary.LittleEndian.PutUint64(b[8*i:], offset*0x9e3779b97f4a7c15+uint64(i))
		}
		return b
	}
	var part []Record
	for offset := uint64(1); offset <= records; offset++ {
		part = append(part, Record{Offset: offset, Epoch: "epoch001", Age: int64(offset), Key: offset % 1000, Body: body(offset)})
		if len(part) == each {
			if err := r.Put("up", offset+1, part); err != nil {
				t.Fatal(err)
			}
			part = part[:0]
		}
	}
	t.Logf("put %d records in %v, %d MB on disk, %d MB of memory", records, time.Since(start), diskUsed(dir)>>20, anonymous(os.Getpid())>>20)
	read := func() {
		t.Helper()
		start, from := time.Now(), uint64(1)
		for from <= records {
			b, err := r.Read("up", from, 0)
			if err != nil || b.Lost != nil || len(b.Records) == 0 {
				t.Fatalf("from %d: %d records, lost %v, %v", from, len(b.Records), b.Lost, err)
			}
			for _, rec := range b.Records {
				if rec.Offset != from || !bytes.Equal(rec.Body, body(from)) {
					t.Fatalf("offset %d: got %d", from, rec.Offset)
				}
				from++
			}
		}
		t.Logf("read in %v", time.Since(start))
	}
	read()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start = time.Now()
	r = openReservoir(t, dir)
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("opened in %v, %d MB of heap more", took, (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>20)
	read()
	start = time.Now()
	for offset := uint64(500); offset < records; offset += 500 {
		if err := r.Release("up", offset); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("released in %v, %d MB on disk, %d MB of memory", time.Since(start), diskUsed(dir)>>20, anonymous(os.Getpid())>>20)
	start = time.Now()
	if err := r.Release("up", records); err != nil {
		t.Fatal(err)
	}
	t.Logf("drained in %v, %d MB on disk", time.Since(start), diskUsed(dir)>>20)
	if used := diskUsed(dir); used > 4<<20 {
		t.Errorf("after the last record was released %d bytes are used", used)
	}
	checkLedger(t, "drained", r.Stat("up"))
}

// diskUsed counts blocks, as files may be sparse.
func diskUsed(dir string) (n int64) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n += blocksOf(path)
		}
		return nil
	})
	return n
}

// anonymous is what is resident and no file's, in bytes.
func anonymous(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	n, _ := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
	return n << 10
}

func blocksOf(path string) int64 {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0
	}
	return st.Blocks * 512
}
