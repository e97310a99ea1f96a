package codec

import (
	"sync"
	"sync/atomic"
)

// Taps are those who listen to what goes over a device's wire. A driver embeds it, for devices.Wire, and tells it.
type Taps struct {
	mu  sync.Mutex
	all atomic.Pointer[map[*func(bool, []byte)]bool] // nil: nobody
}

// Tap has f called with what comes from the device and what is sent to it, until release is called. F must neither
// block nor keep what it is given.
func (t *Taps) Tap(f func(sent bool, p []byte)) (release func()) {
	key := &f
	t.change(func(all map[*func(bool, []byte)]bool) { all[key] = true })
	return func() { t.change(func(all map[*func(bool, []byte)]bool) { delete(all, key) }) }
}

func (t *Taps) change(do func(map[*func(bool, []byte)]bool)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[*func(bool, []byte)]bool{}
	if all := t.all.Load(); all != nil {
		for f := range *all {
			next[f] = true
		}
	}
	do(next)
	t.all.Store(&next)
}

// Tell tells them that p was sent to the device, or came from it. It costs nothing while there is nobody.
func (t *Taps) Tell(sent bool, p []byte) {
	if all := t.all.Load(); all != nil && len(p) > 0 {
		for f := range *all {
			(*f)(sent, p)
		}
	}
}
