package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// defaultConfig is where a config is looked for when none is named: FHS for root, XDG for
// everybody else.
func defaultConfig() string {
	if os.Getuid() == 0 {
		return "/etc/weir/weir.yaml"
	}
	if dir, err := os.UserConfigDir(); err == nil {
		return filepath.Join(dir, "weir", "weir.yaml")
	}
	return "weir.yaml"
}

// configFile is the file --config names. Only the default one may be absent.
func (o *options) configFile() (file string, named bool) {
	if o.config != "" {
		return o.config, true
	}
	return defaultConfig(), false
}

func (o *options) load() (*config.Config, error) {
	file, named := o.configFile()
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) && !named {
		file = ""
	}
	cfg, err := config.Load(file)
	if err != nil {
		return nil, &exitError{exitConfig, err}
	}
	return cfg, nil
}

func runCommand(o *options) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway",
		Long: `Run the gateway until it is told to stop (SIGINT, SIGTERM). Without a config file it listens
on this machine only: MQTT on port 1883, the page and the HTTP API on port 8080.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid.`,
		Example: "  weir run\n  weir run --config ./weir.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			if err := checkParts(cfg); err != nil {
				return &exitError{exitConfig, err}
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			begin := time.Now()
			a, err := persist(cmd.Context(), log, func() (*app, error) { return newApp(cfg, log) })
			if err != nil {
				return err
			}
			log.Info("running", "version", version, "gateway", cfg.Gateway.ID, "data", cfg.Gateway.DataDir, "took", time.Since(begin).Round(time.Millisecond))
			nodes := ""
			if a.udp != nil {
				nodes = fmt.Sprintf(", MQTT-SN on %s/udp", a.udp.LocalAddr())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "MQTT on %s%s, the page on %s\n", a.mqtt.Addr(), nodes, browserURL(a.http.Addr()))
			err = errors.Join(a.Run(cmd.Context()), a.Close())
			if err == nil {
				log.Info("stopped")
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every connection and more")
	return cmd
}

// startAttempts is how often a start is tried while what it fails of may be over in a moment: the process with the
// databases was killed, say, and comes back, also on a full disk.
const startAttempts = 5

// persist starts again as long as that makes sense.
func persist[T any](ctx context.Context, log *slog.Logger, start func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		a, err := start()
		if err == nil || n == startAttempts || ctx.Err() != nil || !errors.Is(err, gateway.ErrTransient) && !errors.Is(err, gateway.ErrFull) {
			return a, err
		}
		log.Warn("cannot start, and tries again", "error", err)
	}
}
