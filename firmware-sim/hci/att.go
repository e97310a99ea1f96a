package hci

import (
	"bytes"
	"encoding/binary"
)

// Service is a service of a peripheral; short UUIDs only.
type Service struct {
	UUID            uint16
	Characteristics []*Characteristic
}

// Characteristic is one value. What holds the controller's lock may change it: see Controller.Change.
type Characteristic struct {
	UUID       uint16
	Properties byte // 0x02 read, 0x04 write command, 0x08 write, 0x10 notify, 0x20 indicate
	Value      []byte
	Error      byte     // what a read is answered with, if not 0
	Written    [][]byte // what was written, in order
}

// server is the attribute server of one connection (Core Specification Vol 3 Part F).
type server struct {
	services []Service
	mtu      int
	enabled  map[uint16]byte // by the handle of a value: 1 notify, 2 indicate
	told     map[uint16][]byte
}

// attribute is one, with its handle.
type attribute struct {
	handle, last uint16 // of a service
	kind         uint16
	value        []byte
	c            *Characteristic // of its value and its switch
}

// attributes lists all. A service begins every 16 handles.
func (s *server) attributes() (list []attribute) {
	for i, svc := range s.services {
		h := uint16(1 + 16*i)
		list = append(list, attribute{handle: h, last: h + 15, kind: 0x2800, value: le(svc.UUID)})
		for _, c := range svc.Characteristics {
			declaration := append(append([]byte{c.Properties}, le(h+2)...), le(c.UUID)...)
			list = append(list, attribute{handle: h + 1, kind: 0x2803, value: declaration}, attribute{handle: h + 2, kind: c.UUID, value: c.Value, c: c})
			h += 2
			if c.Properties&0x30 != 0 {
				h++
				list = append(list, attribute{handle: h, kind: 0x2902, value: []byte{s.enabled[h-1], 0}, c: c})
			}
		}
	}
	return list
}

func le(n uint16) []byte { return binary.LittleEndian.AppendUint16(nil, n) }

func refuse(op byte, handle uint16, code byte) []byte {
	return append(append([]byte{0x01, op}, le(handle)...), code)
}

// answer answers a request; nil: nothing.
func (s *server) answer(b []byte) []byte {
	u16 := binary.LittleEndian.Uint16
	op := b[0]
	need := map[byte]int{0x02: 3, 0x04: 5, 0x08: 7, 0x0a: 3, 0x0c: 5, 0x10: 7, 0x12: 3, 0x52: 3}[op]
	switch {
	case op == 0x1e: // confirmation
		return nil
	case need == 0:
		return refuse(op, 0, 0x06)
	case len(b) < need:
		return refuse(op, 0, 0x04)
	}
	switch op {
	case 0x02:
		s.mtu = max(23, min(int(u16(b[1:])), 185))
		return append([]byte{0x03}, le(185)...)
	case 0x04, 0x08, 0x10:
		return s.list(op, u16(b[1:]), u16(b[3:]), b[5:])
	}
	var at *attribute
	for _, a := range s.attributes() {
		if a.handle == u16(b[1:]) {
			at = &a
		}
	}
	if at == nil {
		return refuse(op, u16(b[1:]), 0x01)
	}
	switch op {
	case 0x0a, 0x0c:
		offset := 0
		if op == 0x0c {
			offset = int(u16(b[3:]))
		}
		switch {
		case at.c != nil && at.kind != 0x2902 && at.c.Properties&0x02 == 0:
			return refuse(op, at.handle, 0x02)
		case at.c != nil && at.c.Error != 0:
			return refuse(op, at.handle, at.c.Error)
		case offset > len(at.value):
			return refuse(op, at.handle, 0x07)
		}
		rest := at.value[offset:]
		return append([]byte{op + 1}, rest[:min(len(rest), s.mtu-1)]...)
	default: // 0x12, 0x52
		switch {
		case at.kind == 0x2902:
			if s.enabled == nil {
				s.enabled, s.told = map[uint16]byte{}, map[uint16][]byte{}
			}
			s.enabled[at.handle-1] = b[3]
		case at.c == nil || at.c.Properties&0x0c == 0:
			return refuse(op, at.handle, 0x03)
		default:
			at.c.Value = bytes.Clone(b[3:])
			at.c.Written = append(at.c.Written, at.c.Value)
		}
		if op == 0x52 {
			return nil
		}
		return []byte{0x13}
	}
}

// list answers the three requests that list attributes: as many as fit, all of one size.
func (s *server) list(op byte, start, end uint16, kind []byte) []byte {
	var out []byte
	size := 0
	for _, a := range s.attributes() {
		if a.handle < start || a.handle > end {
			continue
		}
		var item []byte
		switch op {
		case 0x04:
			item = append(le(a.handle), le(a.kind)...)
		case 0x08:
			if !bytes.Equal(kind, le(a.kind)) {
				continue
			}
			item = append(le(a.handle), a.value...)
		case 0x10:
			if !bytes.Equal(kind, le(a.kind)) {
				continue
			}
			item = append(append(le(a.handle), le(a.last)...), a.value...)
		}
		if out == nil {
			size = len(item)
			out = []byte{op + 1, byte(size)}
			if op == 0x04 {
				out[1] = 1 // the format of short UUIDs
			}
		}
		if len(item) != size || len(out)+len(item) > s.mtu {
			break
		}
		out = append(out, item...)
	}
	if out == nil {
		return refuse(op, start, 0x0a)
	}
	return out
}

// changes are the notifications that are due: of what is switched on and has changed.
func (s *server) changes() (pdus [][]byte) {
	for _, a := range s.attributes() {
		on := s.enabled[a.handle]
		if on == 0 || a.c == nil || a.kind == 0x2902 {
			continue
		}
		if last, ok := s.told[a.handle]; ok && bytes.Equal(last, a.value) {
			continue
		}
		s.told[a.handle] = bytes.Clone(a.value)
		op := byte(0x1b)
		if on == 2 {
			op = 0x1d
		}
		pdus = append(pdus, append(append([]byte{op}, le(a.handle)...), a.value[:min(len(a.value), s.mtu-3)]...))
	}
	return pdus
}
