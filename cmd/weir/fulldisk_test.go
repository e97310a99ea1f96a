package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
)

// TestFullDisk has another program fill the disk under a weir that is at work, to the last byte. The
// process that serves MQTT stays, tells senders that it stores nothing, and goes on when there is room;
// what it acknowledged is all there.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	far := bridgetest.StartMosquitto(t)
	weir := newRig(t, fmt.Sprintf(`journal: {max_size: 64MiB}
uplinks: {far: {sink: mqtt, url: "mqtt://%s"}}
routes: {all: {topics: ["#"], uplink: far}}
`, far.Addr))
	disk := smallDisk(t, weir, "96m")
	weir.start()
	farEnd := readFar(t, far.Addr)
	ledger, stop := weir.load(100, 2000)
	until := func(what string, cond func() bool) {
		t.Helper()
		bridgetest.Until(t, what, func() bool {
			select {
			case <-weir.done:
				t.Fatalf("the gateway ended before %s", what)
			default:
			}
			return cond()
		})
	}
	answered := func() int { return len(ledger.Acked()) }
	refusals := func() (n int) {
		for _, e := range ledger.Entries() {
			if e.Reason >= 0x80 {
				n++
			}
		}
		return n
	}
	for round := range 3 {
		before := answered()
		until("something is stored", func() bool { return answered() > before+200 })
		hog := filepath.Join(disk, "hog")
		fill(t, hog)
		refused := refusals()
		until("a sender is told that nothing is stored", func() bool { return refusals() > refused })
		var problem struct{ Detail string }
		if code := getStatus(t, "http://"+weir.http+"/readyz", &problem); code != 503 {
			t.Errorf("round %d: /readyz answers %d while the disk is full: %s", round, code, problem.Detail)
		}
		if err := os.Remove(hog); err != nil {
			t.Fatal(err)
		}
		freed, before := time.Now(), answered()
		until("events are stored again", func() bool { return answered() > before })
		t.Logf("round %d: stored again %v after space was freed", round, time.Since(freed).Round(time.Millisecond))
	}
	stop()
	report := farEnd.report(ledger)
	account(t, weir.http, "after all")
	t.Logf("%v", report)
	weir.end()
}

// smallDisk gives the gateway's data a disk of their own.
func smallDisk(t *testing.T, weir *rig, size string) (disk string) {
	t.Helper()
	disk = filepath.Join(weir.dir, "data")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("a disk that is small takes a mount, and that takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return disk
}

// TestBacklogFillsTheDisk has an outage that lasts until the disk has no room for more, and kills the gateway then. When the far
// end is back all that was acknowledged arrives, and the disk is free again.
func TestBacklogFillsTheDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute; run without -short")
	}
	far := bridgetest.StartMosquitto(t)
	weir := newRig(t, fmt.Sprintf(`journal: {max_size: 8MiB}
uplinks: {far: {sink: mqtt, url: "mqtt://%s"}}
routes: {all: {topics: ["#"], uplink: far, on_full: reject}}
`, far.Addr))
	disk := smallDisk(t, weir, "160m")
	weir.start()
	farEnd := readFar(t, far.Addr)
	far.Stop()
	ledger, stop := weir.load(60, 20_000)
	bridgetest.Until(t, "a sender is told that nothing is stored", func() bool {
		for _, e := range ledger.Entries() {
			if e.Reason >= 0x80 {
				return true
			}
		}
		return false
	})
	for range 3 {
		weir.kill()
		weir.start()
		account(t, weir.http, "after a kill")
	}
	far.Start()
	stop()
	t.Logf("%v", farEnd.report(ledger))
	account(t, weir.http, "after all")
	bridgetest.Until(t, "the disk is free again", func() bool {
		var s syscall.Statfs_t
		if err := syscall.Statfs(disk, &s); err != nil {
			t.Fatal(err)
		}
		return s.Bavail*uint64(s.Bsize) > 100<<20
	})
	weir.end()
}

// fill writes until there is no room for another byte.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write([]byte(strings.Repeat("x", size))); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
}
