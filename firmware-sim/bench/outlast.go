package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"

	"github.com/dgraph-io/badger/v4"
)

// A small machine, and a journal so small that an outage outlasts it.
const (
	segment      = 16 << 20
	smallMemory  = 96 << 20
	smallJournal = "journal: {max_size: 64MiB}\n"
)

// measureOutlast has weir, in a cgroup of a small machine, take in more than its journal holds while the
// far end is away, and then drain it; and sees how far a mosquitto gets there that is to keep the same.
func measureOutlast(ctx context.Context, b *bench) ([]result, error) {
	if _, err := mosquitto(); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("gateway in %d MB, %d events outlast its journal", smallMemory>>20, b.events)
	probe, err := newCgroup(smallMemory)
	if err != nil {
		return nil, skipped("no cgroup with a memory limit: " + err.Error())
	}
	probe.close()
	weir, err := outlast(ctx, filepath.Join(b.dir, "outlast"), weirProgram(b, smallJournal), b.events)
	if err != nil {
		return nil, fmt.Errorf("weir: %w", err)
	}
	other, err := outlast(ctx, filepath.Join(b.dir, "outlast"), bridgeProgram(), b.events)
	if err != nil {
		return nil, fmt.Errorf("mosquitto: %w", err)
	}
	deleted, err := drainBadger(ctx, filepath.Join(b.dir, "outlast"), b.events)
	if err != nil {
		return nil, fmt.Errorf("badger: %w", err)
	}
	return []result{
		{what, "completes", weir.String(), "mosquitto's bridge: " + other.String()},
		{"disk of the backlog after a full drain", "<= 2 segments (34 MB) within 1 s", weir.disk, "badger, a delete for each event: " + deleted},
	}, nil
}

// outlasted is what became of a program.
type outlasted struct {
	taken, events int
	killed        int
	memory        int64 // anonymous, of all its processes
	disk          string
}

func (o outlasted) String() string {
	if o.killed > 0 {
		return fmt.Sprintf("out of memory after %d of %d events", o.taken, o.events)
	}
	return fmt.Sprintf("%d of %d events, all drained; at most %.1f MB anonymous", o.taken, o.events, float64(o.memory)/mega)
}

func outlast(ctx context.Context, dir string, of program, events int) (o outlasted, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return o, err
	}
	defer os.RemoveAll(dir)
	in, err := newCgroup(smallMemory)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	at, err := fault.FreeAddress("tcp")
	if err != nil {
		return o, err
	}
	p, err := of.start(ctx, dir, at, in)
	if err != nil {
		return o, err
	}
	defer func() {
		p.stop()
		for end := time.Now().Add(startLimit); len(in.pids()) > 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) { // its child ends a moment later
		}
	}()
	filling, ended := context.WithCancel(ctx)
	defer ended()
	go func() {
		<-p.done
		ended()
	}()
	stop := peak(in.pids)
	o.events = events
	o.taken = fill(filling, p.address, events)
	if o.taken == events {
		o.disk, err = drainSmall(ctx, dir, at, p)
	}
	for _, most := range stop() {
		o.memory += most
	}
	o.killed = in.killed()
	if err == nil && o.killed == 0 && o.taken < events {
		err = fmt.Errorf("it took %d of %d events: %s", o.taken, events, p.said())
	}
	return o, err
}

// drainSmall brings the far end back, waits until all is there, and tells how much of the
// backlog's disk is left afterwards.
func drainSmall(ctx context.Context, dir, at string, p *process) (string, error) {
	backlog := filepath.Join(dir, "data", "reservoir")
	most := diskOf(backlog)
	far, err := startFar(ctx, dir, at, true)
	if err != nil {
		return "", err
	}
	defer far.stop()
	said := make(chan string, 1)
	socket := filepath.Join(dir, "data", "weir.sock")
	if _, err := os.Stat(socket); err != nil { // it has no backlog on disk
		said <- ""
	} else {
		asking, stop := context.WithTimeout(ctx, 2*patience)
		defer stop()
		go func() {
			waitEmpty(asking, socket)
			for began := time.Now(); ; time.Sleep(20 * time.Millisecond) { // between two looks
				left, since := diskOf(backlog), time.Since(began)
				if left <= 2*segment || since > 10*time.Second || asking.Err() != nil {
					said <- fmt.Sprintf("%.1f MB of %.0f MB after %.2f s", float64(left)/mega, float64(most)/mega, since.Seconds())
					return
				}
			}
		}()
	}
	if _, err := far.drained(ctx, p); err != nil {
		return "", err
	}
	return <-said, nil
}

// drainBadger is a queue in a Badger from which what was sent is deleted, key by key.
func drainBadger(ctx context.Context, dir string, events int) (string, error) {
	defer os.RemoveAll(dir)
	if err := fillBacklog(ctx, dir, "badger", events); err != nil {
		return "", err
	}
	db, err := badger.Open(badgerOptions(dir))
	if err != nil {
		return "", err
	}
	most := diskOf(dir)
	batch := db.NewWriteBatch()
	for at := range events {
		if err := batch.Delete(badgerKey(uint64(at + 1))); err != nil {
			return "", errors.Join(err, db.Close())
		}
	}
	if err := batch.Flush(); err != nil {
		return "", errors.Join(err, db.Close())
	}
	time.Sleep(time.Second)
	return fmt.Sprintf("%.1f MB of %.0f MB after 1 s", float64(diskOf(dir))/mega, float64(most)/mega), db.Close()
}

// waitEmpty returns when nothing is in the backlog any more.
func waitEmpty(ctx context.Context, socket string) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		var uplinks []struct {
			Routes []struct{ Backlog uint64 }
		}
		resp, err := client.Get("http://weir/api/uplinks")
		if err == nil {
			err = json.NewDecoder(resp.Body).Decode(&uplinks)
			resp.Body.Close()
		}
		if err == nil && len(uplinks) == 1 && uplinks[0].Routes[0].Backlog == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// diskOf is how much disk the files in dir take.
func diskOf(dir string) (n int64) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil // it goes while we look
		}
		if info, err := d.Info(); err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return n
}
