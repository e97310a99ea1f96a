package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
	"github.com/weir-iot/weir/firmware-sim/sim"
)

// history is what a campaign has seen.
type history struct {
	seed    uint64
	asked   time.Duration
	took    time.Duration
	script  fault.Script
	skipped map[string]string
	faults  []happened

	ledger   *sim.Ledger
	arrivals []arrival
	wrong    []string // arrivals that make no sense

	final      account
	polls      int
	offBalance []string
	backlog    uint64
	crashes    []string

	unanswered, unsettled, stopped error
}

// A run is too quiet to prove anything below these.
const (
	leastAcked = 5 // events acknowledged for each second of faults
	leastKills = 4 // ends of the process, of whatever kind, for each minute
)

// judge holds what was sent, what arrived and what the gateway says of it against each other.
func judge(h history) *Report {
	got := make([]sim.Received, len(h.arrivals))
	for i, a := range h.arrivals {
		got[i] = a.Received
	}
	check := h.ledger.Check(got)
	entries := h.ledger.Entries()
	r := &Report{
		Seed: h.seed, For: h.asked.String(), Took: h.took.Round(time.Second).String(), Script: strings.Split(strings.TrimSpace(h.script.String()), "\n"), Skipped: h.skipped,
		Sent: check.Sent, Accepted: check.Acked, Refused: refusals(entries), Delivered: check.Arrived,
		Arrivals: check.Received, Repeats: check.Repeats, SecondEvents: check.Explained,
		Lost: len(check.Lost), Doubled: len(check.Reused) + len(check.Doubled), Reordered: len(check.Inverted), Corrupt: len(h.wrong),
		Faults: map[string]int{}, LedgerPolls: h.polls, Backlog: h.backlog, Crashes: len(h.crashes),
		Recovery: recoveries(h.faults, ackTimes(entries), arrivalTimes(h.arrivals)), Intake: intake(entries),
	}
	for _, f := range h.faults {
		r.Faults[f.verb]++
	}
	r.account(h, check)
	for _, err := range []error{h.unanswered, h.unsettled, h.stopped} {
		if err != nil {
			r.wrong("%v", err)
		}
	}
	for name, list := range map[string][]string{
		"id used twice": check.Reused, "doubled": check.Doubled, "out of order": check.Inverted, "without id": check.NoID,
		"never sent": check.Unknown, "refused, but stored": check.FalseNay, "wrong at the far end": h.wrong, "": h.crashes,
		"does not add up": h.offBalance,
	} {
		r.list(name, list)
	}
	slices.Sort(r.Violations)
	r.quiet(h)
	return r
}

// account holds the gateway's ledger against what arrived. What it says was dropped by damage may be missing at the far
// end, and just so much.
func (r *Report) account(h history, check sim.Report) {
	ids := map[string]bool{}
	for _, a := range h.arrivals {
		ids[a.ID] = true
	}
	gone := h.final.gone()
	r.GatewayAccepted, r.Damaged = h.final.Accepted, gone["damaged"]
	dropped := uint64(0)
	for _, n := range gone {
		dropped += n
	}
	r.Unaccounted = int64(h.final.Accepted) - int64(h.final.Unrouted) - int64(h.final.queued()) - int64(dropped) - int64(len(ids))
	if r.Unaccounted != 0 {
		r.wrong("unaccounted: the gateway accepted %d events, of which %d are to arrive nowhere, %d are queued and %s were dropped, but %d arrived",
			h.final.Accepted, h.final.Unrouted, h.final.queued(), reasons(gone), len(ids))
	}
	if len(h.offBalance) > 0 && r.Unaccounted == 0 {
		r.Unaccounted = int64(len(h.offBalance)) // it was, at times
	}
	delete(gone, "damaged")
	if len(gone) > 0 {
		r.wrong("the gateway dropped %s, which no fault explains", reasons(gone))
	}
	if uint64(r.Lost) <= r.Damaged && r.Faults["flip"] > 0 {
		r.LostToDamage, r.Lost = r.Lost, 0
		return
	}
	if r.Damaged > 0 && r.Faults["flip"] == 0 {
		r.wrong("the gateway says that %d events were damaged, but no bit was turned", r.Damaged)
	}
	r.list("lost", check.Lost)
}

// quiet says why the run proves nothing, if so.
func (r *Report) quiet(h history) {
	if need := int(h.asked.Seconds() * leastAcked); r.Accepted < need {
		r.Quiet = append(r.Quiet, fmt.Sprintf("%d events were acknowledged, of %d at least", r.Accepted, need))
	}
	ends := r.Faults["kill"] + r.Faults["power"] + r.Faults["plug"]
	if need := int(h.asked.Minutes() * leastKills); ends < need {
		r.Quiet = append(r.Quiet, fmt.Sprintf("the gateway was ended %d times, of %d at least", ends, need))
	}
	if r.Repeats == 0 {
		r.Quiet = append(r.Quiet, "nothing came twice to the far end, so no acknowledgement was lost")
	}
	if r.Faults["outage"] > 0 && r.Backlog == 0 {
		r.Quiet = append(r.Quiet, "nothing was seen in the reservoir")
	}
	if r.LedgerPolls == 0 {
		r.Quiet = append(r.Quiet, "the gateway's ledger was never seen")
	}
	for _, rule := range h.script {
		if r.Faults[rule.Verb] == 0 {
			r.Quiet = append(r.Quiet, fmt.Sprintf("no %s happened, though the script has one", rule.Verb))
			return
		}
	}
}

func refusals(entries []sim.Entry) map[string]int {
	all := map[string]int{}
	for _, e := range entries {
		if e.Refused() {
			all[fmt.Sprintf("0x%02x", e.Reason)]++
		}
	}
	return all
}

func reasons(n map[string]uint64) string {
	var all []string
	for _, reason := range slices.Sorted(maps.Keys(n)) {
		all = append(all, fmt.Sprintf("%d %s", n[reason], reason))
	}
	if all == nil {
		return "none"
	}
	return strings.Join(all, ", ")
}
