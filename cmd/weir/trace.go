package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/gateway"
)

func traceCommand(o *options) *cobra.Command {
	return question[web.Trace]{
		ask: func(c *client, cmd *cobra.Command, given []string) (web.Trace, error) {
			q := url.Values{"topic": given}
			if _, err := gateway.ParseID(c.gateway, given[0]); err == nil || positionLike.MatchString(given[0]) {
				q = url.Values{"id": given}
			}
			return ask[web.Trace](cmd.Context(), c, http.MethodGet, "/api/trace?"+q.Encode(), nil)
		},
		show: printTrace,
	}.command(o, &cobra.Command{
		Use:   "trace ID|TOPIC",
		Short: "Show where an event went",
		Long: `Show where an event went: who sent it and when, by the wall clock and by the gateway's own; its place in the
journal; and, for each route that matches its topic, whether the far end has acknowledged it, or it
waits, in the journal or in the reservoir, or is on its way, has expired, was refused or dropped. For a
topic it is the newest event.

Nothing is written for this when events pass: what the cursor of a route has passed counts as
acknowledged, and what else it may be is said.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir trace plant1-gw7/abcdefgh-1234
  weir trace plant1/oven/temperature --json`,
		Args: args(1, 1, "an event's id, or a topic"),
	})
}

// positionLike tells a position from a topic.
var positionLike = regexp.MustCompile(`^[a-z2-7]{8}:[0-9]+$`)

func printTrace(out io.Writer, t web.Trace) error {
	fmt.Fprintln(out, t.ID)
	synced := "on stable storage"
	if !t.Synced {
		synced = "not on stable storage yet"
	}
	if r := t.Received; r != nil {
		from := r.Via
		if r.Client != "" {
			from += ", " + r.Client
		}
		if r.User != "" {
			from += ", user " + r.User
		}
		trusted := "a clock that was synchronised"
		if !r.ClockTrusted {
			trusted = "a clock that nobody had synchronised"
		}
		fmt.Fprintf(out, "received   %s by %s, %s ago, in boot %d, at QoS %d, from %s\n",
			r.Time.Local().Format("2006-01-02 15:04:05.000"), trusted, longTime(&r.Age), r.Boot, r.QoS, from)
		fmt.Fprintf(out, "journaled  %s, %s; %s now\n", t.Position, synced, t.Place)
		if r.Expiry > 0 {
			fmt.Fprintf(out, "expires    after %v\n", time.Duration(r.Expiry*float64(time.Second)))
		}
		face, err := json.Marshal(t.Face)
		if err != nil {
			return err
		}
		fmt.Fprint(out, "event      ")
		if err := printFace(out, string(face)); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(out, "journaled  %s: %s\n", t.Position, t.Place)
	}
	if len(t.Routes) == 0 {
		fmt.Fprintln(out, "goes to no uplink")
	}
	for _, r := range t.Routes {
		fmt.Fprintf(out, "%s/%s: %s (%s)\n", r.Uplink, r.Route, r.Fate, r.Detail)
		if r.Doubt != "" {
			fmt.Fprintf(out, "  but %s\n", r.Doubt)
		}
	}
	return nil
}
