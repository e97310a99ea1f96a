package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
)

func queueCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Show what waits for each uplink",
		Long: `Show, for each uplink, whether its far end is reached, how many events wait for it, how
old the oldest is, and how many the far end has acknowledged since the gateway started.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir queue\n  weir queue --json",
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
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(uplinks)
			}
			if len(uplinks) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no uplinks are configured")
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "UPLINK\tSINK\tSTATE\tQUEUED\tOLDEST\tDELIVERED\tDEAD\tREASON")
			for _, u := range uplinks {
				state, oldest := "up", "-"
				if !u.Up {
					state = "down"
				}
				if !u.Oldest.IsZero() {
					oldest = time.Since(u.Oldest).Round(time.Second).String()
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\t%d\t%s\n", u.Name, u.Sink, state, u.Queued, oldest, u.Delivered, u.Dead, u.Reason)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
