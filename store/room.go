package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// roomKeeper is where appenders that find the journal full meet the Keeper that makes room.
type roomKeeper struct {
	asked chan struct{}      // there is too little; one signal
	old   chan time.Duration // the writer begins a new segment if its own begins with an older entry
	kept  atomic.Bool        // there is a Keeper

	mu   sync.Mutex
	made chan struct{} // closed when something was let go of
}

// roomPatience is how long an append waits for room until it is refused.
const roomPatience = 2 * time.Second

func (k *roomKeeper) init() {
	k.asked, k.old, k.made = make(chan struct{}, 1), make(chan time.Duration, 1), make(chan struct{})
}

// ask wakes the Keeper.
func (k *roomKeeper) ask() {
	select {
	case k.asked <- struct{}{}:
	default:
	}
}

// wait asks for room and waits until some was made. It returns false when there is no hope.
func (k *roomKeeper) wait(ctx context.Context) bool {
	if !k.kept.Load() {
		return false
	}
	k.mu.Lock()
	made := k.made
	k.mu.Unlock()
	k.ask()
	t := time.NewTimer(roomPatience)
	defer t.Stop()
	select {
	case <-made:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// tell wakes who waits.
func (k *roomKeeper) tell() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.made)
	k.made = make(chan struct{})
}

// editSegs replaces the list of segments: the writer adds at the end, the Keeper removes at the front.
func (j *Journal) editSegs(edit func([]*segment) []*segment) {
	for {
		old := j.segs.Load()
		segs := edit(*old)
		if j.segs.CompareAndSwap(old, &segs) {
			return
		}
	}
}

// letGo deletes the oldest segment. Readers that are in it find out, see (*reading).lostFile.
func (j *Journal) letGo(s *segment) error {
	info, err := os.Stat(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	j.editSegs(func(segs []*segment) []*segment {
		if len(segs) > 0 && segs[0] == s {
			segs = segs[1:]
		}
		return segs
	})
	j.indexes.drop(s)
	j.hints.drop(s)
	j.files.drop(s)
	for _, path := range []string{s.indexPath(), s.path} { // the data last: an index alone is rubbish
		if err := j.disk.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete a segment: %w", err)
		}
	}
	if info != nil {
		j.size.Add(-info.Size())
	}
	j.room.tell()
	return nil
}

// listed tells whether s is still part of the journal.
func (j *Journal) listed(s *segment) bool {
	for _, o := range *j.segs.Load() {
		if o == s {
			return true
		}
	}
	return false
}

// Room is the size in bytes at which the oldest segment is let go of, and how much of the disk is free
// beyond what has to stay free; less than nothing if it is too little already.
func (j *Journal) Room() (keeps, disk int64, err error) {
	free, total, err := j.disk.Space(j.o.Dir)
	if err != nil {
		return 0, 0, fmt.Errorf("ask how much of the disk is free: %w", err)
	}
	return j.o.MaxSize - 2*j.o.SegmentSize, free - j.o.MinFree.of(total), nil
}
