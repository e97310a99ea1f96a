//go:build faults

package main

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/weir-iot/weir/firmware-sim/fault"
	"github.com/weir-iot/weir/store"
)

// powerCut is who gets SIGUSR1.
var powerCut chan os.Signal

// withFaults lets a campaign (firmware-sim chaos) cut the power below the journal, and set the clock.
// WEIR_FAULTS names a directory with what it needs:
//
//	boot   the name of this boot, instead of the kernel's
//	keep   0 to 1: which part of the unsynced sectors survives SIGUSR1, the power cut, which ends
//	       the whole process group
//	clock  how wrong the wall clock is
//
// The kernel is not asked to forget anything, so Badger's files, which are not written through
// a store.Disk, stay as they are: for them a power cut is a kill.
func withFaults(o store.Options, log *slog.Logger) store.Options {
	dir := os.Getenv("WEIR_FAULTS")
	if dir == "" {
		return o
	}
	log.Warn("built to fail on purpose", "faults", dir)
	read := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		return strings.TrimSpace(string(text))
	}
	disk := fault.NewDisk()
	o.Disk, o.Clock, o.BootID = disk, &fault.Clock{File: filepath.Join(dir, "clock")}, func() string { return read("boot") }
	if powerCut != nil { // a start that failed had another disk
		signal.Stop(powerCut)
	}
	cut := make(chan os.Signal, 1)
	signal.Notify(cut, syscall.SIGUSR1)
	powerCut = cut
	go func() {
		<-cut
		keep, err := strconv.ParseFloat(read("keep"), 64)
		if err == nil {
			err = disk.PowerCut(rand.New(rand.NewPCG(rand.Uint64(), 0)), keep)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "weir: power cut:", err)
			os.Exit(1)
		}
		syscall.Kill(0, syscall.SIGKILL) // its process group, so the process with the databases too
	}()
	return o
}
