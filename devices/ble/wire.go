package ble

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// What crosses between the gateway and the radio's process: frames of
//
//	length of the rest (2) · kind (1) · call (4) · body
//
// with numbers big endian. A call, from 1, is answered by one ok or refused with its number. What is told
// unasked has call 0.
type kind byte

// The radio's process says:
const (
	sayUp      kind = iota + 1 // it scans: the controller's address, and whether it is of Bluetooth 5
	sayBeat                    // it lives, and so does the controller; reports and broken packets so far, reports that were dropped
	sayHeard                   // an HCI event, as it came
	sayTold                    // a connected device tells: peer (4), handle (2), value
	sayGone                    // a connection ended: peer (4), why
	sayFailed                  // why the process ends
	sayOK                      // answer of a call
	sayRefused                 // why it failed
)

// The gateway asks, each with an ask as body:
const (
	askConnect   kind = iota + 64
	askDiscover       // answer: characteristics
	askRead           // answer: the value
	askWrite          //
	askSubscribe      //
	askClose          // answered by sayGone
)

const (
	frameHead = 5
	maxFrame  = 16 << 10
)

// message is one frame.
type message struct {
	kind kind
	call uint32
	body []byte
}

// wire is one end. Send may be called by several at once, receive by one.
type wire struct {
	r *bufio.Reader
	c io.ReadWriteCloser

	mu sync.Mutex
}

func newWire(c io.ReadWriteCloser) *wire { return &wire{r: bufio.NewReaderSize(c, maxFrame), c: c} }

func (w *wire) send(k kind, call uint32, body []byte) error {
	if len(body) > maxFrame-frameHead {
		return fmt.Errorf("a frame of %d bytes", len(body))
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+frameHead+len(body)), uint16(frameHead+len(body)))
	b = binary.BigEndian.AppendUint32(append(b, byte(k)), call)
	b = append(b, body...)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.c.Write(b)
	return err
}

func (w *wire) receive() (message, error) {
	var head [2 + frameHead]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return message{}, err
	}
	n := binary.BigEndian.Uint16(head[:])
	if n < frameHead || n > maxFrame {
		return message{}, fmt.Errorf("a frame of %d bytes", n)
	}
	m := message{kind(head[2]), binary.BigEndian.Uint32(head[3:]), make([]byte, n-frameHead)}
	if _, err := io.ReadFull(w.r, m.body); err != nil {
		return message{}, io.ErrUnexpectedEOF
	}
	return m, nil
}

// ask is the body of all that is asked, each using what it needs.
type ask struct {
	wait    time.Duration // in whole milliseconds
	peer    uint32
	addr    [6]byte
	random  bool
	handle  uint16
	last    uint16
	props   byte
	command bool
	value   []byte
}

const askSize = 4 + 4 + 6 + 1 + 2 + 2 + 1 + 1

func (a ask) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(a.wait.Milliseconds()))
	b = binary.BigEndian.AppendUint32(b, a.peer)
	b = append(append(b, a.addr[:]...), bit(a.random))
	b = binary.BigEndian.AppendUint16(b, a.handle)
	b = binary.BigEndian.AppendUint16(b, a.last)
	b = append(b, a.props, bit(a.command))
	return append(b, a.value...)
}

func bit(v bool) byte {
	if v {
		return 1
	}
	return 0
}

var errBody = errors.New("a frame makes no sense")

func decodeAsk(b []byte) (a ask, err error) {
	if len(b) < askSize || b[14] > 1 || b[20] > 1 {
		return a, errBody
	}
	a.wait = time.Duration(binary.BigEndian.Uint32(b)) * time.Millisecond
	a.peer = binary.BigEndian.Uint32(b[4:])
	copy(a.addr[:], b[8:])
	a.random = b[14] == 1
	a.handle, a.last = binary.BigEndian.Uint16(b[15:]), binary.BigEndian.Uint16(b[17:])
	a.props, a.command = b[19], b[20] == 1
	a.value = b[askSize:]
	return a, nil
}

const characteristicSize = 16 + 16 + 1 + 2 + 2

func encodeCharacteristics(list []Characteristic) (b []byte) {
	for _, c := range list {
		b = append(append(append(b, c.Service[:]...), c.UUID[:]...), c.Properties)
		b = binary.BigEndian.AppendUint16(b, c.Handle)
		b = binary.BigEndian.AppendUint16(b, c.Last)
	}
	return b
}

func decodeCharacteristics(b []byte) (list []Characteristic, err error) {
	if len(b)%characteristicSize != 0 {
		return nil, errBody
	}
	for part := range slices.Chunk(b, characteristicSize) {
		c := Characteristic{Properties: part[32], Handle: binary.BigEndian.Uint16(part[33:]), Last: binary.BigEndian.Uint16(part[35:])}
		copy(c.Service[:], part)
		copy(c.UUID[:], part[16:])
		list = append(list, c)
	}
	return list, nil
}

// beat is how the radio's process does.
type beat struct {
	heard, broken, dropped uint64 // events of advertisements; packets that made no sense; events that the gateway did not take
}

func (b beat) encode() []byte {
	out := binary.BigEndian.AppendUint64(nil, b.heard)
	out = binary.BigEndian.AppendUint64(out, b.broken)
	return binary.BigEndian.AppendUint64(out, b.dropped)
}

func decodeBeat(b []byte) (beat, error) {
	if len(b) != 24 {
		return beat{}, errBody
	}
	return beat{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, nil
}

func decodeTold(b []byte) (peer uint32, t Told, err error) {
	if len(b) < 6 {
		return 0, t, errBody
	}
	return binary.BigEndian.Uint32(b), Told{binary.BigEndian.Uint16(b[4:]), b[6:]}, nil
}

func decodeGone(b []byte) (peer uint32, why string, err error) {
	if len(b) < 4 {
		return 0, "", errBody
	}
	return binary.BigEndian.Uint32(b), string(b[4:]), nil
}

func numbered(peer uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, peer), rest...)
}
