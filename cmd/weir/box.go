package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/gateway/child"
	"github.com/weir-iot/weir/store"
)

// boxCommand is what weir run starts as a process of its own, so that what ends Badger does not end the
// gateway: see store.Box. It ends when the gateway does, and not by the signals that reach both.
func boxCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "box DIR",
		Short:  "Serve the databases in DIR to the gateway that started this",
		Hidden: true,
		Args:   args(1, 1, "a directory"),
		RunE: func(cmd *cobra.Command, dir []string) error {
			signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			conn, err := child.Conn()
			if err != nil {
				return exitf(exitUsage, "%s is started by weir run: %w", cmd.CommandPath(), err)
			}
			return store.ServeBox(dir[0], conn, slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil)))
		},
	}
}
