package port

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Problem is why a port cannot be used, or not without trouble, and what helps.
type Problem struct {
	What string `json:"what"`
	Do   string `json:"do"`
}

// meddlers are programs that open serial ports which nobody gave them.
var meddlers = map[string]Problem{
	"ModemManager": {"ModemManager talks to new serial ports to find out whether they are modems",
		"sudo systemctl disable --now ModemManager, or keep it off this one: a udev rule with ENV{ID_MM_DEVICE_IGNORE}=\"1\""},
	"brltty": {"brltty takes USB adapters of common kinds for braille displays",
		"sudo apt remove brltty, unless there is a braille display; then plug the adapter in again"},
}

// Running are the programs among those that open serial ports which nobody gave them.
func Running() (all []Problem) {
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	seen := map[string]bool{}
	for _, comm := range comms {
		text, _ := os.ReadFile(comm)
		name := strings.TrimSpace(string(text))
		if p, is := meddlers[name]; is && !seen[name] {
			seen[name] = true
			all = append(all, Problem{name + " is running: " + p.What, p.Do})
		}
	}
	return all
}

// Diagnose says what is wrong with the port, without opening it, and which gateway has it: a process named weir is no
// problem.
func (p *Port) Diagnose() (problems []Problem, by *Holder) {
	path := p.path
	if p.usb != nil {
		var err error
		if path, err = p.usb.find("/sys/class/tty"); err != nil {
			return []Problem{{err.Error(), absentHint}}, nil
		}
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("not there: not plugged in?")
		}
		return []Problem{{err.Error(), absentHint}}, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return []Problem{{err.Error(), absentHint}}, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return []Problem{{path + " is no serial port, but a file", "give the port's path: weir devices probe lists those there are"}}, nil
	}
	if unix.Access(path, unix.R_OK|unix.W_OK) != nil {
		problems = append(problems, denied(path, groupName(st.Gid)))
	}
	for _, h := range holders(uint64(st.Rdev)) {
		switch known, meddles := meddlers[h.Name]; {
		case h.PID == os.Getpid():
		case h.Name == "weir":
			by = &h
		case meddles:
			problems = append(problems, Problem{inUseBy(h.PID).Error() + ": " + known.What, known.Do})
		default:
			problems = append(problems, Problem{inUseBy(h.PID).Error(), fmt.Sprintf("end it (kill %d), or give it another port", h.PID)})
		}
	}
	if len(problems) == 0 && by == nil && locked(path) != nil { // another user's process, whose files are not ours to see
		problems = append(problems, Problem{locked(path).Error(), "end it, or give it another port; sudo weir doctor sees more"})
	}
	return problems, by
}

const absentHint = "plug it in, and see with weir devices probe what is there; dmesg says whether the kernel knows the adapter"

// denied says what to do about a port that this user may not open.
func denied(path, group string) Problem {
	me, err := user.Current()
	if err != nil {
		return Problem{"this user may not open " + path, "sudo usermod -aG " + group + " USER, and log in again"}
	}
	p := Problem{fmt.Sprintf("user %s may not open %s: it is not in group %s", me.Username, path, group),
		fmt.Sprintf("sudo usermod -aG %s %s, and log in again; a systemd unit needs SupplementaryGroups=%s", group, me.Username, group)}
	if member(group, me) {
		p = Problem{fmt.Sprintf("user %s is in group %s, but was not yet when this session began", me.Username, group), "log in again, or start the service again"}
	}
	return p
}

func member(group string, me *user.User) bool {
	g, err := user.LookupGroup(group)
	if err != nil {
		return false
	}
	ids, err := me.GroupIds()
	return err == nil && slices.Contains(ids, g.Gid)
}

func groupName(gid uint32) string {
	id := strconv.Itoa(int(gid))
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}
