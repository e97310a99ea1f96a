package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
)

func deadCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "See dead letters, send them again, or drop them",
		Long: `Dead letters are events that the far end of an uplink refused for ever: a topic it does not
allow, a payload it cannot read. They are kept, whole, until they are sent again or dropped.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir queue dead list
  weir queue dead retry --all cloud`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(deadListCommand(o), deadShowCommand(o), deadRetryCommand(o), deadDropCommand(o))
	return cmd
}

func deadListCommand(o *options) *cobra.Command {
	return question[[]web.DeadLetter]{
		ask: func(c *client, cmd *cobra.Command, given []string) ([]web.DeadLetter, error) {
			return ask[[]web.DeadLetter](cmd.Context(), c, http.MethodGet, "/api/dead?"+lettersOf(strings.Join(given, "")).query(), nil)
		},
		show: printLetters,
	}.command(o, &cobra.Command{
		Use:   "list [UPLINK[/ROUTE]]",
		Short: "List dead letters, oldest first",
		Long: `List dead letters, oldest first in each route, with the reason that the far end gave.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir queue dead list\n  weir queue dead list cloud/telemetry --json",
		Args:    args(0, 1, "at most one uplink, or uplink/route"),
	})
}

func printLetters(out io.Writer, all []web.DeadLetter) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no dead letters")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tUPLINK\tROUTE\tREFUSED\tTOPIC\tBYTES\tREASON")
	for _, l := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", l.ID, l.Uplink, l.Route, l.Refused.Local().Format(time.DateTime), l.Topic, l.Bytes, l.Reason)
	}
	return w.Flush()
}

func deadShowCommand(o *options) *cobra.Command {
	return question[[]web.DeadLetter]{
		ask: func(c *client, cmd *cobra.Command, given []string) ([]web.DeadLetter, error) {
			return ask[[]web.DeadLetter](cmd.Context(), c, http.MethodGet, "/api/dead/"+idPath(given[0]), nil)
		},
		show: printWhole,
	}.command(o, &cobra.Command{
		Use:   "show ID",
		Short: "Show a dead letter with its event",
		Long: `Show a dead letter with its event. An event may be a dead letter of several uplinks.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir queue dead show plant1-gw7/abcdefgh-1234",
		Args:    args(1, 1, "an event's id"),
	})
}

func printWhole(out io.Writer, all []web.DeadLetter) error {
	for _, l := range all {
		fmt.Fprintf(out, "%s\nuplink %s, route %s, refused %s: %s\n", l.ID, l.Uplink, l.Route, l.Refused.Local().Format(time.DateTime), l.Reason)
		face, err := json.Marshal(l.Face)
		if err == nil {
			err = printFace(out, string(face))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// letters is which dead letters a command is about.
type letters web.DeadLetters

// lettersOf reads UPLINK[/ROUTE].
func lettersOf(s string) (l letters) {
	l.Uplink, l.Route, _ = strings.Cut(s, "/")
	return l
}

func (l letters) query() string {
	q := url.Values{}
	if l.Uplink != "" {
		q.Set("uplink", l.Uplink)
	}
	if l.Route != "" {
		q.Set("route", l.Route)
	}
	return q.Encode()
}

// idPath is an event's id as part of a URL's path.
func idPath(id string) string {
	gateway, place, found := strings.Cut(id, "/")
	if !found {
		return url.PathEscape(id)
	}
	return url.PathEscape(gateway) + "/" + url.PathEscape(place)
}

// chooseLetters reads the argument of retry and drop.
func chooseLetters(cmd *cobra.Command, all string, given []string) (letters, error) {
	switch {
	case all != "" && len(given) == 0:
		return lettersOf(all), nil
	case all == "" && len(given) == 1:
		return letters{ID: given[0]}, nil
	}
	return letters{}, exitf(exitUsage, "%s takes either an event's id or --all UPLINK[/ROUTE] (see %[1]s --help)", cmd.CommandPath())
}

func deadRetryCommand(o *options) *cobra.Command {
	var all string
	var patience time.Duration
	cmd := question[[]web.Replay]{
		ask: func(c *client, cmd *cobra.Command, given []string) ([]web.Replay, error) {
			which, err := chooseLetters(cmd, all, given)
			if err != nil {
				return nil, err
			}
			begun, err := ask[[]web.Replay](cmd.Context(), c, http.MethodPost, "/api/dead/retry", which)
			if err != nil {
				return nil, err
			}
			return c.await(cmd.Context(), begun, patience)
		},
		show: printRetried,
		judge: func(begun []web.Replay) error {
			if slices.ContainsFunc(begun, func(r web.Replay) bool { return r.Delivered < r.Events }) {
				return exitf(exitFailed, "not all were delivered")
			}
			return nil
		},
	}.command(o, &cobra.Command{
		Use:   "retry ID | --all UPLINK[/ROUTE]",
		Short: "Send dead letters again",
		Long: `Send dead letters again, under the ids they have, beside what is live: they come out of order. One
that the far end takes now is no dead letter any more and counts as delivered. One that it refuses
again stays, with the new reason; one whose time to live is over stays as it is.

The command waits for the outcome, at most as long as --wait says; what is still on its way then
goes on (weir replay list), but not over a restart of the gateway.

Exit codes: 0 all were delivered, 1 some were not, or the command failed, 2 usage, 3 config invalid,
4 gateway not reachable.`,
		Example: `  weir queue dead retry plant1-gw7/abcdefgh-1234
  weir queue dead retry --all cloud`,
	})
	cmd.Flags().StringVar(&all, "all", "", "all of an `UPLINK`, or of UPLINK/ROUTE")
	cmd.Flags().DurationVar(&patience, "wait", 30*time.Second, "how long to wait for the outcome")
	return cmd
}

func printRetried(out io.Writer, all []web.Replay) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no dead letters")
		return err
	}
	for _, r := range all {
		fmt.Fprintf(out, "%s/%s: of %d dead letters %d were delivered, %d were refused again, %d have expired, %d are on their way\n",
			r.Uplink, r.Route, r.Events, r.Delivered, r.Refused, r.Expired, r.Events-r.Delivered-r.Refused-r.Expired)
		if r.LastReason != "" {
			fmt.Fprintf(out, "%s/%s: refused: %s\n", r.Uplink, r.Route, r.LastReason)
		}
	}
	return nil
}

// await waits until the replays in all have ended, or for as long as patience.
func (c *client) await(ctx context.Context, all []web.Replay, patience time.Duration) ([]web.Replay, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := ask[[]web.Replay](ctx, c, http.MethodGet, "/api/replays", nil)
		if err != nil {
			if ctx.Err() == context.DeadlineExceeded {
				return all, nil
			}
			return nil, err
		}
		left := 0
		for i := range all {
			for _, r := range now {
				if r.ID == all[i].ID {
					all[i] = r
				}
			}
			if all[i].Ended.IsZero() {
				left++
			}
		}
		if left == 0 {
			return all, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func deadDropCommand(o *options) *cobra.Command {
	var all string
	type answer struct {
		Dropped int `json:"dropped"`
	}
	cmd := question[answer]{
		ask: func(c *client, cmd *cobra.Command, given []string) (answer, error) {
			which, err := chooseLetters(cmd, all, given)
			if err != nil {
				return answer{}, err
			}
			path := "/api/dead"
			if which.ID != "" {
				path += "/" + idPath(which.ID)
			}
			return ask[answer](cmd.Context(), c, http.MethodDelete, path+"?"+which.query(), nil)
		},
		show: func(out io.Writer, a answer) error {
			_, err := fmt.Fprintf(out, "dropped %d\n", a.Dropped)
			return err
		},
	}.command(o, &cobra.Command{
		Use:   "drop ID | --all UPLINK[/ROUTE]",
		Short: "Forget dead letters",
		Long: `Forget dead letters. They are gone then, and count as dropped in the ledger.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir queue dead drop plant1-gw7/abcdefgh-1234
  weir queue dead drop --all cloud/telemetry`,
	})
	cmd.Flags().StringVar(&all, "all", "", "all of an `UPLINK`, or of UPLINK/ROUTE")
	return cmd
}
