package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/gateway"
)

func canCommand(o *options) *cobra.Command {
	var clientID string
	cmd := &cobra.Command{
		Use:   "can USER publish|subscribe TOPIC",
		Short: "Tell whether a user may publish or subscribe, and why",
		Long: `Tell whether a user may publish to a topic or subscribe to a filter, by the config file, and
which role decides. The same policy holds for MQTT, MQTT-SN, WebSocket, SSE and HTTP. USER may
also be the client id of an MQTT-SN client that the config names.

Exit codes: 0 yes, 1 no, 2 usage, 3 config invalid.`,
		Example: `  weir can boiler publish plant1/boiler/temperature
  weir can alice subscribe 'plant1/#'`,
		Args: args(3, 3, "a user, publish or subscribe, and a topic"),
		RunE: func(cmd *cobra.Command, args []string) error {
			user, verb, topic := args[0], args[1], args[2]
			cfg, err := o.load()
			if err != nil {
				return err
			}
			account, err := nodeAccount(cfg, user)
			if account == nil && cfg.Auth.Open() {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "yes: no users are configured, so whoever reaches the gateway on this machine may do everything")
				return err
			}
			if account == nil {
				account, err = cfg.Auth.Account(user)
			} else if clientID == "" {
				clientID = user
			}
			if err != nil {
				return err
			}
			switch verb {
			case "publish":
				if err := gateway.ValidateTopic(topic); err != nil {
					return &exitError{exitUsage, err}
				}
				err = account.CanPublish(topic, clientID)
			case "subscribe":
				filter, perr := gateway.ParseFilter(topic)
				if perr != nil {
					return &exitError{exitUsage, perr}
				}
				err = account.CanSubscribe(filter, clientID)
			default:
				return exitf(exitUsage, "%q is neither publish nor subscribe", verb)
			}
			if err != nil {
				return fmt.Errorf("no: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "yes: role %q allows %s to %s %q\n", account.Role(), user, verb, topic)
			return err
		},
	}
	cmd.Flags().StringVar(&clientID, "client", "", "the client `ID` that stands for %c in patterns")
	return cmd
}
