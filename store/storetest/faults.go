package storetest

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

func testFullDisk(t *testing.T, open Open) {
	d := NewDisk()
	o := store.Options{Dir: t.TempDir(), Disk: d, SegmentSize: 16 << 10}
	r := start(t, open, o)
	var want []*gateway.Event
	put := func() error {
		e := event("a", strings.Repeat("x", 1000))
		err := r.put(e, gateway.Synced)
		if err == nil {
			want = append(want, e)
		}
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	d.OnWrite(func(path string, n int) (int, error) { // allocated blocks can be written, new ones not
		if n >= 2000 {
			return 0, syscall.ENOSPC
		}
		return n, nil
	})
	var err error
	for range 30 {
		if err = put(); err != nil {
			break
		}
	}
	if !errors.Is(err, gateway.ErrFull) {
		t.Fatalf("full disk: %v", err)
	}
	if err := put(); !errors.Is(err, gateway.ErrFull) {
		t.Errorf("still full: %v", err)
	}
	d.OnWrite(nil)
	if err := put(); err != nil {
		t.Errorf("with space again: %v", err)
	}
	got, gaps := r.readAll(1, all, 100)
	if gaps != nil {
		t.Error(gaps)
	}
	equal(t, "before and after the full disk", got, want)
	d.OnWrite(func(string, int) (int, error) { return 0, syscall.ENOSPC })
	r.stop() // it cannot be marked as clean, but everything is there
	r = start(t, open, store.Options{Dir: o.Dir, SegmentSize: 16 << 10})
	got, _ = r.readAll(1, all, 100)
	equal(t, "after a restart", got, want)
	r.mustStop()
}

func testShortWrite(t *testing.T, open Open) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		d := NewDisk()
		o := store.Options{Dir: t.TempDir(), Disk: d, MachineID: same("m"), BootID: same("b")}
		r := start(t, open, o)
		var want []*gateway.Event
		used := map[uint64]bool{}
		for i := range 40 {
			failing := i%4 == 2
			if failing {
				d.OnWrite(func(path string, n int) (int, error) { return n * i / 40, cause })
			}
			e := event("a", fmt.Sprintf("%d %s", i, strings.Repeat("y", i*10)))
			err := r.put(e, gateway.Durability(i%2))
			d.OnWrite(nil)
			if used[e.Offset] {
				t.Fatalf("offset %d was given out twice", e.Offset)
			}
			used[e.Offset] = true
			switch {
			case !failing && err != nil:
				t.Fatal(err)
			case failing && (err == nil || errors.Is(err, gateway.ErrFull) != (cause == syscall.ENOSPC)):
				t.Fatalf("short write with %v: %v", cause, err)
			case !failing:
				want = append(want, e)
			}
		}
		got, gaps := r.readAll(1, all, 100)
		if gaps != nil {
			t.Error(gaps)
		}
		equal(t, "around short writes", got, want)
		epoch := r.Epoch()
		d.OnWrite(func(path string, n int) (int, error) { return n / 2, cause })
		if r.put(event("a", "the last"), gateway.Synced) == nil {
			t.Error("the last write was taken")
		}
		d.Kill()
		r.stop()
		o.Disk = nil
		r = start(t, open, o)
		got, gaps = r.readAll(1, all, 100)
		if gaps != nil || r.Epoch() != epoch || r.recovery.Cut != 0 {
			t.Errorf("gaps %v, epoch %s after %s, %+v", gaps, r.Epoch(), epoch, r.recovery)
		}
		equal(t, "after a kill", got, want)
		r.mustStop()
	}
}

func testFailedSync(t *testing.T, open Open) {
	d := NewDisk()
	o := store.Options{Dir: t.TempDir(), Disk: d, MachineID: same("m"), BootID: same("b"), FlushInterval: time.Hour}
	r := start(t, open, o)
	r.mustPut(event("a", "1"), gateway.Synced)
	r.mustPut(event("a", "2"), gateway.Written)
	d.OnSync(func(path string) error {
		if strings.HasSuffix(path, ".seg") {
			return syscall.EIO
		}
		return nil
	})
	if err := r.put(event("a", "3"), gateway.Synced); !errors.Is(err, gateway.ErrTransient) || !errors.Is(err, syscall.EIO) {
		t.Errorf("failed sync: %v", err)
	}
	d.OnSync(nil) // the kernel would say success now, and the bytes be gone
	if err := r.put(event("a", "4"), gateway.Synced); !errors.Is(err, gateway.ErrTransient) {
		t.Errorf("after a failed sync: %v", err)
	}
	if events, _ := r.readAll(1, all, 10); len(events) != 2 {
		t.Errorf("%d events can be read", len(events))
	}
	if up := r.syncedUpTo(); up != 2 {
		t.Errorf("synced up to %d", up)
	}
	if err := r.stop(); !errors.Is(err, syscall.EIO) {
		t.Errorf("run ended with %v", err)
	}
	rewritten := false // the tail is written again before it is synced: a sync alone proves nothing
	d.OnWrite(func(path string, n int) (int, error) {
		rewritten = rewritten || strings.HasSuffix(path, ".seg")
		return n, nil
	})
	r = start(t, open, o)
	if !rewritten {
		t.Error("the tail was not written again")
	}
	r.mustPut(event("a", "5"), gateway.Synced)
	events, gaps := r.readAll(1, all, 10)
	if len(events) != 4 || gaps != nil { // the third may be there, and is: its sender was told "may be"
		t.Errorf("%d events, gaps %v", len(events), gaps)
	}
	r.mustStop()
}
