package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

const (
	roomEvery  = 200 * time.Millisecond // how often a box that found the disk full looks again
	lockWait   = 10 * time.Second       // for another box to let go of the files
	closeLimit = 20 * time.Second       // a box whose gateway has gone ends after that, closed or not
)

// box is what the child process has open.
type box struct {
	dir string
	log *slog.Logger
	w   *wire

	mu        sync.RWMutex // held for writing while a database is opened another way
	state     *State
	reservoir *Reservoir
}

// ServeBox is the main of the child process: it opens state and reservoir in dir and answers what comes
// over conn, until conn ends. Its caller ends the process when it returns.
func ServeBox(dir string, conn io.ReadWriteCloser, log *slog.Logger) error {
	b := &box{dir: dir, log: log, w: newWire(conn)}
	return b.serve()
}

func (b *box) serve() error {
	err := b.open()
	if err != nil {
		return errors.Join(b.w.send(0, answerFailed, encodeError(err)), err, b.close())
	}
	if err := b.w.send(0, answerUp, nil); err != nil {
		return errors.Join(err, b.close())
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { b.watchRoom(stop) })
	for { // this waits for nothing but the gateway, so that ping is answered whatever the databases do
		call, v, body, err := b.w.receive()
		if err != nil { // the gateway has ended, or wants this to end
			break
		}
		if v == ping {
			b.w.send(call, answerUp, nil)
			continue
		}
		wg.Go(func() { b.answer(call, v, body) })
	}
	late := time.AfterFunc(closeLimit, func() {
		b.log.Error("the box does not close; it ends")
		os.Exit(1)
	})
	defer late.Stop()
	close(stop)
	wg.Wait()
	return b.close()
}

// open opens both, for reading only where the disk is full.
func (b *box) open() error {
	var err error
	dir := filepath.Join(b.dir, "state")
	b.state, err = openOrFull(dir, b.log, OpenState, openStateFull)
	if err != nil {
		return err
	}
	dir = filepath.Join(b.dir, "reservoir")
	b.reservoir, err = openOrFull(dir, b.log, OpenReservoir, openReservoirFull)
	return err
}

// openOrFull also waits for the lock: the box of a gateway that was killed needs a moment to close.
func openOrFull[T any](dir string, log *slog.Logger, open, full func(string, *slog.Logger) (T, error)) (db T, err error) {
	for end := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		db, err = open(dir, log)
		if err != nil && errors.Is(writeKind(err), gateway.ErrFull) {
			log.Error("the disk is full; the database is opened for reading only", "dir", dir, "error", err)
			db, err = full(dir, log)
		}
		if !errors.Is(err, errInUse) || time.Now().After(end) {
			return db, err
		}
	}
}

// watchRoom goes over to writing when there is room again.
func (b *box) watchRoom(stop chan struct{}) {
	ticker := time.NewTicker(roomEvery)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		if b.state.full || b.reservoir.full {
			if checkFree(filepath.Join(b.dir, "state")) == nil {
				if err := b.reopen(); err != nil { // the gateway starts another box
					b.log.Error("the box cannot go over to writing", "error", err)
					b.w.c.Close()
					return
				}
			}
		}
	}
}

func (b *box) reopen() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.close(); err != nil {
		return err
	}
	return b.open()
}

func (b *box) close() error {
	var errs []error
	if b.state != nil {
		errs = append(errs, b.state.Close())
	}
	if b.reservoir != nil {
		errs = append(errs, b.reservoir.Close())
	}
	return errors.Join(errs...)
}

func (b *box) answer(call uint64, v verb, body []byte) {
	b.mu.RLock()
	answer, err := b.do(call, v, body)
	b.mu.RUnlock()
	if err != nil {
		b.w.send(call, answerFailed, encodeError(err)) // if it fails the gateway has gone
		if errors.Is(err, gateway.ErrTransient) {      // Badger failed: another process reads its log again
			b.log.Error("a database failed; its process ends", "error", err)
			b.w.c.Close()
		}
		return
	}
	b.w.send(call, answerOK, answer)
}

func (b *box) do(call uint64, v verb, body []byte) ([]byte, error) {
	d := decoder{rest: body}
	name := d.string() // of a bucket, or of a holder
	if d.err != nil {
		return nil, d.err
	}
	switch v {
	case getValue:
		value, ok, err := b.state.Get(name, d.string())
		if !ok || err != nil {
			return nil, err
		}
		return append([]byte{1}, value...), nil
	case eachValue:
		return b.each(call, name, d.string())
	case applyChange:
		changes := map[string][]byte{}
		err := decodeValues(&d, func(key string, value []byte) error { changes[key] = value; return nil })
		if err != nil {
			return nil, err
		}
		return nil, b.state.Apply(name, changes)
	case putRecords:
		upTo := d.uvarint()
		records, err := decodeRecords(&d, d.uvarint())
		if err != nil {
			return nil, err
		}
		return nil, b.reservoir.Put(name, upTo, records)
	case readRecord:
		from, limit := d.uvarint(), d.uvarint()
		l, err := b.reservoir.Read(name, from, int(limit))
		return appendBacklog(nil, l), err
	case releaseTo:
		return nil, b.reservoir.Release(name, d.uvarint())
	case shrinkTo:
		after, maxBytes, now := d.uvarint(), d.varint(), d.varint()
		var p Policy
		if err := json.Unmarshal(d.rest, &p); err != nil {
			return nil, err
		}
		more, err := b.reservoir.Shrink(name, after, p, maxBytes, now)
		return mustJSON(more), err
	case statHolder:
		return mustJSON(b.reservoir.Stat(name)), nil
	case listHolders:
		return mustJSON(b.reservoir.Holders()), nil
	case discardHolder:
		return nil, b.reservoir.Discard(name)
	}
	return nil, gateway.Errorf(gateway.ErrInvalid, "verb %d", v)
}

func (b *box) each(call uint64, bucket, prefix string) ([]byte, error) {
	var part []byte
	err := b.state.Each(bucket, prefix, func(key string, value []byte) error {
		part = appendValue(part, key, value)
		if len(part) < wirePart {
			return nil
		}
		full := part
		part = nil
		return b.w.send(call, answerMore, full)
	})
	return part, err
}

func putBody(holder string, upTo uint64, records []Record) []byte {
	b := binary.AppendUvarint(appendString(nil, holder), upTo)
	b = binary.AppendUvarint(b, uint64(len(records)))
	for i := range records {
		b = appendRecord(b, &records[i])
	}
	return b
}
