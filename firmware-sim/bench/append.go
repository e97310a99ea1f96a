package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// How an append is measured: so many producers, each of whom waits for its acknowledgement before it
// sends the next payload, of so many bytes; each engine for so long in a round.
const (
	producers   = 64
	payloadSize = 256
	appendFor   = 300 * time.Millisecond
)

func payload() []byte {
	p := make([]byte, payloadSize)
	for i := range p {
		p[i] = byte(i*7 + 1)
	}
	return p
}

// contender is an engine and what was measured of it, round by round: appends a second, and milliseconds.
type contender struct {
	name              string
	open              func(dir string) (engine, error)
	rates, p50s, p99s []float64
}

// measureAppend lets engines append in turns. Every one commits in groups and lets those whom it
// has just answered join the next.
func measureAppend(ctx context.Context, b *bench) ([]result, error) {
	raw := &contender{name: "raw group fdatasync", open: openRaw(allocated)}
	weir := &contender{name: "weir journal", open: openJournal}
	badger := &contender{name: "badger, txn per group", open: openBadger}
	all := []*contender{raw, weir, {name: "raw, zero-filled file", open: openRaw(zeroed)}, {name: "sqlite wal full", open: openSQLite}, badger}
	for round := range b.rounds {
		for i, c := range all {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err := c.measure(filepath.Join(b.dir, fmt.Sprintf("%d-%d", round, i))); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	fmt.Printf("%d producers, %d bytes, each waits for its ack; medians of %d rounds of %s\n\n", producers, payloadSize, b.rounds, appendFor)
	fmt.Printf("%-24s %9s %6s   %8s %6s   %8s\n", "", "acks/s", "ratio", "p50 ms", "ratio", "p99 ms")
	for _, c := range all {
		fmt.Printf("%-24s %9.0f %6.2f   %8.2f %6.2f   %8.2f\n", c.name, median(c.rates), ratio(c.rates, raw.rates),
			median(c.p50s), ratio(c.p50s, raw.p50s), median(c.p99s))
	}
	what := fmt.Sprintf("durable append, %d producers, %d B", producers, payloadSize)
	against := func(c *contender, goal string) result {
		return result{what, goal, fmt.Sprintf("%.2f x: %.0f acks/s", ratio(weir.rates, c.rates), median(weir.rates)), fmt.Sprintf("%s: %.0f acks/s", c.name, median(c.rates))}
	}
	return []result{against(raw, ">= 0.9 x raw"), against(badger, ">= 1.3 x Badger")}, nil
}

// measure runs one engine for one round, in a directory of its own that is removed afterwards.
func (c *contender) measure(dir string) error {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	e, err := c.open(dir)
	if err != nil {
		return err
	}
	var stop, count atomic.Bool
	var failed atomic.Pointer[error]
	latencies := make([][]time.Duration, producers)
	payload := payload()
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for !stop.Load() {
				start := time.Now()
				if err := e.append(payload); err != nil {
					failed.Store(&err)
					return
				}
				if count.Load() {
					latencies[p] = append(latencies[p], time.Since(start))
				}
			}
		})
	}
	time.Sleep(appendFor / 5) // warm
	count.Store(true)
	start := time.Now()
	time.Sleep(appendFor)
	count.Store(false)
	took := time.Since(start)
	stop.Store(true)
	wg.Wait()
	if err := e.close(); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	all := slices.Concat(latencies...)
	if len(all) == 0 {
		return fmt.Errorf("nothing was stored within %s", appendFor)
	}
	slices.Sort(all)
	c.rates = append(c.rates, float64(len(all))/took.Seconds())
	c.p50s = append(c.p50s, ms(percentile(all, 50)))
	c.p99s = append(c.p99s, ms(percentile(all, 99)))
	return nil
}
