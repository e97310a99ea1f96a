package main

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	_ "modernc.org/sqlite"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

// engine stores payloads. One of them is open at a time.
type engine interface {
	// append returns when payload is on stable storage. Many may call it at once.
	append(payload []byte) error
	// commit stores all of them with one sync, if the engine can. It does not go with append.
	commit(payloads [][]byte) error
	close() error
}

// group is group commit as simple as it can be: one goroutine takes all that wait and
// stores them as one.
type group struct {
	commits func(payloads [][]byte) error
	after   func() error

	wake  chan struct{}
	done  chan struct{}
	mu    sync.Mutex
	queue []waiting
}

type waiting struct {
	payload []byte
	stored  chan error
}

func newGroup(commits func([][]byte) error, after func() error) *group {
	g := &group{commits: commits, after: after, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go g.run()
	return g
}

var answers = sync.Pool{New: func() any { return make(chan error, 1) }}

func (g *group) append(payload []byte) error {
	stored := answers.Get().(chan error)
	defer answers.Put(stored)
	g.mu.Lock()
	g.queue = append(g.queue, waiting{payload, stored})
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
	return <-stored
}

func (g *group) run() {
	defer close(g.done)
	var spare []waiting
	var payloads [][]byte
	for range g.wake {
		runtime.Gosched() // lets whoever was just answered join: good for every engine
		g.mu.Lock()
		all := g.queue
		g.queue = spare[:0]
		g.mu.Unlock()
		payloads = payloads[:0]
		for _, w := range all {
			payloads = append(payloads, w.payload)
		}
		var err error
		if len(all) > 0 {
			err = g.commits(payloads)
		}
		for _, w := range all {
			w.stored <- err
		}
		spare = all
	}
}

func (g *group) commit(payloads [][]byte) error { return g.commits(payloads) }

func (g *group) close() error {
	close(g.wake)
	<-g.done
	return g.after()
}

const rawSize = 16 << 20

// Ways to write a file: into blocks that were allocated, or written, before, or behind its end.
type rawFile int

const (
	allocated rawFile = iota
	zeroed
	growing
)

// openRaw is the bare system calls: one pwrite and one fdatasync for each group.
func openRaw(how rawFile) func(dir string) (engine, error) {
	return func(dir string) (engine, error) {
		path := filepath.Join(dir, "0")
		f, err := how.create(path)
		if err != nil {
			return nil, err
		}
		castagnoli := crc32.MakeTable(crc32.Castagnoli)
		buf, pos := []byte(nil), int64(0)
		return newGroup(func(payloads [][]byte) error {
			buf = buf[:0]
			for _, p := range payloads {
				buf = binary.LittleEndian.AppendUint32(buf, uint32(len(p)))
				buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(p, castagnoli))
				buf = append(buf, p...)
			}
			if pos+int64(len(buf)) > rawSize {
				f.Close()
				path += "0"
				if f, err = how.create(path); err != nil {
					return err
				}
				pos = 0
			}
			if _, err := f.WriteAt(buf, pos); err != nil {
				return err
			}
			pos += int64(len(buf))
			return syscall.Fdatasync(int(f.Fd()))
		}, func() error { return f.Close() }), nil
	}
}

func (how rawFile) create(path string) (*os.File, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if how != growing {
		err = syscall.Fallocate(int(f.Fd()), 0, 0, rawSize)
	}
	if err == nil && how == zeroed {
		_, err = f.WriteAt(make([]byte, rawSize), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return f, err
}

// journal is Weir's, through the interface that Ingest uses.
type journal struct {
	j      *store.Journal
	cancel context.CancelFunc
	ended  chan error
}

func openJournal(dir string) (engine, error) { return startJournal(store.Options{Dir: dir}) }

func startJournal(o store.Options) (*journal, error) {
	j, err := store.Open(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &journal{j, cancel, make(chan error, 1)}
	go func() { e.ended <- j.Run(ctx, gateway.NewHub(j, j.Next())) }()
	return e, nil
}

const topic = "plant/scale/weight"

func (e *journal) append(payload []byte) error {
	stored := answers.Get().(chan error)
	defer answers.Put(stored)
	event := &gateway.Event{Topic: topic, Payload: payload}
	if err := e.j.Append(context.Background(), event, gateway.Synced, func(err error) { stored <- err }); err != nil {
		return err
	}
	return <-stored
}

// commit has somebody wait for the last only: what is written before it is synced with it.
func (e *journal) commit(payloads [][]byte) error {
	last := len(payloads) - 1
	for _, p := range payloads[:last] {
		if err := e.j.Append(context.Background(), &gateway.Event{Topic: topic, Payload: p}, gateway.Written, nil); err != nil {
			return err
		}
	}
	return e.append(payloads[last])
}

func (e *journal) close() error {
	e.cancel()
	return errors.Join(<-e.ended, e.j.Close())
}

func badgerOptions(dir string) badger.Options {
	return badger.DefaultOptions(dir).WithLogger(nil).WithSyncWrites(true).
		WithCompression(options.None).WithMetricsEnabled(false).WithDetectConflicts(false)
}

func badgerKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func openBadger(dir string) (engine, error) {
	db, err := badger.Open(badgerOptions(dir))
	if err != nil {
		return nil, err
	}
	next := uint64(0)
	return newGroup(func(payloads [][]byte) error {
		return db.Update(func(txn *badger.Txn) error {
			for _, p := range payloads {
				next++
				if err := txn.Set(badgerKey(next), p); err != nil {
					return err
				}
			}
			return nil
		})
	}, db.Close), nil
}

func openSQLite(dir string) (engine, error) {
	db, err := sql.Open("sqlite", filepath.Join(dir, "db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("create table event (offset integer primary key, payload blob)"); err != nil {
		return nil, err
	}
	return newGroup(func(payloads [][]byte) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		insert, err := tx.Prepare("insert into event (payload) values (?)")
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, p := range payloads {
			if _, err := insert.Exec(p); err != nil {
				return err
			}
		}
		return tx.Commit()
	}, db.Close), nil
}
