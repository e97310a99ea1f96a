package main

import (
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/gateway"
)

func pubCommand(o *options) *cobra.Command {
	var retain bool
	var qos uint8
	cmd := &cobra.Command{
		Use:   "pub TOPIC [PAYLOAD]",
		Short: "Publish one event to the running gateway",
		Long: `Publish one event. The command ends well only after the event is stored; it then prints
the event's id. Without PAYLOAD, or with -, the payload is read from standard input.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir pub plant1/oven/temperature 21.5
  echo '{"on":true}' | weir pub --retain plant1/lamp/state -`,
		Args: args(1, 2, "a topic and a payload"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := gateway.ValidateTopic(args[0]); err != nil {
				return &exitError{exitUsage, err}
			}
			if qos > 2 {
				return exitf(exitUsage, "QoS %d does not exist", qos)
			}
			var payload []byte
			if len(args) == 2 && args[1] != "-" {
				payload = []byte(args[1])
			} else {
				var err error
				if payload, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), gateway.MaxPayload+1)); err != nil {
					return fmt.Errorf("read standard input: %w", err)
				}
			}
			c, err := newClient(o)
			if err != nil {
				return err
			}
			stored, err := ask[struct{ ID string }](cmd.Context(), c, http.MethodPost, "/api/publish", struct {
				Topic   string `json:"topic"`
				Payload []byte `json:"payload_base64"`
				QoS     uint8  `json:"qos"`
				Retain  bool   `json:"retain"`
			}{args[0], payload, qos, retain})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), stored.ID)
			return err
		},
	}
	cmd.Flags().BoolVarP(&retain, "retain", "r", false, "keep it as the topic's retained message")
	cmd.Flags().Uint8VarP(&qos, "qos", "q", 1, "the `QoS` subscribers may get it with: 0, 1 or 2")
	return cmd
}
