package sim

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// signal is a quantity that behaves like a measured one: it follows the day, wanders a
// little, is drawn back, and has noise. It depends on its seed and on the times it is asked
// for, never on the clock.
type signal struct {
	base, swing float64 // mean, and how far a day takes it from there
	wander      float64 // how far it strays in a minute
	noise       float64
	peak        float64 // when in the day it is highest, 0 to 1
	decimals    int

	rng   *rand.Rand
	walk  float64
	since time.Duration
}

func (s *signal) at(t, day time.Duration) float64 {
	minutes := (t - s.since).Minutes()
	s.since = t
	s.walk = s.walk*math.Exp(-minutes/5) + s.rng.NormFloat64()*s.wander*math.Sqrt(minutes)
	phase := float64(t)/float64(day) - s.peak
	return s.base + s.swing*math.Cos(2*math.Pi*phase) + s.walk + s.rng.NormFloat64()*s.noise
}

// positive is at for what cannot be less than nothing.
func (s *signal) positive(t, day time.Duration) float64 { return max(0, s.at(t, day)) }

func (s *signal) format(v float64) string { return strconv.FormatFloat(v, 'f', s.decimals, 64) }

// source makes the signals of one device; equal seeds and names make equal devices.
func source(seed uint64, device string) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(device) {
		h = (h ^ uint64(device[i])) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h))
}
