package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/devices"
)

// valve is a Modbus TCP device with one holding register. It notes what is written to it.
type valve struct {
	net.Listener
	held    atomic.Uint32
	writes  atomic.Int32
	silent  atomic.Bool // it takes writes and does not answer them
	serving sync.WaitGroup
}

func startValve(t *testing.T) *valve {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{Listener: l}
	v.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			v.serving.Go(func() { v.serve(c) })
		}
	})
	return v
}

func (v *valve) serve(c net.Conn) {
	defer c.Close()
	for {
		req := make([]byte, 12) // a header of 7 bytes; the function, an address, and a number or a value
		if _, err := io.ReadFull(c, req); err != nil {
			return
		}
		answer := req
		switch req[7] {
		case 3:
			answer = binary.BigEndian.AppendUint16(append(req[:4:4], 0, 5, req[6], 3, 2), uint16(v.held.Load()))
		case 6:
			v.held.Store(uint32(binary.BigEndian.Uint16(req[10:])))
			v.writes.Add(1)
			if v.silent.Load() {
				continue
			}
		}
		c.Write(answer)
	}
}

// A command is carried out once, though the gateway is killed in the middle of it, and every command has a
// result.
func TestCommandsAreNotRepeated(t *testing.T) {
	v := startValve(t)
	w := startRig(t, fmt.Sprintf(`buses: {plant: {address: %q, timeout: 20s}}
devices:
  valve: {driver: modbus, bus: plant, unit_id: 1, interval: 100ms, registers: {level: {holding: 0, write: true, max: 100}}}
`, v.Addr()))
	t.Cleanup(func() { v.Close(); w.kill(); v.serving.Wait() })
	weir := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := run(t.Context(), append([]string{"-c", w.conf}, args...), nil, &out, &out); got != code {
			t.Fatalf("%v ends with %d, want %d:\n%s", args, got, code, &out)
		}
		return out.String()
	}
	results := bridgetest.Collect(t, w.mqtt, "plant1/valve/level/result")
	result := func(id string) (r devices.Result) {
		t.Helper()
		bridgetest.Until(t, "the result of "+id, func() bool {
			for _, p := range results.Published() {
				if json.Unmarshal(p.Payload, &r) == nil && r.ID == id {
					return true
				}
			}
			return false
		})
		return r
	}
	if out := weir(0, "devices", "set", "valve", "level", "40"); out != "40\n" {
		t.Errorf("set: %q", out)
	}
	for _, c := range []struct {
		code int
		args string
		want string
	}{
		{1, "valve level 101", "level: 101 is out of bounds: max is 100"},
		{1, "valve levle 1", `"levle" of device "valve" cannot be set, did you mean "level"?`},
		{1, "vavle level 1", `there is no device "vavle"`},
		{1, "valve level 1 --timeout 1x", `timeout: expected a duration such as`},
		{2, "valve", "a device, a name and a value"},
	} {
		if out := weir(c.code, append([]string{"devices", "set"}, strings.Fields(c.args)...)...); !strings.Contains(out, c.want) {
			t.Errorf("%s: %q, want %q", c.args, out, c.want)
		}
	}
	if r := result(strings.TrimSpace(weir(0, "pub", "--retain", "plant1/valve/level/set", "7"))); r.OK || !strings.Contains(r.Error, "retained") {
		t.Errorf("retained: %+v", r)
	}

	v.silent.Store(true)
	cut := strings.TrimSpace(weir(0, "pub", "plant1/valve/level/set", "50"))
	bridgetest.Until(t, "it is written", func() bool { return v.writes.Load() == 2 })
	late := strings.TrimSpace(weir(0, "pub", "plant1/valve/level/set", "60"))
	w.kill()
	v.silent.Store(false)
	v.held.Store(1)
	w.start()
	if r := result(cut); r.OK || r.Value != "50" || !strings.Contains(r.Error, "it may have been carried out, and is not again") {
		t.Errorf("cut off: %+v", r)
	}
	// The other had time left, if the machine was not very slow.
	if r := result(late); r.OK != (v.held.Load() == 60) || !r.OK && !strings.Contains(r.Error, "expired") {
		t.Errorf("waiting: %+v, and the device has %d", r, v.held.Load())
	} else if r.OK != (v.writes.Load() == 3) {
		t.Errorf("%d writes", v.writes.Load())
	}
	w.end()
}
