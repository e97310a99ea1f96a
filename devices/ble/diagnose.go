package ble

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Problem is why an adapter cannot be used, or not without trouble, and what helps.
type Problem struct{ What, Do string }

// Diagnose looks for what is wrong with an adapter, as far as the kernel's files tell. Nothing is opened.
func Diagnose(adapter string) []Problem { return diagnose("/sys", "/proc", adapter) }

// The capabilities that the HCI user channel needs (capabilities(7)).
const netAdminAndRaw = 1<<12 | 1<<13

func diagnose(sys, proc, adapter string) (all []Problem) {
	if err := present(sys, adapter); err != nil {
		what, do, ok := strings.Cut(strings.TrimPrefix(err.Error(), "it is "), ": ")
		if !ok {
			what, do, _ = strings.Cut(what, ", but ")
			do = "adapter: " + strings.TrimSuffix(do, " is")
		}
		all = append(all, Problem{what, do})
	}
	switches, _ := filepath.Glob(filepath.Join(sys, "class", "bluetooth", adapter, "rfkill*"))
	for _, s := range switches {
		switch {
		case word(filepath.Join(s, "hard")) == "1":
			all = append(all, Problem{"switched off by a key or a switch of the machine", "use that switch"})
		case word(filepath.Join(s, "soft")) == "1":
			all = append(all, Problem{"switched off", "sudo rfkill unblock bluetooth"})
		}
	}
	for line := range strings.Lines(word(filepath.Join(proc, "self", "status"))) {
		digits, ok := strings.CutPrefix(line, "CapEff:")
		if caps, err := strconv.ParseUint(strings.TrimSpace(digits), 16, 64); ok && err == nil && caps&netAdminAndRaw != netAdminAndRaw {
			all = append(all, Problem{"this user may not have it: CAP_NET_ADMIN and CAP_NET_RAW are missing",
				"run as root, or with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW in the systemd unit"})
		}
	}
	programs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "comm"))
	for _, p := range programs {
		if word(p) == "bluetoothd" {
			all = append(all, Problem{"bluetoothd (process " + filepath.Base(filepath.Dir(p)) + ") uses every adapter there is",
				"sudo systemctl disable --now bluetooth; if something else needs it, give Weir an adapter of its own"})
		}
	}
	return all
}

// word is what a small file of the kernel's says; empty if it cannot be read.
func word(name string) string {
	b, _ := os.ReadFile(name)
	return strings.TrimSpace(string(b))
}
