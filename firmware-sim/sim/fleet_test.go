package sim

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/modbus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEqualSeedsEqualDevices(t *testing.T) {
	history := func(k kind, seed uint64) string {
		var b strings.Builder
		next := k.new(source(seed, k.name), 10*time.Minute)
		for step := range time.Duration(200) {
			fmt.Fprintln(&b, jsonObject(next(step*k.every)))
		}
		return b.String()
	}
	seen := map[string]string{}
	for _, k := range kinds() {
		a := history(k, 1)
		if a != history(k, 1) {
			t.Errorf("%s: one seed, two histories", k.name)
		}
		if a == history(k, 2) {
			t.Errorf("%s: two seeds, one history", k.name)
		}
		if other, twice := seen[a]; twice {
			t.Errorf("%s and %s are one", k.name, other)
		}
		seen[a] = k.name
	}
}

// reader collects the lines of a port, as weir would see them.
func reader(t *testing.T, path string) (next func() string, stop func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines, ended := make(chan string, 10000), make(chan struct{})
	go func() {
		defer close(ended)
		s := bufio.NewReader(f)
		for {
			line, err := s.ReadString('\n')
			if err != nil {
				close(lines)
				return
			}
			lines <- strings.TrimRight(line, "\r\n")
		}
	}()
	return func() string {
			t.Helper()
			select {
			case l, ok := <-lines:
				if !ok {
					t.Fatal("the port is gone")
				}
				return l
			case <-time.After(10 * time.Second):
				t.Fatal("no line")
			}
			return ""
		}, func() {
			f.Close()
			<-ended
		}
}

func TestSerialDevices(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	sent := map[string]uint64{}
	fleet, err := Open(Config{TTYDir: dir, Rate: 100, Noise: -1, Sent: func(via, topic string, seq uint64, qos byte, dup bool) {
		mu.Lock()
		defer mu.Unlock()
		if via != "serial" || qos != 0 || dup || seq != sent[topic]+1 {
			t.Errorf("sent %s %s %d %d %t", via, topic, seq, qos, dup)
		}
		sent[topic] = seq
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { fleet.Run(ctx) })
	defer running.Wait()
	defer cancel()
	for name, format := range map[string]any{
		"scale":   map[string]any{"regex": `^(?P<weight>[-0-9.]+) kg$`},
		"weather": "key=value",
		"co2":     "json",
		"soil":    map[string]any{"csv": []any{"moisture", "temperature"}},
	} {
		line, err := codec.NewFormat(format, nil)
		if err != nil {
			t.Fatal(err)
		}
		next, stop := reader(t, filepath.Join(dir, name))
		for range 20 {
			text := next()
			if readings, garbage := line.Decode([]byte(text)); len(readings) == 0 || garbage != "" {
				t.Errorf("%s: %q is %s", name, text, garbage)
			}
		}
		stop()
	}
	for name, protocol := range map[string]string{"gps": "nmea0183", "p1": "dsmr_p1", "dust": "pms5003"} {
		t.Run(name, func(t *testing.T) { speaks(t, filepath.Join(dir, name), protocol) })
	}
	if !strings.Contains(fleet.Summary(), "because nobody listened") {
		t.Errorf("lines that nobody reads are not counted:\n%s", fleet.Summary())
	}

	// The plug is pulled and put back, and the device goes on.
	if err := fleet.Unplug("scale"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "scale")); err == nil {
		t.Error("an unplugged port is still there")
	}
	if err := fleet.Plug("scale"); err != nil {
		t.Fatal(err)
	}
	next, stop := reader(t, filepath.Join(dir, "scale"))
	if text := next(); !strings.HasSuffix(text, " kg") {
		t.Errorf("after it was plugged in again: %q", text)
	}
	stop()
	if fleet.Unplug("boiler") == nil || fleet.Unplug("nobody") == nil {
		t.Error("what has no plug was pulled")
	}
}

// speaks reads the device at path until it has said ten things in protocol.
func speaks(t *testing.T, path, protocol string) {
	c, err := codec.New(codec.Config{Protocol: protocol}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.SetReadDeadline(time.Now().Add(10 * time.Second))
	s, frames := c.Stream(), 0
	for buf := make([]byte, 4096); frames < 10; {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		s.Feed(buf[:n], func(f codec.Frame) {
			frames++
			if f.Garbage != "" || len(f.Readings) < 5 {
				t.Errorf("%s: %+v", f.Garbage, f.Readings)
			}
			for _, r := range f.Readings {
				if away := time.Since(r.Source); !r.Source.IsZero() && (away < -time.Second || away > 10*time.Minute) {
					t.Errorf("%s was measured %v ago", r.Name, away)
				}
			}
		})
	}
}

// A line that a slow reader lets out only in part stays one bad line: it does not become the
// beginning of the next, which would read as a wrong value.
func TestTornLineSpoilsOnlyItself(t *testing.T) {
	dir := t.TempDir()
	fleet, err := Open(Config{TTYDir: dir, Only: []string{"scale"}})
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()
	d := fleet.devices[0]
	f, err := os.OpenFile(filepath.Join(dir, "scale"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	weight := strings.Repeat("1", 1000)
	for !d.torn { // nobody reads
		d.write([]value{{name: "weight", text: weight}})
		weight += "1"
	}
	f.Close()
	next, stop := reader(t, filepath.Join(dir, "scale"))
	defer stop()
	d.write([]value{{name: "weight", text: "7.77"}})
	for bad := 0; ; {
		line := next()
		if line == "7.77 kg" {
			return
		}
		if !strings.HasSuffix(line, "1 kg") {
			bad++
		}
		if bad > 1 || strings.Contains(line, "7") {
			t.Fatalf("the line after a torn one reads %.20q…%q", line, line[max(0, len(line)-20):])
		}
	}
}

func TestGarbageIsGarbage(t *testing.T) {
	line, err := codec.New(codec.Config{Format: map[string]any{"csv": []any{"a", "b"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]int{}
	rng := source(1, "garbage")
	s := line.Stream()
	for range 100 {
		frames := 0
		s.Feed([]byte(garbage(rng, "31.2,14.1\r\n")), func(f codec.Frame) {
			frames++
			if f.Garbage == "" {
				t.Errorf("garbage reads as %v", f.Readings)
			}
			reasons[f.Garbage]++
		})
		if frames != 1 {
			t.Errorf("garbage of %d lines", frames)
		}
	}
	if reasons[codec.Binary] == 0 || reasons[codec.Overlong] == 0 {
		t.Errorf("reasons: %v", reasons)
	}
}

// broker takes everything, and notes what was published.
type broker struct {
	l    net.Listener
	mu   sync.Mutex
	seen map[string][]string // by client: "qN retain topic payload"
}

func newBroker(t *testing.T) *broker {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{l: l, seen: map[string][]string{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return b
}

func (b *broker) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	client, v5 := "", false
	for {
		first, err := in.ReadByte()
		if err != nil {
			return
		}
		size, err := binary.ReadUvarint(in) // MQTT's lengths are written the same way
		if err != nil {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		switch first >> 4 {
		case 1:
			v5 = body[6] == 5
			at := 10
			if v5 {
				at += 1 + int(body[10])
			}
			client = string(body[at+2 : at+2+int(body[at+1])])
			if v5 {
				c.Write([]byte{0x20, 3, 0, 0, 0})
			} else {
				c.Write([]byte{0x20, 2, 0, 0})
			}
		case 3:
			qos, n := first>>1&3, 2+int(body[1])
			topic, rest := string(body[2:n]), body[n:]
			if qos > 0 {
				c.Write([]byte{0x30 + qos<<4, 2, rest[0], rest[1]}) // PUBACK or PUBREC
				rest = rest[2:]
			}
			if v5 {
				rest = rest[1:]
			}
			b.mu.Lock()
			b.seen[client] = append(b.seen[client], fmt.Sprintf("q%d %d %s %s", qos, first&1, topic, rest))
			b.mu.Unlock()
		case 6:
			c.Write([]byte{0x70, 2, body[0], body[1]})
		case 14:
			return
		}
	}
}

func (b *broker) of(client string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen[client])
}

func TestMQTTDevices(t *testing.T) {
	for shape, topics := range map[string]map[string]string{
		"":      {"boiler": "q1 0 s/boiler {", "greenhouse": "q0 0 s/greenhouse/temperature ", "door": "q2 1 s/door/state closed", "meter": "q1 0 s/meter/power "},
		"json":  {"greenhouse": `q0 0 s/greenhouse {"temperature":`, "door": `q2 1 s/door {"state":"closed"}`},
		"plain": {"boiler": "q1 0 s/boiler/temperature "},
	} {
		b := newBroker(t)
		ledger := NewLedger()
		fleet, err := Open(Config{MQTT: b.l.Addr().String(), Site: "s", Rate: 50, Shape: shape, Sent: ledger.Sent, Answered: ledger.Answered})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { fleet.Run(ctx); close(ended) }()
		for client, want := range topics {
			for limit := time.Now().Add(10 * time.Second); !slices.ContainsFunc(b.of(client), func(s string) bool { return strings.HasPrefix(s, want) }); {
				if time.Now().After(limit) {
					t.Fatalf("shape %q: %s published %q, want %q", shape, client, b.of(client), want)
				}
				time.Sleep(time.Millisecond) // polling
			}
		}
		cancel()
		<-ended
		if len(ledger.Acked()) == 0 || !reflect.DeepEqual(fleet.Close(), nil) {
			t.Error("nothing was acknowledged")
		}
	}
}

func TestOpenErrors(t *testing.T) {
	for want, c := range map[string]Config{
		`there is no device "boilr"; there is boiler, greenhouse, door, meter, scale, weather, co2, soil, gps, p1, dust, mailbox, heatpump`: {Only: []string{"boilr"}},
		`shape "xml" is neither json nor plain`: {Shape: "xml"},
		"rate and day are greater than 0":       {Rate: -1},
	} {
		if _, err := Open(c); err == nil || err.Error() != want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// The Modbus device answers a master, also after it was unplugged.
func TestHeatpump(t *testing.T) {
	fleet, err := Open(Config{TTYDir: t.TempDir(), Only: []string{"heatpump"}, Rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { fleet.Run(ctx) })
	defer running.Wait()
	defer cancel()
	cfg := modbus.BusConfig{}
	cfg.Port, cfg.Baud = fleet.devices[0].link, 115200
	bus, err := modbus.NewBus("b", cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var found []modbus.Found
		if err := bus.Scan(t.Context(), 3, 3, 10*time.Second, func(f modbus.Found) { found = append(found, f) }); err != nil || len(found) != 1 {
			t.Fatalf("found %v, %v", found, err)
		}
		raw, err := bus.Dump(t.Context(), 3, modbus.Tables["input"], 0, 5)
		if err != nil || len(raw) != 4 || raw[0].Register != "30001" || raw[2].Values[0].Value == "0" {
			t.Fatalf("registers %+v, %v", raw, err)
		}
		if err := fleet.Unplug("heatpump"); err != nil {
			t.Fatal(err)
		}
		if err := bus.Scan(t.Context(), 3, 3, time.Second, func(modbus.Found) {}); err == nil {
			t.Error("unplugged, and the bus can be used")
		}
		if err := fleet.Plug("heatpump"); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(fleet.Summary(), "heatpump") || strings.Contains(fleet.Summary(), "asked 0 times") {
		t.Error(fleet.Summary())
	}
}
