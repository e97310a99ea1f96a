package store

import (
	"github.com/weir-iot/weir/gateway"
)

// Batch is what Read found as events. It has room for one gap, before its events, so it ends where
// the second begins, and so does one whose first events lie before a gap.
func (b Backlog) Batch() gateway.Batch {
	batch := gateway.Batch{Next: b.Next}
	lost := b.Lost
	for _, rec := range b.Records {
		for len(lost) > 0 && lost[0].From <= rec.Offset {
			if batch.Gap != nil || len(batch.Events) > 0 {
				batch.Next = lost[0].From
				return batch
			}
			batch.Gap = &gateway.Gap{From: lost[0].From, To: lost[0].To, Reason: gateway.GapDamaged}
			lost = lost[1:]
		}
		e, err := decodeBody(rec.Body, gateway.Data)
		if err != nil { // its sum was right, so this build does not know the form
			if batch.Gap != nil || len(batch.Events) > 0 {
				batch.Next = rec.Offset
				return batch
			}
			batch.Gap = &gateway.Gap{From: rec.Offset, To: rec.Offset + 1, Reason: gateway.GapDamaged}
			continue
		}
		e.Epoch, e.Offset = rec.Epoch, rec.Offset
		batch.Events = append(batch.Events, e)
	}
	for _, l := range lost {
		if batch.Gap != nil || len(batch.Events) > 0 {
			batch.Next = l.From
			return batch
		}
		batch.Gap = &gateway.Gap{From: l.From, To: l.To, Reason: gateway.GapDamaged}
	}
	return batch
}
