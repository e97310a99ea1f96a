package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/ble"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/child"
	"github.com/weir-iot/weir/gateway/config"
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
			log := slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			ble.Serve(conn, ble.Open(index, log)) // why it ends is said over conn
			return nil
		},
	}
}

func radiosCommand(o *options) *cobra.Command {
	return question[[]web.Radio]{ask: at[[]web.Radio]("/api/radios"), show: printRadios}.command(o, &cobra.Command{
		Use:   "radios",
		Short: "Show the Bluetooth adapters, and what is near that is not configured",
		Long: `Show each Bluetooth adapter that the gateway uses, and which devices it hears that are not in the config, the last
heard first: what their format is, and what they say. weir devices adopt makes a device of one; of those whose address changes, only
if they have an id.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir devices radios\n  weir devices radios --json",
		Args:    noArgs,
	})
}

func printRadios(out io.Writer, radios []web.Radio) error {
	if len(radios) == 0 {
		_, err := fmt.Fprintln(out, `no Bluetooth adapter is used; "radios: {hci0: {}}" in the config listens with the first`)
		return err
	}
	now := time.Now()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ADAPTER\tADDRESS\tSTATE\tSINCE\tHEARD\tLEFT OUT\tREASON")
	for _, r := range radios {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", r.Name, cmp.Or(r.Address, "-"), upOrDown(r.Up), whole(now.Sub(r.Since)), r.Heard, r.Weak+r.Denied, r.Reason)
	}
	for _, r := range radios {
		if len(r.Seen) == 0 {
			continue
		}
		fmt.Fprintf(w, "\nNEAR %s\tNAME\tFORMAT\tID\tRSSI\tLAST\tSAYS\n", r.Name)
		for _, n := range r.Seen {
			address := n.Address
			if n.Private {
				address += " (changes)"
			}
			id := n.ID
			if strings.ReplaceAll(strings.ToLower(n.Address), ":", "") == id {
				id = "-"
			}
			says := cmp.Or(n.Problem, strings.Join(n.Readings, ", "))
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", address, n.Name, cmp.Or(n.Format, "-"), id, n.RSSI, whole(now.Sub(n.Last)), says)
		}
	}
	return w.Flush()
}

// adoptNear returns the id and the section that make a device of a Bluetooth device that is near, whose address or id a names. Without
// a section, there is none.
func adoptNear(radios []web.Radio, a devices.Adoption) (id string, section []config.Field, err error) {
	digits := func(s string) string { return strings.ToLower(strings.NewReplacer(":", "").Replace(s)) }
	for _, r := range radios {
		for _, n := range r.Seen {
			if digits(a.Client) != digits(n.Address) && !strings.EqualFold(a.Client, n.ID) {
				continue
			}
			own := n.ID != digits(n.Address)
			if n.Private && !own {
				return "", nil, gateway.Errorf(gateway.ErrInvalid, "the address %s changes, and the device says nothing else that it could be known by", n.Address)
			}
			section = []config.Field{{Key: "driver", Value: "ble"}}
			if a.Name != "" {
				section = append(section, config.Field{Key: "name", Value: a.Name})
			}
			if r.Name != ble.DefaultAdapter {
				section = append(section, config.Field{Key: "adapter", Value: r.Name})
			}
			if n.Private {
				section = append(section, config.Field{Key: "id", Value: n.ID})
			} else {
				section = append(section, config.Field{Key: "address", Value: n.Address})
			}
			if n.Format != "" {
				section = append(section, config.Field{Key: "decoder", Value: n.Format})
			}
			return cmp.Or(a.ID, "ble-"+digits(n.Address)), section, nil
		}
	}
	return "", nil, nil
}
