package modbus

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// table is one of the four kinds of things that a slave holds.
type table uint8

const (
	coil     table = iota // one bit, read and write
	discrete              // one bit, read
	input                 // 16 bits, read
	holding               // 16 bits, read and write
)

var tables = [...]struct {
	name  string
	read  byte // function code
	first int  // the traditional number of address 0, in five digits
}{
	coil:     {"coil", 1, 1},
	discrete: {"discrete input", 2, 10001},
	input:    {"input register", 4, 30001},
	holding:  {"holding register", 3, 40001},
}

func (t table) bits() bool { return t <= discrete }

// Function codes besides those that read.
const (
	writeCoil      = 5
	writeRegister  = 6
	diagnostics    = 8
	writeCoils     = 15
	writeRegisters = 16
	maskWrite      = 22
)

// exceptionFlag is set in the function code of an answer that refuses.
const exceptionFlag = 0x80

// request is a PDU that a master sends (MODBUS Application Protocol V1.1b3, §6).
type request []byte

func readRequest(t table, addr uint16, n int) request {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16([]byte{tables[t].read}, addr), uint16(n))
}

func writeCoilRequest(addr uint16, on bool) request {
	r := binary.BigEndian.AppendUint16([]byte{writeCoil}, addr)
	if on {
		return append(r, 0xff, 0)
	}
	return append(r, 0, 0)
}

func writeRegisterRequest(addr, word uint16) request {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16([]byte{writeRegister}, addr), word)
}

func writeRegistersRequest(addr uint16, words []uint16) request {
	r := binary.BigEndian.AppendUint16([]byte{writeRegisters}, addr)
	r = binary.BigEndian.AppendUint16(r, uint16(len(words)))
	r = append(r, byte(2*len(words)))
	for _, w := range words {
		r = binary.BigEndian.AppendUint16(r, w)
	}
	return r
}

// maskRequest makes the register (what it is AND and) OR or (§6.16).
func maskRequest(addr, and, or uint16) request {
	r := binary.BigEndian.AppendUint16([]byte{maskWrite}, addr)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(r, and), or)
}

// echoRequest asks for token to be sent back (§6.8, sub-function 0).
func echoRequest(token uint16) request {
	return binary.BigEndian.AppendUint16([]byte{diagnostics, 0, 0}, token)
}

// answerSize is how many bytes an answer that does not refuse has.
func (r request) answerSize() int {
	switch r[0] {
	case 1, 2:
		return 2 + (int(binary.BigEndian.Uint16(r[3:]))+7)/8
	case 3, 4:
		return 2 + 2*int(binary.BigEndian.Uint16(r[3:]))
	case writeCoils, writeRegisters:
		return 5
	}
	return len(r) // the request itself
}

// answeredBy tells whether pdu can be the answer to r. Of a read nothing but the size tells:
// the answer does not say which registers it is about.
func (r request) answeredBy(pdu []byte) bool {
	if len(pdu) == 2 && pdu[0] == r[0]|exceptionFlag {
		return true
	}
	if len(pdu) != r.answerSize() || pdu[0] != r[0] {
		return false
	}
	switch r[0] {
	case 1, 2, 3, 4:
		return int(pdu[1]) == len(pdu)-2
	}
	return bytes.Equal(pdu, r[:len(pdu)])
}

// Exception is the answer of a slave that refuses a request (§7).
type Exception byte

// The exceptions that are acted upon.
const (
	illegalFunction  Exception = 1
	illegalAddress   Exception = 2
	acknowledge      Exception = 5
	busy             Exception = 6
	gatewayNoPath    Exception = 10
	gatewayNoAnswer  Exception = 11
	outsideOfTheSpec           = "an exception that the specification does not know"
)

var exceptions = map[Exception]string{
	illegalFunction: "illegal function: the device does not know this kind of request",
	illegalAddress:  "illegal data address: the device has no such register, or not so many in a row",
	3:               "illegal data value: the device does not take this value or this length",
	4:               "device failure: the device tried and could not",
	acknowledge:     "acknowledge: the device needs longer for this",
	busy:            "device busy: it does something else that takes long",
	7:               "negative acknowledge: the device cannot do this",
	8:               "memory parity error in the device",
	gatewayNoPath:   "gateway path unavailable: the Modbus gateway has no way there; is it set up?",
	gatewayNoAnswer: "gateway target did not respond: the device behind the Modbus gateway does not answer",
}

func (e Exception) Error() string {
	text, known := exceptions[e]
	if !known {
		text = outsideOfTheSpec
	}
	return fmt.Sprintf("%s (exception %d)", text, byte(e))
}

// unreachable tells whether a gateway says that the device itself did not answer.
func (e Exception) unreachable() bool { return e == gatewayNoPath || e == gatewayNoAnswer }

// words are the registers in the answer to a read of registers.
func words(pdu []byte) []uint16 {
	w := make([]uint16, (len(pdu)-2)/2)
	for i := range w {
		w[i] = binary.BigEndian.Uint16(pdu[2+2*i:])
	}
	return w
}

// bitsOf are the first n bits in the answer to a read of bits, each as a word of 0 or 1.
func bitsOf(pdu []byte, n int) []uint16 {
	w := make([]uint16, n)
	for i := range w {
		w[i] = uint16(pdu[2+i/8]>>(i%8)) & 1
	}
	return w
}
