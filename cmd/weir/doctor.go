package main

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/ble"
	"github.com/weir-iot/weir/devices/serial/port"
)

// finding is what the doctor has to say of one thing.
type finding struct {
	Of       string         `json:"of"`
	Port     string         `json:"port,omitempty"`
	Good     string         `json:"good,omitempty"`
	Problems []port.Problem `json:"problems,omitempty"`
}

func doctorCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out why devices cannot be read, and what helps",
		Long: `Look at the serial ports and Bluetooth adapters of the config: whether each is there, whether this user may open it, and who else has it
open; and at programs that open what nobody gave them. Each problem comes with what helps. Nothing is opened and
nothing is changed. Run it as the user that the gateway runs as; as root it sees more of other processes, and no missing
permissions.

Exit codes: 0 all is well, 1 something is not, 2 usage, 3 config invalid.`,
		Example: "  weir doctor\n  sudo -u weir weir doctor --config /etc/weir/weir.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load()
			if err != nil {
				return err
			}
			s, err := newDevices(cfg, devices.Options{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return &exitError{exitConfig, err}
			}
			all := append(examine(s.Ports()), examineRadios(s.Radios())...)
			if asJSON {
				err = printJSON(cmd, all)
			} else {
				err = printFindings(cmd, all)
			}
			if err == nil && slices.ContainsFunc(all, func(f finding) bool { return len(f.Problems) > 0 }) {
				err = exitf(exitFailed, "not all is well")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// examine looks at ports, and at what runs beside them.
func examine(ports map[string]*port.Port) []finding {
	all := []finding{}
	for _, of := range slices.Sorted(maps.Keys(ports)) {
		f := finding{Of: of, Port: ports[of].String()}
		problems, by := ports[of].Diagnose()
		switch f.Problems = problems; {
		case len(problems) > 0:
		case by != nil:
			f.Good = fmt.Sprintf("read by %s (process %d)", by.Name, by.PID)
		default:
			f.Good = "there, free, and may be opened"
		}
		all = append(all, f)
	}
	if len(ports) > 0 {
		if running := port.Running(); len(running) > 0 {
			all = append(all, finding{Of: "this machine", Problems: running})
		}
	}
	return all
}

// examineRadios looks at Bluetooth adapters.
func examineRadios(radios []ble.Status) (all []finding) {
	for _, r := range radios {
		f := finding{Of: "adapter " + r.Name}
		for _, p := range ble.Diagnose(r.Name) {
			f.Problems = append(f.Problems, port.Problem(p))
		}
		if len(f.Problems) == 0 {
			f.Good = "there, and may be opened"
		}
		all = append(all, f)
	}
	return all
}

func printFindings(cmd *cobra.Command, all []finding) error {
	out := cmd.OutOrStdout()
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "the config has no serial port and no Bluetooth adapter; weir devices probe lists the ports of this machine")
		return err
	}
	for _, f := range all {
		of := f.Of
		if f.Port != "" {
			of += ", port " + f.Port
		}
		if f.Good != "" {
			fmt.Fprintf(out, "%s: %s\n", of, f.Good)
		}
		for _, p := range f.Problems {
			if _, err := fmt.Fprintf(out, "%s: %s\n    %s\n", of, p.What, p.Do); err != nil {
				return err
			}
		}
	}
	return nil
}
