package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

func openState(t *testing.T, dir string) *State {
	t.Helper()
	s, err := OpenState(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func contents(t *testing.T, s *State, bucket string) map[string]string {
	t.Helper()
	m := map[string]string{}
	last := ""
	err := s.Each(bucket, "", func(key string, value []byte) error {
		if key <= last && last != "" {
			t.Errorf("keys out of order: %q after %q", key, last)
		}
		last = key
		m[key] = string(value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestStateModel plays a seeded history of changes, small and large, with reopens,
// against a map. On a 32-bit machine it is also what shows that tables are not destroyed.
func TestStateModel(t *testing.T) {
	for seed := range int64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewSource(seed))
			dir := filepath.Join(t.TempDir(), "state")
			s := openState(t, dir)
			model := map[string]map[string]string{"a": {}, "ab": {}}
			for step := range 60 {
				bucket := []string{"a", "ab"}[rnd.Intn(2)]
				changes := map[string][]byte{}
				n := 1 + rnd.Intn(8)
				if rnd.Intn(20) == 0 {
					n = 2500
				}
				for range n {
					key := fmt.Sprintf("k%d/%s", rnd.Intn(3000), strings.Repeat("x", rnd.Intn(20)))
					size := rnd.Intn(300)
					switch rnd.Intn(30) {
					case 0:
						changes[key] = nil
						continue
					case 1:
						size = rnd.Intn(60 << 10)
					case 2:
						if n < 10 {
							size = rnd.Intn(1 << 20)
						}
					}
					value := make([]byte, size)
					rnd.Read(value)
					changes[key] = value
				}
				if err := s.Apply(bucket, changes); err != nil {
					t.Fatal(err)
				}
				for key, value := range changes {
					if value == nil {
						delete(model[bucket], key)
					} else {
						model[bucket][key] = string(value)
					}
				}
				if step%20 == 19 {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = openState(t, dir)
				}
			}
			for bucket, want := range model {
				got := contents(t, s, bucket)
				if len(got) != len(want) {
					t.Errorf("bucket %s has %d keys, want %d", bucket, len(got), len(want))
				}
				for key, value := range want {
					if got[key] != value {
						t.Fatalf("%s/%s: %d bytes, want %d", bucket, key, len(got[key]), len(value))
					}
					one, ok, err := s.Get(bucket, key)
					if err != nil || !ok || string(one) != value {
						t.Fatalf("get %s/%s: %v %v", bucket, key, ok, err)
					}
				}
			}
		})
	}
}

func TestStateGroupCommit(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if err := s.Apply("b", map[string][]byte{fmt.Sprint(i): []byte("v")}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.commits.Load(); n > 60 {
		t.Errorf("200 concurrent changes took %d transactions", n)
	}
	if n := len(contents(t, s, "b")); n != 200 {
		t.Errorf("%d keys", n)
	}
}

func TestStateEmptyAndMissing(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	if err := s.Apply("b", map[string][]byte{"": {}, "nil": nil}); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := s.Get("b", ""); err != nil || !ok || len(v) != 0 {
		t.Errorf("empty key: %q %v %v", v, ok, err)
	}
	if _, ok, err := s.Get("b", "nil"); err != nil || ok {
		t.Errorf("deleted key: %v %v", ok, err)
	}
	if err := s.Apply("", map[string][]byte{"k": {}}); err == nil {
		t.Error("an empty bucket was taken")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply("b", map[string][]byte{"k": {}}); err == nil {
		t.Error("a closed state took a change")
	}
	if _, _, err := s.Get("b", "k"); err == nil {
		t.Error("a closed state was read")
	}
}

func TestStateRewrittenCursorStaysSmall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openState(t, dir)
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for i := range n / 100 {
				if err := s.Apply("cursor", map[string][]byte{"uplink": fmt.Appendf(nil, "epoch123:%d", i)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	var used int64
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if info, err := d.Info(); err == nil && !d.IsDir() {
			used += info.Size() // what is sparse counts in full
		}
		return nil
	})
	if used > 32<<20 {
		t.Errorf("one cursor written %d times uses %d bytes", n, used)
	}
	t.Logf("%d bytes, %d transactions", used, s.commits.Load())
}

func TestStateIsLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openState(t, dir)
	if err := s.Apply("b", map[string][]byte{"k": []byte("v")}); err != nil {
		t.Fatal(err)
	}
	_, err := OpenState(dir, nil)
	if err == nil || !strings.Contains(err.Error(), "is in use: another weir runs on it") {
		t.Fatalf("second open: %v", err)
	}
	if aside, _ := filepath.Glob(dir + ".damaged-*"); len(aside) > 0 {
		t.Error("a state in use was set aside")
	}
	s.Close()
	s = openState(t, dir)
	if _, ok, _ := s.Get("b", "k"); !ok {
		t.Error("the key is gone")
	}
}

func TestStateDamagedIsSetAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	for n, damage := range []func(path string, b []byte) []byte{
		func(path string, b []byte) []byte { // a table with flipped bytes
			if strings.HasSuffix(path, ".sst") {
				for i := len(b) - 64; i < len(b); i++ {
					b[i] ^= 0xff
				}
			}
			return b
		},
		func(path string, b []byte) []byte {
			if strings.HasSuffix(path, "MANIFEST") {
				return bytes.Repeat([]byte{0xff}, len(b))
			}
			return b
		},
	} {
		s := openState(t, dir)
		value := make([]byte, 4<<10)
		for i := range 30 {
			changes := map[string][]byte{}
			for k := range 20 {
				changes[fmt.Sprint(i, k)] = value
			}
			if err := s.Apply("b", changes); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		paths, _ := filepath.Glob(dir + "/*")
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(path, b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s = openState(t, dir)
		if _, err := os.Stat(fmt.Sprintf("%s.damaged-%d", dir, n+1)); err != nil {
			t.Error(err)
		}
		if err := s.Apply("b", map[string][]byte{"fresh": []byte("v")}); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, s, "b"); len(got) != 1 {
			t.Errorf("a fresh state has %d keys", len(got))
		}
		s.Close()
	}
}

func TestStateThatBreaksTheProcessIsSetAside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openState(t, dir)
	if err := s.Apply("b", map[string][]byte{"k": []byte("v")}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	attempts := strikesOf(dir)
	begin := func(times int, strike bool) { // as a process leaves it that ended while opening
		t.Helper()
		for range times {
			if tooMany, err := attempts.begin(); tooMany || err != nil {
				t.Fatal(tooMany, err)
			}
			if strike {
				if err := errors.Join(attempts.strike(), attempts.strike()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	begin(10, false)
	begin(maxStrikes-1, true)
	begin(10, false)
	s = openState(t, dir)
	if _, ok, _ := s.Get("b", "k"); !ok {
		t.Fatal("a state was given up after two strikes")
	}
	s.Close()
	if err := attempts.strike(); err != nil { // nothing was being opened
		t.Fatal(err)
	}
	begin(maxStrikes, true)
	s = openState(t, dir)
	if _, ok, _ := s.Get("b", "k"); ok {
		t.Error("a state that broke the process three times was opened again")
	}
	if _, err := os.Stat(dir + ".damaged-1"); err != nil {
		t.Error(err)
	}
}

// TestStateLargeChangeIsWhole ends the process, so to speak, at each point of a change that
// needs several transactions.
func TestStateLargeChangeIsWhole(t *testing.T) {
	c := &change{bucket: "b", values: map[string][]byte{"gone": nil}}
	for i := range 4000 {
		c.values[fmt.Sprint(i)] = bytes.Repeat([]byte{byte(i)}, 200)
	}
	for _, marked := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "state")
		s := openState(t, dir)
		if err := s.Apply("b", map[string][]byte{"gone": []byte("v"), "stays": []byte("v")}); err != nil {
			t.Fatal(err)
		}
		data := encodeChange(c)
		n, err := s.putStaged(data)
		if err == nil && marked {
			err = s.markStaged(data, n)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = openState(t, dir)
		got := contents(t, s, "b")
		if want := map[bool]int{false: 2, true: 4001}[marked]; len(got) != want {
			t.Errorf("marked %v: %d keys, want %d", marked, len(got), want)
		}
		if _, there := got["gone"]; there == marked {
			t.Errorf("marked %v: a deleted key is there: %v", marked, there)
		}
		if n := count(t, s, spaceStaged); n != 0 {
			t.Errorf("marked %v: %d staged pieces are left", marked, n)
		}
		s.Close()
	}
}

// count is how many keys Badger has under a prefix.
func count(t *testing.T, s *State, prefix ...byte) (n int) {
	t.Helper()
	err := s.db.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = prefix
		it := txn.NewIterator(o)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStateSmallerValueLeavesNoPieces(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	for _, size := range []int{100_000, 20_000, 10} {
		if err := s.Apply("b", map[string][]byte{"k": make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
		if n, want := count(t, s, spacePiece), (size-1)/pieceSize; n != want {
			t.Errorf("a value of %d bytes has %d further pieces, want %d", size, n, want)
		}
	}
}

func TestStateDamagedValueIsMissing(t *testing.T) {
	s := openState(t, filepath.Join(t.TempDir(), "state"))
	if err := s.Apply("b", map[string][]byte{"good": []byte("value"), "bad": []byte("value")}); err != nil {
		t.Fatal(err)
	}
	err := s.db.Update(func(txn *badger.Txn) error {
		return txn.Set(valueKey("b", "bad"), append(make([]byte, 8), "valuf"...))
	})
	if err != nil {
		t.Fatal(err)
	}
	if v, ok, err := s.Get("b", "bad"); ok || err != nil {
		t.Errorf("a damaged value was served: %q, %v", v, err)
	}
	if got := contents(t, s, "b"); len(got) != 1 || got["good"] != "value" {
		t.Errorf("%v", got)
	}
}
