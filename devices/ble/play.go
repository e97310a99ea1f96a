package ble

import (
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/devices/codec"
)

// reportHead is what stands before the AD structures in a recording:
//
//	address (6) · its kind (1) · flags (1) · advertising set (1) · data status (1) · TX power (1) · RSSI (1)
//
// with the address as it is written and the kinds and numbers as in the controller's event (Core Specification
// Vol 4 Part E §7.7.65.13).
const reportHead = 12

// Flags of a report in a recording.
const (
	flagConnectable = 1 << iota
	flagScanResponse
	flagExtended
)

// wireOf is a report as a chunk of a recording.
func wireOf(r adv.Report) []byte {
	flags := bit(r.Connectable)*flagConnectable | bit(r.ScanResponse)*flagScanResponse | bit(r.Extended)*flagExtended
	b := append(make([]byte, 0, reportHead+len(r.Data)), r.Addr[:]...)
	b = append(b, r.AddrKind, flags, r.Set, byte(r.Status), byte(r.TxPower), byte(r.RSSI))
	return append(b, r.Data...)
}

func reportOf(b []byte) (r adv.Report, ok bool) {
	if len(b) < reportHead {
		return r, false
	}
	flags := b[7]
	r = adv.Report{
		AddrKind: b[6], Set: b[8], Status: adv.Status(b[9]), TxPower: int8(b[10]), RSSI: int8(b[11]), Data: b[reportHead:],
		Connectable: flags&flagConnectable != 0, ScanResponse: flags&flagScanResponse != 0, Extended: flags&flagExtended != 0,
	}
	copy(r.Addr[:], b)
	return r, true
}

// Play emits what would have been read of a recording of advertisements. Nothing is known of the device before it, so
// what an encrypted one sent then is no replay.
func (d *Driver) Play(chunks []codec.Chunk, emit func(codec.Frame)) {
	decoder, err := adv.New(d.air.keys, d.air.tables)
	if err != nil { // a table, of which the radio says so, too
		emit(codec.Frame{Garbage: codec.Malformed, Raw: []byte(err.Error())})
		return
	}
	r := &hearing{Driver: d, emit: emit, up: true, last: map[string]said{}}
	for _, c := range chunks {
		if c.Sent {
			continue
		}
		report, ok := reportOf(c.Bytes)
		if !ok {
			emit(codec.Frame{Garbage: codec.Malformed, Raw: c.Bytes})
			continue
		}
		h := heard{at: time.Unix(0, 0).Add(c.At), report: report}
		if h.results, h.err = decoder.Decode(report); d.claims(report, h.results) {
			r.take(h)
		}
	}
}
