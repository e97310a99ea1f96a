// Command benchmark measures what an acknowledged append costs: 64 producers, 256 bytes each,
// every one waiting for its acknowledgement before it sends the next. Weir's journal stands beside
// the bare system calls and two databases, in one run, in turns, on one disk.
//
// Engines take turns in short rounds and a ratio is the median of the ratios of each round, because disks
// and neighbours change from second to second. Every engine commits in groups and lets
// those whom it has just answered join the next.
//
// It is a module of its own so that SQLite stays out of Weir's go.mod.
//
//	go run . [-dir DIR] [-producers 64] [-bytes 256] [-for 300ms] [-rounds 15]
//
// It exits with 1 when -min is given and the journal does less than that share of the bare calls' throughput.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// engine stores a payload durably before append returns. Close ends it.
type engine interface {
	append(payload []byte) error
	close() error
}

type contender struct {
	name string
	open func(dir string) (engine, error)

	// By round: appends per second, and milliseconds.
	rates, p50s, p99s []float64
}

func main() {
	dir := flag.String("dir", "", "`directory` on the disk to measure; default a temporary one")
	producers := flag.Int("producers", 64, "how many append at once")
	size := flag.Int("bytes", 256, "size of a payload")
	each := flag.Duration("for", 300*time.Millisecond, "how long each engine runs per round")
	rounds := flag.Int("rounds", 15, "how often each engine runs")
	least := flag.Float64("min", 0, "fail if the journal does less than this `share` of raw")
	flag.Parse()
	share, err := run(*dir, *producers, *size, *each, *rounds)
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmark:", err)
		os.Exit(1)
	}
	if share < *least {
		fmt.Fprintf(os.Stderr, "benchmark: the journal does %.2f of raw, less than %.2f\n", share, *least)
		os.Exit(1)
	}
}

func run(dir string, producers, size int, each time.Duration, rounds int) (share float64, err error) {
	if dir, err = os.MkdirTemp(dir, "weir-benchmark-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	contenders := []*contender{
		{name: "raw group fdatasync", open: openRaw},
		{name: "weir journal", open: openJournal},
		{name: "raw, zero-filled file", open: openRawZeros},
		{name: "sqlite wal full", open: openSQLite},
		{name: "badger, txn per group", open: openBadger},
	}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i*7 + 1)
	}
	for round := range rounds {
		for i, c := range contenders {
			if err := c.measure(filepath.Join(dir, fmt.Sprintf("%d-%d", round, i)), producers, payload, each); err != nil {
				return 0, fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	fmt.Printf("%d producers, %d bytes, each waits for its ack; medians of %d rounds of %s\n\n", producers, size, rounds, each)
	fmt.Printf("%-24s %9s %6s   %8s %6s   %8s\n", "", "acks/s", "ratio", "p50 ms", "ratio", "p99 ms")
	raw := contenders[0]
	for _, c := range contenders {
		var ratios, slower []float64
		for i := range c.rates {
			ratios = append(ratios, c.rates[i]/raw.rates[i])
			slower = append(slower, c.p50s[i]/raw.p50s[i])
		}
		ratio := median(ratios)
		fmt.Printf("%-24s %9.0f %6.2f   %8.2f %6.2f   %8.2f\n", c.name, median(c.rates), ratio,
			median(c.p50s), median(slower), median(c.p99s))
		if c.name == "weir journal" {
			share = ratio
		}
	}
	return share, nil
}

// measure runs one engine for one round, in a directory of its own that is removed afterwards.
func (c *contender) measure(dir string, producers int, payload []byte, each time.Duration) error {
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
	time.Sleep(each / 5) // warm
	count.Store(true)
	start := time.Now()
	time.Sleep(each)
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
		return fmt.Errorf("nothing was stored within %s", each)
	}
	slices.Sort(all)
	percentile := func(p int) float64 {
		return float64(all[min(len(all)-1, len(all)*p/100)]) / float64(time.Millisecond)
	}
	c.rates = append(c.rates, float64(len(all))/took.Seconds())
	c.p50s = append(c.p50s, percentile(50))
	c.p99s = append(c.p99s, percentile(99))
	return nil
}

func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
