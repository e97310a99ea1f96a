package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/gateway"
)

func replayCommand(o *options) *cobra.Command {
	var request web.ReplayRequest
	var detach bool
	cmd := question[web.Replay]{
		ask: func(c *client, cmd *cobra.Command, filters []string) (r web.Replay, err error) {
			if request.Uplink == "" {
				return r, exitf(exitUsage, "say to which uplink: --uplink UPLINK (see %s --help)", cmd.CommandPath())
			}
			if _, err := gateway.ParseFilters(filters...); err != nil {
				return r, &exitError{exitUsage, err}
			}
			for _, edge := range []string{request.Since, request.Until} {
				if _, err := parseEdge(edge, time.Now()); err != nil {
					return r, &exitError{exitUsage, err}
				}
			}
			request.Filters = filters
			r, err = ask[web.Replay](cmd.Context(), c, http.MethodPost, "/api/replay", request)
			if err != nil || detach {
				return r, err
			}
			return c.watch(cmd, r)
		},
		show: printReplayed,
		judge: func(r web.Replay) error {
			if r.Cancelled || r.Refused+r.Expired > 0 || r.Missing != "" {
				return exitf(exitFailed, "not all was delivered")
			}
			return nil
		},
	}.command(o, &cobra.Command{
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
	})
	cmd.Flags().StringVar(&request.Uplink, "uplink", "", "the `UPLINK` to send to")
	cmd.Flags().StringVar(&request.Route, "route", "", "only what goes there by this `ROUTE`")
	cmd.Flags().StringVar(&request.Since, "since", "", "begin at this `TIME`, duration ago or position; default: the oldest there is")
	cmd.Flags().StringVar(&request.Until, "until", "", "end at this `TIME`, duration ago or position; default: the newest there is")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
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

func printReplayed(out io.Writer, r web.Replay) error {
	_, err := fmt.Fprintln(out, replayed(r))
	return err
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
	return question[[]web.Replay]{ask: at[[]web.Replay]("/api/replays"), show: printReplays}.command(o, &cobra.Command{
		Use:   "list",
		Short: "List what is being sent again, and what was of late",
		Long: `List what is being sent again, stretches of the journal and dead letters, and what was since the gateway
started, up to 20 for each uplink.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir replay list\n  weir replay list --json",
		Args:    noArgs,
	})
}

func printReplays(out io.Writer, all []web.Replay) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no replays")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
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
			r, err := ask[web.Replay](cmd.Context(), c, http.MethodDelete, "/api/replays/"+url.PathEscape(given[0]), nil)
			if err != nil {
				return err
			}
			return printReplayed(cmd.OutOrStdout(), r)
		},
	}
}
