package ble

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/hci"
	"github.com/weir-iot/weir/gateway/child"
)

// promised is how soon the radio scans again after whatever happened to it.
const promised = 15 * time.Second

// TestFaults: whatever happens to the adapter or its process, it is said, and scanning goes on in time.
func TestFaults(t *testing.T) {
	for _, fault := range []struct {
		name string
		do   func(r *rig)
		mend func(r *rig) // what a person does, or time; nil: nothing has to be done
		says string       // in the reason of the radio's being down
	}{
		{"adapter pulled", (*rig).pull, (*rig).plug, "adapter is gone"},
		{"controller mute until it is reset", func(r *rig) { r.ctl.Mute() }, nil, "does not answer"},
		{"controller dead for a while", func(r *rig) { r.ctl.Dead(true) }, func(r *rig) { r.ctl.Dead(false) }, "does not answer"},
		{"controller reports a fault", func(r *rig) { r.ctl.Inject([]byte{0x04, 0x10, 1, 0x42}) }, nil, "hardware"},
		{"process killed", func(r *rig) { syscall.Kill(r.pid(), syscall.SIGKILL) }, nil, "ended"},
		{"process panics", func(r *rig) { syscall.Kill(r.pid(), syscall.SIGABRT) }, nil, "ended"},
		{"process stopped", func(r *rig) { syscall.Kill(r.pid(), syscall.SIGSTOP) }, nil, "hangs"},
		{"process hangs when it opens the adapter", func(r *rig) {
			if err := os.WriteFile(r.path+hang, nil, 0o600); err != nil {
				r.t.Fatal(err)
			}
			syscall.Kill(r.pid(), syscall.SIGKILL)
		}, nil, "ended"},
		{"garbage of the controller", func(r *rig) { r.ctl.Garble() }, nil, "garbage|does not answer"}, // whichever is seen first
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, AirConfig{})
			r.ctl.Add(&hci.Peripheral{Addr: thermometer, RSSI: -50, Every: 20 * time.Millisecond, Data: hci.BTHome(1, 21.5)})
			r.keep()
			r.hears()
			pid := r.pid()
			fault.do(r)
			began := time.Now()
			down := ""
			eventually(t, "it is not noticed", func() bool {
				s := r.air.Status()
				if !s.Up && down == "" {
					down = s.Reason
				}
				return down != "" || r.pid() != pid && r.pid() != 0
			})
			noticed := time.Since(began)
			if fault.mend != nil {
				fault.mend(r)
				began = time.Now()
			}
			eventually(t, "it does not scan again", func() bool { return r.air.Status().Up && r.pid() != pid })
			r.hears()
			took := time.Since(began)
			t.Logf("noticed after %v (%s), scans again after %v", noticed.Round(time.Millisecond), down, took.Round(time.Millisecond))
			if took > promised {
				t.Errorf("scans again after %v", took)
			}
			says := strings.Split(fault.says+"|opened|not there", "|")
			if down != "" && !slices.ContainsFunc(says, func(s string) bool { return strings.Contains(down, s) }) {
				t.Errorf("the reason is %q", down)
			}
		})
	}
}

// TestOrphan: the radio's process ends with the gateway, also if it hangs in the kernel.
func TestOrphan(t *testing.T) {
	r := newRig(t, AirConfig{})
	if err := os.WriteFile(r.path+hang, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := child.Start(r.radio.command, nil, "the radio's process", r.radio.log)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it does not open the adapter", func() bool { _, err := os.Stat(r.path + hang); return err != nil })
	p.Conn.Close() // as it is when a gateway is killed
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		p.Kill()
		t.Errorf("it lives on, and ends only when it is killed: %v", <-ended)
	}
}

// TestDeaf: a controller that hears nothing any more, though it answers, begins a new scan.
func TestDeaf(t *testing.T) {
	t.Parallel()
	r := newRig(t, AirConfig{})
	r.ctl.Add(&hci.Peripheral{Addr: thermometer, RSSI: -50, Every: 20 * time.Millisecond, Data: hci.BTHome(1, 21.5)})
	r.keep()
	r.hears()
	pid := r.pid()
	r.ctl.Deaf()
	r.hears()
	if r.pid() != pid {
		t.Error("its process was started again")
	}
}

// TestAbsent: an adapter that is not there is said in words, and looked for now and then, not all the time.
func TestAbsent(t *testing.T) {
	t.Parallel()
	r := newRig(t, AirConfig{})
	r.pull()
	r.keep()
	eventually(t, "it is not said", func() bool { return strings.Contains(r.air.Status().Reason, "it is not there") })
	began, starts := time.Now(), r.air.Status().Starts
	eventually(t, "it is not looked for", func() bool { return r.air.Status().Starts >= starts+2 })
	if took := time.Since(began); took < firstRetry {
		t.Errorf("it is looked for twice in %v", took)
	}
	r.plug()
	eventually(t, "it does not scan", func() bool { return r.air.Status().Up })
}

func TestPresent(t *testing.T) {
	sys := t.TempDir()
	if err := present(sys, "hci0"); err == nil || !strings.Contains(err.Error(), "no Bluetooth") {
		t.Error(err)
	}
	for _, name := range []string{"", "/hci1"} {
		if err := os.MkdirAll(sys+"/class/bluetooth"+name, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := present(sys, "hci0"); err == nil || !strings.Contains(err.Error(), map[string]string{"": "plugged in", "/hci1": "hci1 is"}[name]) {
			t.Error(err)
		}
	}
	if err := present(sys, "hci1"); err != nil {
		t.Error(err)
	}
}

// TestCycles: nothing grows when an adapter comes and goes a hundred times, or its process is killed.
func TestCycles(t *testing.T) {
	cycles := 100
	if testing.Short() {
		cycles = 10
	}
	r := newRig(t, AirConfig{})
	r.hurry()
	r.ctl.Add(&hci.Peripheral{Addr: thermometer, RSSI: -50, Every: 5 * time.Millisecond, Data: hci.BTHome(1, 21.5)})
	r.keep()
	r.hears()
	fds := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	var files, goroutines int
	var bytes uint64
	for n := range cycles {
		if n == 5 { // it has all it needs
			files, goroutines, bytes = fds(), runtime.NumGoroutine(), memory()
		}
		pid := r.pid()
		switch n % 3 {
		case 0:
			r.pull()
			eventually(t, "it is not noticed", func() bool { return r.pid() == 0 })
			r.plug()
		case 1:
			syscall.Kill(pid, syscall.SIGKILL)
		case 2:
			r.ctl.Inject([]byte{0x04, 0x10, 1, 0x42})
		}
		eventually(t, "it does not scan again", func() bool { return r.air.Status().Up && r.pid() != pid && r.pid() != 0 })
		r.hears()
	}
	var now [3]int
	eventually(t, "it grows", func() bool {
		now = [3]int{fds(), runtime.NumGoroutine(), int(memory())}
		return now[0] <= files+2 && now[1] <= goroutines+2 && now[2] <= int(bytes)+4<<20
	})
	t.Logf("after 5 cycles %d files, %d goroutines, %d KiB; after %d cycles %d, %d, %d KiB", files, goroutines, bytes>>10, cycles, now[0], now[1], now[2]>>10)
}

func TestDiagnose(t *testing.T) {
	sys, proc := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want ...string) {
		t.Helper()
		var got []string
		for _, p := range diagnose(sys, proc, "hci0") {
			if p.Do == "" {
				t.Errorf("%q, and nothing helps", p.What)
			}
			got = append(got, p.What)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	write(proc+"/self/status", "Name:\tweir\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n")
	want("not there")
	write(sys+"/class/bluetooth/hci1/uevent", "")
	want("not there")
	if p := diagnose(sys, proc, "hci0"); p[0].Do != "adapter: hci1" {
		t.Errorf("%+v", p)
	}
	write(sys+"/class/bluetooth/hci0/rfkill2/soft", "0\n")
	write(sys+"/class/bluetooth/hci0/rfkill2/hard", "0\n")
	want()
	write(sys+"/class/bluetooth/hci0/rfkill2/soft", "1\n")
	want("switched off")
	write(sys+"/class/bluetooth/hci0/rfkill2/hard", "1\n")
	write(proc+"/self/status", "CapEff:\t0000000000002000\n")
	write(proc+"/417/comm", "bluetoothd\n")
	write(proc+"/418/comm", "bash\n")
	want("switched off by a key or a switch of the machine", "this user may not have it: CAP_NET_ADMIN and CAP_NET_RAW are missing", "bluetoothd (process 417) uses every adapter there is")
}
