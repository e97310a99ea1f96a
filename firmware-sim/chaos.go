package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/weir-iot/weir/firmware-sim/chaos"
	"github.com/weir-iot/weir/firmware-sim/fault"
	"github.com/weir-iot/weir/firmware-sim/image"
)

const chaosHelp = `firmware-sim chaos: a real gateway between devices and a far end, while faults happen.

The script of the faults is drawn from the seed and printed; --script plays one. Exit code 1:
something was lost, doubled, out of order, not accounted for or wrong, the gateway ended by itself,
or the run was too quiet to prove anything. As root it runs with mounts of its own, for a disk
that can be filled and whose plug can be pulled.

`

func chaosCommand(ctx context.Context, args []string, out, errOut io.Writer) (err error) {
	c := chaos.Config{Out: out}
	flags := flag.NewFlagSet("firmware-sim chaos", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(errOut, chaosHelp); flags.PrintDefaults() }
	beside := "weir"
	if self, err := os.Executable(); err == nil {
		beside = filepath.Join(filepath.Dir(self), "weir")
	}
	flags.StringVar(&c.Weir, "weir", beside, "the gateway's `program`; built with -tags faults its power can be cut")
	flags.StringVar(&c.Dir, "dir", "", "`directory` for its data and log; default: a new one, kept if something is wrong")
	flags.Uint64Var(&c.Seed, "seed", 1, "equal seeds, equal faults")
	flags.DurationVar(&c.For, "for", time.Minute, "how long faults happen")
	far := flags.String("far", "own", "the far end: own or mosquitto")
	script := flags.String("script", "", "play this `file` instead of a drawn script")
	flags.IntVar(&c.Clients, "clients", 8, "devices; half of them publish at QoS 2, and half speak MQTT 5")
	flags.Float64Var(&c.Rate, "rate", 25, "messages a second of each")
	flags.IntVar(&c.Pad, "pad", 4000, "bytes added to each message; too few, and an outage does not outlast the journal")
	flags.BoolVar(&c.Damage, "damage", false, "turn bits of the journal too")
	flags.BoolVar(&c.Kills, "kills", false, "draw little else than kills and power cuts: in 30m more than 1,000 and 200")
	asJSON := flags.Bool("json", false, "print the report as JSON, and what happens to standard error")
	if err := parse(flags, args, errOut); err != nil {
		return err
	}
	if c.For <= 0 || c.Clients < 1 || c.Rate <= 0 || c.Pad < 0 || *far != "own" && *far != "mosquitto" {
		fmt.Fprintln(errOut, "for, clients and rate are greater than 0, pad is not negative, far is own or mosquitto")
		return errUsage
	}
	c.Mosquitto = *far == "mosquitto"
	if *script != "" {
		text, err := os.ReadFile(*script)
		if err != nil {
			return err
		}
		if c.Script, err = fault.Parse(string(text)); err != nil {
			return fmt.Errorf("%s: %w", *script, err)
		}
	}
	if os.Geteuid() == 0 && !image.Private() {
		return image.Rerun(ctx, append([]string{"chaos"}, args...), out, errOut)
	}
	if *asJSON {
		c.Out = errOut
	}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "weir-chaos-"); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(c.Dir)
			} else {
				fmt.Fprintf(errOut, "the gateway's log and data are kept in %s\n", c.Dir)
			}
		}()
	} else if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return err
	} else if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	report, err := chaos.Run(ctx, c)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(report)
	} else {
		_, err = fmt.Fprint(out, "\n", report)
	}
	if err == nil && !report.OK() {
		err = fmt.Errorf("%d violations, %d reasons why it proves too little; again: firmware-sim chaos --seed %d --for %s",
			len(report.Violations), len(report.Quiet), report.Seed, report.For)
	}
	return err
}
