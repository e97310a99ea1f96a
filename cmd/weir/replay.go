package main

import (
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/gateway"
)

func replayCommand(o *options) *cobra.Command {
	var ask web.ReplayRequest
	var detach, asJSON bool
	cmd := &cobra.Command{
		Use:   "replay --uplink UPLINK [FILTER…]",
		Short: "Send a stretch of the journal to an uplink again",
		Long: `Send a stretch of the journal to an uplink again: of what goes there by its routes, or by one of them, the
events that match one of the filters. They keep their ids, come out of the order of what is live, and
have the smallest share of the link while live events wait. What the journal no longer has is said.

--since and --until take a time by which events were accepted (2026-11-24T12:00:00Z; without a zone it
is local), a duration, which is so long ago (2h, 7d), or a position (epoch:offset), which is meant
too. The wall clock may have jumped, so for a time all of the journal is looked through.

The command shows how far it is, and waits for the end; the replay goes on without it, but not over a
restart of the gateway. There is one at a time for each uplink. The ledger counts it apart.

Exit codes: 0 all was delivered, 1 some was refused, missing or has expired, or the command failed, 2 usage,
3 config invalid, 4 gateway not reachable.`,
		Example: `  weir replay --uplink cloud --since 2h
  weir replay --uplink cloud --route telemetry --since 2026-11-24T08:00 --until 2026-11-24T09:00 'plant1/#'
  weir replay list`,
		RunE: func(cmd *cobra.Command, filters []string) error {
			if ask.Uplink == "" {
				return exitf(exitUsage, "say to which uplink: --uplink UPLINK (see %s --help)", cmd.CommandPath())
			}
			if _, err := gateway.ParseFilters(filters...); err != nil {
				return &exitError{exitUsage, err}
			}
			for _, edge := range []string{ask.Since, ask.Until} {
				if _, err := parseEdge(edge, time.Now()); err != nil {
					return &exitError{exitUsage, err}
				}
			}
			ask.Filters = filters
			c, err := newClient(o)
			if err != nil {
				return err
			}
			var r web.Replay
			if err := c.ask(cmd.Context(), http.MethodPost, "/api/replay", ask, &r); err != nil {
				return err
			}
			if !detach {
				if r, err = c.watch(cmd, r); err != nil {
					return err
				}
			}
			if asJSON {
				err = printJSON(cmd, r)
			} else {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), replayed(r))
			}
			if err == nil && (r.Cancelled || r.Refused+r.Expired > 0 || r.Missing != "") {
				err = exitf(exitFailed, "not all was delivered")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&ask.Uplink, "uplink", "", "the `UPLINK` to send to")
	cmd.Flags().StringVar(&ask.Route, "route", "", "only what goes there by this `ROUTE`")
	cmd.Flags().StringVar(&ask.Since, "since", "", "begin at this `TIME`, duration ago or position; default: the oldest there is")
	cmd.Flags().StringVar(&ask.Until, "until", "", "end at this `TIME`, duration ago or position; default: the newest there is")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(replayListCommand(o), replayCancelCommand(o))
	return cmd
}

// replayed is how a replay does, in a line.
func replayed(r web.Replay) string {
	s := fmt.Sprintf("%s: %d delivered", r.ID, r.Delivered)
	if r.Refused > 0 {
		s += fmt.Sprintf(", %d refused (the last: %s)", r.Refused, r.LastReason)
	}
	if r.Expired > 0 {
		s += fmt.Sprintf(", %d not sent because they have expired", r.Expired)
	}
	if r.Ended.IsZero() {
		s += fmt.Sprintf("; at offset %d of %d to %d", r.At, r.From, r.To-1)
	}
	if r.Cancelled {
		s += "; cancelled"
	}
	if r.Missing != "" {
		s += "; missing: " + r.Missing
	}
	if r.Problem != "" {
		s += "; " + r.Problem
	}
	return s
}

// showEvery is how often a replay that goes on is shown.
const showEvery = 2 * time.Second

// watch waits for the end of r and says now and then how far it is.
func (c *client) watch(cmd *cobra.Command, r web.Replay) (web.Replay, error) {
	for {
		all, err := c.await(cmd.Context(), []web.Replay{r}, showEvery)
		switch {
		case cmd.Context().Err() != nil:
			return r, exitf(exitFailed, "replay %s goes on; to end it: weir replay cancel %[1]s", r.ID)
		case err != nil:
			return r, err
		}
		if r = all[0]; !r.Ended.IsZero() {
			return r, nil
		}
		fmt.Fprintln(cmd.ErrOrStderr(), replayed(r))
	}
}

func replayListCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what is being sent again, and what was of late",
		Long: `List what is being sent again, stretches of the journal and dead letters, and what was since the gateway
started, up to 20 for each uplink.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir replay list\n  weir replay list --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient(o)
			if err != nil {
				return err
			}
			var all []web.Replay
			if err := c.get(cmd.Context(), "/api/replays", &all); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd, all)
			}
			if len(all) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no replays")
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tROUTE\tOF\tSTATE\tAT\tFROM\tTO\tDELIVERED\tREFUSED\tEXPIRED\tMISSING")
			for _, r := range all {
				of, state, route := "journal", "goes on", r.Route
				if r.Dead {
					of = "dead letters"
				}
				switch {
				case r.Cancelled:
					state = "cancelled"
				case !r.Ended.IsZero():
					state = "ended"
				case r.Problem != "":
					state = r.Problem
				}
				if route == "" {
					route = "all"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", r.ID, route, of, state, r.At, r.From, r.To-1, r.Delivered, r.Refused, r.Expired, r.Missing)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func replayCancelCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel ID",
		Short: "End a replay",
		Long: `End a replay. What is on its way to the far end may still arrive.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir replay cancel cloud-1",
		Args:    args(1, 1, "a replay's id"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := newClient(o)
			if err != nil {
				return err
			}
			var r web.Replay
			if err := c.ask(cmd.Context(), http.MethodDelete, "/api/replays/"+url.PathEscape(given[0]), nil, &r); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), replayed(r))
			return err
		},
	}
}
