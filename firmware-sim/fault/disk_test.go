package fault

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-iot/weir/store"
)

func create(t *testing.T, d *Disk, path string) store.File {
	t.Helper()
	f, err := d.Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f store.File, off int64, b byte, n int) {
	t.Helper()
	_, err := f.WriteAt(bytes.Repeat([]byte{b}, n), off)
	must(t, err)
}

// cut cuts the power of d with three files on it and returns them: one synced with later
// writes, one longer than synced, one without a durable name.
func cut(t *testing.T, seed uint64, keep float64) (changed, longer, fresh []byte) {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	d := NewDisk()
	a, b := create(t, d, path("a.tmp")), create(t, d, path("b"))
	write(t, a, 0, 'a', 2000)
	must(t, a.Sync())
	must(t, d.Rename(path("a.tmp"), path("a")))
	must(t, d.SyncDir(dir))
	write(t, a, 500, 'x', 700)
	write(t, a, 600, 'y', 10) // what was there at the last sync counts
	must(t, b.Allocate(3000))
	write(t, b, 1000, 'b', 10)
	write(t, create(t, d, path("c")), 0, 'c', 10)
	must(t, d.PowerCut(rand.New(rand.NewPCG(seed, 1)), keep))
	var all [3][]byte
	for i, name := range []string{"a", "b", "c"} {
		all[i], _ = os.ReadFile(path(name))
	}
	return all[0], all[1], all[2]
}

func TestPowerCut(t *testing.T) {
	was := bytes.Repeat([]byte("a"), 2000)
	changed, longer, fresh := cut(t, 1, 0)
	if !bytes.Equal(changed, was) || len(longer) != 0 || fresh != nil {
		t.Errorf("forgetting everything: %q, %d bytes, %q", changed, len(longer), fresh)
	}
	is := bytes.Clone(was)
	copy(is[500:], bytes.Repeat([]byte("x"), 700))
	copy(is[600:], "yyyyyyyyyy")
	changed, longer, fresh = cut(t, 1, 1)
	if !bytes.Equal(changed, is) || len(longer) != 3000 || len(fresh) != 10 {
		t.Errorf("forgetting nothing: %q, %d bytes, %q", changed, len(longer), fresh)
	}
	changed, _, _ = cut(t, 3, 0.5)
	torn := 0
	for n := 0; n < len(changed); n += sector {
		end := min(n+sector, len(changed))
		switch got := changed[n:end]; {
		case bytes.Equal(got, was[n:end]):
			torn |= 1
		case bytes.Equal(got, is[n:end]):
			torn |= 2
		default:
			t.Errorf("sector %d is neither old nor new", n/sector)
		}
	}
	if torn != 3 {
		t.Error("nothing is torn: another seed, please")
	}
}

// What is synced stays, also if it was cut to a length; nothing is written any more.
func TestPowerCutAfterSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	d := NewDisk()
	f := create(t, d, path)
	write(t, f, 0, 'a', 2000)
	must(t, f.Sync())
	must(t, d.SyncDir(filepath.Dir(path)))
	write(t, f, 0, 'b', 100)
	must(t, f.Sync())
	must(t, f.Truncate(1000))
	must(t, d.PowerCut(rand.New(rand.NewPCG(1, 1)), 0))
	want := append(bytes.Repeat([]byte("b"), 100), bytes.Repeat([]byte("a"), 1900)...)
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(bytes.TrimRight(got, "\x00"), want) { // up to a whole sector
		t.Errorf("left is %q", got)
	}
	if d.mu.TryLock() {
		t.Error("there is power again")
	}
}

func TestClock(t *testing.T) {
	c := Clock{File: filepath.Join(t.TempDir(), "clock")}
	if now, _ := c.Wall(); time.Since(now).Abs() > time.Minute {
		t.Errorf("without a file it is %v", now)
	}
	must(t, os.WriteFile(c.File, []byte("-87600h\n"), 0o600))
	if now, trusted := c.Wall(); !trusted || time.Since(now) < 87599*time.Hour {
		t.Errorf("it is %v, trusted %t", now, trusted)
	}
}
