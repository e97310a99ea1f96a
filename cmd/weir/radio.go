package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/devices/ble"
	"github.com/weir-iot/weir/gateway/child"
)

// radioCommand is what weir run starts as a process of its own for each Bluetooth adapter, so that what
// breaks there does not break the gateway: see devices/ble. It ends when the gateway does, and not by the signals
// that reach both.
func radioCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "radio ADAPTER",
		Short:  "Drive a Bluetooth adapter for the gateway that started this",
		Hidden: true,
		Args:   args(1, 1, "an adapter"),
		RunE: func(cmd *cobra.Command, adapter []string) error {
			signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			conn, err := child.Conn()
			if err != nil {
				return exitf(exitUsage, "%s is started by weir run: %w", cmd.CommandPath(), err)
			}
			index, err := ble.AdapterIndex(adapter[0])
			if err != nil {
				return exitf(exitUsage, "%w", err)
			}
			ble.Serve(conn, ble.Open(index)) // why it ends is said over conn
			return nil
		},
	}
}
