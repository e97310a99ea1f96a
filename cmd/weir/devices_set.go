package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/devices"
)

func setCommand(o *options) *cobra.Command {
	var timeout string
	cmd := &cobra.Command{
		Use:   "set DEVICE NAME [VALUE]",
		Short: "Set a value of a device, or give it a command",
		Long: `Publish a command to a device, wait for its result, and print what the device said. It is the same as
publishing VALUE to SITE/DEVICE/NAME/set.

Exit codes: 0 carried out, 1 not carried out or failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir devices set heatpump setpoint 21.5
  weir devices set valve open --timeout 1m`,
		Args: args(2, 3, "a device, a name and a value"),
	}
	cmd.Flags().StringVar(&timeout, "timeout", "", "how long it may wait for the device and take (default: the device's command_timeout)")
	return question[devices.Result]{
		ask: func(c *client, cmd *cobra.Command, given []string) (devices.Result, error) {
			what := web.Set{Name: given[1], Timeout: timeout}
			if len(given) == 3 {
				what.Value, _ = json.Marshal(given[2]) // a string: cannot fail
			}
			return ask[devices.Result](cmd.Context(), c, http.MethodPost, "/api/devices/"+url.PathEscape(given[0])+"/set", what)
		},
		show: func(out io.Writer, r devices.Result) error {
			if r.Reply == "" {
				return nil
			}
			_, err := fmt.Fprintln(out, r.Reply)
			return err
		},
		judge: func(r devices.Result) error {
			if r.OK {
				return nil
			}
			return errors.New(r.Error)
		},
	}.command(o, cmd)
}
