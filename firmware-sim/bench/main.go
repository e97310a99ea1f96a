// Command bench measures what a user of Weir feels, row by row of the table in docs/numbers.md, and each row beside its
// alternative, in turns, in one run: disks and neighbours change from second to second, so
// only what was measured side by side compares. A ratio is the median of the ratios of each round.
//
//	go run . [-rows append,device,…] [-dir DIR] [-events 1000000] [-outage 200000] [-rounds 15] [-weir ../../bin/weir]
//
// As root it has mounts of its own, for a disk whose writes nobody else adds to, and a cgroup. What cannot be had is left
// out, and the table says why. A goal that is missed is shown and fails nothing: the exit code is 1 only when something did not work.
//
// It is a module of its own so that SQLite and a bare Badger stay out of Weir's go.mod.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/weir-iot/weir/firmware-sim/image"
)

// bench is what the rows are measured with.
type bench struct {
	dir    string // of this run, removed at its end
	weir   string // the gateway's program
	events int    // of a long backlog
	outage int    // events of an outage that is drained
	rounds int
}

// few is how many rounds a row has that takes long for each.
func (b *bench) few() int { return max(1, b.rounds/5) }

// result is one line of the table.
type result struct{ what, goal, measured, alternative string }

// skipped says why a row cannot be measured here.
type skipped string

func (s skipped) Error() string { return string(s) }

type row struct {
	name    string
	what    string
	measure func(context.Context, *bench) ([]result, error)
}

var rows = []row{
	{"append", "durable append", measureAppend},
	{"device", "device bytes", measureDevice},
	{"backlog", "a long backlog: open, memory", measureBacklog},
	{"segments", "segments go", measureSegments},
	{"outlast", "a gateway in a small cgroup", measureOutlast},
	{"drain", "drain after an outage", measureDrain},
}

func main() {
	if len(os.Args) > 1 {
		if child := children[os.Args[1]]; child != nil {
			if err := child(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil {
		if !errors.Is(err, image.ErrFailed) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

// children are what this program does in a process of its own, by the first argument.
var children = map[string]func(args []string) error{
	"ceiling": ceiling,
	"read":    readBacklog,
	"reader":  reader,
	"taker":   taker,
	"within":  within,
}

func run(ctx context.Context, args []string) error {
	var b bench
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	chosen := flag.String("rows", strings.Join(names, ","), "what to measure")
	dir := flag.String("dir", "", "`directory` on the disk to measure; default a temporary one")
	flag.StringVar(&b.weir, "weir", "../../bin/weir", "the gateway's `program`")
	flag.IntVar(&b.events, "events", 1_000_000, "events of a long backlog")
	flag.IntVar(&b.outage, "outage", 200_000, "events of an outage that is drained")
	flag.IntVar(&b.rounds, "rounds", 15, "how often each is measured; rows that take long have a fifth of them")
	flag.CommandLine.Parse(args)
	if os.Geteuid() == 0 && !image.Private() {
		return image.Rerun(ctx, args, os.Stdout, os.Stderr)
	}
	wanted := strings.Split(*chosen, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no row %q: %s", name, strings.Join(names, ", "))
		}
	}
	var err error
	if b.weir, err = filepath.Abs(b.weir); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(*dir, "weir-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	var table []result
	for _, r := range rows {
		if !slices.Contains(wanted, r.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s %s …\n", time.Now().Format(time.TimeOnly), r.what)
		results, err := r.measure(ctx, &b)
		var why skipped
		switch {
		case errors.As(err, &why):
			results = append(results, result{what: r.what, measured: "left out: " + string(why)})
		case err != nil:
			return fmt.Errorf("%s: %w", r.name, err)
		}
		table = append(table, results...)
	}
	fmt.Printf("\n%s, %d CPUs, load %s\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), load())
	return print(os.Stdout, table)
}

func print(to io.Writer, table []result) error {
	w := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "WHAT\tGOAL\tMEASURED\tALTERNATIVE")
	for _, r := range table {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.what, r.goal, r.measured, r.alternative)
	}
	return w.Flush()
}

// load is the load of the last minute.
func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// ratio is the median of a[i]/b[i].
func ratio(a, b []float64) float64 {
	var all []float64
	for i := range a {
		all = append(all, a[i]/b[i])
	}
	return median(all)
}

// percentile of sorted values.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

const mega = 1e6
