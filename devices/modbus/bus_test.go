package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/firmware-sim/sim/modbusslave"
	"github.com/weir-iot/weir/gateway"
)

// rig is a bus whose far end is line, in a bubble of synctest: its time is not the clock's.
type rig struct {
	t    *testing.T
	bus  *Bus
	line *modbusslave.Line
}

func newRig(t *testing.T, cfg BusConfig, slaves ...byte) *rig {
	t.Helper()
	if cfg.Address == "" {
		cfg.Config = port.Config{Port: "/dev/rs485", Baud: 19200}
	}
	bus, err := NewBus("rs485", cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t, bus, &modbusslave.Line{Slaves: map[byte]*modbusslave.Slave{}}}
	for _, id := range slaves {
		s := modbusslave.New(uint64(id))
		for i := range uint16(20) {
			s.Set(modbusslave.Holding, i, 100*uint16(id)+i)
		}
		r.line.Slaves[id] = s
	}
	var served sync.WaitGroup
	t.Cleanup(served.Wait)
	bus.open = func(context.Context) (stream, error) {
		here, pipe := net.Pipe()
		there := &wire{Conn: pipe, in: make(chan []byte, 100)}
		served.Go(there.fill)
		served.Go(func() {
			if cfg.Address != "" && cfg.Framing == "" {
				r.line.ServeTCP(there)
			} else {
				r.line.ServeRTU(there)
			}
			there.Close()
		})
		return here, nil
	}
	return r
}

// wire holds what was sent until the slave reads it, as every wire does and a net.Pipe does not.
type wire struct {
	net.Conn
	in   chan []byte
	rest []byte
}

func (w *wire) fill() {
	defer close(w.in)
	for {
		b := make([]byte, 512)
		n, err := w.Conn.Read(b)
		if err != nil {
			return
		}
		w.in <- b[:n]
	}
}

func (w *wire) Read(b []byte) (int, error) {
	if len(w.rest) == 0 {
		var ok bool
		if w.rest, ok = <-w.in; !ok {
			return 0, io.EOF
		}
	}
	n := copy(b, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

func (r *rig) session() *session {
	r.t.Helper()
	s, err := r.bus.use(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// read is one request for one register.
func (r *rig) read(s *session, unit byte, addr uint16) (uint16, error) {
	pdu, _, err := s.ask(r.t.Context(), unit, readRequest(holding, addr, 1))
	if err != nil {
		return 0, err
	}
	return words(pdu)[0], nil
}

func (r *rig) want(s *session, unit byte, addr, want uint16) {
	r.t.Helper()
	if got, err := r.read(s, unit, addr); err != nil || got != want {
		r.t.Fatalf("unit %d, address %d: %d, %v; want %d", unit, addr, got, err, want)
	}
}

func (r *rig) wantSilence(s *session, unit byte, text string) {
	r.t.Helper()
	if got, err := r.read(s, unit, 0); !errors.Is(err, errSilence) || !strings.Contains(err.Error(), text) {
		r.t.Fatalf("unit %d: %d, %v; want %q", unit, got, err, text)
	}
}

func TestBadHabits(t *testing.T) {
	for name, h := range map[string]modbusslave.Habit{
		"split into bytes":  {Pieces: 7, Pause: 20 * time.Millisecond},
		"split in two":      {Pieces: 2, Pause: 700 * time.Millisecond},
		"noise before":      {Noise: 30},
		"noise and split":   {Noise: 11, Pieces: 5, Pause: 16 * time.Millisecond},
		"late, but in time": {Late: 900 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, BusConfig{}, 3)
				s := r.session()
				defer s.close()
				r.line.Slaves[3].Behave(h, -1)
				for i := range uint16(20) {
					r.want(s, 3, i, 300+i)
				}
			})
		})
	}
}

// The answer to a request that was given up is never taken for that of the next one, however
// late it is, whichever register was asked for, and also if the slave knows no echo.
func TestALateAnswerIsNotTakenForTheNext(t *testing.T) {
	for name, c := range map[string]struct {
		cfg         BusConfig
		lacks, deaf []byte
	}{
		"echo":            {},
		"echo is refused": {lacks: []byte{diagnostics}},
		"echo is ignored": {deaf: []byte{diagnostics}},
		"tcp":             {cfg: BusConfig{Address: "plc"}},
		"rtu over tcp":    {cfg: BusConfig{Address: "plc", Framing: "rtu"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, late := range []time.Duration{1020, 1100, 1500, 2000, 2500, 3300} {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, c.cfg, 3)
					slave := r.line.Slaves[3]
					slave.Lacks(c.lacks...)
					slave.Deaf(c.deaf...)
					s := r.session()
					defer s.close()
					for round := range uint16(5) {
						slave.Behave(modbusslave.Habit{Late: late * time.Millisecond}, 1)
						if _, err := r.read(s, 3, 0); !errors.Is(err, errSilence) {
							t.Fatalf("%v: %v", late*time.Millisecond, err)
						}
						slave.Set(modbusslave.Holding, 0, 1000+round)
						answered := false
						for range 4 {
							for addr := range uint16(3) { // the same register too: its value has changed
								want := 300 + addr
								if addr == 0 {
									want = 1000 + round
								}
								got, err := r.read(s, 3, addr)
								if err == nil && got != want {
									t.Fatalf("late by %v, round %d: address %d is %d, want %d", late*time.Millisecond, round, addr, got, want)
								}
								answered = answered || err == nil
							}
						}
						if !answered {
							t.Fatalf("late by %v: never answered again", late*time.Millisecond)
						}
					}
				})
			}
		})
	}
}

func TestAnotherUnitsAnswerIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3, 4)
		s := r.session()
		defer s.close()
		r.line.Slaves[3].Behave(modbusslave.Habit{As: 4}, 1)
		r.wantSilence(s, 3, "unit 4 answered with function 3: are there two masters on the bus, or two devices with one id?")
		r.want(s, 3, 1, 301)
	})
}

func TestEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3)
		r.line.Echo = true
		slave := r.line.Slaves[3]
		s := r.session()
		defer s.close()
		r.want(s, 3, 0, 300)
		if s.link.echo != echoes {
			t.Error("the echo is not seen")
		}
		// The answer to this write is the request: an echo alone must not pass for it.
		slave.Behave(modbusslave.Habit{Dead: true}, 1)
		if _, _, err := s.ask(t.Context(), 3, writeRegisterRequest(0, 7)); !errors.Is(err, errSilence) {
			t.Errorf("an echo passed for the answer: %v", err)
		}
		if _, _, err := s.ask(t.Context(), 3, writeRegisterRequest(0, 7)); err != nil {
			t.Error(err)
		}
		r.want(s, 3, 0, 7)
	})
}

func TestWhatIsLikely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3, 4)
		s := r.session()
		defer s.close()
		const where = "unit 9 does not answer on port /dev/rs485 at 19200 8N1: "
		r.wantSilence(s, 9, where+"nothing comes at all: is it on, are A and B the right way round, is 9 its unit id, and do baud rate and parity fit?")
		r.want(s, 3, 0, 300)
		r.wantSilence(s, 9, where+"others do, so the line is right: is it on, and is 9 its unit id?")
		r.line.Slaves[3].Behave(modbusslave.Habit{Dead: true}, 1)
		r.wantSilence(s, 3, "it did before: is it on, and its cable in order?")
		r.line.Slaves[4].Behave(modbusslave.Habit{Spoilt: true}, 1)
		r.wantSilence(s, 4, "7 bytes came that are no answer: noise or a broken frame: wrong baud rate or parity")
	})
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{Address: "plc"}, 3)
		s := r.session()
		defer s.close()
		r.wantSilence(s, 9, "unit 9 does not answer on plc:502: the connection stands: is 9 its unit id")
		r.line.Slaves[3].Behave(modbusslave.Habit{Exception: 11}, 1)
		r.wantSilence(s, 3, "gateway target did not respond")
	})
}

// polled runs drivers of units and counts their readings.
type polled struct {
	readings map[byte]*atomic.Int64
	stop     func()
}

func (r *rig) poll(interval time.Duration, units ...byte) *polled {
	ctx, cancel := context.WithCancel(r.t.Context())
	p := &polled{readings: map[byte]*atomic.Int64{}}
	var running sync.WaitGroup
	for _, id := range units {
		count := new(atomic.Int64)
		p.readings[id] = count
		regs := map[string]Register{}
		for i := range uint16(4) { // apart, so that each is a request of its own
			regs[fmt.Sprint("r", i)] = Register{Holding: At(4 * i)}
		}
		d, err := New(Config{UnitID: int(id), Interval: interval, Registers: regs}, r.bus, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		running.Go(func() {
			for ctx.Err() == nil { // as the supervisor does
				d.Run(ctx, func(f codec.Frame) { count.Add(int64(len(f.Readings))) })
				select {
				case <-time.After(2 * time.Second):
				case <-ctx.Done():
				}
			}
		})
	}
	p.stop = func() { cancel(); running.Wait() }
	return p
}

func TestTheBusIsSharedFairly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 1, 2, 3, 4)
		for _, s := range r.line.Slaves {
			s.Behave(modbusslave.Habit{Late: 20 * time.Millisecond}, -1)
		}
		p := r.poll(time.Millisecond, 1, 2, 3, 4) // far more than the bus can do
		time.Sleep(time.Minute)
		p.stop()
		least, most := p.readings[1].Load(), p.readings[1].Load()
		for _, n := range p.readings {
			least, most = min(least, n.Load()), max(most, n.Load())
		}
		if least < 500 || most-least > 2 {
			t.Errorf("from %d to %d readings", least, most)
		}
	})
}

func TestADeadSlaveDoesNotSlowTheOthers(t *testing.T) {
	count := func(dead bool) (alive, asked int64) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, BusConfig{}, 1, 2, 3)
			r.line.Slaves[3].Behave(modbusslave.Habit{Dead: dead}, -1)
			p := r.poll(500*time.Millisecond, 1, 2, 3)
			time.Sleep(10 * time.Minute)
			p.stop()
			alive, asked = p.readings[1].Load()+p.readings[2].Load(), int64(r.line.Slaves[3].Asked())
		})
		return alive, asked
	}
	all, _ := count(false)
	rest, asked := count(true)
	if rest < all*95/100 {
		t.Errorf("%d readings with all alive, %d with one dead", all, rest)
	}
	if asked < 5 || asked > 25 {
		t.Errorf("the dead one was asked %d times in 10 minutes", asked)
	}
}

func TestASlaveThatComesBackIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3)
		slave := r.line.Slaves[3]
		slave.Behave(modbusslave.Habit{Dead: true}, -1)
		p := r.poll(100*time.Millisecond, 3)
		time.Sleep(time.Hour)
		if n := p.readings[3].Load(); n > 0 {
			t.Errorf("%d readings of a dead slave", n)
		}
		slave.Behave(modbusslave.Habit{}, 0)
		time.Sleep(lastWait + 10*time.Second)
		if n := p.readings[3].Load(); n < 100 {
			t.Errorf("%d readings after it came back", n)
		}
		p.stop()
	})
}

// A line that never stops talking neither grows the memory nor blocks for ever.
func TestAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3)
		r.bus.open = func(context.Context) (stream, error) {
			here, there := net.Pipe()
			go io.Copy(io.Discard, there)
			go func() {
				for {
					if _, err := there.Write([]byte(strings.Repeat("U", 100))); err != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
			}()
			return here, nil
		}
		s := r.session()
		began := time.Now()
		r.wantSilence(s, 3, "bytes came that are no answer")
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		s.link.mu.Lock()
		if n := cap(s.link.in); n > 4*maxIn {
			t.Errorf("%d bytes are kept", n)
		}
		s.link.mu.Unlock()
		s.close()
		time.Sleep(time.Second) // the talker notices
	})
}

func TestTheBusIsClosedByTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3)
		a, b := r.session(), r.session()
		if a.link != b.link {
			t.Fatal("opened twice")
		}
		a.close()
		r.want(b, 3, 0, 300)
		b.close()
		select {
		case <-b.link.lost:
		default:
			t.Error("still open")
		}
		c := r.session()
		r.want(c, 3, 0, 300)
		c.link.fail(io.EOF)
		if _, err := r.read(c, 3, 0); err == nil || !strings.Contains(err.Error(), "bus rs485: port /dev/rs485 at 19200 8N1: unplugged") {
			t.Error(err)
		}
		d := r.session() // opens it again, though c has not noticed
		r.want(d, 3, 0, 300)
		c.close()
		r.want(d, 3, 0, 300)
		d.close()
	})
}

func TestWrites(t *testing.T) {
	zero, ten, thirty := 0.1, 10.0, 30.0
	registers := map[string]Register{
		"setpoint": {Holding: At(0), Type: "int16", Scale: &zero, Write: true, Min: &ten, Max: &thirty},
		"level":    {Holding: At(2), Type: "float32", Write: true, WordOrder: "little"},
		"mode":     {Holding: At(4), Enum: map[string]string{"0": "off", "1": "heat", "2": "cool"}, Write: true},
		"label":    {Holding: At(5), Type: "string", Length: 4, Write: true},
		"pump":     {Holding: At(9), Bits: &bits{3, 3}, Write: true},
		"speed":    {Holding: At(9), Bits: &bits{8, 11}, Write: true},
		"valve":    {Coil: At(0), Write: true},
		"fixed":    {Holding: At(10)},
	}
	for _, c := range []struct {
		lacks []byte
		cfg   BusConfig
	}{{}, {lacks: []byte{maskWrite}}, {lacks: []byte{writeRegister, maskWrite}}, {cfg: BusConfig{Address: "plc"}}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, c.cfg, 3)
			slave := r.line.Slaves[3]
			slave.Set(modbusslave.Coil, 0, 0)
			slave.Set(modbusslave.Holding, 9, 0xf0f1)
			slave.Lacks(c.lacks...)
			d, err := New(Config{UnitID: 3, Registers: registers}, r.bus, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range []struct{ name, value, now, fails string }{
				{"setpoint", "21.5", "21.5", ""},
				{"setpoint", "31", "", "setpoint: 31 is out of bounds: min is 10, max is 30"},
				{"setpoint", "21.55", "", "setpoint: 21.55 is between two steps: it goes in steps of 0.1"},
				{"setpoint", "warm", "", `setpoint: "warm" is not a number`},
				{"level", "-1.25", "-1.25", ""},
				{"mode", "cool", "cool", ""},
				{"mode", "3", "", `mode: "3" is none of cool, heat, off`},
				{"label", "tank 7", "tank 7", ""},
				{"label", "more than 8", "", `label: "more than 8" has 11 bytes, and there is room for 8`},
				{"pump", "on", "true", ""},
				{"speed", "5", "5", ""},
				{"speed", "16", "", "speed: 16 is out of the range of uint16"},
				{"valve", "true", "true", ""},
				{"fixed", "1", "", "fixed, holding register 40011 (address 10): writing is off; write: true in its section allows it"},
				{"none", "1", "", `there is no register "none"`},
			} {
				now, err := d.Write(t.Context(), w.name, w.value)
				if now != w.now || err == nil != (w.fails == "") || err != nil && err.Error() != w.fails {
					t.Errorf("%s: %s says %q, %v", w.name, w.value, now, err)
				}
			}
			for addr, want := range map[uint16]uint16{0: 215, 2: 0, 3: 0xbfa0, 4: 2, 5: 't'<<8 | 'a', 9: 0xf5f9, 10: 310} {
				if got := slave.Get(modbusslave.Holding, addr); got != want {
					t.Errorf("address %d holds %#x, want %#x", addr, got, want)
				}
			}
			if slave.Get(modbusslave.Coil, 0) != 1 {
				t.Error("the valve is shut")
			}
			if _, err := d.Write(t.Context(), "fixed", "1"); !errors.Is(err, gateway.ErrDenied) {
				t.Error(err)
			}
			slave.Behave(modbusslave.Habit{Dead: true}, -1)
			if _, err := d.Write(t.Context(), "mode", "off"); !errors.Is(err, gateway.ErrTransient) {
				t.Error(err)
			}
		})
	}
}

// A write that gets no answer may have been carried out. It is not sent again.
func TestAWriteIsSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3)
		slave := r.line.Slaves[3]
		d, err := New(Config{UnitID: 3, Registers: map[string]Register{"x": {Holding: At(0), Write: true}}}, r.bus, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := r.session()
		defer s.close()
		r.want(s, 3, 0, 300)
		before := slave.Asked()
		slave.Refresh(func() {
			if slave.Asked() == before+1 { // the read goes well, the write does not
				slave.Behave(modbusslave.Habit{Dead: true}, 1)
			}
		})
		if _, err := d.Write(t.Context(), "x", "7"); err == nil || !strings.Contains(err.Error(), "write x, holding register 40001 (address 0): unit 3 does not answer") {
			t.Error(err)
		}
		if n := slave.Asked() - before; n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}
