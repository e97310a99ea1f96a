package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/weir-iot/weir/firmware-sim/hci"
	"github.com/weir-iot/weir/firmware-sim/sim"
)

// ble runs Bluetooth devices around an adapter that it adds to this machine.
func ble(ctx context.Context, args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("firmware-sim ble", flag.ContinueOnError)
	seed := flags.Uint64("seed", 1, "`number` that decides what the devices measure")
	day := flags.Duration("day", time.Hour, "how long a day is")
	flags.Usage = func() {
		fmt.Fprintln(errOut, "firmware-sim ble adds a virtual Bluetooth adapter to this machine, with devices around it: three thermometers, a beacon and a heart rate strap.\nIt needs Linux, its module hci_vhci (modprobe hci_vhci) and root.")
		flags.PrintDefaults()
	}
	if err := parse(flags, args, errOut); err != nil {
		return err
	}
	rw, index, err := hci.OpenVHCI()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("there is no /dev/vhci: modprobe hci_vhci")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("/dev/vhci is for root")
	case err != nil:
		return err
	}
	adapter := ""
	if index > 0 {
		adapter = fmt.Sprintf("\n# and at each device: adapter: hci%d", index)
	}
	fmt.Fprintf(out, "the adapter is hci%d; a gateway hears its devices with\n\n%s%s\n", index, sim.AirConfig, adapter)
	return radiate(ctx, sim.NewAir(*seed, *day), rw)
}

// radiate has the devices of air measure every second, for the host at the other end of rw, until ctx ends.
func radiate(ctx context.Context, air *sim.Air, rw io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- air.Controller.Serve(ctx, rw) }()
	defer func() {
		cancel()
		<-served
	}()
	began := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			air.Step(time.Since(began))
		case <-ctx.Done():
			return nil
		case err := <-served:
			served <- err
			return fmt.Errorf("the adapter is gone: %w", err)
		}
	}
}
