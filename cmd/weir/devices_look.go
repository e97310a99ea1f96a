package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway/config"
)

func listCommand(o *options) *cobra.Command {
	return question[[]web.Device]{
		ask:  at[[]web.Device]("/api/devices"),
		show: func(out io.Writer, all []web.Device) error { return printDevices(out, all, time.Now()) },
	}.command(o, &cobra.Command{
		Use:   "list",
		Short: "Show the devices and how they are",
		Long: `Show every device that a driver reads: whether it is online and since when, when it last said
something, how often it could not be understood, what it measures, and what can be set on it.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir devices list\n  weir devices list --json | jq '.[] | select(.up | not)'",
		Args:    noArgs,
	})
}

func printDevices(out io.Writer, all []web.Device, now time.Time) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no device is read by a driver; MQTT clients need no entry")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tNAME\tAREA\tDRIVER\tSTATE\tSINCE\tLAST\tGARBAGE\tMEASUREMENTS\tCAN BE SET")
	for _, d := range all {
		state, last := "online", "-"
		if !d.Up {
			state = "offline"
		}
		if !d.LastFrame.IsZero() {
			last = ago(now, d.LastFrame)
		}
		var names []string
		for _, m := range d.Measurements {
			name := m.Name
			if m.Unit != "" {
				name += " (" + m.Unit + ")"
			}
			names = append(names, name)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, orDash(d.Name), orDash(d.Area), d.Driver, state, ago(now, d.Since), last,
			d.Garbage, orDash(strings.Join(names, ", ")), orDash(strings.Join(d.Settings, ", ")))
	}
	for _, d := range all {
		if !d.Up && d.Reason != "" {
			fmt.Fprintf(w, "%s is offline: %s\n", d.ID, d.Reason)
		}
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func ago(now, t time.Time) string { return max(now.Sub(t), 0).Round(time.Second).String() + " ago" }

func watchCommand(o *options) *cobra.Command {
	var asJSON bool
	var count int
	cmd := &cobra.Command{
		Use:   "watch DEVICE",
		Short: "Print what a device says, as it says it, garbage included",
		Long: `Print the readings of a device as they come, what could not be understood of it and why, and when
it comes and goes.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir devices watch scale\n  weir devices watch scale --json | jq -c .readings",
		Args:    args(1, 1, "a device"),
		RunE: func(cmd *cobra.Command, given []string) error {
			c, err := newClient(o)
			if err != nil {
				return err
			}
			resp, err := c.do(cmd.Context(), http.MethodGet, "/api/devices/"+url.PathEscape(given[0])+"/watch", nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			lines, out := bufio.NewReader(resp.Body), cmd.OutOrStdout()
			for n := 1; ; n++ {
				line, err := lines.ReadString('\n')
				if cmd.Context().Err() != nil {
					return nil
				}
				if err != nil {
					return errors.New("the gateway went away")
				}
				if !asJSON {
					var s devices.Sight
					if err := json.Unmarshal([]byte(line), &s); err != nil {
						return err
					}
					line = sighted(s)
				}
				if _, err := io.WriteString(out, line); err != nil || n == count {
					return err
				}
			}
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	cmd.Flags().IntVar(&count, "count", 0, "stop after `N` lines")
	return cmd
}

// sighted is what was seen, for people.
func sighted(s devices.Sight) string {
	var text strings.Builder
	clock := s.Time.Local().Format("15:04:05.000")
	if s.Missed > 0 {
		fmt.Fprintf(&text, "%s  (%d are missing here: this terminal is too slow)\n", clock, s.Missed)
	}
	what := framed(s)
	switch {
	case s.Online != nil && *s.Online:
		what = "online"
	case s.Online != nil:
		what = "offline: " + s.Reason
	}
	fmt.Fprintf(&text, "%s  %s\n", clock, what)
	return text.String()
}

// framed is a frame, for people.
func framed(s devices.Sight) string {
	if s.Garbage != "" {
		if s.RawHex != "" {
			return fmt.Sprintf("garbage, %s: %s (hex)", s.Garbage, s.RawHex)
		}
		return fmt.Sprintf("garbage, %s: %q", s.Garbage, s.Raw)
	}
	var parts []string
	for _, r := range s.Readings {
		part := r.Name + " = " + r.Value
		if r.Unit != "" {
			part += " " + r.Unit
		}
		if r.Quality != "" {
			part += " (" + r.Quality + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

func recordCommand(o *options) *cobra.Command {
	var length string
	cmd := &cobra.Command{
		Use:   "record DEVICE FILE",
		Short: "Record what goes over a device's wire",
		Long: `Write what a device sends, and what it is sent, to a file as it comes, with its time: bytes of a serial
line, requests and answers on a bus, advertisements, messages. The gateway reads on and does not notice. The file is text; weir devices play decodes it. It ends after
--for, or when the command is interrupted.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir devices record scale scale.rec --for 1m\n  weir devices play scale.rec",
		Args:    args(2, 2, "a device and a file"),
		RunE: func(cmd *cobra.Command, given []string) error {
			wait, err := config.ParseDuration(length)
			if err != nil {
				return exitf(exitUsage, "--for: %w", err)
			}
			c, err := newClient(o)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			resp, err := c.do(ctx, http.MethodGet, "/api/devices/"+url.PathEscape(given[0])+"/record", nil, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			f, err := os.OpenFile(given[1], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if err != nil {
				return err
			}
			n, err := io.Copy(f, resp.Body)
			if ctx.Err() != nil { // it was to end so
				err = nil
			} else if err == nil {
				err = errors.New("the gateway went away")
			}
			if err = errors.Join(err, f.Close()); err == nil {
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d bytes\n", given[1], n)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&length, "for", "1m", "how long")
	return cmd
}

func playCommand(o *options) *cobra.Command {
	var device string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "play FILE",
		Short: "Decode a recording with a device's config",
		Long: `Print what the gateway would have read of a recording that weir devices record made, by the config of the
device it is of, or of another one: to try formats at the desk. No gateway has to run.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid.`,
		Example: "  weir devices play scale.rec\n  weir devices play scale.rec --config new.yaml --device scale2",
		Args:    args(1, 1, "a recording"),
		RunE: func(cmd *cobra.Command, given []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			s, err := newDevices(cfg, devices.Options{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return &exitError{exitConfig, err}
			}
			f, err := os.Open(given[0])
			if err != nil {
				return err
			}
			defer f.Close()
			of, chunks, err := codec.ReadRecording(f)
			if err != nil {
				return fmt.Errorf("%s: %w", given[0], err)
			}
			if device == "" {
				device = of
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetEscapeHTML(false)
			var failed error
			err = s.Play(device, chunks, func(f codec.Frame) {
				sight := devices.SightOf(f)
				if asJSON {
					failed = errors.Join(failed, enc.Encode(sight))
				} else if len(f.Readings) > 0 || f.Garbage != "" {
					_, err := fmt.Fprintln(cmd.OutOrStdout(), framed(sight))
					failed = errors.Join(failed, err)
				}
			})
			return errors.Join(err, failed)
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "the `DEVICE` whose config decodes it (default: the one it was recorded of)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}
