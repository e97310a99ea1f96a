package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/weir-iot/weir/gateway"
)

// A segment file begins with a header, written twice so that one bad sector does not
// cost the whole file, and continues with frames without a space between them. What is
// pre-allocated and not written yet is zeros.
//
//	 0  "WEIRSEG1"
//	 8  u32  format version
//	12  u32  length of the header
//	16  8    epoch
//	24  u64  first offset
//	32  8    salt
//	40  u32  CRC-32C of bytes 0 to 39
const (
	segMagic      = "WEIRSEG1"
	segVersion    = 1
	segHeaderLen  = 44
	segHeaderCopy = 512  // where the second copy is
	segData       = 1024 // where frames begin
	segSuffix     = ".seg"
	indexSuffix   = ".idx"
	epochNameLen  = 8
)

type segHeader struct {
	epoch string
	first uint64
	salt  salt
}

func (h segHeader) encode() []byte {
	one := make([]byte, segHeaderLen)
	copy(one, segMagic)
	binary.LittleEndian.PutUint32(one[8:], segVersion)
	binary.LittleEndian.PutUint32(one[12:], segHeaderLen)
	copy(one[16:24], h.epoch)
	binary.LittleEndian.PutUint64(one[24:], h.first)
	copy(one[32:40], h.salt[:])
	binary.LittleEndian.PutUint32(one[40:], crc32.Checksum(one[:40], castagnoli))
	b := make([]byte, segData)
	copy(b, one)
	copy(b[segHeaderCopy:], one)
	return b
}

var errSegHeader = errors.New("no valid segment header")

// readSegHeader reads whichever copy is whole.
func readSegHeader(f File, first uint64) (segHeader, error) {
	buf := readAround(f, make([]byte, segData), 0)
	for _, at := range []int{0, segHeaderCopy} {
		if len(buf) < at+segHeaderLen {
			break
		}
		b := buf[at : at+segHeaderLen]
		if string(b[:8]) != segMagic || binary.LittleEndian.Uint32(b[40:]) != crc32.Checksum(b[:40], castagnoli) {
			continue
		}
		if v := binary.LittleEndian.Uint32(b[8:]); v != segVersion {
			return segHeader{}, newerFormat("segment", v)
		}
		h := segHeader{epoch: string(b[16:24]), first: binary.LittleEndian.Uint64(b[24:]), salt: salt(b[32:40])}
		if h.first != first {
			break // the file was renamed: its offsets are another place's
		}
		return h, nil
	}
	return segHeader{}, errSegHeader
}

// segment is one file of the journal. All but the last are sealed: they are cut to their
// data, never change, and have an index.
type segment struct {
	first uint64 // the first offset it may hold; its name
	path  string

	end    atomic.Int64 // bytes readers may look at
	index  atomic.Pointer[index]
	sealed atomic.Bool
	oldest atomic.Int64 // the age of the first entry, of the one that is being written; -1: there is none
	load   sync.Mutex   // one loads the header or the index, the others wait
	header atomic.Pointer[segHeader]

	// Of the one that is being written; the writer appends, readers look a place up.
	mu     sync.Mutex
	places []place
}

// place says where the frame of an offset begins.
type place struct {
	offset uint64
	pos    int64
}

// placeEvery is the distance between the places an index remembers, in bytes.
const placeEvery = 64 << 10

func segPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", first, segSuffix))
}

func (s *segment) indexPath() string { return s.path[:len(s.path)-len(segSuffix)] + indexSuffix }

// active is the segment that is being written. Only the writer uses it.
type active struct {
	*segment
	f     File
	size  int64 // allocated
	pos   int64 // where the next frame goes
	seed  uint32
	build *indexBuilder
}

// createSegment makes the segment that begins at first, durable with its name and header,
// with room for size bytes, or less if the disk has less left, but for need at least.
func (j *Journal) createSegment(epoch string, first uint64, size, need int64) (_ *active, err error) {
	h := segHeader{epoch: epoch, first: first}
	rand.Read(h.salt[:])
	s := &segment{first: first, path: segPath(j.o.Dir, first)}
	s.oldest.Store(-1)
	s.end.Store(segData)
	s.header.Store(&h)

	if free, total, err := j.disk.Space(j.o.Dir); err == nil {
		keep := j.o.MinFree.of(total)
		for size > need && free-size < keep {
			size = max(need, size/2)
		}
		if free-size < keep {
			j.room.ask()
			return nil, gateway.Errorf(gateway.ErrFull, "new segment: %d bytes are free on the disk and journal.min_free keeps %d", free, keep)
		}
	}
	f, err := j.disk.Open(s.path, true)
	if err != nil {
		return nil, gateway.Errorf(writeKind(err), "new segment: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			j.disk.Remove(s.path)
			err = gateway.Errorf(writeKind(err), "new segment: %w", err)
		}
	}()
	if err := f.Allocate(size); err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := j.disk.SyncDir(j.o.Dir); err != nil {
		return nil, err
	}
	return &active{segment: s, f: f, size: size, pos: segData, seed: h.salt.seed(), build: newIndexBuilder()}, nil
}

// seal cuts a to its data and publishes its index. next is the first offset behind it. The
// index file is not synced: it has a sum and is made again when it is not whole.
func (j *Journal) seal(a *active, next uint64) {
	if a.size > a.pos {
		if err := a.f.Truncate(a.pos); err != nil {
			j.log.Warn("cannot give back the unused end of a segment", "path", a.path, "error", err)
		}
	}
	x := a.build.finish(next, a.pos)
	a.index.Store(x)
	a.sealed.Store(true)
	if err := j.writeIndex(a.segment, x); err != nil {
		j.log.Warn("cannot write the index of a segment; it will be made again when needed", "path", a.path, "error", err)
	}
	if err := a.f.Close(); err != nil {
		j.log.Warn("cannot close a segment", "path", a.path, "error", err)
	}
}
