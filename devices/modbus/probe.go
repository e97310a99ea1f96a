package modbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-iot/weir/devices/codec"
)

// Found is what a scan found out about one unit id.
type Found struct {
	Unit int `json:"unit"`
	// Answer is empty for a plain answer, or the exception. Either way the slave is there.
	Answer string `json:"answer,omitempty"`
	// Noise says what came that was no answer; then nobody may be there.
	Noise string `json:"noise,omitempty"`
}

// Scan asks every unit id from first to last for its holding register 0, and tells each of
// those that made something come. It waits for timeout at each that is silent. The error is
// that the bus cannot be used, or ctx's.
func (b *Bus) Scan(ctx context.Context, first, last int, timeout time.Duration, tell func(Found)) error {
	b.timing.timeout = timeout
	s, err := b.use(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	for id := first; id <= last; id++ {
		_, _, err := s.ask(ctx, byte(id), readRequest(holding, 0, 1))
		f := Found{Unit: id}
		var refused Exception
		var none *noAnswer
		switch {
		case err == nil:
		case errors.As(err, &refused) && !refused.unreachable():
			f.Answer = refused.Error()
		case errors.As(err, &none) && len(none.seen) > 0:
			f.Noise = fmt.Sprintf("% x: %s", none.seen[:min(len(none.seen), 16)], guess(none.seen, none.sent, b.framing()))
		case errors.Is(err, errSilence):
			continue
		default:
			return err
		}
		tell(f)
	}
	return nil
}

// reader reads a slave of which nothing is configured.
func (s *session) reader(unit int) *reader {
	d := &Driver{bus: s.bus, unit: byte(unit), limits: limits{registers: maxRegisters, bits: maxBits}}
	return &reader{Driver: d, session: s, up: true, emit: func(codec.Frame) {}}
}

// Raw is one register, or bit, in every interpretation.
type Raw struct {
	Register string   `json:"register"` // in the traditional notation
	Address  uint16   `json:"address"`
	Hex      string   `json:"hex,omitempty"` // of a register
	Values   []Meant  `json:"values"`
	words    []uint16 // from this one on
}

// Meant is what a register, with those after it, means as Type.
type Meant struct {
	Type      string `json:"type"`
	WordOrder string `json:"word_order,omitempty"` // little, or empty for big
	ByteOrder string `json:"byte_order,omitempty"`
	Value     string `json:"value"`
}

// Tables are the names of the tables, as Dump takes them.
var Tables = map[string]table{"coil": coil, "discrete": discrete, "input": input, "holding": holding}

// Dump reads n registers, or bits, of a slave and returns each in every interpretation. Those that
// the slave refuses are left out. The error is an Exception if that is all of them, or that the slave
// cannot be asked.
func (b *Bus) Dump(ctx context.Context, unit int, t table, addr uint16, n int) ([]Raw, error) {
	s, err := b.use(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	r := s.reader(unit)
	n = min(n, 1<<16-int(addr))
	var all []Raw
	read, err := r.read(ctx, t, addr, n)
	if err == nil {
		return interpret(t, addr, read), nil
	}
	var refused Exception
	if !errors.As(err, &refused) || refused.unreachable() {
		return nil, err
	}
	for i := range n { // one of them is not there: which?
		one, oneErr := r.read(ctx, t, addr+uint16(i), 1)
		if oneErr == nil {
			all = append(all, interpret(t, addr+uint16(i), one)...)
		} else if !errors.As(oneErr, &refused) {
			return nil, oneErr
		}
	}
	if all == nil {
		return nil, err
	}
	// Neighbours that both are there can be read as one value.
	for i := range all {
		for j := i + 1; j < len(all) && all[j].Address == all[j-1].Address+1 && len(all[i].words) < 4; j++ {
			all[i].words = append(all[i].words, all[j].words[0])
		}
		all[i].Values = meanings(t, all[i].words)
	}
	return all, nil
}

func interpret(t table, addr uint16, read []uint16) []Raw {
	all := make([]Raw, len(read))
	for i := range read {
		words := read[i:min(i+4, len(read))]
		all[i] = Raw{Register: traditional(t, addr+uint16(i)), Address: addr + uint16(i), Values: meanings(t, words), words: words[:1:1]}
		if !t.bits() {
			all[i].Hex = fmt.Sprintf("0x%04x", read[i])
		}
	}
	return all
}

// meanings are what words mean as each type that they are long enough for, in each order.
func meanings(t table, words []uint16) (all []Meant) {
	if t.bits() {
		return []Meant{{Type: "bool", Value: fmt.Sprint(words[0] != 0)}}
	}
	orders := []string{"", "little"}
	for _, kind := range []string{"uint16", "int16", "float16", "bcd16", "uint32", "int32", "float32", "bcd32", "uint64", "int64", "float64"} {
		f := forms[kind]
		if len(words) < f.words {
			continue
		}
		for _, wordOrder := range orders {
			for _, byteOrder := range orders {
				if f.words == 1 && wordOrder != "" {
					continue
				}
				r := &register{kind: kind, form: f, littleWords: wordOrder != "", littleBytes: byteOrder != ""}
				if v := r.decode(words[:f.words], 0); v.text != "nan" {
					all = append(all, Meant{kind, wordOrder, byteOrder, v.text})
				}
			}
		}
	}
	all = append(all, Meant{Type: "bits", Value: fmt.Sprintf("%016b", words[0])})
	if s := text(words[:1]); s != "" {
		all = append(all, Meant{Type: "string", Value: s})
	}
	return all
}

// Models are the SunSpec models of a slave, by number, and whether Weir knows them. It is nil if the
// slave does not speak SunSpec.
func (b *Bus) Models(ctx context.Context, unit int) ([]string, error) {
	s, err := b.use(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	r := s.reader(unit)
	found, err := findModels(func(addr uint16, n int) ([]uint16, error) { return r.read(ctx, holding, addr, n) })
	if errors.Is(err, errNoSunSpec) {
		return nil, nil
	}
	var all []string
	for _, m := range found {
		name := "not known to Weir"
		if entry, known := models[m.id]; known {
			name = entry.name
		}
		all = append(all, fmt.Sprintf("%d (%s)", m.id, name))
	}
	return all, err
}
