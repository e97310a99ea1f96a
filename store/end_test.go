package store

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

// The next run knows how the one before it ended.
func TestLastEnd(t *testing.T) {
	dir, boot := filepath.Join(t.TempDir(), "j"), "boot-1"
	open := func(want string) *Journal {
		t.Helper()
		var found gateway.Recovery
		j, err := Open(Options{Dir: dir, MinFree: MinFree{Bytes: 1},
			BootID: func() string { return boot }, MachineID: func() string { return "m" },
			Observer: gateway.Observer{Recovered: func(r gateway.Recovery) { found = r }}})
		if err != nil {
			t.Fatal(err)
		}
		if found.LastEnd != want {
			t.Errorf("the last run ended %q, want %q (a new epoch: %q)", found.LastEnd, want, found.NewEpoch)
		}
		return j
	}
	// run stores an event; a clean one stops in order, others lose the process.
	run := func(j *Journal, clean bool) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- j.Run(ctx, nowhere{}) }()
		stored := make(chan error, 1)
		if err := j.Append(ctx, &gateway.Event{Topic: "a"}, gateway.Synced, func(err error) { stored <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, tableFile)
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-over; err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if !clean { // as the file was when it still ran
			if err := os.WriteFile(file, before, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	run(open(gateway.EndNone), true)
	run(open(gateway.EndClean), false)
	run(open(gateway.EndKilled), false)
	boot = "boot-2"
	run(open(gateway.EndPower), true)
	boot = "boot-3"
	run(open(gateway.EndClean), false)

	moved := dir + "-copy"
	if err := os.CopyFS(moved, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	dir = moved
	run(open(gateway.EndUnknown), true)
	if err := os.Remove(filepath.Join(dir, tableFile)); err != nil {
		t.Fatal(err)
	}
	run(open(gateway.EndUnknown), true)
}
