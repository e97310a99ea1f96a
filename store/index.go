package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"os"
	"sort"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// index says what a sealed segment holds, so that a reader who wants other topics
// passes it without reading it.
type index struct {
	next   uint64        // the first offset behind the segment
	end    int64         // bytes of the segment; more or less than that in the file is damage
	events uint64        // Data entries
	any    bool          // more topics than the index has room for: it may hold any
	age    time.Duration // of the last entry
	topics []topicEntry
	places []place
	memory int // bytes, about
}

type topicEntry struct {
	topic       string
	count       uint64
	first, last uint64
}

// What an index remembers at most.
const (
	indexTopics = 4096
	indexBytes  = 256 << 10
	indexMagic  = "WEIRIDX1"
)

// span is where matching events can be: first <= offset <= last, and how many there are. If the index
// does not know, exact is false.
func (x *index) span(want gateway.Matcher) (first, last, count uint64, exact bool) {
	if x.any {
		return 0, math.MaxUint64, 0, false
	}
	first = math.MaxUint64
	for i := range x.topics {
		t := &x.topics[i]
		if want.Match(t.topic) {
			first, last, count = min(first, t.first), max(last, t.last), count+t.count
		}
	}
	return first, last, count, true
}

// lookup is the last place not after offset.
func lookup(places []place, offset uint64) int64 {
	i := sort.Search(len(places), func(i int) bool { return places[i].offset > offset })
	if i == 0 {
		return segData
	}
	return places[i-1].pos
}

// indexBuilder gathers the index of a segment frame by frame.
type indexBuilder struct {
	topics map[string]*topicEntry
	events uint64
	age    time.Duration
	bytes  int
	any    bool
	places []place
}

func newIndexBuilder() *indexBuilder {
	return &indexBuilder{topics: make(map[string]*topicEntry)}
}

// add notes a frame; it returns true if its place is one to remember.
func (b *indexBuilder) add(kind gateway.Kind, topic string, age time.Duration, offset uint64, pos int64) bool {
	b.age = max(b.age, age)
	if kind == gateway.Data {
		b.events++
		b.addTopic(topic, offset)
	}
	if n := len(b.places); n > 0 && pos-b.places[n-1].pos < placeEvery {
		return false
	}
	b.places = append(b.places, place{offset, pos})
	return true
}

func (b *indexBuilder) addTopic(topic string, offset uint64) {
	if b.any {
		return
	}
	if t := b.topics[topic]; t != nil {
		t.count++
		t.last = offset
		return
	}
	if b.bytes += len(topic) + 48; len(b.topics) >= indexTopics || b.bytes > indexBytes {
		b.forget()
		return
	}
	b.topics[topic] = &topicEntry{topic, 1, offset, offset}
}

// forget makes the index say "may hold any": because there are too many topics, or because
// some of the frames it is made from cannot be read.
func (b *indexBuilder) forget() { b.any, b.topics = true, nil }

func (b *indexBuilder) finish(next uint64, end int64) *index {
	x := &index{next: next, end: end, events: b.events, any: b.any, age: b.age, places: b.places}
	for _, t := range b.topics {
		x.topics = append(x.topics, *t)
	}
	sort.Slice(x.topics, func(i, k int) bool { return x.topics[i].topic < x.topics[k].topic })
	x.memory = b.bytes + 16*len(b.places) + 256
	return x
}

func (x *index) encode(h *segHeader) []byte {
	b := make([]byte, 16, 16+x.memory)
	copy(b, indexMagic)
	b = append(b, h.salt[:]...) // of the segment it was made from, and of no other
	b = binary.AppendUvarint(b, x.next)
	b = binary.AppendUvarint(b, uint64(x.end))
	b = binary.AppendUvarint(b, x.events)
	b = binary.AppendUvarint(b, uint64(x.age))
	b = append(b, flag(x.any))
	b = binary.AppendUvarint(b, uint64(len(x.topics)))
	for _, t := range x.topics {
		b = appendString(b, t.topic)
		b = binary.AppendUvarint(b, t.count)
		b = binary.AppendUvarint(b, t.first)
		b = binary.AppendUvarint(b, t.last)
	}
	b = binary.AppendUvarint(b, uint64(len(x.places)))
	for _, p := range x.places {
		b = binary.AppendUvarint(b, p.offset)
		b = binary.AppendUvarint(b, uint64(p.pos))
	}
	binary.LittleEndian.PutUint32(b[8:], 1)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	return b
}

var errIndex = errors.New("not a valid index")

func decodeIndex(b []byte, h *segHeader) (*index, error) {
	if len(b) < 24 || string(b[:8]) != indexMagic || binary.LittleEndian.Uint32(b[8:]) != 1 ||
		binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(b[16:], castagnoli) || salt(b[16:24]) != h.salt {
		return nil, errIndex
	}
	d := decoder{rest: b[24:]}
	x := &index{next: d.uvarint(), end: int64(d.uvarint()), events: d.uvarint(), age: time.Duration(d.uvarint()), any: d.byte() == 1}
	for range min(d.uvarint(), indexTopics) {
		t := topicEntry{d.string(), d.uvarint(), d.uvarint(), d.uvarint()}
		x.topics = append(x.topics, t)
		x.memory += len(t.topic) + 48
	}
	for range min(d.uvarint(), uint64(len(d.rest))) {
		x.places = append(x.places, place{d.uvarint(), int64(d.uvarint())})
	}
	x.memory += 16*len(x.places) + 256
	if d.err != nil || len(d.rest) != 0 {
		return nil, errIndex
	}
	return x, nil
}

func (j *Journal) writeIndex(s *segment, x *index) error {
	path := s.indexPath()
	if err := j.disk.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := j.disk.Open(path, true)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(x.encode(s.header.Load()), 0)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		j.disk.Remove(path)
	}
	return err
}

func (j *Journal) readIndex(s *segment) (*index, error) {
	f, err := j.disk.Open(s.indexPath(), false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > 16<<20 {
		return nil, errIndex
	}
	return decodeIndex(readAround(f, make([]byte, size), 0), s.header.Load())
}
