package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

// watchedDisk notes when a segment is deleted.
type watchedDisk struct {
	store.OSDisk
	mu    sync.Mutex
	goner []stretch
}

// stretch is a time from and to.
type stretch struct{ from, to time.Time }

func (s stretch) meets(o stretch) bool { return s.from.Before(o.to) && o.from.Before(s.to) }

func (d *watchedDisk) Remove(path string) error {
	began := time.Now()
	err := d.OSDisk.Remove(path)
	if strings.HasSuffix(path, ".seg") {
		d.mu.Lock()
		d.goner = append(d.goner, stretch{began, time.Now()})
		d.mu.Unlock()
	}
	return err
}

// pauses is what a round saw: of the times between one acknowledgement and the next those
// that were longest, in all and while a segment was being deleted, and how long syncs took.
type pauses struct {
	longest, longestGoing time.Duration
	syncs                 []time.Duration
	gone                  int
}

const segmentsFor = 2500 * time.Millisecond

// measureSegments lets producers append while the keeper lets go of segments, and, in turns, while it does not.
func measureSegments(ctx context.Context, b *bench) ([]result, error) {
	var kept, alone pauses
	for range b.few() {
		for _, keep := range []bool{true, false} {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			p, err := watchSegments(filepath.Join(b.dir, "segments"), keep)
			if err != nil {
				return nil, err
			}
			sum := &alone
			if keep {
				sum = &kept
			}
			sum.longest, sum.longestGoing = max(sum.longest, p.longest), max(sum.longestGoing, p.longestGoing)
			sum.syncs = append(sum.syncs, p.syncs...)
			sum.gone += p.gone
		}
	}
	if kept.gone == 0 {
		return nil, skipped("no segment was full: the disk is too slow for this")
	}
	slices.Sort(kept.syncs)
	slices.Sort(alone.syncs)
	return []result{{
		fmt.Sprintf("longest write pause while a segment goes (%d went)", kept.gone),
		fmt.Sprintf("<= 2 x sync p99 (%.1f ms)", ms(percentile(kept.syncs, 99))),
		fmt.Sprintf("%.1f ms: %.2f x; at any time %.1f ms", ms(kept.longestGoing), ms(kept.longestGoing)/ms(percentile(kept.syncs, 99)), ms(kept.longest)),
		fmt.Sprintf("where none goes: %.1f ms, sync p99 %.1f ms", ms(alone.longest), ms(percentile(alone.syncs, 99))),
	}}, nil
}

func watchSegments(dir string, keep bool) (p pauses, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return p, err
	}
	defer os.RemoveAll(dir)
	disk := &watchedDisk{}
	var mu sync.Mutex
	o := store.Options{Dir: dir, Disk: disk, SegmentSize: 1 << 20, Observer: gateway.Observer{Synced: func(_ int, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		p.syncs = append(p.syncs, took)
	}}}
	e, err := startJournal(o)
	if err != nil {
		return p, err
	}
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	if keep {
		// Once a second everything sealed is too old.
		keeper := store.NewKeeper(store.KeeperOptions{Journal: e.j, MaxAge: time.Millisecond})
		work.Go(func() { keeper.Run(ctx) })
	}
	var acks []time.Time
	var acking sync.Mutex
	var failed atomic.Pointer[error]
	for range producers {
		work.Go(func() {
			payload := payload()
			for ctx.Err() == nil {
				if err := e.append(payload); err != nil {
					failed.Store(&err)
					return
				}
				acking.Lock()
				acks = append(acks, time.Now())
				acking.Unlock()
			}
		})
	}
	time.Sleep(segmentsFor)
	stop()
	work.Wait()
	if err := e.close(); err != nil {
		return p, err
	}
	if err := failed.Load(); err != nil {
		return p, *err
	}
	slices.SortFunc(acks, time.Time.Compare)
	p.gone = len(disk.goner)
	for i := 1; i < len(acks); i++ {
		pause := stretch{acks[i-1], acks[i]}
		took := pause.to.Sub(pause.from)
		p.longest = max(p.longest, took)
		if took > p.longestGoing && slices.ContainsFunc(disk.goner, pause.meets) {
			p.longestGoing = took
		}
	}
	return p, nil
}
