package store

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// A frame is one entry in a segment. All numbers are little endian, on every machine.
//
//	 0  u32  length of the body, never 0: zeros are space not written yet
//	 4  u64  format version (4 bits), kind (4 bits), offset (56 bits)
//	12  u32  CRC-32C of the segment's salt and bytes 0 to 11
//	16  u32  CRC-32C of the body and bytes 12 to 15
//	20       body, see appendBody; its last byte is endMark
//
// The salt is random and told to nobody, so bytes that are not this segment's own
// (an old block, another file, a payload that looks like frames) never pass. The
// header has a sum of its own so that damage in a body leaves the next frame known,
// and so that finding a place costs no reading of bodies. The body's sum ends with
// the header's, so appenders sum their bodies and the writer only ends the sum.
const (
	frameHeader  = 20
	frameVersion = 1
	maxBody      = 64 << 20
	endMark      = 0xa5 // not zero, so a frame whose writing was interrupted is told from a whole one
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// salt is a segment's contribution to the sums of its frames.
type salt [8]byte

func (s salt) seed() uint32 { return crc32.Checksum(s[:], castagnoli) }

// stamp completes the frame in buf, whose body is in place and has the sum bodySum.
func stamp(buf []byte, seed, bodySum uint32, kind gateway.Kind, offset uint64) {
	binary.LittleEndian.PutUint32(buf, uint32(len(buf)-frameHeader))
	binary.LittleEndian.PutUint64(buf[4:], frameVersion<<60|uint64(kind&0xf)<<56|offset)
	binary.LittleEndian.PutUint32(buf[12:], crc32.Update(seed, castagnoli, buf[:12]))
	binary.LittleEndian.PutUint32(buf[16:], crc32.Update(bodySum, castagnoli, buf[12:16]))
}

// header is the checked first part of a frame.
type header struct {
	size   int64 // of the whole frame
	kind   gateway.Kind
	offset uint64
}

// parseHeader tells whether buf, at least frameHeader long, starts with a frame's header.
func parseHeader(buf []byte, seed uint32) (header, bool) {
	length := binary.LittleEndian.Uint32(buf)
	if length == 0 || length > maxBody ||
		binary.LittleEndian.Uint32(buf[12:]) != crc32.Update(seed, castagnoli, buf[:12]) {
		return header{}, false
	}
	tag := binary.LittleEndian.Uint64(buf[4:])
	h := header{
		size:   frameHeader + int64(length),
		kind:   gateway.Kind(tag >> 56 & 0xf),
		offset: tag & (1<<56 - 1),
	}
	return h, tag>>60 == frameVersion && h.offset > 0 && h.offset <= gateway.MaxOffset
}

// bodyIntact checks the sum of a whole frame whose header was parsed.
func bodyIntact(frame []byte) bool {
	sum := crc32.Checksum(frame[frameHeader:], castagnoli)
	return binary.LittleEndian.Uint32(frame[16:]) == crc32.Update(sum, castagnoli, frame[12:16])
}

const (
	flagRetain = 1 << (iota + 2) // below: QoS
	flagUTF8
	flagAccepted
	flagSource
	flagAge
	flagTrusted
)

// appendBody appends e as the body of a frame. The topic comes first so that a reader
// that does not want it need not decode the rest.
func appendBody(b []byte, e *gateway.Event) []byte {
	b = appendString(b, e.Topic)
	flags := e.QoS & 3
	if e.Retain {
		flags |= flagRetain
	}
	if e.UTF8 {
		flags |= flagUTF8
	}
	if !e.Accepted.IsZero() {
		flags |= flagAccepted
	}
	if !e.Source.IsZero() {
		flags |= flagSource
	}
	if e.Boot != 0 {
		flags |= flagAge
	}
	if e.ClockTrusted {
		flags |= flagTrusted
	}
	b = append(b, flags, byte(e.Quality))
	if flags&flagAge != 0 {
		b = binary.AppendUvarint(b, uint64(e.Boot))
		b = binary.AppendUvarint(b, uint64(e.Age/time.Millisecond))
	}
	if flags&flagAccepted != 0 {
		b = appendTime(b, e.Accepted)
	}
	if flags&flagSource != 0 {
		b = appendTime(b, e.Source)
	}
	b = binary.AppendUvarint(b, uint64(e.PacketID))
	b = binary.AppendVarint(b, int64(e.Expiry))
	b = appendString(b, e.Origin.Via)
	b = appendString(b, e.Origin.ID)
	b = appendString(b, e.Origin.User)
	b = appendString(b, e.ContentType)
	b = appendString(b, e.ResponseTopic)
	b = appendString(b, e.CorrelationData)
	b = binary.AppendUvarint(b, uint64(len(e.UserProperties)))
	for _, p := range e.UserProperties {
		b = appendString(b, p.Key)
		b = appendString(b, p.Value)
	}
	b = appendString(b, e.Payload)
	return append(b, endMark)
}

func appendString[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// appendTime keeps seconds and nanoseconds apart: nanoseconds since 1970 in one
// number end in 2262, and a device may claim any year.
func appendTime(b []byte, t time.Time) []byte {
	b = binary.AppendVarint(b, t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

var errBody = errors.New("body of a frame does not decode")

// bodyTopic is the topic of body; the bytes are body's own.
func bodyTopic(body []byte) ([]byte, error) {
	d := decoder{rest: body}
	topic := d.bytes()
	return topic, d.err
}

// bodyAge is the age of body, 0 if it has none.
func bodyAge(body []byte) time.Duration {
	d := decoder{rest: body}
	d.bytes()
	flags := d.byte()
	d.byte()
	if flags&flagAge == 0 {
		return 0
	}
	d.uvarint()
	return time.Duration(d.uvarint()) * time.Millisecond
}

// decodeBody is appendBody undone. Nothing of the event shares memory with body.
func decodeBody(body []byte, kind gateway.Kind) (*gateway.Event, error) {
	if len(body) == 0 || body[len(body)-1] != endMark {
		return nil, errBody
	}
	d := decoder{rest: body[:len(body)-1]}
	e := &gateway.Event{Kind: kind, Topic: d.string()}
	flags := d.byte()
	e.QoS = flags & 3
	e.Retain = flags&flagRetain != 0
	e.UTF8 = flags&flagUTF8 != 0
	e.ClockTrusted = flags&flagTrusted != 0
	e.Quality = gateway.Quality(d.byte())
	if flags&flagAge != 0 {
		boot, ms := d.uvarint(), d.uvarint()
		if boot == 0 || boot > math.MaxUint32 || ms > math.MaxInt64/uint64(time.Millisecond) {
			return nil, errBody
		}
		e.Boot, e.Age = uint32(boot), time.Duration(ms)*time.Millisecond
	}
	if flags&flagAccepted != 0 {
		e.Accepted = d.time()
	}
	if flags&flagSource != 0 {
		e.Source = d.time()
	}
	id := d.uvarint()
	e.PacketID = uint16(id)
	e.Expiry = time.Duration(d.varint())
	e.Origin = gateway.Origin{Via: d.string(), ID: d.string(), User: d.string()}
	e.ContentType = d.string()
	e.ResponseTopic = d.string()
	e.CorrelationData = d.copy()
	n := d.uvarint()
	if n > uint64(len(d.rest)/2) { // a property takes two bytes at least
		return nil, errBody
	}
	if n > 0 {
		e.UserProperties = make([]gateway.UserProperty, n)
		for i := range e.UserProperties {
			e.UserProperties[i] = gateway.UserProperty{Key: d.string(), Value: d.string()}
		}
	}
	e.Payload = d.copy()
	if d.err != nil || len(d.rest) != 0 || id > 0xffff {
		return nil, errBody
	}
	return e, nil
}

// decoder takes a body apart. After the first thing that is not there it returns zero
// values and keeps the error.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail() {
	d.rest, d.err = nil, errBody
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	v := d.rest[0]
	d.rest = d.rest[1:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) string() string { return string(d.bytes()) }

// copy is nil for what is empty.
func (d *decoder) copy() []byte { return append([]byte(nil), d.bytes()...) }

func (d *decoder) time() time.Time {
	sec, nsec := d.varint(), d.uvarint()
	if nsec > 999_999_999 {
		d.fail()
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}
