package modbus

import (
	"encoding/binary"
	"time"

	"github.com/weir-iot/weir/devices/codec"
)

// Play emits what would have been read of a recording: requests as they were sent to this slave, and what came after each. What
// a SunSpec device says of itself is not among it, because where that lies is found out by asking.
func (d *Driver) Play(chunks []codec.Chunk, emit func(codec.Frame)) {
	r := &reader{Driver: d, emit: emit, last: map[*register]report{}}
	began := time.Unix(0, 0)
	var in []byte
	var asked request // nil: it is answered
	var framing framing
	unanswered := func() {
		if asked != nil && len(in) > 0 {
			r.garbage(Garbled, in)
		}
	}
	for _, c := range chunks {
		if c.Sent {
			unanswered()
			framing, asked, in = d.request(c.Bytes), nil, nil
			if framing != nil {
				asked = requestIn(framing, c.Bytes)
			}
			continue
		}
		if asked == nil {
			continue
		}
		in = append(in, c.Bytes...)
		pdu, _, err := framing.find(in, d.unit, asked)
		switch {
		case err != nil:
			unanswered()
		case pdu == nil:
			continue
		case pdu[0]&exceptionFlag != 0:
			r.garbage(Exceptional, pdu)
		default:
			r.frame(r.answered(asked, pdu, began.Add(c.At)))
		}
		asked = nil
	}
	unanswered()
}

// least is the size of the shortest request that there is here.
const least = 5

// request returns the framing of a request, or nil if it is none to this slave.
func (d *Driver) request(frame []byte) framing {
	switch f := d.bus.framing().(type) {
	case rtu:
		if len(frame) >= 1+least+2 && intact(frame) && frame[0] == d.unit {
			return f
		}
	case *mbap:
		if len(frame) >= mbapHeader+least && frame[6] == d.unit {
			f.transaction = binary.BigEndian.Uint16(frame)
			return f
		}
	}
	return nil
}

// requestIn is the PDU of a request.
func requestIn(f framing, frame []byte) request {
	if _, tcp := f.(*mbap); tcp {
		return frame[mbapHeader:]
	}
	return frame[1 : len(frame)-2]
}

// answered returns the readings in the answer to asked; none if that read nothing.
func (r *reader) answered(asked request, pdu []byte, at time.Time) (readings []codec.Reading) {
	for t := range tables {
		t := table(t)
		if asked[0] != tables[t].read {
			continue
		}
		b := block{table: t, addr: binary.BigEndian.Uint16(asked[1:]), n: int(binary.BigEndian.Uint16(asked[3:]))}
		read := words(pdu)
		if t.bits() {
			read = bitsOf(pdu, b.n)
		}
		for _, reg := range r.registers {
			if reg.table == t && reg.addr >= b.addr && int(reg.addr)+reg.words <= int(b.addr)+len(read) {
				readings = r.report(readings, reg, reg.decode(b.words(read, reg), 0), at)
			}
		}
	}
	return readings
}
