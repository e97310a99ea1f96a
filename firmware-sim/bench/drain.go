package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

// quiet is how long the intake is looked at before the far end is back.
const quiet = 4 * time.Second

// drained is how one program did after an outage.
type drained struct {
	rate          float64 // of the backlog, events a second
	before, while float64 // p99 of the intake in ms, with the far end away and while it drains
}

// measureDrain has weir and mosquitto's bridge keep the same backlog during an outage, and drain it into a far end that
// comes back, while devices go on publishing.
func measureDrain(ctx context.Context, b *bench) ([]result, error) {
	if _, err := mosquitto(); err != nil {
		return nil, err
	}
	var all []result
	for _, far := range []struct {
		name  string
		taker bool
	}{{"mosquitto", false}, {"one that only takes", true}} {
		programs := []struct {
			program
			seen []drained
		}{{program: weirProgram(b, "")}, {program: bridgeProgram()}}
		for range b.few() {
			for i, of := range programs {
				d, err := drain(ctx, filepath.Join(b.dir, "drain"), of.program, far.taker, b.outage)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", of.name, err)
				}
				fmt.Fprintf(os.Stderr, "  %s into %s: %.0f events/s, intake p99 %.2f ms before, %.2f ms while\n", of.name, far.name, d.rate, d.before, d.while)
				programs[i].seen = append(programs[i].seen, d)
			}
		}
		var ceilings []float64
		for range b.few() {
			rate, err := measureCeiling(ctx, filepath.Join(b.dir, "ceiling"), far.taker, b.outage)
			if err != nil {
				return nil, fmt.Errorf("a sender without work: %w", err)
			}
			ceilings = append(ceilings, rate)
		}
		rate := func(d drained) float64 { return d.rate }
		before, while := func(d drained) float64 { return d.before }, func(d drained) float64 { return d.while }
		weir, other := programs[0].seen, programs[1].seen
		hurt := func(of []drained) string {
			return fmt.Sprintf("%.2f x: %.2f ms to %.2f ms", ratio(each(of, while), each(of, before)), median(each(of, before)), median(each(of, while)))
		}
		all = append(all, result{
			fmt.Sprintf("drain of %d events; far end: %s", b.outage, far.name), ">= 2 x mosquitto's bridge",
			fmt.Sprintf("%.2f x: %.0f events/s", ratio(each(weir, rate), each(other, rate)), median(each(weir, rate))),
			fmt.Sprintf("mosquitto's bridge: %.0f events/s; all that it takes: %.2f x", median(each(other, rate)), ratio(ceilings, each(other, rate))),
		}, result{"intake p99 meanwhile", "<= 1.5 x before", hurt(weir), "mosquitto, which stores nothing: " + hurt(other)})
	}
	return all, nil
}

func drain(ctx context.Context, dir string, of program, taker bool, events int) (d drained, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return d, err
	}
	defer os.RemoveAll(dir)
	at, err := fault.FreeAddress("tcp")
	if err != nil {
		return d, err
	}
	p, err := of.start(ctx, dir, at, nil)
	if err != nil {
		return d, err
	}
	defer p.stop()
	if n := fill(ctx, p.address, events); n < events {
		return d, fmt.Errorf("it took %d of %d events: %s", n, events, p.said())
	}
	in := startIntake(p.address)
	defer in.stop()
	time.Sleep(quiet / 4) // the devices connect, what was filled in comes to rest
	in.lap()
	time.Sleep(quiet)
	before := in.lap()
	far, err := startFar(ctx, dir, at, taker)
	if err != nil {
		return d, err
	}
	defer far.stop()
	if err := far.heard(ctx, firstCame, p); err != nil { // it may sit out a pause between two attempts
		return d, err
	}
	in.lap()
	took, err := far.drained(ctx, p)
	if err != nil {
		return d, err
	}
	while := in.lap()
	if len(before) == 0 || len(while) == 0 {
		return d, fmt.Errorf("the intake stood still: %s", p.said())
	}
	return drained{rate: float64(events) / took.Seconds(), before: ms(percentile(before, 99)), while: ms(percentile(while, 99))}, nil
}
