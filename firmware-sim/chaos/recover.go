package chaos

import (
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/firmware-sim/sim"
)

// Recovery is how long it took after a kind of fault until things went on: for what befalls the
// gateway or its devices the next acknowledgement, for the link to the far end the next arrival.
type Recovery struct {
	Measured int     `json:"measured"` // times that no other fault came between
	Median   float64 `json:"median_seconds"`
	Max      float64 `json:"max_seconds"`
}

// toFarEnd tells whether a fault is one of the link to the far end.
func toFarEnd(verb string) bool {
	switch verb {
	case "stall", "refuse", "deaf", "slow", "cut", "cut-after", "outage":
		return true
	}
	return false
}

// instant tells whether there is nothing to recover from.
func instant(verb string) bool {
	return verb == "flip" || verb == "clock" || strings.HasSuffix(verb, "cut-after")
}

// recoveries measures from the end of each fault. The times are in order.
func recoveries(faults []happened, acks, arrivals []time.Time) map[string]Recovery {
	took := map[string][]time.Duration{}
	for _, f := range faults {
		if instant(f.verb) {
			continue
		}
		seen := acks
		if toFarEnd(f.verb) {
			seen = arrivals
		}
		n, _ := slices.BinarySearchFunc(seen, f.end, func(at, end time.Time) int { return at.Compare(end) })
		if n == len(seen) || disturbed(faults, f, seen[n]) {
			continue
		}
		took[f.verb] = append(took[f.verb], seen[n].Sub(f.end))
	}
	all := map[string]Recovery{}
	for verb, d := range took {
		slices.Sort(d)
		all[verb] = Recovery{len(d), d[len(d)/2].Seconds(), d[len(d)-1].Seconds()}
	}
	return all
}

// disturbed tells whether another fault was on between the end of f and the moment when things went on.
func disturbed(faults []happened, f happened, until time.Time) bool {
	for _, g := range faults {
		if g != f && !instant(g.verb) && g.begin.Before(until) && g.end.After(f.end) {
			return true
		}
	}
	return false
}

func ackTimes(entries []sim.Entry) (all []time.Time) {
	for _, e := range entries {
		if e.Taken() {
			all = append(all, e.Acked)
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	return all
}

func arrivalTimes(arrivals []arrival) (all []time.Time) {
	for _, a := range arrivals {
		all = append(all, a.at)
	}
	return all
}

// Intake is how long an acknowledgement took, of messages that were sent once: no fault of the link
// or end of the gateway came between.
type Intake struct {
	Measured int     `json:"measured"`
	P50      float64 `json:"p50_seconds"`
	P99      float64 `json:"p99_seconds"`
}

func intake(entries []sim.Entry) Intake {
	var took []time.Duration
	for _, e := range entries {
		if e.Taken() && e.Sends == 1 {
			took = append(took, e.Acked.Sub(e.Sent))
		}
	}
	if took == nil {
		return Intake{}
	}
	slices.Sort(took)
	return Intake{len(took), took[len(took)/2].Seconds(), took[len(took)*99/100].Seconds()}
}
