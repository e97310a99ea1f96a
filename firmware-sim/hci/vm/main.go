// Command vm runs tests in a virtual machine with a real kernel's Bluetooth: it boots a Debian kernel in qemu, with a test binary
// as its first process and a virtual controller behind /dev/vhci. It needs no KVM, no root and no hardware.
//
//	go run ./firmware-sim/hci/vm -kernel DIR
//
// DIR has vmlinuz and modules/, as .ci/deps leaves them. What is judged is the result lines that tests print, not how the machine ends.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// modules are those that /dev/vhci needs, in the order they are loaded.
var modules = []string{"ecc", "ecdh_generic", "cmac", "ecb", "crc16", "rfkill", "bluetooth", "hci_vhci"}

// errSkip: a piece cannot be had, so nothing was tested.
var errSkip = errors.New("skipped")

func main() {
	kernel := flag.String("kernel", "", "`directory` with vmlinuz and modules")
	pkg := flag.String("package", "./devices/ble", "`package` whose tests are run")
	tests := flag.String("tests", "TestScanned,TestStation,TestCallsEnd,TestFaults,TestDeaf,TestAbsent,TestCycles,TestTaken", "the `tests`, which all must pass")
	limit := flag.Duration("limit", 2*time.Minute, "after which the machine is switched off")
	verbose := flag.Bool("v", false, "show all that the machine prints")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	err := run(ctx, *kernel, *pkg, strings.Split(*tests, ","), *verbose)
	switch {
	case errors.Is(err, errSkip):
		fmt.Printf("test-ble-vm: 0 passed, 0 failed, %d skipped: %v\n", len(strings.Split(*tests, ",")), err)
	case err != nil:
		fmt.Fprintln(os.Stderr, "test-ble-vm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kernel, pkg string, tests []string, verbose bool) error {
	for _, tool := range []string{"qemu-system-x86_64", "xz"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: there is no %s", errSkip, tool)
		}
	}
	if _, err := os.Stat(filepath.Join(kernel, "vmlinuz")); err != nil {
		return fmt.Errorf("%w: there is no kernel in %q", errSkip, kernel)
	}
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	vmlinux, initrd, binary := filepath.Join(dir, "vmlinux"), filepath.Join(dir, "initrd"), filepath.Join(dir, "init")
	if err := unpack(filepath.Join(kernel, "vmlinuz"), vmlinux); err != nil {
		return fmt.Errorf("unpack the kernel: %w", err)
	}
	build := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags=-s -w", "-o", binary, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests: %w\n%s", err, out)
	}
	if err := pack(initrd, binary, filepath.Join(kernel, "modules")); err != nil {
		return fmt.Errorf("make the initrd: %w", err)
	}
	began := time.Now()
	results, log, err := boot(ctx, vmlinux, initrd, tests, verbose)
	if err != nil {
		return err
	}
	passed := 0
	var bad []string
	for _, name := range tests {
		if results[name] == "PASS" {
			passed++
		} else {
			bad = append(bad, name)
		}
	}
	fmt.Printf("test-ble-vm: %d passed, %d failed, 0 skipped, in %v of the kernel's Bluetooth\n", passed, len(bad), time.Since(began).Round(time.Second))
	if len(bad) > 0 {
		return fmt.Errorf("no good result of %s; the machine said:\n%s", strings.Join(bad, ", "), log)
	}
	return nil
}

// boot runs the machine and returns the results of tests, and the end of what it printed.
func boot(ctx context.Context, vmlinux, initrd string, tests []string, verbose bool) (results map[string]string, log string, err error) {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "microvm,isa-serial=on,rtc=on,pit=on,pic=on,acpi=off,x-option-roms=off",
		"-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", vmlinux, "-initrd", initrd, "-serial", "stdio", "-append",
		"console=ttyS0 quiet loglevel=3 panic=-1 reboot=t tsc=reliable no_timer_check mitigations=off cryptomgr.notests=1 rdinit=/init tests=^("+strings.Join(tests, "|")+")$")
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	results = map[string]string{}
	var last []string
	for s := bufio.NewScanner(out); s.Scan(); {
		line := strings.TrimRight(s.Text(), "\r")
		if verbose {
			fmt.Println(line)
		}
		if last = append(last, line); len(last) > 200 {
			last = last[1:]
		}
		var verdict, name string
		if n, _ := fmt.Sscanf(line, "--- %s %s", &verdict, &name); n == 2 {
			results[name] = strings.TrimSuffix(verdict, ":")
			fmt.Println(line)
		} else if strings.Contains(line, "scans again after") {
			fmt.Println(line)
		}
	}
	cmd.Wait() // how it ends says nothing
	return results, strings.Join(last, "\n"), nil
}

// unpack gets the ELF out of a bzImage (the kernel's Documentation/arch/x86/boot.rst): its setup says where
// the compressed payload is, and behind that the size is 4 bytes.
func unpack(bzImage, into string) error {
	b, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	if len(b) < 0x260 || string(b[0x202:0x206]) != "HdrS" {
		return errors.New("it is no bzImage")
	}
	at := (int(b[0x1f1])+1)*512 + int(binary.LittleEndian.Uint32(b[0x248:]))
	size := int(binary.LittleEndian.Uint32(b[0x24c:]))
	if at < 0 || size < 4 || at+size > len(b) {
		return errors.New("its payload is out of it")
	}
	payload := b[at : at+size-4]
	if !bytes.HasPrefix(payload, []byte("\xfd7zXZ")) {
		return fmt.Errorf("its payload is not of xz: %x", payload[:6])
	}
	out, err := os.Create(into)
	if err != nil {
		return err
	}
	return errors.Join(unxz(out, bytes.NewReader(payload)), out.Close())
}

func unxz(out io.Writer, in io.Reader) error {
	cmd := exec.Command("xz", "-dc")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	return cmd.Run()
}

// pack writes an initramfs (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
func pack(into, init, from string) error {
	var b bytes.Buffer
	entry := func(name string, mode, major, minor int, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			b.Len()+1, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
		pad := func() {
			for b.Len()%4 != 0 {
				b.WriteByte(0)
			}
		}
		pad()
		b.Write(content)
		pad()
	}
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	for _, dir := range []string{"dev", "modules", "tmp", "proc", "sys"} {
		entry(dir, 0o040755, 0, 0, nil)
	}
	entry("dev/console", 0o020600, 5, 1, nil)
	entry("init", 0o100755, 0, 0, program)
	for i, name := range modules {
		module, err := os.ReadFile(filepath.Join(from, name+".ko"))
		if errors.Is(err, os.ErrNotExist) {
			continue // it is built in
		}
		if err != nil {
			return err
		}
		entry(fmt.Sprintf("modules/%02d-%s.ko", i, name), 0o100644, 0, 0, module)
	}
	entry("TRAILER!!!", 0, 0, 0, nil)
	return os.WriteFile(into, b.Bytes(), 0o600)
}
