package codec

import (
	"encoding/binary"
	"fmt"
)

// A check is the number that ends a frame and says whether it came whole.
type check struct {
	size  int  // bytes, 1 or 2
	big   bool // the high byte is sent first
	sum   func(p []byte) uint16
	frame bool // over the whole frame; else over the payload only
}

// crc16 is a CRC of 16 bits in the parameters of Williams' "A Painless Guide to CRC
// Error Detection Algorithms": poly is written the high bit first also where reflected.
type crc16 struct {
	poly, init, xor uint16
	reflected       bool
}

// sum returns a function that computes it, by a table: noise may hold as many beginnings of
// frames as it has bytes.
func (c crc16) sum() func(p []byte) uint16 {
	var table [256]uint16
	for i := range table {
		crc := uint16(i) << 8
		if c.reflected {
			crc = reverse(uint16(i))
		}
		for range 8 {
			carry := crc >> 15
			crc <<= 1
			crc ^= c.poly * carry
		}
		if c.reflected {
			crc = reverse(crc)
		}
		table[i] = crc
	}
	init := c.init
	if c.reflected {
		init = reverse(init)
	}
	return func(p []byte) uint16 {
		crc := init
		for _, b := range p {
			if c.reflected {
				crc = crc>>8 ^ table[byte(crc)^b]
			} else {
				crc = crc<<8 ^ table[byte(crc>>8)^b]
			}
		}
		return crc ^ c.xor
	}
}

func reverse(v uint16) (r uint16) {
	for range 16 {
		r, v = r<<1|v&1, v>>1
	}
	return r
}

// crcs are the variants by the names that are used for them. A comment is the CRC of the
// nine digits "123456789", by which a variant can be told.
var crcs = map[string]crc16{
	"arc":         {poly: 0x8005, reflected: true},                            // bb3d
	"modbus":      {poly: 0x8005, init: 0xffff, reflected: true},              // 4b37
	"usb":         {poly: 0x8005, init: 0xffff, xor: 0xffff, reflected: true}, // b4c8
	"maxim":       {poly: 0x8005, xor: 0xffff, reflected: true},               // 44c2
	"buypass":     {poly: 0x8005},                                             // fee8
	"xmodem":      {poly: 0x1021},                                             // 31c3
	"ccitt-false": {poly: 0x1021, init: 0xffff},                               // 29b1
	"genibus":     {poly: 0x1021, init: 0xffff, xor: 0xffff},                  // d64e
	"gsm":         {poly: 0x1021, xor: 0xffff},                                // ce3c
	"aug-ccitt":   {poly: 0x1021, init: 0x1d0f},                               // e5cc
	"kermit":      {poly: 0x1021, reflected: true},                            // 2189
	"x25":         {poly: 0x1021, init: 0xffff, xor: 0xffff, reflected: true}, // 906e
	"mcrf4xx":     {poly: 0x1021, init: 0xffff, reflected: true},              // 6f91
	"dnp":         {poly: 0x3d65, xor: 0xffff, reflected: true},               // ea82
	"en13757":     {poly: 0x3d65, xor: 0xffff},                                // c2b7
	"dect":        {poly: 0x0589},                                             // 007f
	"t10-dif":     {poly: 0x8bb7},                                             // d0db
	"cdma2000":    {poly: 0xc867, init: 0xffff},                               // 4c06
}

// sums are what simple devices use in place of a CRC.
var sums = map[string]check{
	"sum8":  {size: 1, sum: func(p []byte) uint16 { return sum16(p) & 0xff }},
	"sum16": {size: 2, sum: sum16, big: true},
	"xor8":  {size: 1, sum: func(p []byte) uint16 { return uint16(xor8(p)) }},
}

func sum16(p []byte) (s uint16) {
	for _, b := range p {
		s += uint16(b)
	}
	return s
}

func xor8(p []byte) (x byte) {
	for _, b := range p {
		x ^= b
	}
	return x
}

// newCheck reads what stands at crc: a name, or {name, over: payload | frame, endian: big |
// little}. By default it is over the payload, and in the order that goes with the name: of a
// reflected CRC the low byte is sent first.
func newCheck(s *settings) *check {
	name := s.text("crc", "")
	inner := s
	if name == "" {
		if inner = s.sub("crc"); inner == nil {
			return nil
		}
		name = inner.text("name", "")
	}
	c, ok := sums[name]
	if v, isCRC := crcs[name]; isCRC {
		c, ok = check{size: 2, sum: v.sum(), big: !v.reflected}, true
	}
	if !ok {
		s.fail("crc", fmt.Errorf("%q is none of %s, %s", name, names(crcs), names(sums)))
		return nil
	}
	if inner != s {
		c.frame = inner.choice("over", "payload", "frame") == "frame"
		if e := inner.choice("endian", "", "big", "little"); e != "" {
			c.big = e == "big"
		}
		inner.done()
	}
	return &c
}

// add appends the check to frame, whose payload begins at from.
func (c *check) add(frame []byte, from int) []byte {
	if c == nil {
		return frame
	}
	over := frame[from:]
	if c.frame {
		over = frame
	}
	sum := c.sum(over)
	switch {
	case c.size == 1:
		return append(frame, byte(sum))
	case c.big:
		return binary.BigEndian.AppendUint16(frame, sum)
	}
	return binary.LittleEndian.AppendUint16(frame, sum)
}

// strip tells whether the check that ends frame is right, and returns the frame without it.
// From is where the payload begins.
func (c *check) strip(frame []byte, from int) (payload []byte, ok bool) {
	if c == nil {
		return frame[from:], true
	}
	end := len(frame) - c.size
	if end < from {
		return nil, false
	}
	var sent uint16
	switch {
	case c.size == 1:
		sent = uint16(frame[end])
	case c.big:
		sent = binary.BigEndian.Uint16(frame[end:])
	default:
		sent = binary.LittleEndian.Uint16(frame[end:])
	}
	over := frame[from:end]
	if c.frame {
		over = frame[:end]
	}
	return frame[from:end], c.sum(over) == sent
}
