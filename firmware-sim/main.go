// Command firmware-sim is devices that do not exist: some publish over MQTT as any client
// would, some over MQTT-SN between two naps, some are lines on a pseudo-terminal that a gateway opens like /dev/ttyUSB0. It is
// the demo's other half and the project's test instrument; package sim is the instrument.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/weir-iot/weir/firmware-sim/image"
	"github.com/weir-iot/weir/firmware-sim/sim"
)

const usage = `firmware-sim simulates devices.

  firmware-sim run   devices that measure and send until told to stop
  firmware-sim load  numbered messages, as many as asked for, and the account of them
  firmware-sim demo  a gateway and the devices together: make run
  firmware-sim ble   Bluetooth devices around an adapter that it adds to this machine
  firmware-sim chaos a gateway under faults, and what it lost: make chaos

Each has -h. Exit codes: 0 ok, 1 failed, 2 usage.

Example: firmware-sim run --mqtt 127.0.0.1:1883 --tty-dir /tmp/tty --seed 7
`

// errUsage: what is wrong has been said.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once, should a stop hang.
	context.AfterFunc(ctx, stop)
	os.Exit(command(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// command is main for tests: it returns the exit code.
func command(ctx context.Context, args []string, out, errOut io.Writer) int {
	commands := map[string]func(context.Context, []string, io.Writer, io.Writer) error{"run": run, "load": load, "demo": demo, "ble": ble, "chaos": chaosCommand}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(errOut, usage)
		return 2
	}
	err := commands[args[0]](ctx, args[1:], out, errOut)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	}
	if !errors.Is(err, image.ErrFailed) {
		fmt.Fprintln(errOut, "firmware-sim:", err)
	}
	return 1
}

func parse(flags *flag.FlagSet, args []string, errOut io.Writer) error {
	flags.SetOutput(errOut)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage
	case flags.NArg() > 0:
		fmt.Fprintf(errOut, "unexpected argument %q\n", flags.Arg(0))
		return errUsage
	}
	return nil
}

// fleetFlags adds the flags that say how the devices are.
func fleetFlags(flags *flag.FlagSet, c *sim.Config) {
	flags.StringVar(&c.Site, "site", "demo", "first `level` of the MQTT devices' topics")
	flags.Uint64Var(&c.Seed, "seed", 1, "equal seeds, equal values")
	flags.Float64Var(&c.Rate, "rate", 1, "2: all devices send twice as often as by nature")
	flags.DurationVar(&c.Day, "day", 10*time.Minute, "how long a simulated day is")
	flags.StringVar(&c.Shape, "payload", "", "json: one message with everything; plain: a topic per value; default: each device its own")
	flags.Float64Var(&c.Noise, "garbage", 0.03, "which part of the soil sensor's lines is garbage; negative: none")
	flags.Func("only", "simulate only these `devices`, by name, separated by commas", func(s string) error {
		c.Only = strings.Split(s, ",")
		return nil
	})
}

func run(ctx context.Context, args []string, out, errOut io.Writer) (err error) {
	var c sim.Config
	flags := flag.NewFlagSet("firmware-sim run", flag.ContinueOnError)
	fleetFlags(flags, &c)
	flags.StringVar(&c.MQTT, "mqtt", "127.0.0.1:1883", "`host:port` of the gateway; empty: no MQTT devices")
	flags.StringVar(&c.MQTTSN, "mqttsn", "", "`host:port` of the gateway's MQTT-SN; empty: no nodes that sleep")
	flags.StringVar(&c.User, "user", "", "MQTT user name")
	flags.StringVar(&c.Password, "password", "", "MQTT password")
	flags.StringVar(&c.TTYDir, "tty-dir", "", "`directory` for the ports of the serial devices; empty: no serial devices")
	file := flags.String("ledger", "", "append what is sent and acknowledged to this `file`, as JSON lines")
	if err := parse(flags, args, errOut); err != nil {
		return err
	}
	ledger, done, err := openLedger(*file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if ledger != nil {
		c.Sent, c.Answered = ledger.Sent, ledger.Answered
	}
	fleet, err := sim.Open(c)
	if err != nil {
		return err
	}
	defer fleet.Close()
	fmt.Fprintf(out, "simulating, with seed %d:\n%s", c.Seed, fleet.Describe())
	fleet.Run(ctx)
	fmt.Fprint(out, fleet.Summary())
	return nil
}

// openLedger returns nil for no file: a ledger grows with every message.
func openLedger(file string) (*sim.Ledger, func() error, error) {
	if file == "" {
		return nil, func() error { return nil }, nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, nil, err
	}
	l := sim.NewLedger()
	l.Log(f)
	return l, func() error { return errors.Join(l.Flush(), f.Close()) }, nil
}

func load(ctx context.Context, args []string, out, errOut io.Writer) (err error) {
	l := sim.Load{}
	flags := flag.NewFlagSet("firmware-sim load", flag.ContinueOnError)
	flags.StringVar(&l.Address, "mqtt", "127.0.0.1:1883", "`host:port` of the gateway")
	flags.IntVar(&l.Clients, "clients", 4, "how many clients; of each four, two are MQTT 5, and one of each two publishes at QoS 2")
	flags.Float64Var(&l.Rate, "rate", 100, "messages a second of each client")
	flags.Uint64Var(&l.Seed, "seed", 1, "equal seeds, equal messages")
	flags.IntVar(&l.Pad, "pad", 0, "bytes added to each message")
	lasts := flags.Duration("for", 10*time.Second, "how long to publish; then it waits for the answers")
	drain := flags.Duration("drain", 30*time.Second, "how long to wait for the answers")
	file := flags.String("ledger", "", "append what is sent and acknowledged to this `file`, as JSON lines")
	if err := parse(flags, args, errOut); err != nil {
		return err
	}
	if l.Clients < 1 || l.Rate <= 0 {
		fmt.Fprintln(errOut, "clients and rate are greater than 0")
		return errUsage
	}
	ledger, done, err := openLedger(*file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if l.Ledger = ledger; ledger == nil {
		l.Ledger = sim.NewLedger()
	}
	fmt.Fprintf(out, "%d clients publish to %s for %v\n", l.Clients, l.Address, *lasts)
	limited, cancel := context.WithTimeout(ctx, *lasts)
	defer cancel()
	began := time.Now()
	err = l.Run(limited, *drain)
	took := time.Since(began).Seconds()
	sent, acked := len(l.Ledger.Entries()), len(l.Ledger.Acked())
	fmt.Fprintf(out, "%d messages sent, %d acknowledged, %.0f a second\n", sent, acked, float64(acked)/took)
	return err
}
