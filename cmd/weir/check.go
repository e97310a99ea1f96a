package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/gateway/config"
)

func checkCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a config file",
		Long: `Check a config file, and the conf.d/*.yaml beside it, as weir run would read it: every key,
every device, every uplink. Nothing is opened or connected to.

Exit codes: 0 ok, 2 usage, 3 config invalid.`,
		Example: "  weir check\n  weir check ./weir.yaml",
		Args:    args(0, 1, "at most one config file"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(given) == 1 {
				o.config = given[0]
			}
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if err := checkParts(cfg); err != nil {
				return &exitError{exitConfig, err}
			}
			file, _ := o.configFile()
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: %d devices, %d uplinks, %d routes, %d users\n",
				file, len(cfg.Devices), len(cfg.Uplinks), len(cfg.Routes), len(cfg.Users))
			return err
		},
	}
}

// checkParts lets each part read its sections of cfg, and opens nothing.
func checkParts(cfg *config.Config) error {
	_, err := newDevices(cfg, devices.Options{Logger: slog.New(slog.DiscardHandler)})
	return errors.Join(err, bridge.Check(cfg.Uplinks, cfg.Downlinks, cfg.Gateway.ID))
}
