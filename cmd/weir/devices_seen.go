package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

func seenCommand(o *options) *cobra.Command {
	return question[[]web.Seen]{ask: at[[]web.Seen]("/api/devices/seen"), show: printSeen}.command(o, &cobra.Command{
		Use:   "seen",
		Short: "Show MQTT clients that publish and are no device yet",
		Long: `Show the MQTT clients that have published since the gateway started and that no device reads, what they
publish, and what they may be. weir devices adopt makes a device of one.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: "  weir devices seen\n  weir devices seen --json",
		Args:    noArgs,
	})
}

func printSeen(out io.Writer, all []web.Seen) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "every client that publishes is a device")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLIENT\tUSER\tLAST\tMESSAGES\tMAY BE\tLAST TOPIC\tPAYLOAD")
	for _, s := range all {
		var guesses []string
		for _, g := range s.Guesses {
			guesses = append(guesses, g.Profile+" "+g.Base)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", printable(s.Client), dash(s.User), time.Since(s.Last).Round(time.Second), s.Messages,
			dash(printable(strings.Join(guesses, ", "))), printable(s.Topic), printable(s.Shape))
	}
	return w.Flush()
}

// printable is what a client chose, without what a terminal could act upon.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func adoptCommand(o *options) *cobra.Command {
	var a devices.Adoption
	cmd := &cobra.Command{
		Use:   "adopt CLIENT | ADDRESS | ID",
		Short: "Make a device of an MQTT client that was seen, or a Bluetooth device that is near",
		Long: `Write a device to conf.d/devices.yaml beside the config, for a client that weir devices seen shows, or a Bluetooth
device that weir devices radios shows. The gateway reads it when it is restarted. Nothing is adopted by itself.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir devices adopt DVES_A1B2C3 --as heater --name "Heater in hall 2"
  weir devices adopt mqttjs_27fe11ab --base zigbee2mqtt/kitchen
  weir devices adopt A4:C1:38:12:34:56 --as freezer`,
		Args: args(1, 1, "a client, or a Bluetooth device"),
		RunE: func(cmd *cobra.Command, given []string) error {
			file, _ := o.configFile()
			if _, err := os.Stat(file); err != nil {
				return exitf(exitConfig, "devices are kept beside the config file, and %w: make it first (it may be empty), or name another with --config", err)
			}
			c, err := newClient(o)
			if err != nil {
				return err
			}
			seen, err := at[[]devices.Seen]("/api/devices/seen")(c, cmd, nil)
			if err != nil {
				return err
			}
			radios, err := at[[]web.Radio]("/api/radios")(c, cmd, nil)
			if err != nil {
				return err
			}
			a.Client = given[0]
			id, name, err := adopt(file, seen, radios, a)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "device %s is in %s; restart the gateway to use it\n", id, name)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&a.ID, "as", "", "the `id` of the device (default: from its topics)")
	f.StringVar(&a.Name, "name", "", "its `name`, for people")
	f.StringVar(&a.Base, "base", "", "which of its `topics` they begin with, where a client speaks for several devices")
	return cmd
}

// adopt writes the device that a describes into the configuration, if that is valid with it.
func adopt(file string, seen []devices.Seen, radios []web.Radio, a devices.Adoption) (id, name string, err error) {
	id, section, err := adoptNear(radios, a)
	if section == nil && err == nil {
		id, section, err = devices.Adopt(seen, a)
	}
	if err == nil {
		name, err = config.AddDevice(file, id, section, checkParts)
	}
	return id, name, err
}

func (a *app) seen() (all []web.Seen) {
	for _, s := range a.devices.Seen() {
		guesses := []web.Guess{}
		for _, g := range s.Guesses {
			guesses = append(guesses, web.Guess(g))
		}
		all = append(all, web.Seen{
			Client: s.Client, User: s.User, First: s.First, Last: s.Last, Messages: s.Messages, Topics: s.Topics, More: s.More,
			Topic: s.Topic, Shape: s.Shape, Guesses: guesses,
		})
	}
	return all
}

// adopt is what the page asks for. What is wrong is the asker's to put right.
func (a *app) adopt(cfg *config.Config, w web.Adoption) (web.Adopted, error) {
	if len(cfg.Files) == 0 {
		return web.Adopted{}, gateway.Errorf(gateway.ErrInvalid, "the gateway runs without a config file, so there is nowhere to write a device to")
	}
	a.adopting.Lock()
	defer a.adopting.Unlock()
	id, name, err := adopt(cfg.Files[0], a.devices.Seen(), a.radioStatus(), devices.Adoption(w))
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		err = fmt.Errorf("the gateway may not write its own config: use weir devices adopt %s as somebody who may: %w", w.Client, err)
	}
	if err != nil {
		return web.Adopted{}, gateway.Errorf(gateway.ErrInvalid, "%w", err)
	}
	a.log.Info("a device was adopted", "device", id, "client", w.Client, "file", name)
	return web.Adopted{ID: id, File: name}, nil
}
