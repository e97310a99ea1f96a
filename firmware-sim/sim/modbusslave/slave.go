// Package modbusslave is Modbus devices that do not exist, on a line (RTU) or a network (TCP, and
// RTU over TCP), with the bad habits of those that do. Its wire format is its own, not the
// gateway's, so that one checks the other.
package modbusslave

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Slave is one device. The zero value is not ready; see New.
type Slave struct {
	mu      sync.Mutex
	rng     *rand.Rand
	bits    [2]map[uint16]bool   // coils, discrete inputs
	words   [2]map[uint16]uint16 // holding, input registers
	habit   Habit
	left    int // answers that habit still holds for; negative: all
	limit   int
	lacks   map[byte]bool
	deaf    map[byte]bool
	refresh func()
	asked   int
}

// Habit is how a slave behaves. The zero value is well.
type Habit struct {
	Dead      bool          // says nothing
	Late      time.Duration // answers so much later; what comes meanwhile waits
	Pieces    int           // the answer comes in so many pieces,
	Pause     time.Duration // with so much time between
	Noise     int           // so many random bytes before the answer
	Spoilt    bool          // one byte of the answer is wrong
	Exception byte          // refuses with it
	As        byte          // answers as if it were another unit; 0: as itself
	Share     float64       // which part of the answers are so, by the seed; 0: all
}

// The tables, as Set's and Get's first argument.
const (
	Coil = iota
	Discrete
	Holding
	Input
)

// New returns a device without registers. Equal seeds make equal noise.
func New(seed uint64) *Slave {
	return &Slave{
		rng:   rand.New(rand.NewPCG(seed, 0x6d6f64627573)),
		bits:  [2]map[uint16]bool{{}, {}},
		words: [2]map[uint16]uint16{{}, {}},
		limit: 125,
		lacks: map[byte]bool{}, deaf: map[byte]bool{},
	}
}

// Set gives the device registers, or bits, from addr on. A bit is 0 or 1.
func (s *Slave) Set(table int, addr uint16, values ...uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, v := range values {
		if table == Coil || table == Discrete {
			s.bits[table][addr+uint16(i)] = v != 0
		} else {
			s.words[table-Holding][addr+uint16(i)] = v
		}
	}
}

// Get is what the register at addr holds.
func (s *Slave) Get(table int, addr uint16) uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if table == Coil || table == Discrete {
		if s.bits[table][addr] {
			return 1
		}
		return 0
	}
	return s.words[table-Holding][addr]
}

// Behave sets how the next n answers are; n < 0: all from now on.
func (s *Slave) Behave(h Habit, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.habit, s.left = h, n
}

// Limit bounds the registers of one request.
func (s *Slave) Limit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = n
}

// Lacks makes the device answer functions with exception 1, illegal function.
func (s *Slave) Lacks(functions ...byte) { s.without(s.lacks, functions) }

// Deaf makes the device not answer functions at all.
func (s *Slave) Deaf(functions ...byte) { s.without(s.deaf, functions) }

func (s *Slave) without(set map[byte]bool, functions []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range functions {
		set[f] = true
	}
}

// Refresh is called before each request is answered, to bring registers up to date.
func (s *Slave) Refresh(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh = f
}

// Asked counts the requests that came for the device.
func (s *Slave) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// next is the habit of the answer that is due.
func (s *Slave) next() Habit {
	if s.left == 0 || s.habit.Share > 0 && s.rng.Float64() >= s.habit.Share {
		return Habit{}
	}
	if s.left > 0 {
		s.left--
	}
	return s.habit
}

// answer carries out a request and returns what to say, nil for nothing.
func (s *Slave) answer(pdu []byte) ([]byte, Habit) {
	s.mu.Lock()
	f := s.refresh
	s.mu.Unlock()
	if f != nil {
		f()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	h := s.next()
	switch {
	case h.Dead, s.deaf[pdu[0]]:
		return nil, h
	case h.Exception != 0:
		return []byte{pdu[0] | 0x80, h.Exception}, h
	case s.lacks[pdu[0]]:
		return []byte{pdu[0] | 0x80, 1}, h
	}
	return s.do(pdu), h
}

func two(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

// do is the device's firmware.
func (s *Slave) do(pdu []byte) []byte {
	f := pdu[0]
	refuse := func(code byte) []byte { return []byte{f | 0x80, code} }
	switch {
	case (f == 8 || f >= 1 && f <= 6) && len(pdu) == 5, f == 22 && len(pdu) == 7:
	case (f == 15 || f == 16) && len(pdu) >= 6 && len(pdu) == 6+int(pdu[5]):
	case f == 8, f >= 1 && f <= 6, f == 15, f == 16, f == 22:
		return refuse(3)
	default:
		return refuse(1)
	}
	addr, n := two(pdu[1:]), two(pdu[3:])
	switch f {
	case 1, 2:
		if n < 1 || n > 2000 {
			return refuse(3)
		}
		out := make([]byte, 2+(int(n)+7)/8)
		out[0], out[1] = f, byte(len(out)-2)
		for i := range int(n) {
			on, there := s.bits[f-1][addr+uint16(i)]
			if !there {
				return refuse(2)
			}
			if on {
				out[2+i/8] |= 1 << (i % 8)
			}
		}
		return out
	case 3, 4:
		if n < 1 || int(n) > s.limit {
			return refuse(3)
		}
		out := []byte{f, byte(2 * n)}
		for i := range n {
			w, there := s.words[f-3][addr+i]
			if !there {
				return refuse(2)
			}
			out = append(out, byte(w>>8), byte(w))
		}
		return out
	case 5:
		if n != 0 && n != 0xff00 {
			return refuse(3)
		}
		if _, there := s.bits[Coil][addr]; !there {
			return refuse(2)
		}
		s.bits[Coil][addr] = n != 0
	case 6:
		if _, there := s.words[0][addr]; !there {
			return refuse(2)
		}
		s.words[0][addr] = n
	case 8:
		if addr != 0 {
			return refuse(1)
		}
	case 15:
		if n < 1 || int(pdu[5]) != (int(n)+7)/8 {
			return refuse(3)
		}
		for i := range n {
			if _, there := s.bits[Coil][addr+i]; !there {
				return refuse(2)
			}
		}
		for i := range n {
			s.bits[Coil][addr+i] = pdu[6+i/8]>>(i%8)&1 != 0
		}
		return pdu[:5]
	case 16:
		if n < 1 || int(n) > s.limit || int(pdu[5]) != 2*int(n) {
			return refuse(3)
		}
		for i := range n {
			if _, there := s.words[0][addr+i]; !there {
				return refuse(2)
			}
		}
		for i := range n {
			s.words[0][addr+i] = two(pdu[6+2*i:])
		}
		return pdu[:5]
	case 22:
		w, there := s.words[0][addr]
		if !there {
			return refuse(2)
		}
		s.words[0][addr] = w&two(pdu[3:]) | two(pdu[5:])&^two(pdu[3:])
	}
	return pdu
}
