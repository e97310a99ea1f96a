package store_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/weir-iot/weir/store"
)

// What damage takes before it is moved is counted for whom it was due to, for ever, and its reader is told.
func TestKeeperCountsDamage(t *testing.T) {
	k := keep(t, t.TempDir(), 1<<20, store.KeeperOptions{Holders: []store.Holder{
		idle("a", "a/+", store.Policy{}, 1<<30), idle("b", "b", store.Policy{}, 1<<30),
	}})
	defer k.stop()
	k.put(300) // two segments, and nothing moves yet
	segments, err := filepath.Glob(filepath.Join(k.dir, "journal", "*.seg"))
	if err != nil || len(segments) < 2 {
		t.Fatal(segments, err)
	}
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{20, 21, 50} { // the first two lie together
		at := bytes.Index(data, fmt.Appendf(nil, "%01000d", n))
		if _, err := f.WriteAt([]byte("1"), int64(at)); err != nil || at < 0 {
			t.Fatal(at, err)
		}
	}
	k.put(1000)
	k.until("the damaged segment has moved", func() bool { return k.r.Stat("a").Mark > 100 && k.r.Stat("b").Mark > 100 })
	s := k.r.Stat("a")
	if s.Dropped[store.DroppedDamaged] != 3 || s.Put != s.Count+3 || k.k.Stats().Lost["a"] != 3 {
		t.Errorf("%+v, %+v", s, k.k.Stats())
	}
	if s := k.r.Stat("b"); len(s.Dropped) != 0 || k.k.Stats().Lost["b"] != 0 {
		t.Errorf("b lost nothing: %+v, %+v", s, k.k.Stats())
	}
	b, err := k.r.Read("a", 1, 100)
	if want := []store.LostRange{{From: 21, To: 23, Count: 2}, {From: 51, To: 52, Count: 1}}; err != nil || fmt.Sprint(b.Lost) != fmt.Sprint(want) {
		t.Errorf("lost %v, %v, want %v", b.Lost, err, want)
	}
	if len(b.Records) < 50 || len(b.Records) > 100 || b.Records[18].Offset != 23 { // every tenth is b's
		t.Errorf("%d records, the nineteenth is %d", len(b.Records), b.Records[18].Offset)
	}
	if err := k.r.Release("a", 60); err != nil {
		t.Fatal(err)
	}
	s = k.r.Stat("a")
	if s.Put != s.Count+s.Released+3 {
		t.Errorf("when it is released: %+v", s)
	}
}

// A segment's index tells how much damage took of it, but not on which side of an offset within: then it is told
// as not sure, and the ledger counts from the start of the segment instead.
func TestMissingIsNotGuessed(t *testing.T) {
	k := keep(t, t.TempDir(), 1<<20, store.KeeperOptions{Holders: []store.Holder{idle("a", "#", store.Policy{}, 1<<30)}})
	defer k.stop()
	k.put(200) // two segments
	second, _ := k.j.Start(200)
	if first, indexed := k.j.Start(second - 1); first != 1 || !indexed || second == 1 {
		t.Fatalf("segments begin at %d and %d, indexed %v", first, second, indexed)
	}
	if _, indexed := k.j.Start(200); indexed {
		t.Error("the segment that is written has an index")
	}
	segments, err := filepath.Glob(filepath.Join(k.dir, "journal", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	from, to := bytes.Index(data, fmt.Appendf(nil, "%01000d", 19)), bytes.Index(data, fmt.Appendf(nil, "%01000d", 30))
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, to-from), int64(from)); err != nil { // offsets 20 to 30, and the head of 31
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to uint64
		n        uint64
		sure     bool
	}{{1, second, 12, true}, {20, 32, 12, true}, {1, 20, 0, true}, {32, second, 0, true}, {25, second, 7, false}, {1, 25, 5, false}} {
		if n, sure := k.j.Missing(c.from, c.to, everything); n != c.n || sure != c.sure {
			t.Errorf("of %d to %d: %d, sure: %v; want %d, %v", c.from, c.to, n, sure, c.n, c.sure)
		}
	}
	if n, err := k.j.Count(1, 201, everything); n != 200 || err != nil {
		t.Errorf("%d events counted, %v", n, err)
	}
}
