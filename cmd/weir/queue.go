package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
)

func queueCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Show what waits for each uplink, and what came down",
		Long: `Show, for each uplink, its state (connecting, up, backoff, throttled, disabled or drill) and since when it
is up or is not, the failures in a row, when the next attempt comes, and the last error. For each route,
how many events wait in the journal and in the backlog beside it, how old the oldest is, how
many the far end has acknowledged, and how many dead letters are kept. Then, for each downlink, what has become of
the messages that came since the start: DENIED are those that its user may not publish,
OWN those that this gateway had sent itself.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir queue\n  weir queue --json\n  weir queue dead list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient(o)
			if err != nil {
				return err
			}
			var uplinks []web.Uplink
			if err := c.get(cmd.Context(), "/api/uplinks", &uplinks); err != nil {
				return err
			}
			var downlinks []web.Downlink
			if err := c.get(cmd.Context(), "/api/downlinks", &downlinks); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, map[string]any{"uplinks": uplinks, "downlinks": downlinks})
			}
			if len(uplinks)+len(downlinks) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no uplinks are configured")
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			printUplinks(w, uplinks, time.Now())
			if len(downlinks) > 0 {
				if len(uplinks) > 0 {
					fmt.Fprintln(w)
				}
				printDownlinks(w, downlinks)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(deadCommand(o))
	return cmd
}

func printUplinks(w io.Writer, uplinks []web.Uplink, now time.Time) {
	if len(uplinks) == 0 {
		return
	}
	fmt.Fprintln(w, "UPLINK\tSINK\tSTATE\tSINCE\tFAILURES\tNEXT ATTEMPT\tLAST ERROR")
	for _, u := range uplinks {
		next, last := "-", u.Reason
		if !u.NextAttempt.IsZero() {
			next = "in " + whole(u.NextAttempt.Sub(now))
		}
		if last == "" && u.LastError != "" {
			last = whole(now.Sub(u.LastFailed)) + " ago: " + u.LastError
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", u.Name, u.Sink, u.State, whole(now.Sub(u.Since)), u.Failures, next, last)
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "UPLINK\tROUTE\tJOURNAL\tBACKLOG\tOLDEST\tDELIVERED\tDEAD\tPROBLEM")
	for _, u := range uplinks {
		for _, r := range u.Routes {
			oldest := "-"
			if r.OldestAge > 0 {
				oldest = (time.Duration(r.OldestAge) * time.Second).String()
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%d\t%d\t%s\n", u.Name, r.Name, r.Journal, r.Backlog, oldest, r.Delivered, r.Dead, r.Problem)
		}
	}
}

// whole is d as people read it; the two clocks that it is of may differ.
func whole(d time.Duration) string { return max(d.Round(time.Second), 0).String() }

func printDownlinks(w io.Writer, downlinks []web.Downlink) {
	fmt.Fprintln(w, "DOWNLINK\tUPLINK\tSINK\tSTATE\tSTORED\tREPEATED\tDENIED\tINVALID\tOWN\tFAILED\tREASON")
	for _, d := range downlinks {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n",
			d.Name, d.Uplink, d.Sink, upOrDown(d.Up), d.Stored, d.Repeated, d.Denied, d.Invalid, d.Own, d.Failed, d.Reason)
	}
}

func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}
