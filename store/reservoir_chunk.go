package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A chunk is many records under one key, so that Badger has a thirtieth of the keys. Its key is
// (holder, first offset). Its bytes are
//
//	CRC-32C of the rest and of the key · generation (8) · records
//
// and each record is: offset, less the one before · age, less the one before · key (8) · length of the
// epoch, or sameEpoch · epoch · length of the body · body. All else that a reader needs is in the chunk's entry in
// the index, which is stored apart, so that opening reads the entries and no records.
const (
	chunkHead = 12
	sameEpoch = 0xff
	maxEpoch  = 8
)

// kind says what an entry of the index stands for.
type kind byte

const (
	stored  kind = iota
	partial      // a large record, of which not every piece was written yet
	lost         // what damage took; no bytes
)

// chunk is an entry of the index.
type chunk struct {
	kind              kind
	count, size       uint32 // records, and bytes of the chunk
	first, last       uint64 // offsets
	to                uint64 // of what is lost: the range ends before it
	firstAge, lastAge int64
	gen               uint64 // of two that overlap the one with the higher is true
}

func (c chunk) pieces() int { return int(c.size+pieceSize-1) / pieceSize }

// Keys. A chunk's pieces follow each other; entries lie together, apart from the chunks.
const (
	spaceHolder = 'h'
	spaceIndex  = 'm'
	spaceChunk  = 'c'
)

func holderKey(number uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{spaceHolder}, number)
}

func indexKey(number uint32, c chunk) []byte {
	k := binary.BigEndian.AppendUint32([]byte{spaceIndex}, number)
	k = binary.BigEndian.AppendUint64(k, c.first)
	if c.kind == lost {
		return append(k, 0)
	}
	return append(k, 1)
}

func chunkKey(number uint32, first uint64, piece int) []byte {
	k := binary.BigEndian.AppendUint32([]byte{spaceChunk}, number)
	k = binary.BigEndian.AppendUint64(k, first)
	return binary.BigEndian.AppendUint32(k, uint32(piece))
}

func (c chunk) encode() []byte {
	b := []byte{byte(c.kind)}
	for _, n := range []uint64{uint64(c.count), uint64(c.size), c.last - c.first, c.to, c.gen} {
		b = binary.AppendUvarint(b, n)
	}
	b = binary.AppendVarint(b, c.firstAge)
	return binary.AppendVarint(b, c.lastAge)
}

func decodeEntry(key, value []byte) (c chunk, err error) {
	d := decoder{rest: value}
	c.kind = kind(d.byte())
	c.count, c.size = uint32(d.uvarint()), uint32(d.uvarint())
	if len(key) != 14 {
		return c, errDamagedValue
	}
	c.first = binary.BigEndian.Uint64(key[5:])
	c.last = c.first + d.uvarint()
	c.to, c.gen = d.uvarint(), d.uvarint()
	c.firstAge, c.lastAge = d.varint(), d.varint()
	if d.err != nil || c.last < c.first || c.kind > lost {
		return c, errDamagedValue
	}
	return c, nil
}

// packer puts records together to a chunk.
type packer struct {
	chunk
	data  []byte
	epoch string
}

func (p *packer) empty() bool { return p.count == 0 }

// add appends a record if the chunk then is at most pieceSize long, or if it is the first.
func (p *packer) add(r *Record) bool {
	before := len(p.data)
	if before == 0 {
		p.data = make([]byte, chunkHead, pieceSize)
		p.chunk = chunk{first: r.Offset, firstAge: r.Age}
	}
	b := binary.AppendUvarint(p.data, r.Offset-p.last)
	b = binary.AppendVarint(b, r.Age-p.lastAge)
	b = binary.LittleEndian.AppendUint64(b, r.Key)
	if before > 0 && r.Epoch == p.epoch {
		b = append(b, sameEpoch)
	} else {
		b = append(b, byte(len(r.Epoch)))
		b = append(b, r.Epoch...)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Body)))
	if before > 0 && len(b)+len(r.Body) > pieceSize {
		p.data = p.data[:before]
		return false
	}
	p.data = append(b, r.Body...)
	p.last, p.lastAge, p.epoch = r.Offset, r.Age, r.Epoch
	p.count++
	return true
}

// seal ends the chunk.
func (p *packer) seal(number uint32, gen uint64) {
	p.gen, p.size = gen, uint32(len(p.data))
	binary.LittleEndian.PutUint64(p.data[4:], gen)
	binary.LittleEndian.PutUint32(p.data, chunkSum(number, p.first, p.data))
}

func chunkSum(number uint32, first uint64, data []byte) uint32 {
	return crc32.Update(crc32.Checksum(chunkKey(number, first, 0), castagnoli), castagnoli, data[4:])
}

var errDamagedChunk = errors.New("the chunk is not what was written")

// decodeChunk calls fn with every record, until it returns false. Record and Body are fn's only until
// it returns.
func decodeChunk(number uint32, first uint64, data []byte, fn func(*Record) bool) error {
	if len(data) < chunkHead || binary.LittleEndian.Uint32(data) != chunkSum(number, first, data) {
		return errDamagedChunk
	}
	d := decoder{rest: data[chunkHead:]}
	var r Record
	for len(d.rest) > 0 {
		r.Offset += d.uvarint()
		r.Age += d.varint()
		if key := d.take(8); d.err == nil {
			r.Key = binary.LittleEndian.Uint64(key)
		}
		if n := d.byte(); n != sameEpoch {
			r.Epoch = string(d.take(int(n)))
		}
		r.Body = d.bytes()
		if d.err != nil {
			return errors.Join(errDamagedChunk, d.err)
		}
		if !fn(&r) {
			return nil
		}
	}
	return nil
}

// resume is a packer that goes on with a chunk.
func resume(number uint32, c chunk, data []byte) (*packer, error) {
	p := &packer{chunk: c, data: data}
	err := decodeChunk(number, c.first, data, func(r *Record) bool { p.epoch = r.Epoch; return true })
	return p, err
}

func (d *decoder) take(n int) []byte {
	if n > len(d.rest) {
		d.fail()
		return nil
	}
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}
