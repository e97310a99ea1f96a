package store_test

import (
	"testing"

	"github.com/weir-iot/weir/store"
)

// roomyDisk has 10 GB, of which 4 are free.
type roomyDisk struct{ store.OSDisk }

func (roomyDisk) Space(string) (free, total int64, err error) { return 4e9, 10e9, nil }

func TestRoom(t *testing.T) {
	j, err := store.Open(store.Options{Dir: t.TempDir(), MaxSize: 80 << 20, SegmentSize: 5 << 20, MinFree: store.MinFree{Percent: 5, Bytes: 1 << 30}, Disk: roomyDisk{}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if keeps, disk, err := j.Room(); err != nil || keeps != 70<<20 || disk != 35e8 {
		t.Errorf("keeps %d, %d free, %v", keeps, disk, err)
	}
}
