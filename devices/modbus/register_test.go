package modbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/firmware-sim/sim/modbusslave"
	"github.com/weir-iot/weir/gateway"
)

func pointer[T any](v T) *T { return &v }

// text of a value: its quality too, if it is not good.
func (v value) String() string {
	if v.quality == gateway.Good {
		return v.text
	}
	return v.text + " " + v.quality.String()
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		r     Register
		words []uint16
		want  string
	}{
		{Register{}, []uint16{0xffff}, "65535"},
		{Register{Type: "int16"}, []uint16{0xffff}, "-1"},
		{Register{Type: "int16"}, []uint16{0x8000}, "-32768"},
		{Register{Type: "uint32"}, []uint16{0x1234, 0x5678}, "305419896"},
		{Register{Type: "uint32", WordOrder: "little"}, []uint16{0x5678, 0x1234}, "305419896"},
		{Register{Type: "uint32", ByteOrder: "little"}, []uint16{0x3412, 0x7856}, "305419896"},
		{Register{Type: "uint32", WordOrder: "little", ByteOrder: "little"}, []uint16{0x7856, 0x3412}, "305419896"},
		{Register{Type: "int32"}, []uint16{0xffff, 0xfffe}, "-2"},
		{Register{Type: "uint64"}, []uint16{0xffff, 0xffff, 0xffff, 0xffff}, "18446744073709551615"},
		{Register{Type: "int64"}, []uint16{0x8000, 0, 0, 0}, "-9223372036854775808"},
		{Register{Type: "int64", WordOrder: "little"}, []uint16{5, 0, 0, 0}, "5"},
		// IEEE 754 examples: 1, the smallest subnormal, -2, the largest; 0.1 in each size.
		{Register{Type: "float16"}, []uint16{0x3c00}, "1"},
		{Register{Type: "float16"}, []uint16{0x0001}, "0.000000059604645"},
		{Register{Type: "float16"}, []uint16{0xc000}, "-2"},
		{Register{Type: "float16"}, []uint16{0x7bff}, "65504"},
		{Register{Type: "float16"}, []uint16{0x7c00}, "nan bad"},
		{Register{Type: "float32"}, []uint16{0x41ac, 0}, "21.5"},
		{Register{Type: "float32"}, []uint16{0x3dcc, 0xcccd}, "0.1"},
		{Register{Type: "float32", WordOrder: "little"}, []uint16{0xcccd, 0x3dcc}, "0.1"},
		{Register{Type: "float32"}, []uint16{0x7fc0, 0}, "nan bad"},
		{Register{Type: "float32"}, []uint16{0x7f80, 0}, "nan bad"},
		{Register{Type: "float32"}, []uint16{0x7f7f, 0xffff}, "3.4028235e38"},
		{Register{Type: "float64"}, []uint16{0x3fb9, 0x9999, 0x9999, 0x999a}, "0.1"},
		{Register{Type: "bcd16"}, []uint16{0x1234}, "1234"},
		{Register{Type: "bcd32"}, []uint16{0x0012, 0x3456}, "123456"},
		{Register{Type: "bcd16"}, []uint16{0x12a4}, "nan bad"},
		{Register{Type: "string", Length: 3}, []uint16{'W'<<8 | 'e', 'i'<<8 | 'r', ' ' << 8}, "Weir"},
		{Register{Type: "string", Length: 3}, []uint16{'a'<<8 | 'b', 'c' << 8, 'x'<<8 | 'y'}, "abc"},
		{Register{Type: "string", Length: 2, ByteOrder: "little"}, []uint16{'e'<<8 | 'W', 'r'<<8 | 'i'}, "Weir"},
		{Register{Type: "string", Length: 1}, []uint16{0xb000 | 'C'}, "°C"},
		{Register{Scale: pointer(0.1)}, []uint16{2340}, "234.0"},
		{Register{Scale: pointer(0.1)}, []uint16{3}, "0.3"}, // not 0.30000000000000004
		{Register{Scale: pointer(0.001), Type: "int16"}, []uint16{0xfffb}, "-0.005"},
		{Register{Scale: pointer(0.1), Offset: -40}, []uint16{615}, "21.5"},
		{Register{Scale: pointer(10.0), Offset: 0.5}, []uint16{7}, "70.5"},
		{Register{Scale: pointer(0.1), Type: "float32"}, []uint16{0x41ac, 0}, "2.15"},
		{Register{Bits: &bits{3, 3}}, []uint16{0x0008}, "true"},
		{Register{Bits: &bits{4, 7}}, []uint16{0xabcd}, "12"},
		{Register{Bits: &bits{12, 19}, Type: "uint32"}, []uint16{0x000a, 0xb000}, "171"},
		{Register{Enum: map[string]string{"0": "off", "1": "on"}}, []uint16{1}, "on"},
		{Register{Enum: map[string]string{"0": "off", "1": "on"}}, []uint16{9}, "9 uncertain"},
		{Register{Enum: map[string]string{"-1": "reverse"}, Type: "int16"}, []uint16{0xffff}, "reverse"},
		{Register{Bits: &bits{0, 1}, Enum: map[string]string{"2": "auto"}}, []uint16{0xfffe}, "auto"},
		{Register{Invalid: []string{"0x8000", "32767"}, Type: "int16"}, []uint16{0x8000}, "nan bad"},
		{Register{Invalid: []string{"-32768"}, Type: "int16", Scale: pointer(0.1)}, []uint16{0x8000}, "nan bad"},
	} {
		c.r.Holding = At(0)
		r, err := compile("x", c.r, defaults{})
		if err != nil {
			t.Errorf("%+v: %v", c.r, err)
			continue
		}
		v := r.decode(c.words, 0)
		if v.String() != c.want {
			t.Errorf("%s %x: %s, want %s", r.kind, c.words, v, c.want)
			continue
		}
		// What can be read can be written.
		if v.quality != gateway.Good || strings.HasPrefix(v.text, "abc") || v.text == "°C" {
			continue
		}
		w, raw, err := r.encode(v.text)
		if err != nil || r.bits == nil && r.decode(w, 0).text != v.text || r.bits != nil && raw != r.raw(c.words) {
			t.Errorf("%s %s is written as %x, %d: %v", r.kind, v, w, raw, err)
		}
	}
}

func TestDeviceOrderHolds(t *testing.T) {
	d := defaults{wordOrder: "little", byteOrder: "little"}
	r, err := compile("x", Register{Holding: At(0), Type: "uint32", WordOrder: "big"}, d)
	if err != nil || r.littleWords || !r.littleBytes {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestPlaces(t *testing.T) {
	for text, want := range map[string]string{
		"40001": "holding register 40001 (address 0)", "49999": "holding register 49999 (address 9998)",
		"400001": "holding register 40001 (address 0)", "410000": "holding register 410000 (address 9999)", "465536": "holding register 465536 (address 65535)",
		"30053": "input register 30053 (address 52)", "10001": "discrete input 10001 (address 0)", "00001": "coil 00001 (address 0)",
		"1": "coil 00001 (address 0)", "000017": "coil 00017 (address 16)", "065536": "coil 065536 (address 65535)",
	} {
		var n number
		if err := n.UnmarshalText([]byte(text)); err != nil || place(n.table, n.address) != want {
			t.Errorf("%s: %s, %v; want %s", text, place(n.table, n.address), err, want)
		}
	}
	for _, text := range []string{"40000", "50001", "465537", "4000001", "x", "0", "-1", ""} {
		if err := new(number).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is a number", text)
		}
	}
	for text, want := range map[string]uint16{"0": 0, "52": 52, "65535": 65535, "0x9C40": 40000, "010": 10} {
		var a address
		if err := a.UnmarshalText([]byte(text)); err != nil || a.value != want {
			t.Errorf("%s: %d, %v", text, a.value, err)
		}
	}
	if got := places(input, 9998, 3); got != "input registers 39999 to 310001 (addresses 9998 to 10000)" {
		t.Error(got)
	}
}

func TestRegisterErrors(t *testing.T) {
	ambiguous := new(address)
	if err := ambiguous.UnmarshalText([]byte("40053")); err != nil {
		t.Fatal(err)
	}
	for want, r := range map[string]Register{
		"has 0 places": {},
		"has 2 places": {Holding: At(0), Input: At(0)},
		"holding: 40053 can mean holding register 40053 (address 52) or holding register 440054 (address 40053): write register: 40053 for the first, holding: 0x9c75 for the second": {Holding: ambiguous},
		`type: there is no type "int17"; there is bcd16, bcd32, bool, float16`:                                                                                                        {Holding: At(0), Type: "int17"},
		"type: a coil is one bit: its type is bool":                                       {Coil: At(0), Type: "int16"},
		"type: a holding register has 16 bits: leave type out and say which with bits: 0": {Holding: At(0), Type: "bool"},
		"type: float64 is 4 registers long and would end beyond address 65535":            {Holding: At(65533), Type: "float64"},
		"length: a string has a length of 1 to 125 registers":                             {Holding: At(0), Type: "string"},
		"length: only a string has a length":                                              {Holding: At(0), Type: "int32", Length: 2},
		`word_order: "ABCD" is neither big`:                                               {Holding: At(0), WordOrder: "ABCD"},
		"bits: bits are of a uint16, uint32 or uint64":                                    {Holding: At(0), Bits: &bits{16, 16}},
		"scale: 0 would make every value 0":                                               {Holding: At(0), Scale: pointer(0.0)},
		"scale: only a number has a scale":                                                {Holding: At(0), Bits: &bits{1, 1}, Scale: pointer(2.0)},
		"deadband: -1 is less than 0":                                                     {Holding: At(0), Deadband: pointer(-1.0)},
		"deadband: only a number has a deadband":                                          {Coil: At(0), Deadband: pointer(1.0)},
		"max_interval: without a deadband":                                                {Holding: At(0), MaxInterval: time.Second},
		"write: input register 30001 (address 0) can only be read":                        {Input: At(0), Write: true},
		"min: min and max bound what may be written":                                      {Holding: At(0), Min: pointer(1.0)},
		`enum: "99999" is no raw value of uint16`:                                         {Holding: At(0), Enum: map[string]string{"99999": "x"}},
		`enum: two values are called "on"`:                                                {Holding: At(0), Enum: map[string]string{"1": "on", "2": "on"}},
		`invalid: "-1" is no raw value of bool`:                                           {Coil: At(0), Invalid: []string{"-1"}},
		"interval: 1µs is less than 1ms":                                                  {Holding: At(0), Interval: time.Microsecond},
	} {
		if _, err := compile("x", r, defaults{}); err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	a := new(address)
	if err := a.UnmarshalText([]byte("400053")); err == nil || err.Error() != "400053 is a register number: write register: 400053, or its address, 52" {
		t.Error(err)
	}
}

func TestConfigErrors(t *testing.T) {
	for want, c := range map[string]BusConfig{
		"port: missing; a bus has a port":             {},
		"address: a bus has a port or an address":     {Address: "plc", Config: portConfig("/dev/a")},
		"address: baud, parity and the like":          {Address: "plc", Config: port.Config{Baud: 9600}},
		`address: ":502" is not host or host:port`:    {Address: ":502"},
		`framing: "ascii" is neither tcp nor rtu`:     {Address: "plc", Framing: "ascii"},
		`framing: "tcp": on a port it is rtu`:         {Config: portConfig("/dev/a"), Framing: "tcp"},
		`port: "ttyUSB0" is neither an absolute path`: {Config: portConfig("ttyUSB0")},
		"timeout: -1s is not between":                 {Address: "plc", Timeout: -time.Second},
		"retries: 11 is not between 0 and 10":         {Address: "plc", Retries: pointer(11)},
		"pause: 1h0m0s is not between 0 and 1m":       {Address: "plc", Pause: time.Hour},
	} {
		if _, err := NewBus("b", c); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	line, err := NewBus("b", BusConfig{Config: portConfig("/dev/a")})
	if err != nil {
		t.Fatal(err)
	}
	one := map[string]Register{"x": {Holding: At(0)}}
	for want, c := range map[string]Config{
		"unit_id: 0 is not between 1 and 247":                        {Registers: one},
		"unit_id: 248 is not between 1 and 247":                      {UnitID: 248, Registers: one},
		"registers: missing; a device has registers":                 {UnitID: 3},
		"registers.a/b: measurement \"a/b\" cannot be a topic level": {UnitID: 3, Registers: map[string]Register{"a/b": {Holding: At(0)}}},
		"registers.x.type: there is no type":                         {UnitID: 3, Registers: map[string]Register{"x": {Holding: At(0), Type: "y"}}},
		"registers.x.type: has 4 registers, and one request reads 2": {UnitID: 3, MaxRegisters: 2, Registers: map[string]Register{"x": {Holding: At(0), Type: "int64"}}},
		"registers_file: open /none.csv":                             {UnitID: 3, RegistersFile: "/none.csv"},
		"max_registers: 126 is not between 1 and 125":                {UnitID: 3, MaxRegisters: 126, Registers: one},
		"max_bits: 2001 is not between 1 and 2000":                   {UnitID: 3, MaxBits: 2001, Registers: one},
		"max_gap: -1 is not between 0 and 125":                       {UnitID: 3, MaxGap: -1, Registers: one},
		"interval: -1s is less than 1ms":                             {UnitID: 3, Interval: -time.Second, Registers: one},
		`byte_order: "x" is neither big`:                             {UnitID: 3, ByteOrder: "x", Registers: one},
	} {
		if _, err := New(c, line, 0); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func portConfig(path string) port.Config { return port.Config{Port: path} }

func TestPlan(t *testing.T) {
	reg := func(tab table, addr uint16, words int, every time.Duration) *register {
		return &register{table: tab, addr: addr, form: form{words: words}, interval: every}
	}
	all := []*register{
		reg(holding, 10, 2, 1), reg(holding, 0, 2, 1), reg(holding, 2, 4, 1), reg(holding, 3, 1, 1), reg(holding, 6, 1, 2),
		reg(input, 0, 1, 1), reg(coil, 0, 1, 1), reg(coil, 7, 1, 1), reg(holding, 200, 100, 1), reg(holding, 300, 100, 1),
	}
	show := func(l limits) string {
		var out []string
		for _, b := range plan(all, l) {
			out = append(out, fmt.Sprintf("%d/%d+%d×%d", b.table, b.addr, b.n, len(b.registers)))
		}
		return strings.Join(out, " ")
	}
	for want, l := range map[string]limits{
		"0/0+1×1 0/7+1×1 2/0+1×1 3/0+6×3 3/10+2×1 3/200+100×1 3/300+100×1 3/6+1×1":         {125, 2000, 0},
		"0/0+8×2 2/0+1×1 3/0+12×4 3/200+100×1 3/300+100×1 3/6+1×1":                         {125, 2000, 8},
		"0/0+1×1 0/7+1×1 2/0+1×1 3/0+2×1 3/2+4×2 3/10+2×1 3/200+100×1 3/300+100×1 3/6+1×1": {5, 5, 8},
	} {
		if got := show(l); got != want {
			t.Errorf("%+v\ngot  %s\nwant %s", l, got, want)
		}
	}
}

func TestCSV(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		name := filepath.Join(dir, "map.csv")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	bus, err := NewBus("b", BusConfig{Address: "plc"})
	if err != nil {
		t.Fatal(err)
	}
	load := func(text string) (*Driver, error) {
		return New(Config{UnitID: 3, RegistersFile: write(text)}, bus, 0)
	}
	d, err := load("\ufeffname;register;type;scale;unit;enum;write;interval;invalid;bits;deadband\r\n" +
		"# a note\r\npower;30053;float32;;W;;;5s;;;2,5\r\nflow;40001;int16;0,1;°C;;true;;0x8000 32767;;\r\nmode;40002;;;;0=off|1=on;;;;;\r\nalarm;40003;;;;;;;;3;\r\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range d.registers {
		got = append(got, fmt.Sprintf("%s %s %s %s %v %v %v", r, r.kind, r.scale, r.unit, r.write, r.interval, r.invalid))
	}
	want := []string{
		"power, input register 30053 (address 52) float32 1 W false 5s []",
		"flow, holding register 40001 (address 0) int16 0.1 °C true 10s [32768 32767]",
		"mode, holding register 40002 (address 1) uint16 1  false 10s []",
		"alarm, holding register 40003 (address 2) uint16 1  false 10s []",
	}
	if !slices.Equal(got, want) || d.register("mode").enum[1] != "on" || !d.register("alarm").flag() || *d.register("power").deadband != 2.5 {
		t.Errorf("got %q", got)
	}
	for text, want := range map[string]string{
		"":                              "is empty; its first line names its columns",
		"name,adress\nx,1\n":            `map.csv:1: there is no column "adress"; there is bits, `,
		"name,name\n":                   `map.csv:1: column "name" stands twice`,
		"name,holding\nx\n":             "wrong number of fields",
		"name,holding\nx,70000\n":       `map.csv:2: holding: "70000" is no address`,
		"name,holding\nx,1\n\nx,2\n":    `map.csv:4: x: there are two registers "x"`,
		"name,holding,type\nx,1,y\n":    "map.csv:2: x: type: there is no type",
		"name,holding,write\nx,1,yes\n": "map.csv:2: write: is neither true nor false",
		"name,holding,enum\nx,1,on\n":   "map.csv:2: enum: is written 0=off|1=on",
	} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "registers_file: ") {
			t.Errorf("%q\ngot  %v\nwant %s", text, err, want)
		}
	}
}

// frames runs d until wait is over, and returns what it emitted.
func frames(t *testing.T, d *Driver, wait time.Duration, during func()) (out []string) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	began := time.Now()
	go func() {
		ended <- d.Run(ctx, func(f codec.Frame) {
			var parts []string
			for _, r := range f.Readings {
				parts = append(parts, r.Name+"="+r.Value)
			}
			if f.Garbage != "" {
				parts = append(parts, f.Garbage+": "+string(f.Raw))
			}
			out = append(out, fmt.Sprintf("%v %s", time.Since(began).Round(100*time.Millisecond), strings.Join(parts, " ")))
		})
	}()
	during()
	time.Sleep(wait)
	cancel()
	<-ended
	return out
}

func wantFrames(t *testing.T, got []string, want ...string) {
	t.Helper()
	for i := range want {
		want[i] = strings.TrimSuffix(want[i], " -")
	}
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestReportByException(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3)
		slave := r.line.Slaves[3]
		d, err := New(Config{UnitID: 3, Interval: time.Second, MaxInterval: 10 * time.Second, Registers: map[string]Register{
			"power": {Holding: At(0), Scale: pointer(0.1), Deadband: pointer(5.0)},
			"state": {Holding: At(10), Deadband: pointer(0.0), Invalid: []string{"9"}},
		}}, r.bus, 0)
		if err != nil {
			t.Fatal(err)
		}
		slave.Set(modbusslave.Holding, 0, 3000)
		slave.Set(modbusslave.Holding, 10, 0)
		got := frames(t, d, 9*time.Second, func() {
			time.Sleep(time.Second / 2)                          // between two polls
			for i, v := range []uint16{3049, 2951, 3050, 3090} { // the last reported counts, not the last read
				slave.Set(modbusslave.Holding, 0, v)
				slave.Set(modbusslave.Holding, 10, uint16(i/2))
				time.Sleep(time.Second)
			}
			slave.Set(modbusslave.Holding, 10, 9)
		})
		wantFrames(t, got, "0s -", "0s power=300.0", "0s state=0", "3s power=305.0", "3s state=1", "5s state=nan", "13s power=309.0")
	})
}

// expire_after must not find a device silent whose values only stay the same.
func TestSteadyValuesAreNoSilence(t *testing.T) {
	bus, err := NewBus("b", BusConfig{Address: "plc"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{UnitID: 3, Registers: map[string]Register{"x": {Holding: At(0), Deadband: pointer(0.0), MaxInterval: time.Hour}}}, bus, time.Minute)
	if err != nil || d.registers[0].maxInterval != 30*time.Second {
		t.Errorf("%+v, %v", d, err)
	}
}

// A slave that refuses a block gives its parts, and what it does not have is told.
func TestARefusedBlockIsSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{}, 3)
		r.line.Slaves[3].Set(modbusslave.Holding, 30, 3030)
		regs := map[string]Register{}
		for _, addr := range []uint16{16, 17, 18, 19, 20, 30} { // it has 0 to 19, and 30
			regs[fmt.Sprint("r", addr)] = Register{Holding: At(addr)}
		}
		d, err := New(Config{UnitID: 3, Interval: time.Second, MaxGap: 20, Registers: regs}, r.bus, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := frames(t, d, 500*time.Millisecond, func() {})
		wantFrames(t, got, "0s -", "0s r16=316 r17=317 r18=318", "0s r19=319",
			"0s exception: holding register 40021 (address 20): illegal data address: the d", "0s r30=3030")
		before := r.line.Slaves[3].Asked()
		frames(t, d, 5500*time.Millisecond, func() {})
		if n := r.line.Slaves[3].Asked() - before; n != 3+6*4 { // it is learnt once, in three requests
			t.Errorf("%d requests", n)
		}
	})
}

func TestLimitsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, BusConfig{Address: "plc"}, 3)
		slave := r.line.Slaves[3]
		slave.Limit(4)
		regs := map[string]Register{}
		for addr := range uint16(20) {
			regs[fmt.Sprint("r", addr)] = Register{Holding: At(addr)}
		}
		d, err := New(Config{UnitID: 3, MaxRegisters: 4, Registers: regs}, r.bus, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := frames(t, d, time.Second, func() {})
		if len(got) != 6 || slave.Asked() != 5 {
			t.Errorf("%d requests: %q", slave.Asked(), got)
		}
	})
}
