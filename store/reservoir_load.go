package store

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

func encodeLedger(l ledger) []byte {
	b, err := json.Marshal(l)
	if err != nil {
		panic(err) // of strings and numbers
	}
	return b
}

// load reads the ledgers and the index.
func (r *Reservoir) load() error {
	numbers := map[uint32]*backlog{}
	holders := map[string]*backlog{}
	suspect := map[*backlog]bool{}
	var halves []halfPut
	counts := r.counts()
	err := r.db.View(func(txn *badger.Txn) error {
		err := each(txn, []byte{spaceHolder}, func(key, value []byte) error {
			h := &backlog{}
			if len(key) != 5 || json.Unmarshal(value, &h.ledger) != nil {
				return errors.New("a ledger is damaged")
			}
			if h.Dropped == nil {
				h.Dropped = map[string]uint64{}
			}
			h.number = binary.BigEndian.Uint32(key[1:])
			numbers[h.number], holders[h.Name] = h, h
			return nil
		})
		if err != nil {
			return err
		}
		for _, l := range counts {
			// They are noted after what they count is stored, so the database has gone back.
			if h := holders[l.Name]; h != nil && l.Mark > h.Mark {
				l.Gen = max(l.Gen, h.Gen)
				h.ledger, suspect[h] = l, true
			}
		}
		return each(txn, []byte{spaceIndex}, func(key, value []byte) error {
			h := numbers[binary.BigEndian.Uint32(key[1:])]
			if h == nil {
				return errors.New("a ledger is missing")
			}
			c, err := decodeEntry(key, value)
			switch {
			case err != nil:
				suspect[h] = true
			case c.kind == partial:
				halves = append(halves, halfPut{h.number, c})
			case c.last <= h.Done:
				h.gone = append(h.gone, c)
			default:
				h.chunks = append(h.chunks, c)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if r.full { // repairs wait until there is room
		for _, h := range holders {
			h.fits()
		}
		r.holders = holders
		return nil
	}
	if err := r.restore(holders, counts); err != nil {
		return err
	}
	out := &series{db: r.db}
	defer out.discard()
	for _, p := range halves {
		if err := deleteChunk(out, p.number, p.c); err != nil {
			return err
		}
	}
	for _, h := range holders {
		if !suspect[h] && h.fits() {
			continue
		}
		if err := r.heal(h, out); err != nil {
			return err
		}
	}
	if err := out.end(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holders = holders
	return nil
}

type halfPut struct {
	number uint32
	c      chunk
}

// each calls fn with all under a prefix. key and value are fn's only until it returns. What
// Badger cannot read it passes over without a word, which is why fits is asked afterwards.
func each(txn *badger.Txn, prefix []byte, fn func(key, value []byte) error) error {
	o := badger.DefaultIteratorOptions
	o.PrefetchValues = false
	o.Prefix = prefix
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if err := item.Value(func(value []byte) error { return fn(item.Key(), value) }); err != nil {
			return err
		}
	}
	return nil
}

// fits computes what follows from the chunks, and tells whether they are what the ledger says.
func (h *backlog) fits() bool {
	var sum int64
	h.bytes = 0
	head := uint32(0) // records of a chunk of which some are released
	whole := true
	for i, c := range h.chunks {
		if c.kind != stored {
			continue
		}
		if c.first <= h.Done {
			head = c.count
		}
		whole = whole && (i == 0 || c.first > h.chunks[i-1].last || h.chunks[i-1].kind == lost)
		sum += int64(c.count)
		h.bytes += int64(c.size)
	}
	skip := sum - h.stored()
	h.skip = uint32(max(skip, 0))
	return whole && skip >= 0 && (skip == 0 || skip < int64(head))
}

// heal makes index and ledger fit what can still be read: entries that are missing are made again
// from the chunks, of chunks that overlap (one was deleted, and damage took the mark that said so) the newer
// stays, and what is missing becomes a lost entry.
func (r *Reservoir) heal(h *backlog, out *series) error {
	known := map[uint64]bool{}
	for _, c := range h.chunks {
		known[c.first] = known[c.first] || c.kind == stored
	}
	err := r.db.View(func(txn *badger.Txn) error {
		prefix := chunkKey(h.number, 0, 0)[:5]
		return each(txn, prefix, func(key, _ []byte) error {
			first := binary.BigEndian.Uint64(key[5:])
			if known[first] || binary.BigEndian.Uint32(key[13:]) != 0 {
				return nil
			}
			c, err := readChunk(txn, h.number, first)
			if err != nil { // it is counted below
				return nil
			}
			if c.last <= h.Done {
				h.gone = append(h.gone, c)
				return nil
			}
			h.chunks = append(h.chunks, c)
			return out.Set(indexKey(h.number, c), c.encode())
		})
	})
	if err != nil {
		return err
	}
	slices.SortFunc(h.chunks, func(a, b chunk) int {
		return cmp.Or(cmp.Compare(a.first, b.first), -cmp.Compare(a.kind, b.kind))
	})
	var left []chunk
	for _, c := range h.chunks {
		if n := len(left) - 1; n >= 0 && c.kind == stored && left[n].kind == stored && left[n].last >= c.first {
			old := c
			if c.gen > left[n].gen {
				old, left = left[n], append(left[:n], c)
			}
			if err := deleteChunk(out, h.number, old); err != nil {
				return err
			}
			continue
		}
		left = append(left, c)
	}
	h.chunks = left
	var sum int64
	for _, c := range left {
		if c.kind == stored {
			sum += int64(c.count)
		}
	}
	if len(left) > 0 && left[0].kind == stored && left[0].first <= h.Done {
		head, _ := r.upTo(h, left[0], h.Done) // it could be read just now, or is found by who reads it
		sum -= int64(head)
	}
	missing := h.stored() - sum
	switch {
	case missing > 0:
		h.Dropped[DroppedDamaged] += uint64(missing)
		c := chunk{kind: lost, count: uint32(missing), first: h.Done + 1, last: h.Done + 1, to: h.Mark}
		for len(h.chunks) > 0 && h.chunks[0].kind == lost && h.chunks[0].first == c.first { // one key, one entry
			c.count, c.to = c.count+h.chunks[0].count, max(c.to, h.chunks[0].to)
			h.chunks = h.chunks[1:]
		}
		h.chunks = slices.Insert(h.chunks, 0, c)
		if err := out.Set(indexKey(h.number, c), c.encode()); err != nil {
			return err
		}
	case missing < 0: // dropped, and damage took the mark that said so
		h.Put += uint64(-missing)
	}
	if missing != 0 {
		r.log.Error("damage in the reservoir", "holder", h.Name, "lost", max(missing, 0), "left", sum)
	}
	h.fits()
	return out.Set(holderKey(h.number), encodeLedger(h.ledger))
}

// readChunk makes the entry of a chunk from the chunk.
func readChunk(txn *badger.Txn, number uint32, first uint64) (chunk, error) {
	c := chunk{first: first}
	var data []byte
	for n := 0; ; n++ {
		item, err := txn.Get(chunkKey(number, first, n))
		if err == badger.ErrKeyNotFound && n > 0 {
			break
		}
		if err == nil {
			err = item.Value(func(b []byte) error { data = append(data, b...); return nil })
		}
		if err != nil {
			return c, err
		}
	}
	err := decodeChunk(number, first, data, func(r *Record) bool {
		if c.count == 0 {
			c.firstAge = r.Age
		}
		c.count++
		c.last, c.lastAge = r.Offset, r.Age
		return true
	})
	if err != nil {
		return c, err
	}
	c.size, c.gen = uint32(len(data)), binary.LittleEndian.Uint64(data[4:])
	return c, nil
}

// The counts are a note beside the database, for when it has to be set aside: who had how many
// records in it. It is not synced; what a power cut leaves of it may be nothing.
func (r *Reservoir) countsPath() string { return r.dir + ".counts" }

func (r *Reservoir) noteCounts() {
	all := []ledger{}
	for _, h := range r.holders {
		all = append(all, h.ledger)
	}
	b, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(r.countsPath()+".tmp", append(b, '\n'), 0o640)
	}
	if err == nil {
		err = os.Rename(r.countsPath()+".tmp", r.countsPath())
	}
	if err != nil { // it is only a note
		r.log.Warn("the counts of the reservoir cannot be noted", "error", err)
	}
}

// counts reads the note.
func (r *Reservoir) counts() (all []ledger) {
	b, err := os.ReadFile(r.countsPath())
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.log.Warn("the counts of the reservoir cannot be read", "error", err)
		return nil
	}
	for i := range all {
		if all[i].Dropped == nil {
			all[i].Dropped = map[string]uint64{}
		}
	}
	return all
}

// restore makes, in a fresh database, a ledger for everybody that the counts name: what they had is lost.
func (r *Reservoir) restore(holders map[string]*backlog, counts []ledger) error {
	if aside, _ := filepath.Glob(r.dir + ".damaged-[0-9]*"); len(holders) == 0 && len(counts) == 0 && len(aside) > 0 {
		r.log.Error("a damaged reservoir was set aside, and how much was in it is not known")
	}
	var missing []ledger
	for _, l := range counts {
		if holders[l.Name] == nil {
			missing = append(missing, l)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if len(holders) > 0 {
		return fmt.Errorf("ledgers are missing: %d", len(missing))
	}
	err := r.db.View(func(txn *badger.Txn) error { // chunks without a ledger: set it aside
		return each(txn, nil, func([]byte, []byte) error { return errors.New("all ledgers are missing") })
	})
	if err != nil {
		return err
	}
	out := &series{db: r.db}
	defer out.discard()
	for _, l := range missing {
		h := &backlog{ledger: l, number: uint32(len(holders))}
		holders[l.Name] = h
		if err := r.heal(h, out); err != nil {
			return err
		}
	}
	return out.end()
}
