package store

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/gateway"
)

// fakeClock is a machine whose clocks a test sets.
type fakeClock struct {
	mono    time.Duration
	wall    time.Time
	trusted bool
}

func (c *fakeClock) Mono() time.Duration     { return c.mono }
func (c *fakeClock) Wall() (time.Time, bool) { return c.wall, c.trusted }
func (c *fakeClock) pass(d time.Duration)    { c.mono, c.wall = c.mono+d, c.wall.Add(d) }
func (c *fakeClock) boot(off time.Duration) {
	c.mono, c.trusted = time.Minute, false
	c.wall = c.wall.Add(off)
}
func (c *fakeClock) jump(years int) { c.wall = c.wall.AddDate(years, 0, 0) }

func TestAge(t *testing.T) {
	c := &fakeClock{mono: time.Hour, wall: time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)}
	a := newAge(c, ageMark{}, false, 0)
	step := func(what string, want time.Duration, wantBoot uint32) {
		t.Helper()
		if got, boot, _ := a.now(); got != want || boot != wantBoot {
			t.Errorf("%s: %v in boot %d, not %v in boot %d", what, got, boot, want, wantBoot)
		}
	}
	step("a new journal", 0, 1)
	c.pass(time.Minute)
	step("a minute", time.Minute, 1)
	c.jump(56) // NTP comes, from 1970
	c.trusted = true
	c.pass(time.Minute)
	step("the clock is set", 2*time.Minute, 1)
	c.jump(10)
	c.pass(time.Minute)
	step("it jumps while it is trusted", 3*time.Minute, 1)
	c.jump(-20)
	c.pass(time.Minute)
	step("and back", 4*time.Minute, 1)
	c.jump(10)
	c.pass(time.Minute)
	step("and where it was", 5*time.Minute, 1)

	a = newAge(c, a.mark(), true, 0) // the process starts again
	c.pass(time.Minute)
	step("the same boot", 6*time.Minute, 1)

	m := a.mark()
	c.boot(0) // the power fails; without an RTC the clock stands still
	a = newAge(c, m, false, 7*time.Minute)
	step("the tail knows more than the table", 7*time.Minute, 2)
	c.pass(time.Minute)
	step("a minute of the second boot", 8*time.Minute, 2)
	c.jump(50)
	c.pass(time.Minute)
	step("an untrusted jump", 9*time.Minute, 2)
	c.jump(-50)
	c.wall = c.wall.Add(72 * time.Hour) // three days off
	c.trusted = true
	c.pass(time.Minute)
	// The three days, and some minutes: when exactly the power failed nobody knows.
	if got, _, trusted := a.now(); !trusted || got < 72*time.Hour || got > 72*time.Hour+15*time.Minute {
		t.Errorf("after NTP in the second boot: %v", got)
	}
	before, _, _ := a.now()
	c.pass(time.Minute)
	if got, _, _ := a.now(); got != before+time.Minute {
		t.Errorf("only once: %v, then %v", before, got)
	}
}

// A clock that jumps by years neither expires nor reorders what is in the journal.
func TestClockJumps(t *testing.T) {
	c := &fakeClock{mono: time.Hour, wall: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)}
	dir, boot := t.TempDir(), "boot-1"
	var events []*gateway.Event
	run := func(n int, between func()) (epoch string) {
		j, err := Open(Options{Dir: dir, Clock: c, BootID: func() string { return boot }, MachineID: func() string { return "m" }, MinFree: MinFree{Bytes: 1}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- j.Run(ctx, nowhere{}) }()
		for range n {
			stored := make(chan error, 1)
			e := &gateway.Event{Topic: "a", Expiry: time.Hour, Accepted: c.wall}
			if err := j.Append(ctx, e, gateway.Synced, func(err error) { stored <- err }); err != nil {
				t.Fatal(err)
			}
			if err := <-stored; err != nil {
				t.Fatal(err)
			}
			between()
		}
		cancel()
		if err := <-over; err != nil {
			t.Fatal(err)
		}
		b, err := j.Read(1, gateway.Filters{gateway.MustFilter("#")}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		events = b.Events
		now := j.Age()
		for i, e := range events {
			if e.Expired(now) {
				t.Errorf("event %d of age %v is expired at %v", i, e.Age, now)
			}
			if i > 0 && e.Age < events[i-1].Age {
				t.Errorf("event %d is older than the one before", i)
			}
		}
		epoch = j.Epoch()
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		return epoch
	}
	years := []int{50, -40, 100, -110, 7}
	first := run(5, func() { c.pass(time.Minute); c.jump(years[0]); years = years[1:] })
	c.boot(0)
	boot = "boot-2"
	c.jump(30)
	if again := run(3, func() { c.pass(time.Minute) }); again != first {
		t.Errorf("after a proper stop the epoch changed from %s to %s", first, again)
	}
	if len(events) != 8 || events[0].Boot != 1 || events[7].Boot != 2 || events[7].ClockTrusted {
		t.Errorf("%d events, the last of boot %d", len(events), events[7].Boot)
	}
}

// nowhere is a Releaser that nobody listens to.
type nowhere struct{}

func (nowhere) Released([]*gateway.Event, uint64) {}
func (nowhere) Synced(uint64)                     {}

// The time since boot is the kernel's, whether it was asked for or not, and does not go back.
func TestOSClock(t *testing.T) {
	c := new(OSClock)
	boot := func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			t.Skip("no CLOCK_BOOTTIME: ", err)
		}
		return time.Duration(ts.Nano())
	}
	for last, i := time.Duration(0), 0; i < 100_000; i++ {
		before := boot()
		got := c.Mono()
		if after := boot(); got < last || got > after || got < before-readEvery {
			t.Fatalf("%v after %v, and the kernel says %v to %v", got, last, before, after)
		}
		last = got
	}
}
