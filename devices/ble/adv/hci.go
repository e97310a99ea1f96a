package adv

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HCI numbers (Core Specification Vol 4 Part E §7.7.65).
const (
	h4Event          = 0x04
	eventLEMeta      = 0x3e
	subeventReport   = 0x02
	subeventExtended = 0x0d
)

// ErrNotReport: a good HCI event, but not one of advertisements.
var ErrNotReport = errors.New("no advertising report")

// errCut: an event is shorter than it says. Controllers and the link to them do lose bytes.
var errCut = errors.New("the event is cut short")

// ParseEvent reads an HCI event, with or without the packet indicator 04 before it: LE
// Advertising Report (§7.7.65.2) or LE Extended Advertising Report (§7.7.65.13). Their
// arrays are laid out report by report (§5.2). Of an event that is cut short the whole
// reports are returned, together with the error. Any other event is ErrNotReport. The
// reports point into event.
func ParseEvent(event []byte) ([]Report, error) {
	if len(event) > 0 && event[0] == h4Event {
		event = event[1:]
	}
	if len(event) < 2 {
		return nil, errCut
	}
	if event[0] != eventLEMeta {
		return nil, ErrNotReport
	}
	params, short := event[2:], false
	if n := int(event[1]); n <= len(params) {
		params = params[:n]
	} else {
		short = true
	}
	if len(params) < 2 {
		return nil, errCut
	}
	var next func([]byte) (Report, []byte, error)
	switch params[0] {
	case subeventReport:
		next = legacyReport
	case subeventExtended:
		next = extendedReport
	default:
		return nil, ErrNotReport
	}
	count, rest := int(params[1]), params[2:]
	var reports []Report
	for i := range count {
		r, left, err := next(rest)
		if err != nil {
			return reports, fmt.Errorf("report %d of %d: %w", i+1, count, err)
		}
		reports, rest = append(reports, r), left
	}
	if short {
		return reports, errCut
	}
	return reports, nil
}

// The event types of a legacy report.
const (
	advInd        = 0
	advDirectInd  = 1
	advScanInd    = 2
	advNonconnInd = 3
	scanRsp       = 4
)

func legacyReport(b []byte) (Report, []byte, error) {
	if len(b) < 9 {
		return Report{}, nil, errCut
	}
	end := 9 + int(b[8])
	if end >= len(b) { // the RSSI comes after the data
		return Report{}, nil, errCut
	}
	if b[0] > scanRsp {
		return Report{}, nil, fmt.Errorf("event type %d is reserved", b[0])
	}
	return Report{
		Addr:         addrOnAir(b[2:]),
		AddrKind:     b[1],
		Connectable:  b[0] == advInd || b[0] == advDirectInd,
		ScanResponse: b[0] == scanRsp,
		TxPower:      NoPower,
		RSSI:         int8(b[end]),
		Data:         b[9:end:end],
	}, b[end+1:], nil
}

// The bits of an extended report's event type.
const (
	connectable = 1 << 0
	response    = 1 << 3
	legacyPDU   = 1 << 4
	statusShift = 5 // two bits: Status
)

func extendedReport(b []byte) (Report, []byte, error) {
	const head = 24
	if len(b) < head {
		return Report{}, nil, errCut
	}
	end := head + int(b[head-1])
	if end > len(b) {
		return Report{}, nil, errCut
	}
	kind := binary.LittleEndian.Uint16(b)
	status := Status(kind >> statusShift & 3)
	if status > Truncated {
		return Report{}, nil, errors.New("data status 3 is reserved")
	}
	return Report{
		Addr:         addrOnAir(b[3:]),
		AddrKind:     b[2],
		Connectable:  kind&connectable != 0,
		ScanResponse: kind&response != 0,
		Extended:     kind&legacyPDU == 0,
		Set:          b[11],
		Status:       status,
		TxPower:      int8(b[12]),
		RSSI:         int8(b[13]),
		Data:         b[head:end:end],
	}, b[end:], nil
}

// Bounds of an Assembler: advertisements under way at once, and the bytes of one, which is
// the longest that the specification allows (Vol 4 Part E §7.8.57).
const (
	maxPending = 16
	maxData    = 1650
)

// Assembler joins the pieces of extended advertisements that are longer than an event.
// The zero value is ready.
type Assembler struct {
	pending []Report // oldest first
}

// Add returns r, or the whole that r is the last piece of; false means that there is more
// to come, or that r belongs to one that lost a piece.
func (a *Assembler) Add(r Report) (Report, bool) {
	if !r.Extended {
		return r, r.Status == Complete
	}
	for i, p := range a.pending {
		if p.Addr != r.Addr || p.AddrKind != r.AddrKind || p.Set != r.Set || p.ScanResponse != r.ScanResponse {
			continue
		}
		if r.Status == Truncated || len(p.Data)+len(r.Data) > maxData {
			a.pending = append(a.pending[:i], a.pending[i+1:]...)
			return r, false
		}
		p.Data = append(p.Data, r.Data...)
		p.RSSI, p.Status = r.RSSI, r.Status
		if r.Status == More {
			a.pending[i] = p
			return r, false
		}
		a.pending = append(a.pending[:i], a.pending[i+1:]...)
		return p, true
	}
	if r.Status == More {
		if len(a.pending) == maxPending {
			a.pending = append(a.pending[:0], a.pending[1:]...)
		}
		r.Data = append([]byte(nil), r.Data...) // the event's buffer is used again
		a.pending = append(a.pending, r)
		return r, false
	}
	return r, r.Status == Complete
}
