package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// tail is what recovery found at the end of the last segment.
type tail struct {
	seg    *segment
	f      File
	size   int64 // of the file
	end    int64 // of the last intact frame
	used   int64 // of what is not zero; more than end: torn
	next   uint64
	last   uint64 // 0 if there is no frame
	frames int
	age    time.Duration // of the last entry
	build  *indexBuilder
	// broken off: what is torn is the beginning of one frame and zeros behind, as a
	// process leaves it that is killed inside write(2). It was never released.
	brokenOff bool
}

// recover finds the end of the journal and decides in which epoch it goes on.
func (j *Journal) recover() error {
	start := time.Now()
	var err error
	var t *table
	if j.tables, t, err = openTable(j.disk, j.o.Dir); err != nil {
		return err
	}
	segs, err := j.listSegments()
	if err != nil {
		return err
	}
	boot, machine := j.o.BootID(), j.o.MachineID()
	sameBoot := t != nil && boot != "" && boot == t.boot
	sameMachine := t != nil && machine == t.machine && t.inode == j.tables.inode
	rec := gateway.Recovery{LastEnd: lastEnd(t, len(segs) == 0, sameMachine, sameBoot)}
	lost := false // entries that somebody saw may be gone
	switch {
	case t == nil && len(segs) == 0:
		t = &table{reserve: 1}
		rec.NewEpoch = "the journal is new"
	case t == nil:
		if t, err = j.rebuildTable(segs); err != nil {
			return err
		}
		rec.NewEpoch, lost = "the table of epochs was lost", true
	case !sameMachine:
		rec.NewEpoch, lost = "the journal was copied, restored or moved", t.clean == 0
	case t.clean == 0 && !sameBoot:
		rec.NewEpoch, lost = "the machine stopped without notice", true
	}

	tl, segs, err := j.findTail(segs, t, &rec)
	if err != nil {
		return err
	}
	if tl != nil {
		defer func() {
			if j.act == nil || j.act.f != tl.f {
				tl.f.Close()
			}
		}()
	}
	next, last, err := j.checkTail(t, tl, &rec, sameBoot, &lost)
	if err != nil {
		return err
	}

	// Decide, and make that durable before a byte of the tail is changed: a crash in
	// between must not find the cut tail intact and go on in the old epoch.
	if rec.NewEpoch != "" {
		t.begin(last, lost)
		t.reserve += reserveStep
		next = t.current().first
	}
	lastAge := time.Duration(0)
	if tl != nil {
		lastAge = tl.age
	}
	j.age = newAge(j.o.Clock, t.age, sameBoot, lastAge)
	t.boot, t.machine, t.clean, t.suspect, t.age = boot, machine, 0, false, j.age.mark()
	if j.tables == nil {
		if j.tables, err = createTable(j.disk, j.o.Dir, t); err != nil {
			return err
		}
	}
	if err := j.tables.save(t); err != nil {
		return err
	}
	j.table, j.epoch, j.last = t, t.current().name, last
	if segs, err = j.settleTail(tl, segs, last+1); err != nil {
		return err
	}

	for _, s := range segs {
		if info, err := os.Stat(s.path); err == nil && (j.act == nil || s != j.act.segment) {
			j.size.Add(info.Size())
		}
	}
	if j.act != nil {
		j.size.Add(j.act.pos)
	}
	j.segs.Store(&segs)
	j.next.Store(next)
	j.visible.Store(next)
	j.synced.Store(next)
	rec.Epoch, rec.Took = j.epoch, time.Since(start)
	if tl != nil {
		rec.Events = tl.frames
	}
	j.log.Info("journal opened", "epoch", rec.Epoch, "next", next, "segments", len(segs), "bytes", j.size.Load(), "last_end", rec.LastEnd, "took", rec.Took)
	if rec.NewEpoch != "" {
		j.log.Info("a new epoch begins", "epoch", rec.Epoch, "reason", rec.NewEpoch)
	}
	if rec.Cut > 0 {
		j.log.Warn("the end of the journal was torn and is set aside", "bytes", rec.Cut)
	}
	j.o.Observer.Recovered(rec)
	return nil
}

// lastEnd says how the run ended that left t.
func lastEnd(t *table, empty, sameMachine, sameBoot bool) string {
	switch {
	case t == nil && empty:
		return gateway.EndNone
	case t == nil:
		return gateway.EndUnknown
	case t.clean != 0:
		return gateway.EndClean
	case !sameMachine:
		return gateway.EndUnknown
	case sameBoot:
		return gateway.EndKilled
	}
	return gateway.EndPower
}

// listSegments returns the segments in order. It opens none.
func (j *Journal) listSegments() ([]*segment, error) {
	names, err := os.ReadDir(j.o.Dir)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for _, n := range names {
		stem, ok := strings.CutSuffix(n.Name(), segSuffix)
		if !ok || len(stem) != 20 {
			continue
		}
		first, err := strconv.ParseUint(stem, 10, 64)
		if err != nil || first == 0 || first > gateway.MaxOffset {
			continue
		}
		s := &segment{first: first, path: filepath.Join(j.o.Dir, n.Name())}
		s.sealed.Store(true)
		segs = append(segs, s)
	}
	sort.Slice(segs, func(i, k int) bool { return segs[i].first < segs[k].first })
	return segs, nil
}

// rebuildTable makes a table from what the segments say. Offsets go on far behind
// the last segment, because nobody knows any more how many were given out.
func (j *Journal) rebuildTable(segs []*segment) (*table, error) {
	t := &table{}
	for _, s := range segs {
		f, err := j.disk.Open(s.path, false)
		if err != nil {
			return nil, err
		}
		h, err := readSegHeader(f, s.first)
		f.Close()
		if newer := (*formatError)(nil); errors.As(err, &newer) {
			return nil, err
		}
		if err != nil || (len(t.epochs) > 0 && t.current().name == h.epoch) {
			continue
		}
		if n := len(t.epochs); n > 0 {
			t.epochs[n-1].last = h.first - 1
		}
		t.epochs = append(t.epochs, epoch{name: h.epoch, first: h.first, last: open})
	}
	if len(t.epochs) > maxEpochs {
		t.epochs = t.epochs[len(t.epochs)-maxEpochs:]
	}
	t.reserve = segs[len(segs)-1].first + reserveGuess
	return t, nil
}

// findTail scans the last segment. One that was never finished is removed: its
// header is synced before its first frame. If there is a last segment but its
// header cannot be read, it is set aside.
func (j *Journal) findTail(segs []*segment, t *table, rec *gateway.Recovery) (*tail, []*segment, error) {
	for len(segs) > 0 {
		s := segs[len(segs)-1]
		f, err := j.disk.Open(s.path, false)
		if err != nil {
			return nil, nil, err
		}
		size, err := f.Size()
		if err != nil {
			f.Close()
			return nil, nil, err
		}
		h, err := readSegHeader(f, s.first)
		if err == nil {
			s.header.Store(&h)
			return scanTail(s, f, size, h), segs, nil
		}
		if newer := (*formatError)(nil); errors.As(err, &newer) {
			f.Close()
			return nil, nil, err
		}
		used := lastUsed(f, min(segData, size), size)
		f.Close()
		if used <= segData {
			j.log.Info("removing a segment that was never finished", "path", s.path)
			err = j.disk.Remove(s.path)
		} else {
			j.log.Warn("setting a segment aside whose header cannot be read", "path", s.path)
			rec.Cut += used
			if rec.NewEpoch == "" {
				rec.NewEpoch = "the header of the last segment was damaged"
			}
			// The old reserve is above all that was in it.
			err = j.disk.Rename(s.path, j.tornPath(s.first))
		}
		if err != nil {
			return nil, nil, err
		}
		segs = segs[:len(segs)-1]
	}
	return nil, segs, nil
}

func scanTail(s *segment, f File, size int64, h segHeader) *tail {
	s.oldest.Store(-1)
	tl := &tail{seg: s, f: f, size: size, next: s.first, build: newIndexBuilder()}
	sc := newScanner(f, h.salt.seed(), segData, size)
	sc.min = s.first
	for {
		fr, ok := sc.next()
		if !ok {
			break
		}
		if fr.skip {
			tl.build.forget()
		}
		topic, _ := bodyTopic(fr.body)
		age := bodyAge(fr.body)
		if tl.frames == 0 {
			s.oldest.Store(int64(age))
		}
		tl.build.add(fr.kind, string(topic), age, fr.offset, fr.pos)
		tl.frames++
		tl.age = max(tl.age, age)
		tl.last, tl.next = fr.offset, fr.offset+1
	}
	tl.end = sc.done
	tl.used = max(tl.end, lastUsed(f, tl.end, size))
	if tl.used > tl.end {
		tl.build.forget()
		frame := int64(frameHeader)
		if h, ok := sc.header(tl.end); ok {
			frame = h.size // its endMark was not written
		}
		tl.brokenOff = tl.used < tl.end+frame && tl.size >= tl.end+frame
	}
	return tl
}

// checkTail decides what the tail says about the epoch, and syncs what will be served. It
// returns the next offset, if the epoch goes on, and the last that survived.
func (j *Journal) checkTail(t *table, tl *tail, rec *gateway.Recovery, sameBoot bool, lost *bool) (next, last uint64, err error) {
	renew := func(reason string) {
		*lost = true
		if rec.NewEpoch == "" {
			rec.NewEpoch = reason
		}
	}
	if rec.Cut > 0 {
		*lost = true
	}
	if tl != nil {
		rec.Cut += tl.used - tl.end
	}
	next, last = 1, 0
	if len(t.epochs) > 0 {
		next, last = t.current().first, t.current().first-1
	}
	ours := tl != nil && len(t.epochs) > 0 && tl.seg.header.Load().epoch == t.current().name
	if tl != nil && !ours && tl.next > next {
		// The segments know more than the table does.
		renew("the table of epochs is older than the segments")
		t.reserve = max(t.reserve, tl.next+reserveGuess)
		last = tl.next - 1
	}
	if ours {
		next, last = tl.next, max(tl.last, tl.seg.first-1)
		if t.clean != 0 && last < t.last {
			renew("entries from before the last stop are missing")
		}
		next = max(next, t.clean)
		if next > t.reserve {
			renew("the table of epochs is older than the segments")
			t.reserve = next + reserveGuess
		}
		if tl.used > tl.end {
			if sameBoot && t.clean == 0 && tl.brokenOff {
				next++ // its offset: written in part, so not used again
			} else {
				renew("the end of the journal was torn")
			}
		}
		if t.suspect {
			// A sync had failed: the kernel may hold as clean what is not on disk. Write
			// it again, so that the sync below is one of these very bytes.
			if err := rewrite(tl.f, tl.end); err != nil {
				return 0, 0, fmt.Errorf("write the tail again: %w", err)
			}
		}
		if t.clean == 0 {
			if err := tl.f.Sync(); err != nil {
				return 0, 0, fmt.Errorf("sync the tail: %w", err)
			}
		}
	}
	return next, last, nil
}

func rewrite(f File, end int64) error {
	buf := make([]byte, 256<<10)
	for pos := int64(0); pos < end; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-pos)], pos)
		if n == 0 {
			return err
		}
		if _, err := f.WriteAt(buf[:n], pos); err != nil {
			return err
		}
		pos += int64(n)
	}
	return nil
}

// settleTail sets aside what is torn, and makes the last segment the active one again if
// its epoch goes on, or seals it. next is the offset behind the last that survived.
func (j *Journal) settleTail(tl *tail, segs []*segment, next uint64) ([]*segment, error) {
	if tl == nil {
		return segs, nil
	}
	goesOn := tl.seg.header.Load().epoch == j.epoch
	if tl.used > tl.end {
		j.setAside(tl, next)
	}
	if tl.frames == 0 && !goesOn {
		if err := j.disk.Remove(tl.seg.path); err != nil {
			return nil, err
		}
		return segs[:len(segs)-1], nil
	}
	if tl.size > tl.end && (!goesOn || tl.used > tl.end) {
		if err := tl.f.Truncate(tl.end); err != nil {
			return nil, err
		}
		if err := tl.f.Sync(); err != nil {
			return nil, err
		}
		tl.size = tl.end
	}
	if !goesOn {
		if _, err := j.readIndex(tl.seg); err != nil {
			if err := j.writeIndex(tl.seg, tl.build.finish(tl.next, tl.end)); err != nil {
				j.log.Warn("cannot write the index of a segment; it will be made again when needed", "path", tl.seg.path, "error", err)
			}
		}
		return segs, nil
	}
	tl.seg.sealed.Store(false)
	tl.seg.end.Store(tl.end)
	tl.seg.places = tl.build.places
	a := &active{segment: tl.seg, f: tl.f, size: tl.size, pos: tl.end, seed: tl.seg.header.Load().salt.seed(), build: tl.build}
	if size := j.o.SegmentSize; a.size < size {
		if err := a.f.Allocate(size); err == nil {
			a.size = size
		} // else it is full where it ends
	}
	j.act = a
	return segs, nil
}

// maxTorn bounds how many pieces that were set aside are kept.
const maxTorn = 8

func (j *Journal) tornPath(first uint64) string {
	for n := 0; ; n++ {
		path := filepath.Join(j.o.Dir, fmt.Sprintf("torn-%020d-%d", first, n))
		if _, err := os.Stat(path); err != nil {
			return path
		}
	}
}

// setAside keeps the torn bytes of the tail for whoever wants to look. That it cannot, on a
// full disk say, must not keep the journal from starting.
func (j *Journal) setAside(tl *tail, next uint64) {
	buf := readAround(tl.f, make([]byte, tl.used-tl.end), tl.end)
	path := j.tornPath(next)
	f, err := j.disk.Open(path, true)
	if err == nil {
		_, err = f.WriteAt(buf, 0)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		j.log.Warn("cannot set the torn end of the journal aside", "path", path, "error", err)
	}
	torn, err := filepath.Glob(filepath.Join(j.o.Dir, "torn-*")) // sorted: offsets are padded
	if err != nil || len(torn) <= maxTorn {
		return
	}
	for _, path := range torn[:len(torn)-maxTorn] {
		if err := j.disk.Remove(path); err != nil {
			j.log.Warn("cannot remove an old torn end", "path", path, "error", err)
		}
	}
}
