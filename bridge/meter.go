package bridge

import (
	"time"

	"github.com/weir-iot/weir/gateway"
)

// The meter looks back over meterSlots of meterSlot.
const (
	meterSlots = 30
	meterSlot  = 10 * time.Second
)

// meter knows how many bytes were accepted of late, of each route and of all: about what they take in the
// journal. Its owner's mutex guards it.
type meter struct {
	began time.Time
	slots [meterSlots]meterCount
}

type meterCount struct {
	number int64 // of slots since began
	all    uint64
	routes []uint64
}

// footprint is about what e takes in the journal, in bytes.
func footprint(e *gateway.Event) uint64 { return uint64(e.Size() - 256 + 56) }

// at returns the slot of now, empty if it is a new one.
func (m *meter) at(now time.Time, routes int) *meterCount {
	if m.began.IsZero() {
		m.began = now
	}
	number := int64(now.Sub(m.began) / meterSlot)
	s := &m.slots[number%meterSlots]
	if s.number != number || s.routes == nil {
		*s = meterCount{number: number, routes: make([]uint64, routes)}
	}
	return s
}

// rates are bytes a second.
func (m *meter) rates(now time.Time, routes int) (all float64, each []float64) {
	each = make([]float64, routes)
	if m.began.IsZero() {
		return 0, each
	}
	since := now.Sub(m.began)
	number := int64(since / meterSlot)
	var sum uint64
	sums := make([]uint64, routes)
	for _, s := range m.slots {
		if s.routes == nil || s.number <= number-meterSlots {
			continue
		}
		sum += s.all
		for i, n := range s.routes {
			sums[i] += n
		}
	}
	seconds := min(max(since, meterSlot), meterSlots*meterSlot).Seconds()
	for i, n := range sums {
		each[i] = float64(n) / seconds
	}
	return float64(sum) / seconds, each
}
