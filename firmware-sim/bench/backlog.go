package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

// reading is what a process saw that opened a backlog and read all of it.
type reading struct {
	First  time.Duration // from the beginning of open to the first record
	Disk   int64         // bytes that came from the disk for it
	Events int
	Memory int64 // anonymous, at most, until the last record
}

// backlogs are the stores that are filled and read, by the name that a child is given.
var backlogs = map[string]struct {
	open func(dir string) (engine, error)
	read func(dir string, first func()) (int, error)
}{
	"journal": {openJournal, readJournal},
	"badger":  {openBadger, readBadger},
}

// measureBacklog fills a journal and a Badger with a long backlog, and then opens and reads them, in turns, each time
// in a process of its own and with nothing of it in the page cache.
func measureBacklog(ctx context.Context, b *bench) ([]result, error) {
	names := []string{"journal", "badger"}
	seen := map[string][]reading{}
	for _, name := range names {
		if err := fillBacklog(ctx, filepath.Join(b.dir, name), name, b.events); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		defer os.RemoveAll(filepath.Join(b.dir, name))
	}
	for range b.few() {
		for _, name := range names {
			dir := filepath.Join(b.dir, name)
			if err := cool(dir); err != nil {
				return nil, err
			}
			cmd := exec.CommandContext(ctx, "/proc/self/exe", "read", name, dir)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return nil, fmt.Errorf("read the %s: %w", name, err)
			}
			var r reading
			if err := json.Unmarshal(out, &r); err != nil {
				return nil, err
			}
			if r.Events != b.events {
				return nil, fmt.Errorf("%d of %d events were in the %s", r.Events, b.events, name)
			}
			seen[name] = append(seen[name], r)
		}
	}
	memory, first, disk := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for _, name := range names {
		for _, r := range seen[name] {
			memory[name] = max(memory[name], float64(r.Memory)/mega)
		}
		first[name] = median(each(seen[name], func(r reading) float64 { return ms(r.First) }))
		disk[name] = median(each(seen[name], func(r reading) float64 { return float64(r.Disk) / mega }))
	}
	return []result{
		{
			fmt.Sprintf("open to first record, backlog of %d events, cold", b.events), "<= 1 s",
			fmt.Sprintf("%.0f ms, %.1f MB read", first["journal"], disk["journal"]), fmt.Sprintf("badger: %.0f ms, %.1f MB read", first["badger"], disk["badger"]),
		},
		{
			fmt.Sprintf("anonymous memory, open and reading a backlog of %d events", b.events), "<= 16 MB",
			fmt.Sprintf("%.1f MB", memory["journal"]), fmt.Sprintf("badger, default options: %.1f MB", memory["badger"]),
		},
	}, nil
}

func each[T any](all []T, of func(T) float64) (values []float64) {
	for _, v := range all {
		values = append(values, of(v))
	}
	return values
}

func fillBacklog(ctx context.Context, dir, name string, events int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	e, err := backlogs[name].open(dir)
	if err != nil {
		return err
	}
	for left := events; left > 0; {
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), e.close())
		}
		var payloads [][]byte
		for range min(left, 1000) {
			payloads = append(payloads, payload())
		}
		left -= len(payloads)
		if err := e.commit(payloads); err != nil {
			return errors.Join(err, e.close())
		}
	}
	return e.close()
}

// cool takes the files of dir out of the page cache, and as root what is known of their names too.
func cool(dir string) error {
	unix.Sync()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	if err == nil && os.Geteuid() == 0 {
		os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0) // may be read-only in a container
	}
	return err
}

// readBacklog is the child: it reads the backlog of an engine in a directory, and prints its reading.
func readBacklog(args []string) error {
	var r reading
	stop, peak := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			most = max(most, anonymous("self"))
			select {
			case <-tick.C:
			case <-stop:
				peak <- most
				return
			}
		}
	}()
	before := diskReads()
	began := time.Now()
	var err error
	r.Events, err = backlogs[args[0]].read(args[1], func() {
		if r.First == 0 {
			r.First, r.Disk = time.Since(began), diskReads()-before
		}
	})
	close(stop)
	r.Memory = <-peak
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// readJournal reads as an uplink does: what is synced, by a reader of the hub.
func readJournal(dir string, first func()) (n int, err error) {
	j, err := store.Open(store.Options{Dir: dir})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	from, _ := j.Resume(gateway.Position{})
	r := gateway.NewHub(j, j.Next()).Reader(from, gateway.Filters{gateway.MustFilter("#")}, gateway.Synced)
	for r.Offset() < j.Next() {
		b, err := r.Next(context.Background())
		if err != nil {
			return n, err
		}
		if b.Gap != nil {
			return n, fmt.Errorf("a gap: %v", b.Gap)
		}
		n += len(b.Events)
		first()
	}
	return n, nil
}

func readBadger(dir string, first func()) (n int, err error) {
	db, err := badger.Open(badgerOptions(dir))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := it.Item().Value(func([]byte) error { return nil }); err != nil {
				return err
			}
			n++
			first()
		}
		return nil
	})
	return n, err
}

// anonymous is how much memory of a process no file stands behind, in bytes; 0 if it is gone.
func anonymous(pid string) int64 {
	return field("/proc/"+pid+"/status", "RssAnon:") << 10
}

// diskReads is how much this process had to wait for the disk for, in bytes.
func diskReads() int64 { return field("/proc/self/io", "read_bytes:") }

// field is the number behind a name in a file of /proc; 0 if it is not there.
func field(path, name string) (n int64) {
	text, _ := os.ReadFile(path)
	_, rest, _ := strings.Cut(string(text), "\n"+name)
	fmt.Sscan(rest, &n)
	return n
}

// peak watches the anonymous memory of processes until stop is called, which returns the most that each had.
func peak(pids func() []string) (stop func() map[string]int64) {
	most := map[string]int64{}
	var ended atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !ended.Load() {
			for _, pid := range pids() {
				most[pid] = max(most[pid], anonymous(pid))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return func() map[string]int64 {
		ended.Store(true)
		<-done
		return most
	}
}
