package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/modbus"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/gateway/config"
)

func devicesCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "devices",
		Short:   "Look at devices and command them",
		Long:    "Look at devices that are connected to this machine or near, and command them.\n\nExit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.",
		Example: "  weir devices list\n  weir devices set heatpump setpoint 21.5\n  weir devices probe --bus rs485\n  weir devices radios",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(adoptCommand(o), listCommand(o), playCommand(o), probeCommand(o), radiosCommand(o), recordCommand(o), seenCommand(o), setCommand(o), watchCommand(o))
	return cmd
}

// probe is what weir devices probe is asked for.
type probe struct {
	port            string
	baud            int
	listening       time.Duration
	bus, ids, table string
	first, last     int
	address, count  int
	timeout         time.Duration
	asJSON          bool
}

func probeCommand(o *options) *cobra.Command {
	var p probe
	cmd := &cobra.Command{
		Use:   "probe [--port PATH | --bus NAME]",
		Short: "Find serial ports, what a port speaks, or who is on a Modbus bus",
		Long: `Without flags: list the serial ports of this machine, the name under which each stays the same, what it is, and who
has it open.

With --port: listen at a port, at one baud rate after the other, and guess what is spoken there: protocols, JSON, key=value,
text. Nothing is sent; that a port is opened may reset a board.

With --bus: ask every unit id on a bus whether somebody is there, and show registers of those who are in
every interpretation: as integers, floats, BCD, bits and text, in each word and byte order, to find
what the maker's list does not tell. Only reads are sent. The gateway must not run, or not have this
bus: one master at a time.

Exit codes: 0 ok, 1 nobody answered, nothing was understood, or it cannot be used, 2 usage, 3 config invalid.`,
		Example: `  weir devices probe
  weir devices probe --port /dev/ttyUSB0
  weir devices probe --bus rs485
  weir devices probe --bus rs485 --ids 1-16 --timeout 100ms
  weir devices probe --bus rs485 --ids 3 --table input --address 52 --count 4`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case p.bus != "" && p.port != "":
				return exitf(exitUsage, "give one of --port and --bus")
			case p.port != "":
				return p.listen(cmd)
			case p.bus == "":
				return p.list(cmd)
			}
			cfg, err := o.load()
			if err != nil {
				return err
			}
			section, known := cfg.Buses[p.bus]
			if !known {
				return exitf(exitUsage, "there is no bus %q in the config%s", p.bus, config.Suggest(p.bus, slices.Collect(maps.Keys(cfg.Buses))))
			}
			bus, err := devices.NewBus(section)
			if err != nil {
				return &exitError{exitConfig, err}
			}
			if err := p.check(); err != nil {
				return exitf(exitUsage, "%w (see %s --help)", err, cmd.CommandPath())
			}
			return p.run(cmd, bus)
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.bus, "bus", "", "`name` of a bus in the config")
	f.StringVar(&p.port, "port", "", "`path` of a serial port to listen at")
	f.IntVar(&p.baud, "baud", 0, "listen at this rate only (default: the common ones)")
	f.DurationVar(&p.listening, "listen", 3*time.Second, "how long to listen at each rate")
	f.StringVar(&p.ids, "ids", "1-247", "unit `ids`, one or a range")
	f.StringVar(&p.table, "table", "holding", "what to show: holding, input, coil or discrete")
	f.IntVar(&p.address, "address", 0, "the first register to show, counted from 0")
	f.IntVar(&p.count, "count", 10, "how many registers to show; 0: none")
	f.DurationVar(&p.timeout, "timeout", 300*time.Millisecond, "how long to wait for an answer")
	f.BoolVar(&p.asJSON, "json", false, "print JSON")
	return cmd
}

func (p *probe) check() error {
	first, last, isRange := strings.Cut(p.ids, "-")
	var err, err2 error
	p.first, err = strconv.Atoi(first)
	if p.last = p.first; isRange {
		p.last, err2 = strconv.Atoi(last)
	}
	_, known := modbus.Tables[p.table]
	switch {
	case err != nil || err2 != nil || p.first < 0 || p.last < p.first || p.last > 255:
		return fmt.Errorf("--ids %q is neither an id nor a range such as 1-16", p.ids)
	case !known:
		return fmt.Errorf("there is no table %q%s", p.table, config.Suggest(p.table, slices.Collect(maps.Keys(modbus.Tables))))
	case p.address < 0 || p.address > 65535:
		return fmt.Errorf("--address %d is not between 0 and 65535", p.address)
	case p.count < 0 || p.count > 1000:
		return fmt.Errorf("--count %d is not between 0 and 1000", p.count)
	case p.timeout < time.Millisecond || p.timeout > time.Minute:
		return fmt.Errorf("--timeout %v is not between 1ms and 1m", p.timeout)
	}
	return nil
}

// list shows the serial ports.
func (p *probe) list(cmd *cobra.Command) error {
	type held struct {
		port.Info
		Holders []port.Holder `json:"holders,omitempty"`
	}
	found, err := port.List()
	if err != nil {
		return err
	}
	all := []held{}
	for _, i := range found {
		all = append(all, held{i, port.Holders(i.Path)})
	}
	if p.asJSON {
		return printJSON(cmd, all)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "there is no serial port; is the adapter plugged in, does dmesg speak of it?")
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PATH\tPORT IN THE CONFIG\tWHAT\tIN USE BY")
	for _, h := range all {
		var by []string
		for _, one := range h.Holders {
			by = append(by, fmt.Sprintf("%s (process %d)", one.Name, one.PID))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", h.Path, orDash(h.Name), orDash(h.What), orDash(strings.Join(by, ", ")))
	}
	return w.Flush()
}

// listen guesses what a port speaks.
func (p *probe) listen(cmd *cobra.Command) error {
	rates := devices.Rates
	if p.baud != 0 {
		rates = []int{p.baud}
	}
	if p.listening < 100*time.Millisecond || p.listening > time.Hour {
		return exitf(exitUsage, "--listen %v is not between 100ms and 1h", p.listening)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "listening, at most %v\n", time.Duration(len(rates))*p.listening)
	tried, err := devices.Probe(cmd.Context(), p.port, rates, p.listening)
	if err != nil {
		return err
	}
	if p.asJSON {
		if err := printJSON(cmd, tried); err != nil {
			return err
		}
	}
	heard := false
	for _, g := range tried {
		heard = heard || g.Bytes > 0
		if p.asJSON || g.Bytes == 0 {
			continue
		}
		out := cmd.OutOrStdout()
		if g.Config == "" {
			fmt.Fprintf(out, "%d baud: %d bytes that mean nothing: %s\n", g.Baud, g.Bytes, g.Sample)
			continue
		}
		fmt.Fprintf(out, "%d baud: %d frames, such as %s\n\n    driver: serial\n    port: %s\n    baud: %d\n", g.Baud, g.Frames, g.Sample, p.port, g.Baud)
		for _, line := range strings.Split(strings.Replace(g.Config, "}, format", "}\nformat", 1), "\n") {
			fmt.Fprintf(out, "    %s\n", line)
		}
	}
	switch {
	case !heard:
		return exitf(exitFailed, "nothing came: does the device send by itself, is it on, are RX and TX the right way round?")
	case tried[len(tried)-1].Config == "":
		return exitf(exitFailed, "bytes came, and none of the formats fits: look at the parity, or at the maker's description")
	}
	return nil
}

// slave is what there is to say of one unit id.
type slave struct {
	modbus.Found
	SunSpec   []string     `json:"sunspec,omitempty"`
	Registers []modbus.Raw `json:"registers,omitempty"`
	Problem   string       `json:"problem,omitempty"`
}

func (p *probe) run(cmd *cobra.Command, bus *modbus.Bus) error {
	out, progress := cmd.OutOrStdout(), cmd.ErrOrStderr()
	fmt.Fprintf(progress, "asking units %d to %d, at most %v\n", p.first, p.last, time.Duration(p.last-p.first+1)*p.timeout)
	var found []modbus.Found
	err := bus.Scan(cmd.Context(), p.first, p.last, p.timeout, func(f modbus.Found) { found = append(found, f) })
	if err != nil {
		return err
	}
	var slaves []slave
	there := false
	for _, f := range found {
		s := slave{Found: f}
		if f.Noise == "" {
			there = true
			if s.SunSpec, err = bus.Models(cmd.Context(), f.Unit); err == nil && p.count > 0 {
				s.Registers, err = bus.Dump(cmd.Context(), f.Unit, modbus.Tables[p.table], uint16(p.address), p.count)
			}
			if err != nil {
				s.Problem = err.Error()
			}
		}
		slaves = append(slaves, s)
		if !p.asJSON {
			if err := s.print(out); err != nil {
				return err
			}
		}
	}
	if p.asJSON {
		if err := printJSON(cmd, slaves); err != nil {
			return err
		}
	}
	if !there {
		return exitf(exitFailed, "nobody answered: are the devices on, are A and B the right way round, do baud rate and parity fit, is framing right?")
	}
	return nil
}

func (s slave) print(out io.Writer) error {
	switch {
	case s.Noise != "":
		_, err := fmt.Fprintf(out, "unit %d: no answer, but something came: %s\n", s.Unit, s.Noise)
		return err
	case s.Answer != "":
		fmt.Fprintf(out, "unit %d is there; it refuses to read holding register 40001: %s\n", s.Unit, s.Answer)
	default:
		fmt.Fprintf(out, "unit %d is there\n", s.Unit)
	}
	if len(s.SunSpec) > 0 {
		fmt.Fprintf(out, "  it speaks SunSpec, models %s: sunspec: true reads them\n", strings.Join(s.SunSpec, ", "))
	}
	if s.Problem != "" {
		fmt.Fprintf(out, "  %s\n", s.Problem)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range s.Registers {
		fmt.Fprintf(w, "  %s (address %d)\t%s\n", r.Register, r.Address, r.Hex)
		for _, line := range meant(r.Values) {
			fmt.Fprintf(w, "\t%s\n", line)
		}
	}
	return w.Flush()
}

// meant puts the values of one width and order into a line each.
func meant(values []modbus.Meant) (out []string) {
	last := ""
	for _, order := range [][2]string{{"", ""}, {"", "little"}, {"little", ""}, {"little", "little"}} {
		for _, width := range []string{"16", "32", "64", ""} {
			var parts []string
			for _, v := range values {
				digits := strings.TrimLeft(v.Type, "abcdefghijklmnopqrstuvwxyz")
				if v.WordOrder == order[0] && v.ByteOrder == order[1] && digits == width {
					parts = append(parts, v.Type+" "+v.Value)
				}
			}
			if len(parts) == 0 {
				continue
			}
			line := strings.Join(parts, ", ")
			if order[1] != "" {
				line = "byte_order little: " + line
			}
			if order[0] != "" {
				line = strings.Replace("word_order little: "+line, ": byte", ", byte", 1)
			}
			if line != last {
				out = append(out, line)
			}
			last = line
		}
	}
	return out
}
