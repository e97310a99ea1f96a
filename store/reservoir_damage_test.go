package store

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
)

// TestReservoirDamage flips, truncates, zeroes and removes in every file. Whatever it is, the
// reservoir opens, serves no wrong byte, and says how many are lost.
func TestReservoirDamage(t *testing.T) {
	made := filepath.Join(t.TempDir(), "made", "reservoir")
	r := openReservoir(t, made)
	var all []Record
	for i := range 16_000 {
		body := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 100+i%57)
		all = append(all, Record{Offset: uint64(i + 1), Epoch: "e", Age: int64(i), Key: uint64(i % 9), Body: body})
	}
	for i := 0; i < len(all); i += 1000 {
		part := all[i : i+1000]
		if err := r.Put("up", part[999].Offset+1, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Release("up", 100); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(made + "/*")
	if err != nil {
		t.Fatal(err)
	}
	rounds := 80
	if testing.Short() {
		rounds = 15
	}
	rnd := rand.New(rand.NewSource(1))
	kinds := map[string]int{}
	for round := range rounds {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(round), "reservoir")
		if err := os.CopyFS(filepath.Dir(dir), os.DirFS(filepath.Dir(made))); err != nil {
			t.Fatal(err)
		}
		path := paths[round%len(paths)]
		what := damageFile(t, rnd, filepath.Join(dir, filepath.Base(path)))
		what = filepath.Base(path) + ": " + what
		r := openReservoir(t, dir)
		if err := r.Release("up", 100); err != nil { // in case it is not known any more
			t.Fatal(err)
		}
		s := r.Stat("up")
		checkLedger(t, what, s)
		got, gone := readAll(t, r, "up", 101, 0)
		s = r.Stat("up")
		checkLedger(t, what, s)
		missing := uint64(0)
		for _, g := range gone {
			missing += g.Count
		}
		// Badger drops the rest of a table, of at most 1.75 MiB, when it compacts one with a damaged block. If it
		// does so while a chunk is read in two parts, the first part is both read and lost.
		if missing != s.Dropped[DroppedDamaged] || uint64(len(got))-s.Count > 40 {
			t.Fatalf("%s: %d read of %d, %d told as lost, counted %v", what, len(got), s.Count, missing, s.Dropped)
		}
		if s.Mark != 16_001 || uint64(len(got))+missing-15_900 > 40 {
			t.Fatalf("%s: %d read, %d lost", what, len(got), missing)
		}
		last := uint64(100)
		for _, rec := range got {
			if rec.Offset <= last || !bytes.Equal(rec.Body, all[rec.Offset-1].Body) {
				t.Fatalf("%s: offset %d after %d is wrong", what, rec.Offset, last)
			}
			last = rec.Offset
		}
		aside, _ := filepath.Glob(dir + ".damaged-*")
		kinds[fmt.Sprintf("%s aside:%d", filepath.Ext(path), len(aside))]++
		t.Logf("%s: %d read, %d lost, mark %d, aside %d", what, len(got), missing, s.Mark, len(aside))

		if err := r.Put("up", 16_002, []Record{{Offset: 16_001, Age: 20_000, Body: []byte("more")}}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := r.Close(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		r = openReservoir(t, dir)
		got, gone = readAll(t, r, "up", 101, 0)
		again := r.Stat("up")
		checkLedger(t, what, again)
		missing = 0
		for _, g := range gone {
			missing += g.Count
		}
		if twice := uint64(len(got)) + missing - 15_901; twice > 40 || missing != again.Dropped[DroppedDamaged] || missing < s.Dropped[DroppedDamaged] {
			t.Fatalf("%s: after another open %d read, %d lost: %+v, before %+v", what, len(got), missing, again, s)
		}
		if err := r.Close(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	t.Log(kinds)
}

func damageFile(t *testing.T, rnd *rand.Rand, path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return "nothing"
	}
	at := rnd.Intn(len(b))
	n := min(len(b)-at, 1+rnd.Intn(1+rnd.Intn(5000)))
	what := ""
	switch rnd.Intn(4) {
	case 0:
		what = fmt.Sprintf("%d bytes flipped at %d", n, at)
		for i := at; i < at+n; i++ {
			b[i] ^= byte(1 + rnd.Intn(255))
		}
	case 1:
		what = fmt.Sprintf("zeroes at %d, %d bytes", at, n)
		clear(b[at : at+n])
	case 2:
		what = fmt.Sprintf("truncated to %d", at)
		b = b[:at]
	case 3:
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return "removed"
	}
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	return what
}
