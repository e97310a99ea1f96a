package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Report is what a campaign has found. Lost, Doubled, Reordered, Unaccounted and Corrupt are to be 0.
type Report struct {
	Seed    uint64            `json:"seed"`
	For     string            `json:"for"`
	Took    string            `json:"took"`
	Script  []string          `json:"script"`
	Skipped map[string]string `json:"skipped,omitempty"` // faults that could not be had, and why

	Sent         int            `json:"sent"`          // messages of the devices
	Accepted     int            `json:"accepted"`      // of them, acknowledged
	Refused      map[string]int `json:"refused"`       // of them, by MQTT reason
	Delivered    int            `json:"delivered"`     // of them, at the far end
	Arrivals     int            `json:"arrivals"`      // with repeats
	Repeats      int            `json:"repeats"`       // the same event again, under its id
	SecondEvents int            `json:"second_events"` // that a device made by sending again

	GatewayAccepted uint64 `json:"gateway_accepted"` // events, as the gateway counts
	Damaged         uint64 `json:"gateway_damaged"`
	LostToDamage    int    `json:"lost_to_damage"` // messages: lost, and the gateway has said so

	Lost        int   `json:"lost"`
	Doubled     int   `json:"doubled"`     // ids that name two events, and events that nobody sent
	Reordered   int   `json:"reordered"`   // first arrivals behind a later one of their topic
	Unaccounted int64 `json:"unaccounted"` // by our count; or, if that is 0, how often by the gateway's
	Corrupt     int   `json:"corrupt"`     // arrivals with a wrong byte
	Crashes     int   `json:"crashes"`     // ends of the gateway that nobody asked for

	Faults      map[string]int      `json:"faults"`
	Recovery    map[string]Recovery `json:"recovery"`
	Intake      Intake              `json:"intake"`
	LedgerPolls int                 `json:"ledger_polls"`
	Backlog     uint64              `json:"backlog"` // most events that were seen in the reservoir

	Violations []string `json:"violations,omitempty"`
	Quiet      []string `json:"quiet,omitempty"` // why it proves nothing
}

// OK tells whether the gateway kept its word, in a run that could have shown the contrary.
func (r *Report) OK() bool { return len(r.Violations) == 0 && len(r.Quiet) == 0 }

func (r *Report) wrong(format string, args ...any) {
	r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
}

// list names the first few of a kind of violation.
func (r *Report) list(kind string, all []string) {
	if kind != "" {
		kind += ": "
	}
	for i, what := range all {
		if i == 5 {
			r.wrong("%sand %d more", kind, len(all)-i)
			return
		}
		r.wrong("%s%s", kind, what)
	}
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("seed", "%d, %s of faults, %s in all", r.Seed, r.For, r.Took)
	line("accepted", "%d of %d messages sent; refused: %s", r.Accepted, r.Sent, counts(r.Refused))
	line("delivered", "%d, with %d repeats under the same id; %d second events that a device made by sending again", r.Delivered, r.Repeats, r.SecondEvents)
	line("lost", "%d", r.Lost)
	line("doubled", "%d", r.Doubled)
	line("reordered", "%d", r.Reordered)
	line("unaccounted", "%d; the ledger was asked %d times and has %d accepted", r.Unaccounted, r.LedgerPolls, r.GatewayAccepted)
	line("corrupt", "%d; %d messages lost to damage, the gateway says %d events", r.Corrupt, r.LostToDamage, r.Damaged)
	line("crashes", "%d", r.Crashes)
	line("backlog", "%d events in the reservoir at most", r.Backlog)
	line("intake", "p50 %.1f ms, p99 %.1f ms, of %d messages sent once", 1e3*r.Intake.P50, 1e3*r.Intake.P99, r.Intake.Measured)
	for _, verb := range slices.Sorted(maps.Keys(r.Faults)) {
		text := fmt.Sprintf("%4d times", r.Faults[verb])
		if t, measured := r.Recovery[verb]; measured {
			text += fmt.Sprintf("; back within %.3f s, %.3f s at most, measured %d times", t.Median, t.Max, t.Measured)
		}
		line("  "+verb, "%s", text)
	}
	for _, verb := range slices.Sorted(maps.Keys(r.Skipped)) {
		line("  "+verb, "left out: %s", r.Skipped[verb])
	}
	for _, v := range r.Violations {
		line("WRONG", "%s", v)
	}
	for _, q := range r.Quiet {
		line("TOO QUIET", "%s", q)
	}
	return b.String()
}

func counts(n map[string]int) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		all = append(all, fmt.Sprintf("%d with %s", n[k], k))
	}
	if all == nil {
		return "none"
	}
	return strings.Join(all, ", ")
}
