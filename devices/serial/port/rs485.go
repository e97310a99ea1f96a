package port

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/gateway"
)

// RS485 is for a transceiver whose driver has to be switched on to send and off to hear, by the RTS line. Most USB adapters
// do that by themselves and need none of it.
type RS485 struct {
	// By is who switches: kernel, which is exact to the bit, or rts, where the driver of the port cannot do it: then Weir does,
	// to a millisecond or two, which suits slow lines and slaves that take their time.
	By string `yaml:"by"`
	// RTS is its level while sending: high (default) or low.
	RTS string `yaml:"rts"`
	// Before and After are how long the driver is on before the first bit and after the last one: 0 to 100 ms.
	Before time.Duration `yaml:"delay_before"`
	After  time.Duration `yaml:"delay_after"`
}

const maxDelay = 100 * time.Millisecond // the kernel's own bound

func (c *Config) checkRS485() error {
	r := c.RS485
	if r == (RS485{}) {
		return nil
	}
	switch {
	case r.By != "kernel" && r.By != "rts":
		return gateway.BadKey("rs485.by", "%q is neither kernel nor rts", r.By)
	case r.RTS != "" && r.RTS != "high" && r.RTS != "low":
		return gateway.BadKey("rs485.rts", "%q is neither high nor low", r.RTS)
	case r.Before < 0 || r.Before > maxDelay:
		return gateway.BadKey("rs485.delay_before", "%v is not between 0 and %v", r.Before, maxDelay)
	case r.After < 0 || r.After > maxDelay:
		return gateway.BadKey("rs485.delay_after", "%v is not between 0 and %v", r.After, maxDelay)
	case c.RTS != nil:
		return gateway.BadKey("rts", "the RTS line is what rs485 switches")
	}
	return nil
}

// Line is an open port. Reading and writing has deadlines; who closes it gives the port back.
type Line struct {
	*os.File
	turn *turn // nil: nobody has to switch
}

// Write is os.File's; where Weir switches the direction, it returns when the last bit has left and the line can be heard again.
func (l *Line) Write(b []byte) (int, error) {
	if l.turn == nil {
		return l.File.Write(b)
	}
	return l.turn.write(b, l.File.Write)
}

// wires is what a turn does to a port.
type wires interface {
	rts(high bool) error
	queued() int // bytes in the kernel
	idle() bool  // the last bit has left the shift register, or that cannot be told
	discard()
}

// turn switches between sending and hearing.
type turn struct {
	RS485
	wires
	char time.Duration // of a character on the line
}

// longer is how long after its time the last bit of a write may leave; behind that somebody holds the line up.
const longer = 250 * time.Millisecond

func (t *turn) write(b []byte, write func([]byte) (int, error)) (n int, err error) {
	if err := t.send(true); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.send(false)) }()
	time.Sleep(t.Before)
	due := time.Now().Add(time.Duration(len(b)) * t.char)
	if n, err = write(b); err != nil {
		t.discard() // it must not go out while somebody else speaks
		return n, err
	}
	time.Sleep(time.Until(due))
	for t.queued() > 0 || !t.idle() {
		if time.Since(due) > longer {
			t.discard()
			return n, os.ErrDeadlineExceeded
		}
		time.Sleep(t.char)
	}
	time.Sleep(t.After)
	return n, nil
}

func (t *turn) send(on bool) error {
	if err := t.rts(on == (t.RTS != "low")); err != nil {
		return fmt.Errorf("switch the RTS line: %w", err)
	}
	return nil
}

// direct sets up who switches on an open port.
func (p *Port) direct(f *os.File) (*turn, error) {
	switch p.rs485.By {
	case "kernel":
		return nil, control(f, p.rs485.enable)
	case "rts":
		t := &turn{p.rs485, modem{f}, p.char()}
		if err := t.send(false); err != nil {
			return nil, fmt.Errorf("rs485 by rts: %w", err)
		}
		return t, nil
	}
	return nil, nil
}

// char is how long a character takes on the line: a start bit, the data, parity, stop bits.
func (p *Port) char() time.Duration {
	bits := 1 + p.mode.DataBits + 1
	if p.mode.Parity != 0 {
		bits++
	}
	if p.mode.StopBits != 0 {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(p.mode.BaudRate)
}

// kernelRS485 is struct serial_rs485 of linux/serial.h.
type kernelRS485 struct {
	flags         uint32
	before, after uint32 // milliseconds
	_             [5]uint32
}

// Flags of it.
const (
	rs485Enabled   = 1 << 0
	rs485OnSend    = 1 << 1 // RTS is high while sending
	rs485AfterSend = 1 << 2 // and after it
)

// settings is r for the kernel.
func (r RS485) settings() kernelRS485 {
	k := kernelRS485{flags: rs485Enabled | rs485OnSend, before: uint32(r.Before.Milliseconds()), after: uint32(r.After.Milliseconds())}
	if r.RTS == "low" {
		k.flags = rs485Enabled | rs485AfterSend
	}
	return k
}

// enable has the kernel switch (admin-guide: driver-api/serial/serial-rs485).
func (r RS485) enable(fd int) error {
	k := r.settings()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSRS485, uintptr(unsafe.Pointer(&k))); errno != 0 {
		return fmt.Errorf("the driver of this port does not switch RS-485 (%w): set rs485.by to rts, or leave rs485 out if the adapter does it by itself", errno)
	}
	return nil
}

// modem is the wires of a port.
type modem struct{ f *os.File }

func (m modem) rts(high bool) error {
	request := uint(unix.TIOCMBIC)
	if high {
		request = unix.TIOCMBIS
	}
	return control(m.f, func(fd int) error { return unix.IoctlSetPointerInt(fd, request, unix.TIOCM_RTS) })
}

func (m modem) queued() int { return queued(m.f) }

// shiftEmpty is TIOCSER_TEMT of linux/serial.h: the transmitter is empty.
const shiftEmpty = 1

func (m modem) idle() bool {
	status := shiftEmpty
	if control(m.f, func(fd int) (err error) {
		status, err = unix.IoctlGetInt(fd, unix.TIOCSERGETLSR)
		return err
	}) != nil { // USB adapters do not tell
		return true
	}
	return status&shiftEmpty != 0
}

func (m modem) discard() { discard(m.f) }
