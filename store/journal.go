package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"hash/crc32"

	"github.com/weir-iot/weir/gateway"
)

// Options of a journal. Only Dir is required.
type Options struct {
	Dir string // made if it does not exist; one process at a time

	// MaxSize bounds the segments, in bytes; default 2 GiB. At the bound Append refuses
	// Data; Change entries have one segment more, so that what is in flight can end.
	MaxSize int64
	// SegmentSize is what one file is allocated with, in bytes; default 16 MiB, less
	// when MaxSize is small. A larger event gets a larger file.
	SegmentSize int64
	// FlushInterval is the longest that an entry nobody waits for stays unsynced; default 1 s.
	FlushInterval time.Duration
	// QueueSize bounds what waits for the writer, in bytes; default 4 MiB.
	QueueSize int
	// MinFree is how much of the disk new segments leave to others; by default DefaultMinFree.
	MinFree MinFree

	Logger   *slog.Logger
	Observer gateway.Observer

	// For tests. BootID and MachineID name the running boot and the machine.
	BootID, MachineID func() string
	Clock             Clock
	Disk              Disk
}

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, gateway.Errorf(gateway.ErrInvalid, "journal without a directory")
	}
	if o.MaxSize <= 0 {
		o.MaxSize = 2 << 30
	}
	if o.SegmentSize <= 0 {
		o.SegmentSize = min(16<<20, max(o.MaxSize/8, 64<<10))
	}
	o.SegmentSize = max(o.SegmentSize, 2*segData)
	if o.FlushInterval <= 0 {
		o.FlushInterval = time.Second
	}
	if o.QueueSize <= 0 {
		o.QueueSize = 4 << 20
	}
	if o.MinFree == (MinFree{}) {
		o.MinFree = DefaultMinFree
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.BootID == nil {
		o.BootID = bootID
	}
	if o.MachineID == nil {
		o.MachineID = machineID
	}
	if o.Clock == nil {
		o.Clock = new(OSClock)
	}
	if o.Disk == nil {
		o.Disk = OSDisk{}
	}
	o.Observer = o.Observer.OrNop()
	return o, nil
}

// MinFree is a part of the disk in percent, but LeastFree at least and Bytes at most; without a part it is Bytes.
type MinFree struct {
	Percent float64
	Bytes   int64
}

// DefaultMinFree is 5 %, but LeastFree at least and 1 GiB at most. Badger, which dies on a full disk, lives on it too.
var DefaultMinFree = MinFree{5, 1 << 30}

// LeastFree is what has to stay free so that what this store itself writes never fills the disk so far that the cursors
// cannot be written: then nothing would ever be done with, and nothing be let go of. The journal stops at LeastFree,
// backlogs grow no more with growFree, and the state is written down to stateFree.
const LeastFree = 3 * stateFree

// of is what has to stay free of a disk with total bytes.
func (m MinFree) of(total int64) int64 {
	if m.Percent > 0 {
		return max(min(int64(float64(total)*m.Percent/100), m.Bytes), LeastFree)
	}
	return m.Bytes
}

// Journal is the one ordered log. It is safe for concurrent use.
type Journal struct {
	o    Options
	log  *slog.Logger
	disk Disk
	lock *os.File

	queue queue
	stop  chan struct{} // closed by Close
	once  sync.Once
	ran   atomic.Bool
	ended chan struct{} // closed when Run has ended

	mu     sync.Mutex // guards table
	table  *table
	tables *tableStore
	epoch  string
	age    *age

	segs    atomic.Pointer[[]*segment] // oldest first; replaced, never changed
	next    atomic.Uint64              // the next offset to give out
	visible atomic.Uint64              // offsets below are released
	synced  atomic.Uint64              // offsets below are on stable storage
	size    atomic.Int64               // bytes of the segments, with what is queued

	room      roomKeeper
	boundFull atomic.Bool // an entry was refused at MaxSize
	diskFull  atomic.Bool // the last write met a full disk
	failed    atomic.Pointer[error]
	syncs     atomic.Uint64
	damaged   atomic.Uint64

	act     *active // the writer's own
	last    uint64  // the last offset that was written
	files   fileCache
	indexes indexCache
	hints   hints
}

// Releaser is told what is released and what is synced, in offset order and from one
// goroutine. *gateway.Hub is one. It must not keep batch.
type Releaser interface {
	Released(batch []*gateway.Event, next uint64)
	Synced(next uint64)
}

// Open recovers the journal in o.Dir: it finds the end, cuts and sets aside what is torn,
// makes the rest durable and decides whether the epoch goes on. What it found it
// tells Observer.Recovered and the log. It fails if another process has the directory
// (ErrTransient), if a newer weir wrote it, or if the disk does not work.
func Open(o Options) (*Journal, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{o: o, log: o.Logger, disk: o.Disk, lock: lock, stop: make(chan struct{}), ended: make(chan struct{})}
	j.queue.init(o.QueueSize)
	j.files.init(o.Disk)
	j.indexes.init()
	j.hints.init()
	j.room.init()
	if err := j.recover(); err != nil {
		j.closeFiles()
		return nil, fmt.Errorf("open journal in %s: %w", o.Dir, err)
	}
	return j, nil
}

var errStopped = gateway.Errorf(gateway.ErrTransient, "the journal has stopped")

// bodies lends the memory in which appenders encode.
var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Append is [gateway.Journal]. Before Run entries are queued.
func (j *Journal) Append(ctx context.Context, e *gateway.Event, need gateway.Durability, done func(error)) error {
	if e.Kind > gateway.Change {
		return gateway.Errorf(gateway.ErrInvalid, "entry of unknown kind %d", e.Kind)
	}
	e.Age, e.Boot, e.ClockTrusted = j.age.now()
	lent := bodies.Get().(*[]byte)
	buf := appendBody(append((*lent)[:0], make([]byte, frameHeader)...), e)
	defer func() {
		if cap(buf) <= 64<<10 {
			*lent = buf
			bodies.Put(lent)
		}
	}()
	if len(buf)-frameHeader > maxBody {
		return gateway.Errorf(gateway.ErrInvalid, "event of %d bytes is larger than %d", len(buf)-frameHeader, maxBody)
	}
	if err := j.failure(); err != nil {
		return err
	}
	if err := j.take(ctx, int64(len(buf)), e.Kind); err != nil {
		return err
	}
	err := j.queue.put(ctx, buf, entry{
		event: e, done: done, need: need,
		size: len(buf), sum: crc32.Checksum(buf[frameHeader:], castagnoli),
	})
	if err != nil {
		j.size.Add(-int64(len(buf)))
	}
	return err
}

// take reserves n bytes below the bound. While a keeper makes room it waits for a moment.
func (j *Journal) take(ctx context.Context, n int64, kind gateway.Kind) error {
	bound := j.o.MaxSize
	if kind == gateway.Change {
		bound += j.o.SegmentSize
	}
	for j.size.Add(n) > bound {
		j.size.Add(-n)
		if !j.room.wait(ctx) {
			if kind == gateway.Data && !j.boundFull.Swap(true) {
				j.log.Warn("the journal is full and refuses events", "max_size", j.o.MaxSize)
			}
			return gateway.Errorf(gateway.ErrFull, "the journal holds its %d bytes", j.o.MaxSize)
		}
	}
	if kind == gateway.Data && j.boundFull.Load() { // changes have room of their own
		j.boundFull.Store(false)
		j.log.Info("the journal has room again")
	}
	return nil
}

// failure is why the journal refuses everything, once it does.
func (j *Journal) failure() error {
	if p := j.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes the journal refuse everything from now on. After a failed sync the kernel may
// have dropped the pages and call the next sync a success, so nothing this process
// could still do would make "synced" true again; the next start reads what is there.
func (j *Journal) fail(err error) error {
	err = gateway.Errorf(gateway.ErrTransient, "the journal has failed and stores nothing until weir is restarted: %w", err)
	if j.failed.CompareAndSwap(nil, &err) {
		j.log.Error("the journal has failed and stores nothing until weir is restarted", "error", err)
		j.mu.Lock()
		j.table.suspect = true
		if terr := j.tables.save(j.table); terr != nil {
			j.log.Error("cannot note that a sync failed", "error", terr)
		}
		j.mu.Unlock()
	}
	return *j.failed.Load()
}

// Epoch is the name of the history that is being written.
func (j *Journal) Epoch() string { return j.epoch }

// Age is the gateway's own clock, see gateway.Event.Age.
func (j *Journal) Age() time.Duration {
	now, _, _ := j.age.now()
	return now
}

// Next is the offset after the last entry that was recovered or written.
func (j *Journal) Next() uint64 { return j.next.Load() }

// Stats is the journal in numbers.
type Stats struct {
	Epoch    string
	Oldest   uint64 // the first offset that is kept
	Next     uint64 // the offset after the last entry
	Released uint64 // offsets below are released
	Synced   uint64 // offsets below are on stable storage
	Bytes    int64  // of the segments, with what waits for the writer
	MaxBytes int64
	Segments int
	Queued   int    // bytes that wait for the writer
	Syncs    uint64 // since Open
	Gaps     uint64 // times a reader met damage, since Open
	Full     bool   // events are being refused: the bound is reached, or the disk is full
	Failed   error  // why nothing is stored any more; nil while it works
}

// Stats returns the journal in numbers.
func (j *Journal) Stats() Stats {
	segs := *j.segs.Load()
	return Stats{
		Epoch: j.epoch, Oldest: j.oldest(segs), Next: j.next.Load(), Released: j.visible.Load(), Synced: j.synced.Load(),
		Bytes: j.size.Load(), MaxBytes: j.o.MaxSize, Segments: len(segs), Queued: j.queue.waiting(),
		Syncs: j.syncs.Load(), Gaps: j.damaged.Load(),
		Full: j.boundFull.Load() || j.diskFull.Load(), Failed: j.failure(),
	}
}

// Close ends Run as the end of its context does, waits for it, and gives the directory
// back. What was queued and never written is answered with an error.
func (j *Journal) Close() error {
	j.once.Do(func() { close(j.stop) })
	if j.ran.Swap(true) {
		<-j.ended
	} else {
		j.queue.close(errStopped)
		if b := j.queue.take(); b != nil {
			for i := range b.entries {
				b.entries[i].answer(errStopped)
			}
		}
		close(j.ended)
	}
	return j.closeFiles()
}

func (j *Journal) closeFiles() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lock == nil {
		return nil
	}
	err := j.files.close()
	if j.act != nil {
		err = errors.Join(err, j.act.f.Close())
		j.act = nil
	}
	if j.tables != nil {
		err = errors.Join(err, j.tables.f.Close())
	}
	err = errors.Join(err, j.lock.Close())
	j.lock = nil
	return err
}
