package store

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/weir-iot/weir/gateway"
)

// What crosses between the gateway and its box: frames of
//
//	length of the rest (4) · call (8) · verb or answer (1) · body
//
// with numbers big endian. A call is answered by frames with its number: any number of more, then one ok
// or one failed. Answers come in any order, so that calls that wait share a sync. Call 0 is the box's own: up, when it
// is open, and whenever it is asked with ping.
type verb byte

const (
	getValue verb = iota + 1
	eachValue
	applyChange
	putRecords
	readRecord
	releaseTo
	shrinkTo
	statHolder
	listHolders
	discardHolder
	ping
)

const (
	answerOK verb = iota + 128
	answerMore
	answerFailed
	answerUp
)

const (
	frameHead = 9
	frameMax  = maxRecord + 1<<20
	wirePart  = 256 << 10 // an answer of many values is sent in parts of about this size
)

// wire is one end.
type wire struct {
	r *bufio.Reader
	c io.ReadWriteCloser

	mu sync.Mutex // one frame at a time
}

func newWire(c io.ReadWriteCloser) *wire { return &wire{r: bufio.NewReaderSize(c, 32<<10), c: c} }

func (w *wire) send(call uint64, v verb, body []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+frameHead+len(body)), uint32(frameHead+len(body)))
	b = binary.BigEndian.AppendUint64(b, call)
	b = append(append(b, byte(v)), body...)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.c.Write(b)
	return err
}

func (w *wire) receive() (call uint64, v verb, body []byte, err error) {
	var head [4 + frameHead]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return 0, 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < frameHead || n > frameMax {
		return 0, 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	body = make([]byte, n-frameHead)
	_, err = io.ReadFull(w.r, body)
	return binary.BigEndian.Uint64(head[4:]), verb(head[12]), body, err
}

// The kinds of error keep their kind.
var errorKinds = []error{gateway.ErrTransient, gateway.ErrInvalid, gateway.ErrDenied, gateway.ErrFull}

func encodeError(err error) []byte {
	kind := max(slices.IndexFunc(errorKinds, func(k error) bool { return errors.Is(err, k) }), 0)
	return append([]byte{byte(kind)}, err.Error()...)
}

func decodeError(b []byte) error {
	if len(b) == 0 || int(b[0]) >= len(errorKinds) {
		return gateway.Errorf(gateway.ErrTransient, "the box failed")
	}
	return gateway.Errorf(errorKinds[b[0]], "%s", b[1:])
}

// encodeValues and decodeValues are for what Apply takes and Each gives: a nil value deletes.
func appendValue(b []byte, key string, value []byte) []byte {
	b = appendString(b, key)
	if value == nil {
		return append(b, 0)
	}
	return appendString(append(b, 1), value)
}

func decodeValues(d *decoder, fn func(key string, value []byte) error) error {
	for len(d.rest) > 0 {
		key := d.string()
		var value []byte
		if d.byte() == 1 {
			value = append([]byte{}, d.bytes()...)
		}
		if d.err != nil {
			return d.err
		}
		if err := fn(key, value); err != nil {
			return err
		}
	}
	return d.err
}

func appendRecord(b []byte, r *Record) []byte {
	b = binary.AppendUvarint(b, r.Offset)
	b = appendString(b, r.Epoch)
	b = binary.AppendVarint(b, r.Age)
	b = binary.AppendUvarint(b, r.Key)
	b = appendString(b, r.Body)
	if b = binary.AppendUvarint(b, r.Gone.Count); r.Gone.Count > 0 {
		b = binary.AppendUvarint(b, r.Gone.To)
	}
	return b
}

// decodeRecords takes n records; their bodies are parts of what is decoded.
func decodeRecords(d *decoder, n uint64) (all []Record, err error) {
	for range n {
		r := Record{Offset: d.uvarint(), Epoch: d.string(), Age: d.varint(), Key: d.uvarint(), Body: d.bytes()}
		if n := d.uvarint(); n > 0 {
			r.Gone = LostRange{From: r.Offset, To: d.uvarint(), Count: n}
		}
		if d.err != nil {
			return nil, d.err
		}
		all = append(all, r)
	}
	return all, nil
}

func appendBacklog(b []byte, l Backlog) []byte {
	b = binary.AppendUvarint(b, l.Next)
	b = binary.AppendUvarint(b, uint64(len(l.Lost)))
	for _, g := range l.Lost {
		b = binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(b, g.From), g.To), g.Count)
	}
	b = binary.AppendUvarint(b, uint64(len(l.Records)))
	for i := range l.Records {
		b = appendRecord(b, &l.Records[i])
	}
	return b
}

func decodeBacklog(body []byte) (l Backlog, err error) {
	d := decoder{rest: body}
	l.Next = d.uvarint()
	for range d.uvarint() {
		l.Lost = append(l.Lost, LostRange{From: d.uvarint(), To: d.uvarint(), Count: d.uvarint()})
		if d.err != nil {
			return l, d.err
		}
	}
	l.Records, err = decodeRecords(&d, d.uvarint())
	return l, errors.Join(err, d.err)
}

// What is small and rare goes as JSON.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
