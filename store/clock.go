package store

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Clock is what the machine says of time.
type Clock interface {
	// Mono is the time since boot, suspend included. It never jumps.
	Mono() time.Duration
	// Wall is the wall clock, and whether it can be trusted.
	Wall() (now time.Time, trusted bool)
}

// OSClock is the Clock of the operating system. A program has one and hands it on.
type OSClock struct {
	read atomic.Pointer[uptime]
}

// uptime is what CLOCK_BOOTTIME said, and when by the clock that stands still in a suspend.
type uptime struct {
	mono time.Duration
	at   time.Time
}

// readEvery is how long a reading serves. To ask for the time since boot is a system call, which was two thirds
// of an Append. What is accepted within so long of a resume may get an age from before it.
const readEvery = time.Millisecond

// Mono costs a system call once in a millisecond.
func (c *OSClock) Mono() time.Duration {
	if r := c.read.Load(); r != nil {
		if since := time.Since(r.at); since < readEvery {
			return r.mono + since
		}
	}
	var ts unix.Timespec
	asked := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil { // since Linux 2.6.39
		return time.Since(started)
	}
	u := &uptime{time.Duration(ts.Nano()), time.Now()} // in this order, so that it never runs ahead
	if u.at.Sub(asked) < readEvery/10 {                // else we were held up in between, and it would lag by as much
		c.read.Store(u)
	}
	return u.mono
}

var started = time.Now()

// Wall trusts the clock while the kernel holds it for synchronised, adjtimex(2).
func (*OSClock) Wall() (time.Time, bool) {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return time.Now(), err == nil && state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
}

// age is the gateway's own clock: it grows with every event, over restarts too, and never jumps.
// Expiry, retention and thinning count in it, because the wall clock is only data: without an
// RTC it starts wrong and jumps, also by years. While the machine is off the age stands
// still, until a trusted wall clock says how long that was.
type age struct {
	clock Clock

	mu      sync.Mutex
	base    time.Duration // age = base + Mono
	last    time.Duration // the last that was given out
	boot    uint32        // counts the boots of this data directory
	asked   time.Duration // Mono when trust was looked at; asking costs a system call
	trusted bool
	seen    sighting
}

// sighting is the newest moment at which the wall clock was trusted.
type sighting struct {
	boot uint32 // 0: never
	wall time.Time
	age  time.Duration
}

const askEvery = time.Second

// ageMark is what the table of epochs keeps of it.
type ageMark struct {
	boot uint32
	base time.Duration // in this boot
	last time.Duration
	seen sighting
}

// newAge goes on from m, and from the age of the last event that was found.
func newAge(c Clock, m ageMark, sameBoot bool, last time.Duration) *age {
	a := &age{clock: c, boot: m.boot, base: m.base, seen: m.seen, last: max(m.last, last), asked: -askEvery}
	if !sameBoot || m.boot == 0 {
		a.boot++
		a.base = a.last - c.Mono()
	}
	return a
}

// now returns the age in whole milliseconds, the boot, and whether the wall clock can be trusted.
func (a *age) now() (age time.Duration, boot uint32, trusted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	mono := a.clock.Mono()
	if mono-a.asked >= askEvery {
		var wall time.Time
		a.asked = mono
		if wall, a.trusted = a.clock.Wall(); a.trusted {
			a.believe(wall, mono)
		}
	}
	a.last = max(a.last, (a.base + mono).Truncate(time.Millisecond))
	return a.last, a.boot, a.trusted
}

// believe adds the time for which the machine was off, once in a boot. A wall clock that jumps
// later in the boot moves nothing.
func (a *age) believe(wall time.Time, mono time.Duration) {
	if a.seen.boot != 0 && a.seen.boot != a.boot {
		a.base += max(0, wall.Sub(a.seen.wall)-(a.base+mono-a.seen.age))
	}
	a.seen = sighting{a.boot, wall, a.base + mono}
}

func (a *age) mark() ageMark {
	a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	return ageMark{a.boot, a.base, a.last, a.seen}
}
