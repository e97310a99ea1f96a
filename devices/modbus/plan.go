package modbus

import (
	"cmp"
	"slices"
	"time"
)

// The most that one request can read (MODBUS Application Protocol V1.1b3, §6.1 and §6.3).
const (
	maxRegisters = 125
	maxBits      = 2000
)

// limits are what a slave takes in one request.
type limits struct {
	registers, bits int
	gap             int // how many that nobody asked for may be read in between
}

// block is what one request reads.
type block struct {
	table     table
	addr      uint16
	n         int
	registers []*register
	interval  time.Duration
	next      time.Time
}

// plan makes as few requests of registers as the limits allow. Only what has the same interval is
// read together.
func plan(registers []*register, l limits) []*block {
	sorted := slices.Clone(registers)
	slices.SortStableFunc(sorted, func(a, b *register) int {
		return cmp.Or(cmp.Compare(a.interval, b.interval), cmp.Compare(a.table, b.table), cmp.Compare(a.addr, b.addr))
	})
	var blocks []*block
	var last *block
	for _, r := range sorted {
		end := int(r.addr) + r.words
		limit := l.registers
		if r.table.bits() {
			limit = l.bits
		}
		if last != nil && last.table == r.table && last.interval == r.interval &&
			int(r.addr) <= int(last.addr)+last.n+l.gap && end-int(last.addr) <= limit {
			last.n = max(last.n, end-int(last.addr))
			last.registers = append(last.registers, r)
			continue
		}
		last = &block{table: r.table, addr: r.addr, n: r.words, registers: []*register{r}, interval: r.interval}
		blocks = append(blocks, last)
	}
	return blocks
}

// split makes two of b, each of half its registers: a slave that refuses the whole may
// still give parts of it. It returns nil if there is nothing to split.
func (b *block) split() []*block {
	if len(b.registers) < 2 {
		return nil
	}
	var halves []*block
	middle := len(b.registers) / 2
	for _, part := range [][]*register{b.registers[:middle], b.registers[middle:]} {
		h := &block{table: b.table, addr: part[0].addr, registers: part, interval: b.interval, next: b.next}
		for _, r := range part {
			h.n = max(h.n, int(r.addr)+r.words-int(h.addr))
		}
		halves = append(halves, h)
	}
	return halves
}

// words cuts out of what b read the words of r.
func (b *block) words(read []uint16, r *register) []uint16 {
	from := int(r.addr - b.addr)
	return read[from : from+r.words]
}
