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
	"github.com/weir-iot/weir/gateway/config"
)

func drillCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Rehearse an outage, and see how long the gateway would last",
		Long: `Rehearse an outage of an uplink, with the real data: for a time there is no connection to its far end, and
what is to go there waits. Nothing is lost by it that would not be lost in an outage as long.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir drill status
  weir drill uplink cloud 30m
  weir drill end cloud`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(drillUplinkCommand(o), drillEndCommand(o), drillStatusCommand(o))
	return cmd
}

func drillUplinkCommand(o *options) *cobra.Command {
	return question[web.Drill]{
		ask: func(c *client, cmd *cobra.Command, given []string) (web.Drill, error) {
			if _, err := config.ParseDuration(given[1]); err != nil {
				return web.Drill{}, exitf(exitUsage, "%q: %w", given[1], err)
			}
			body := map[string]string{"uplink": given[0], "for": given[1]}
			return ask[web.Drill](cmd.Context(), c, http.MethodPost, "/api/drill", body)
		},
		show: func(out io.Writer, d web.Drill) error { return printDrills(out, []web.Drill{d}) },
	}.command(o, &cobra.Command{
		Use:   "uplink UPLINK DURATION",
		Short: "Cut an uplink for a while",
		Long: `Cut an uplink for a while, up to 7d, from now on; a drill that goes on gets this new end. What would happen in
a longer outage is shown at once, see weir drill status. A restart of the gateway ends a drill.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir drill uplink cloud 30m",
		Args:    args(2, 2, "an uplink and a duration"),
	})
}

func drillEndCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "end UPLINK",
		Short: "End a drill",
		Long: `End a drill. The uplink connects again at once.

Exit codes: 0 ok, also if there was no drill, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir drill end cloud",
		Args:    args(1, 1, "an uplink"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := newClient(o)
			if err != nil {
				return err
			}
			d, err := ask[web.Drill](cmd.Context(), c, http.MethodDelete, "/api/drill?uplink="+url.QueryEscape(given[0]), nil)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "no drill on %s\n", d.Uplink)
			return err
		},
	}
}

func drillStatusCommand(o *options) *cobra.Command {
	return question[[]web.Drill]{ask: at[[]web.Drill]("/api/drill"), show: printDrills}.command(o, &cobra.Command{
		Use:   "status",
		Short: "Show how long each uplink could be away",
		Long: `Show, for each uplink, whether there is a drill, and for each of its routes how long it could be away from now
on, with what waits already: first in the journal, then in the reservoir up to the route's max_size and
to what is free of the disk, if events come as they did in the last five minutes; and what happens
then. It is an estimate.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir drill status\n  weir drill status --json",
		Args:    noArgs,
	})
}

func printDrills(out io.Writer, all []web.Drill) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no uplinks are configured")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "UPLINK\tDRILL\tROUTE\tRATE\tIN THE JOURNAL\tLASTS\tLIMIT\tTHEN")
	for _, d := range all {
		drill := "no"
		if !d.Until.IsZero() {
			drill = "until " + d.Until.Local().Format(time.DateTime)
		}
		for _, r := range d.Routes {
			limit, then := r.Limit, r.Then
			if limit == "" {
				limit, then = "-", "nothing comes that could fill it"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Uplink, drill, r.Route, perSecond(r.Rate), longTime(d.Journal), longTime(r.Lasts), limit, then)
		}
	}
	return w.Flush()
}

// perSecond is a number of bytes in a second for people.
func perSecond(rate float64) string {
	for _, u := range []struct {
		name string
		unit float64
	}{{"MB", 1e6}, {"kB", 1e3}} {
		if rate >= u.unit {
			return fmt.Sprintf("%.1f %s/s", rate/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%.0f B/s", rate)
}

// longTime is a time for people, to about two digits.
func longTime(seconds *float64) string {
	if seconds == nil {
		return "for ever"
	}
	switch d := time.Duration(*seconds * float64(time.Second)); {
	case *seconds > 1000*24*3600:
		return fmt.Sprintf("%.0f years", *seconds/(365*24*3600))
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	case d >= time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	case d >= time.Minute:
		return fmt.Sprintf("%.0f min", d.Minutes())
	default:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
}
