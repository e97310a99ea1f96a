package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

// verbs are what a script can do, and why some cannot be had here.
//
//	kill X     kill -9, and started again: weir, box (its process with the databases) or all
//	pause      SIGSTOP, and SIGCONT, of both
//	power X    the power is cut: of what the journal had not synced, none, half or all survives
//	plug       the plug of the disk is pulled: the file system forgets what it had not written
//	full       the disk is filled, and freed
//	flip N     N bits of sealed segments are turned
//	clock N    the wall clock is N days wrong from now on
//	outage     the far end refuses, until more waits for it than the journal holds
//	stall refuse deaf slow cut cut-after           the link to the far end, see fault.Link
//	device-stall device-refuse device-deaf …       the link from the devices
func (c *campaign) verbs() (verbs map[string]fault.Verb, skipped map[string]string) {
	verbs, skipped = map[string]fault.Verb{}, map[string]string{}
	rng := rand.New(rand.NewPCG(c.Seed, 1))
	lasts := func(name string, begin func(string) error, end func() error) {
		verbs[name] = c.noted(name, begin, end)
	}
	lasts("kill", c.kill, c.gateway.start)
	lasts("pause", func(string) error { c.gateway.signalAll(syscall.SIGSTOP); return nil },
		func() error { c.gateway.signalAll(syscall.SIGCONT); return nil })
	lasts("outage", func(string) error { c.up.Refuse(); c.up.Cut(); return nil }, c.endOutage)
	verbs["flip"] = c.noted("flip", func(arg string) error { return c.flip(rng, arg) }, nil)
	lasts("power", c.cutPower, c.restart)
	verbs["clock"] = c.noted("clock", c.setClock, nil)
	lasts("plug", func(string) error { return c.pullPlug() }, c.plugIn)
	lasts("full", func(string) error { return c.disk.fill() }, c.disk.free)
	if c.disk.control == "" {
		for _, name := range []string{"power", "plug", "clock"} {
			skipped[name] = "weir is not built for it: go build -tags faults ./cmd/weir"
		}
	}
	if !c.disk.mounted() {
		skipped["plug"], skipped["full"] = c.disk.noImage, c.disk.noImage
	}
	for prefix, link := range map[string]*fault.Link{"": c.up, "device-": c.down} {
		for name, v := range link.Verbs() {
			end := func() error { v.End(); return nil }
			if v.End == nil {
				end = nil
			}
			verbs[prefix+name] = c.noted(prefix+name, v.Begin, end)
		}
	}
	for name, why := range skipped {
		verbs[name] = fault.Verb{Begin: func(string) error { return fmt.Errorf("%s cannot be had: %s", name, why) }, End: verbs[name].End}
	}
	return verbs, skipped
}

// noted is a verb that is written down when it is over.
func (c *campaign) noted(name string, begin func(string) error, end func() error) fault.Verb {
	var since time.Time
	v := fault.Verb{Begin: func(arg string) error {
		since = time.Now()
		err := begin(arg)
		if end == nil {
			c.note(happened{name, since, since})
		}
		return err
	}}
	if end != nil {
		v.End = func() {
			over := time.Now() // a start is part of the recovery
			if err := end(); err != nil {
				c.say("%s cannot end: %v", name, err)
				c.broken(fmt.Errorf("%s cannot end: %w", name, err))
			}
			c.note(happened{name, since, over})
		}
	}
	return v
}

func (c *campaign) kill(arg string) error {
	switch arg {
	case "weir":
		c.gateway.kill()
	case "all":
		c.gateway.killAll()
	case "box":
		return c.gateway.killBox()
	default:
		return fmt.Errorf("kill needs weir, box or all, not %q", arg)
	}
	return nil
}

// endOutage waits until the reservoir is in use: how long that takes depends on the machine.
func (c *campaign) endOutage() error {
	for end := time.Now().Add(startLimit); !c.watch.spilled() && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond) // between two looks; the look decides
	}
	c.up.Pass()
	return nil
}

var survives = map[string]string{"none": "0", "half": "0.5", "all": "1"}

func (c *campaign) cutPower(arg string) error {
	keep, known := survives[arg]
	if !known {
		return fmt.Errorf("power needs none, half or all, not %q", arg)
	}
	if err := c.disk.order("keep", keep); err != nil {
		return err
	}
	return c.gateway.powerCut()
}

// restart starts the gateway as after a boot.
func (c *campaign) restart() error {
	if err := c.disk.reboot(); err != nil {
		return err
	}
	return c.gateway.start()
}

func (c *campaign) pullPlug() error {
	c.gateway.signalAll(syscall.SIGSTOP)
	err := c.disk.pull()
	c.gateway.killAll()
	return err
}

func (c *campaign) plugIn() error {
	if err := c.disk.plugIn(); err != nil {
		return err
	}
	return c.restart()
}

func (c *campaign) setClock(arg string) error {
	days, err := strconv.Atoi(arg)
	if err != nil {
		return fmt.Errorf("clock needs days, not %q", arg)
	}
	return c.disk.order("clock", (time.Duration(days) * 24 * time.Hour).String())
}

// flip turns bits of segments that are written no more: all but the newest.
func (c *campaign) flip(rng *rand.Rand, arg string) error {
	n, err := strconv.Atoi(arg)
	if err != nil || n < 1 {
		return fmt.Errorf("flip needs how many bits, not %q", arg)
	}
	all, err := filepath.Glob(filepath.Join(c.disk.data, "journal", "*.seg"))
	if err != nil || len(all) < 2 {
		return err
	}
	slices.Sort(all)
	for range n {
		if err := flipBit(rng, all[rng.IntN(len(all)-1)]); err != nil && !os.IsNotExist(err) { // it may be let go of meanwhile
			return err
		}
	}
	return nil
}

func flipBit(rng *rand.Rand, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	at := rng.Int64N(info.Size())
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 1 << rng.IntN(8)
	_, err = f.WriteAt(b[:], at)
	return err
}
