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
	if len(b.Records) != 100 || b.Records[18].Offset != 23 { // every tenth is b's
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
