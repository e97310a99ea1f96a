package health

import (
	"sync"
	"time"
)

// Written counts bytes that are written: since it was made, and in the last day, by the hour. Flash has
// a number of them that it lives for.
type Written struct {
	began time.Time

	mu    sync.Mutex
	total uint64
	hours [24]uint64 // the running one and those before it
	hour  int64      // the running one, since began
}

// NewWritten returns a Written that begins now.
func NewWritten() *Written { return &Written{began: time.Now()} }

// Add counts; it does not wait for anything.
func (w *Written) Add(bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn()
	w.total += uint64(bytes)
	w.hours[w.hour%24] += uint64(bytes)
}

// Bytes returns what was written in all, and in the last 23 to 24 hours.
func (w *Written) Bytes() (total, day uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn()
	for _, n := range w.hours {
		day += n
	}
	return w.total, day
}

// turn goes on to the running hour. The clock is the monotonic one.
func (w *Written) turn() {
	now := int64(time.Since(w.began) / time.Hour)
	for w.hour = max(w.hour, now-24); w.hour < now; {
		w.hour++
		w.hours[w.hour%24] = 0
	}
}
