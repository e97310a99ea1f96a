package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
)

func ledgerCommand(o *options) *cobra.Command {
	return question[web.Ledger]{
		ask: at[web.Ledger]("/api/ledger"), show: printLedger,
		judge: func(l web.Ledger) error {
			if l.Unaccounted != 0 {
				return exitf(exitFailed, "%d events are not accounted for", l.Unaccounted)
			}
			return nil
		},
	}.command(o, &cobra.Command{
		Use:   "ledger",
		Short: "Account for every event that was accepted",
		Long: `Show what has become of everything that was ever accepted: for each route

  routed = delivered + queued + filtered + expired + dropped + dead

FILTERED came down the same uplink and does not go up again. Each number is counted where it
happens, and none is derived from the others. UNACCOUNTED is what does not add up: 0, or something is
wrong, and then the exit code is 1.

Exit codes: 0 all is accounted for, 1 it is not, or the command failed, 2 usage, 3 config invalid,
4 gateway not reachable.`,
		Example: "  weir ledger\n  weir ledger --json",
		Args:    noArgs,
	})
}

func printLedger(out io.Writer, l web.Ledger) error {
	fmt.Fprintf(out, "accepted %d, of which %d go to no uplink\n", l.Accepted, l.Unrouted)
	if len(l.Routes) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "UPLINK\tROUTE\tROUTED\tDELIVERED\tQUEUED\tFILTERED\tEXPIRED\tDROPPED\tDEAD\tUNACCOUNTED")
	for _, r := range l.Routes {
		dropped := []string{}
		for _, reason := range slices.Sorted(maps.Keys(r.Dropped)) {
			if n := r.Dropped[reason]; n > 0 {
				dropped = append(dropped, fmt.Sprintf("%s %d", reason, n))
			}
		}
		if len(dropped) == 0 {
			dropped = []string{"0"}
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%d\t%d\n", r.Uplink, r.Route, r.Routed, r.Delivered, r.Queued, r.Filtered, r.Expired, strings.Join(dropped, ", "), r.Dead, r.Unaccounted)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range l.Routes {
		if r.Replayed > 0 {
			fmt.Fprintf(out, "%s/%s: beside that, %d were sent again by replays\n", r.Uplink, r.Route, r.Replayed)
		}
	}
	return nil
}
