package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/weir-iot/weir/gateway"
)

// smallDisk is a file system of that many bytes.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("a file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all that is left on the disk, as another program does.
func fill(t *testing.T, dir string) (path string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "other"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return f.Name()
}

// TestBoxFullDisk fills the disk under load, again and again. The gateway, which is this process, lives;
// nothing that was acknowledged is lost; and it goes on when there is room.
func TestBoxFullDisk(t *testing.T) {
	disk := smallDisk(t, 160<<20)
	b := openBox(t, filepath.Join(disk, "data"))
	defer b.Close()
	l := startTraffic(b, 2000)
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		enough := l.acks.Load() + 50
		eventually(t, 20*time.Second, "nothing is acknowledged", func() bool { return l.acks.Load() > enough })
		pid := b.pid()
		other := fill(t, disk)
		full := l.fulls.Load() + 50
		eventually(t, 20*time.Second, "nothing is refused as full", func() bool { fill(t, disk); return l.fulls.Load() > full })
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
		before := l.acks.Load()
		took := eventually(t, 5*time.Second, "nothing is acknowledged after there is room", func() bool { return l.acks.Load() > before })
		t.Logf("round %d: goes on %v after there is room; the child died: %v", round, took, b.pid() != pid)
		if took > 2500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	}
	l.end(t)
	if aside, _ := filepath.Glob(b.o.Dir + "/*.damaged*"); aside != nil {
		t.Errorf("set aside: %v", aside)
	}
}

// TestBoxStartsOnFullDisk: what a killed box left can be read, not a byte is written, and it goes over to
// writing when there is room.
func TestBoxStartsOnFullDisk(t *testing.T) {
	disk := smallDisk(t, 64<<20)
	dir := filepath.Join(disk, "data")
	b := openBox(t, dir)
	if err := b.State().Apply("b", map[string][]byte{"k": []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if err := b.Reservoir().Put("up", 10, []Record{{Offset: 7, Body: []byte("seven")}}); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(b.pid(), syscall.SIGSTOP) // the files stay as they are now
	stopped := b.pid()
	left := filepath.Join(disk, "left")
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(stopped, syscall.SIGCONT)
	b.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	other := fill(t, disk)
	start := time.Now()
	b = openBox(t, left)
	t.Logf("opened in %v", time.Since(start))
	before := contentsOf(t, left)
	if v, ok, err := b.State().Get("b", "k"); err != nil || !ok || string(v) != "v" {
		t.Errorf("get: %q, %v, %v", v, ok, err)
	}
	if got, err := b.Reservoir().Read("up", 0, 0); err != nil || len(got.Records) != 1 || got.Next != 10 {
		t.Errorf("read: %+v, %v", got, err)
	}
	if st := b.Reservoir().Stat("up"); st.Count != 1 || st.Mark != 10 {
		t.Errorf("%+v", st)
	}
	for what, err := range map[string]error{
		"apply":   b.State().Apply("b", map[string][]byte{"k": []byte("w")}),
		"put":     b.Reservoir().Put("up", 11, []Record{{Offset: 10}}),
		"shrink":  shrink(b.Reservoir(), "up", 0, Policy{Mode: DropOldest}, 1, 0),
		"discard": b.Reservoir().Discard("up"),
	} {
		if !errors.Is(err, gateway.ErrFull) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Done with in memory: an uplink may go on.
	if err := b.Reservoir().Release("up", 8); err != nil || b.Reservoir().Stat("up").Released != 1 {
		t.Errorf("release: %v, %+v", err, b.Reservoir().Stat("up"))
	}
	if after := contentsOf(t, left); after != before {
		t.Errorf("something was written:\n%s\n%s", before, after)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 5*time.Second, "nothing can be written after there is room", func() bool {
		return b.State().Apply("b", map[string][]byte{"k": []byte("w")}) == nil
	})
	t.Logf("goes on %v after there is room", took)
	if got, err := b.Reservoir().Read("up", 0, 0); err != nil || len(got.Records) != 1 { // it came back, as after a crash
		t.Errorf("read: %+v, %v", got, err)
	}
	b.Close()

	empty := filepath.Join(disk, "empty") // and one that never had anything
	fill(t, disk)
	if b, err := OpenBox(boxOptions(t, empty)); err != nil {
		t.Error(err)
	} else {
		if _, ok, err := b.State().Get("b", "k"); ok || err != nil {
			t.Errorf("empty: %v, %v", ok, err)
		}
		b.Close()
	}
}

// contentsOf is what is in every file, and when it was changed.
func contentsOf(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s %d %x\n", path, len(b), sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

const fullInProcess = "WEIR_TEST_FULL"

// TestFullDiskEndsTheProcess is why there is a box: the same in one process dies of SIGBUS.
func TestFullDiskEndsTheProcess(t *testing.T) {
	if dir := os.Getenv(fullInProcess); dir != "" {
		s, err := OpenState(filepath.Join(dir, "state"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			if i == 10 {
				fmt.Println("filled", fill(t, dir))
			}
			err := s.db.Update(setOne(i)) // without the look at the space, which another program may take just after
			if err != nil {
				fmt.Println(err)
				os.Exit(0)
			}
		}
	}
	disk := smallDisk(t, 40<<20)
	cmd := command(itself("-test.run=^TestFullDiskEndsTheProcess$"))
	cmd.Env = append(os.Environ(), fullInProcess+"="+disk)
	out, err := cmd.CombinedOutput()
	t.Logf("%v: %.400s", err, out)
	if err == nil || !strings.Contains(string(out), "SIGBUS") {
		t.Error("it did not die of SIGBUS: is the box still needed?")
	}
}

func setOne(i int) func(*badger.Txn) error {
	return func(txn *badger.Txn) error {
		return txn.Set(fmt.Appendf(nil, "x%d", i), make([]byte, 4<<10))
	}
}

// TestBoxLargeChangeOnFullDisk: a large change that a kill left half made, on a disk that is full by now. The box comes
// up, reads it as made, and makes it when there is room.
func TestBoxLargeChangeOnFullDisk(t *testing.T) {
	for _, marked := range []bool{false, true} {
		t.Run(fmt.Sprint("marked ", marked), func(t *testing.T) {
			disk := smallDisk(t, 64<<20)
			dir := filepath.Join(disk, "data")
			s := openState(t, filepath.Join(dir, "state"))
			want := map[string]string{"0500/between": "old", "gone": "old", "stays": "old", "7": "old"}
			before := map[string][]byte{}
			for key, value := range want {
				before[key] = []byte(value)
			}
			if err := s.Apply("b", before); err != nil {
				t.Fatal(err)
			}
			c := &change{bucket: "b", values: map[string][]byte{"gone": nil, "never": nil}}
			for i := range 4000 {
				c.values[fmt.Sprintf("%04d", i)] = fmt.Appendf(nil, "%0200d", i)
			}
			c.values["7"] = make([]byte, 3*pieceSize)
			data := encodeChange(c)
			n, err := s.putStaged(data)
			if err == nil && marked {
				err = s.markStaged(data, n)
			}
			if err == nil && marked { // and half made
				half := &series{db: s.db}
				for i := range 2000 {
					key := fmt.Sprintf("%04d", 2*i)
					if err := half.Set(valueKey("b", key), []byte("damaged")); err != nil {
						t.Fatal(err)
					}
				}
				err = half.end()
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if marked {
				for key, value := range c.values {
					if want[key] = string(value); value == nil {
						delete(want, key)
					}
				}
			}
			other := fill(t, disk)
			b := openBox(t, dir)
			defer b.Close()
			check := func(what string) {
				t.Helper()
				got, last := map[string]string{}, ""
				err := b.State().Each("b", "", func(key string, value []byte) error {
					if key <= last {
						t.Errorf("%s: %q after %q", what, key, last)
					}
					got[key], last = string(value), key
					return nil
				})
				if err != nil || !maps.Equal(got, want) {
					t.Fatalf("%s: %d values, want %d: %v", what, len(got), len(want), err)
				}
				n := 0
				if err := b.State().Each("b", "05", func(string, []byte) error { n++; return nil }); err != nil || marked && n != 101 {
					t.Errorf("%s: %d values, %v", what, n, err)
				}
				for _, key := range []string{"0501", "7", "gone", "never", "stays"} {
					value, ok, err := b.State().Get("b", key)
					if wanted, there := want[key]; err != nil || ok != there || string(value) != wanted {
						t.Errorf("%s: %s is %q, %v, %v", what, key, value, ok, err)
					}
				}
			}
			if err := b.State().Apply("other", map[string][]byte{"k": nil}); !errors.Is(err, gateway.ErrFull) {
				t.Errorf("apply: %v", err)
			}
			check("full")
			if err := os.Remove(other); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "nothing can be written after there is room", func() bool {
				return b.State().Apply("other", map[string][]byte{"k": nil}) == nil
			})
			check("made")
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			s = openState(t, filepath.Join(dir, "state"))
			if n := count(t, s, spaceStaged); n != 0 || len(contents(t, s, "b")) != len(want) || s.Lost() {
				t.Errorf("%d staged pieces are left, %d values", n, len(contents(t, s, "b")))
			}
			s.Close()
		})
	}
}
