package hci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// InVM tells whether this is the first process of a machine, which firmware-sim/hci/vm boots with a test binary as its init.
func InVM() bool { return os.Getpid() == 1 }

// modules is where the kernel's modules are in the virtual machine, named so that they sort in the order they need.
const modules = "/modules"

// VM makes the machine usable for tests, runs them with what stands behind tests= on the kernel's command line, and switches
// it off. It does not return.
func VM(run func() int) {
	code := 125
	err := boot()
	if err == nil {
		code = run()
	}
	fmt.Printf("vm: ended with %d, %v\n", code, err)
	os.Stdout.Sync()
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func boot() error {
	for _, m := range []struct{ what, where string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := errors.Join(os.MkdirAll(m.where, 0o755), unix.Mount(m.what, m.where, m.what, 0, "")); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	files, err := filepath.Glob(modules + "/*.ko")
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", filepath.Base(name), err)
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	os.Args = []string{"/init", "-test.v", "-test.timeout=120s", "-test.parallel=16", "-test.short"}
	for _, word := range strings.Fields(string(line)) {
		if pattern, ok := strings.CutPrefix(word, "tests="); ok {
			os.Args = append(os.Args, "-test.run="+pattern)
		}
	}
	return nil
}
