package modbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// maxADU is the longest frame: 256 bytes on a line, 260 over TCP.
const maxADU = 260

// framing puts PDUs into frames and finds answers in what came in.
type framing interface {
	encode(unit byte, pdu []byte) []byte
	// find looks in b for the answer of unit to r. It returns its PDU, nil if it is not there
	// yet, and how many bytes of b can go: what stands before the answer, or will never be one.
	find(b []byte, unit byte, r request) (pdu []byte, before int, err error)
}

// rtu is the framing of serial lines (MODBUS over Serial Line V1.02, §2.5.1): unit, PDU, CRC.
//
// The specification ends a frame by 3.5 characters of silence and forbids more than 1.5 within.
// Behind a USB adapter or a network neither can be seen: bytes come in lumps, some
// 16 ms apart. So an answer is known by what it must be: its unit, its function, its length
// and its CRC, wherever it begins. Noise before it is passed over, and pauses in it do no harm.
type rtu struct{}

func (rtu) encode(unit byte, pdu []byte) []byte {
	f := append([]byte{unit}, pdu...)
	return binary.LittleEndian.AppendUint16(f, crc16(f))
}

func (rtu) find(b []byte, unit byte, r request) ([]byte, int, error) {
	for from := range b {
		for _, size := range []int{r.answerSize() + 3, 5} {
			end := from + size
			if end > len(b) || b[from] != unit {
				continue
			}
			if pdu := b[from+1 : end-2]; r.answeredBy(pdu) && intact(b[from:end]) {
				return pdu, from, nil
			}
		}
	}
	return nil, 0, nil
}

// crc16 is the CRC of a frame (§6.2.2): polynomial 0xA001, reflected, from 0xFFFF.
func crc16(b []byte) uint16 {
	crc := uint16(0xffff)
	for _, c := range b {
		crc = crcStep(crc, c)
	}
	return crc
}

func crcStep(crc uint16, c byte) uint16 {
	crc ^= uint16(c)
	for range 8 {
		if crc&1 != 0 {
			crc = crc>>1 ^ 0xa001
		} else {
			crc >>= 1
		}
	}
	return crc
}

// intact tells whether a frame's CRC is right. It is sent with the low byte first.
func intact(frame []byte) bool {
	n := len(frame) - 2
	return n > 0 && crc16(frame[:n]) == binary.LittleEndian.Uint16(frame[n:])
}

// mbap is the framing of TCP (MODBUS Messaging on TCP/IP V1.0b, §3.1.3): transaction, protocol,
// length, unit, PDU. The transaction tells a late answer from the present one.
type mbap struct{ transaction uint16 }

const mbapHeader = 7

func (m *mbap) encode(unit byte, pdu []byte) []byte {
	m.transaction++
	f := binary.BigEndian.AppendUint16(nil, m.transaction)
	f = binary.BigEndian.AppendUint16(append(f, 0, 0), uint16(1+len(pdu)))
	return append(append(f, unit), pdu...)
}

var errNoMBAP = errors.New("what came is not Modbus TCP")

func (m *mbap) find(b []byte, unit byte, r request) ([]byte, int, error) {
	for before := 0; ; {
		f := b[before:]
		if len(f) >= 4 && (f[2] != 0 || f[3] != 0) {
			return nil, before, errNoMBAP
		}
		if len(f) < mbapHeader {
			return nil, before, nil
		}
		size := int(binary.BigEndian.Uint16(f[4:]))
		if size < 2 || size+6 > maxADU {
			return nil, before, errNoMBAP
		}
		if len(f) < 6+size {
			return nil, before, nil
		}
		if binary.BigEndian.Uint16(f) != m.transaction {
			before += 6 + size // the late answer to a request that was given up
			continue
		}
		pdu := f[mbapHeader : 6+size]
		if f[6] != unit || !r.answeredBy(pdu) {
			return nil, before, fmt.Errorf("unit %d answered something else than was asked: % x", f[6], pdu[:min(len(pdu), 16)])
		}
		return pdu, before, nil
	}
}

// guess says what bytes that are no answer look like: the commonest mistakes by far are in the
// settings of one of the two ends. It is empty if there is nothing to say.
func guess(seen, sent []byte, f framing) string {
	_, tcp := f.(*mbap)
	switch {
	case len(seen) == 0:
		return ""
	case !tcp && len(seen) >= mbapHeader && seen[2] == 0 && seen[3] == 0 && int(binary.BigEndian.Uint16(seen[4:]))+6 == len(seen):
		return "it looks like Modbus TCP: leave framing: rtu out"
	case tcp && len(seen) >= 5 && intact(seen):
		return "it is Modbus RTU: set framing: rtu"
	case seen[0] == ':':
		return "it looks like Modbus ASCII, which Weir does not speak: set the device to RTU"
	case tcp:
		return "is something else listening on this port?"
	case len(bytes.Trim(seen, "\x00")) == 0 || len(bytes.Trim(seen, "\xff")) == 0:
		return "nothing but 00 or ff: wrong baud rate, or are A and B swapped?"
	}
	for from := range seen {
		crc := uint16(0xffff)
		for i, c := range seen[from:min(len(seen), from+maxADU)] {
			// Of a frame with its own CRC behind it the CRC is 0.
			if crc = crcStep(crc, c); crc == 0 && i >= 4 && !bytes.HasPrefix(seen[from:], sent) {
				return fmt.Sprintf("unit %d answered with function %d: are there two masters on the bus, or two devices with one id?",
					seen[from], seen[from+1]&^exceptionFlag)
			}
		}
	}
	return "noise or a broken frame: wrong baud rate or parity, two devices with one id, or a bus without termination?"
}
