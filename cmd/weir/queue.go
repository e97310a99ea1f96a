package main

import (
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
)

// links are what a gateway has to the rest of the world.
type links struct {
	Downlinks []web.Downlink `json:"downlinks"`
	Uplinks   []web.Uplink   `json:"uplinks"`
}

func queueCommand(o *options) *cobra.Command {
	cmd := question[links]{
		ask: func(c *client, cmd *cobra.Command, _ []string) (l links, err error) {
			if l.Uplinks, err = ask[[]web.Uplink](cmd.Context(), c, http.MethodGet, "/api/uplinks", nil); err != nil {
				return l, err
			}
			l.Downlinks, err = ask[[]web.Downlink](cmd.Context(), c, http.MethodGet, "/api/downlinks", nil)
			return l, err
		},
		show: printLinks,
	}.command(o, &cobra.Command{
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
	})
	cmd.AddCommand(deadCommand(o))
	return cmd
}

func printLinks(out io.Writer, l links) error {
	if len(l.Uplinks)+len(l.Downlinks) == 0 {
		_, err := fmt.Fprintln(out, "no uplinks are configured")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	printUplinks(w, l.Uplinks, time.Now())
	if len(l.Downlinks) > 0 {
		if len(l.Uplinks) > 0 {
			fmt.Fprintln(w)
		}
		printDownlinks(w, l.Downlinks)
	}
	return w.Flush()
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
