package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/firmware-sim/sim/modbusslave"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// Config of a Fleet. What is left out has its default.
type Config struct {
	MQTT     string // host:port of the gateway; empty: no MQTT devices
	MQTTSN   string // the same for MQTT-SN
	User     string
	Password string
	TTYDir   string // where the serial devices' ports are made, by name; empty: no serial devices

	Site  string        // first level of the MQTT devices' topics; default "demo"
	Seed  uint64        // equal seeds, equal values
	Rate  float64       // 2 means twice as often as by nature; default 1
	Day   time.Duration // how long a simulated day is; default 10 minutes, so that curves can be seen
	Shape string        // of MQTT payloads: "json", one message with everything; "plain", a topic per value; default: each its own
	Noise float64       // which part of a garbage-prone device's lines is garbage; default 0.03; negative: none
	Only  []string      // names of devices; default all

	// Sent and Answered are told of every message, as Ledger.Sent and Ledger.Answered are.
	Sent     func(via, topic string, seq uint64, qos byte, dup bool)
	Answered func(topic string, seq uint64, reason byte)
}

// Fleet is the simulated devices.
type Fleet struct{ devices []*device }

// device is one simulated device. It is on MQTT if client is set, else on a port.
type device struct {
	kind
	c      Config
	rng    *rand.Rand // for when, not for what
	values func(time.Duration) []value
	client *mqttclient.Client
	seq    map[string]uint64

	mu   sync.Mutex
	link string
	port *pty.PTY // nil: unplugged
	torn bool     // the last line did not go out whole

	node   *node              // of a device that sleeps
	slave  *modbusslave.Slave // of a Modbus device
	served sync.WaitGroup

	sent, resent, acked, refused, lost atomic.Uint64
}

// Open makes the devices, and the ports of the serial ones, so that a gateway finds them.
func Open(c Config) (*Fleet, error) {
	if c.Site == "" {
		c.Site = "demo"
	}
	if c.Rate == 0 {
		c.Rate = 1
	}
	if c.Day == 0 {
		c.Day = 10 * time.Minute
	}
	if c.Noise == 0 {
		c.Noise = 0.03
	}
	if c.Sent == nil {
		c.Sent = func(string, string, uint64, byte, bool) {}
	}
	if c.Answered == nil {
		c.Answered = func(string, uint64, byte) {}
	}
	switch {
	case c.Rate < 0 || c.Day <= 0:
		return nil, errors.New("rate and day are greater than 0")
	case c.Shape != "" && c.Shape != "json" && c.Shape != "plain":
		return nil, fmt.Errorf("shape %q is neither json nor plain", c.Shape)
	}
	f := &Fleet{}
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
		if len(c.Only) > 0 && !slices.Contains(c.Only, k.name) || c.way(k) == "" {
			continue
		}
		d, err := c.device(k)
		if err != nil {
			f.Close()
			return nil, err
		}
		f.devices = append(f.devices, d)
	}
	for _, name := range c.Only {
		if !slices.Contains(names, name) {
			f.Close()
			return nil, fmt.Errorf("there is no device %q; there is %s", name, strings.Join(names, ", "))
		}
	}
	return f, nil
}

// way is how a device gets to the gateway; empty: not at all.
func (c Config) way(k kind) string {
	switch {
	case k.wired():
		return c.TTYDir
	case k.sleeps:
		return c.MQTTSN
	}
	return c.MQTT
}

func (c Config) device(k kind) (*device, error) {
	d := &device{kind: k, c: c, rng: source(c.Seed, k.name+" when"), seq: map[string]uint64{}}
	d.values = k.new(source(c.Seed, k.name), c.Day)
	if k.sleeps {
		return d, d.wire()
	}
	if !k.wired() {
		d.connect()
		return d, nil
	}
	if err := os.MkdirAll(c.TTYDir, 0o755); err != nil {
		return nil, err
	}
	d.link = filepath.Join(c.TTYDir, k.name)
	if k.modbus {
		d.slave = modbusslave.New(c.Seed)
		d.slave.Set(modbusslave.Holding, 0, 380) // what it is set to, in tenths of a degree
		d.measure(d.values(0))                   // so that it has registers at once
	}
	return d, d.plug()
}

func (d *device) connect() {
	d.client = mqttclient.New(mqttclient.Options{
		Address: d.c.MQTT, User: d.c.User, Password: d.c.Password,
		ClientID: d.name, Version: d.version, KeepAlive: 15 * time.Second,
		Sent: func(m *mqttclient.Message, dup bool) {
			d.sent.Add(1)
			if dup {
				d.resent.Add(1)
			}
			d.c.Sent("mqtt", m.Topic, m.Tag.(uint64), m.QoS, dup)
		},
		Acked: func(m *mqttclient.Message, reason byte) {
			if reason < 0x80 {
				d.acked.Add(1)
			} else {
				d.refused.Add(1)
			}
			d.c.Answered(m.Topic, m.Tag.(uint64), reason)
		},
	})
}

// Run has the devices measure and send until ctx ends, whether anybody listens or not.
func (f *Fleet) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, d := range f.devices {
		if d.client != nil {
			running.Go(func() { d.client.Run(ctx) })
		}
		running.Go(func() { d.run(ctx) })
	}
	running.Wait()
}

// Close unplugs the serial devices, and takes the batteries out of the others.
func (f *Fleet) Close() error {
	var errs []error
	for _, d := range f.devices {
		errs = append(errs, d.unplug())
		if d.node != nil {
			errs = append(errs, d.node.Close())
		}
	}
	return errors.Join(errs...)
}

// Describe says what is simulated, a line for each device.
func (f *Fleet) Describe() string {
	var b strings.Builder
	for _, d := range f.devices {
		where := d.link
		if !d.wired() {
			where = d.c.Site + "/" + d.name + "/#"
		}
		fmt.Fprintf(&b, "  %-11s %-56s %s\n", d.name, d.what, where)
	}
	return b.String()
}

// Summary says what was sent, a line for each device.
func (f *Fleet) Summary() string {
	var b strings.Builder
	for _, d := range f.devices {
		if d.slave != nil {
			fmt.Fprintf(&b, "  %-11s asked %d times\n", d.name, d.slave.Asked())
			continue
		}
		fmt.Fprintf(&b, "  %-11s sent %d", d.name, d.sent.Load())
		if d.client != nil && d.qos > 0 {
			fmt.Fprintf(&b, ", %d of them again, acknowledged %d, refused %d", d.resent.Load(), d.acked.Load(), d.refused.Load())
		}
		if d.node != nil {
			fmt.Fprintf(&b, ", acknowledged %d, refused %d", d.acked.Load(), d.refused.Load())
		}
		if n := d.lost.Load(); n > 0 {
			fmt.Fprintf(&b, ", lost %d because nobody listened", n)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// Unplug takes a serial device away, Plug brings it back, under another number.
func (f *Fleet) Unplug(name string) error { return f.serial(name, (*device).unplug) }

// Plug is the opposite of Unplug.
func (f *Fleet) Plug(name string) error { return f.serial(name, (*device).plug) }

func (f *Fleet) serial(name string, do func(*device) error) error {
	for _, d := range f.devices {
		if d.name == name && d.link != "" {
			return do(d)
		}
	}
	return fmt.Errorf("there is no serial device %q", name)
}

func (d *device) plug() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.port != nil {
		return nil
	}
	port, err := pty.Open(d.link)
	if err != nil {
		return err
	}
	d.port = port
	if d.slave != nil {
		line := &modbusslave.Line{Slaves: map[byte]*modbusslave.Slave{modbusUnit: d.slave}}
		d.served.Go(func() { line.ServeRTU(port) })
	}
	return nil
}

func (d *device) unplug() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.port == nil {
		return nil
	}
	err := d.port.Close()
	d.port = nil
	d.served.Wait()
	return err
}

func (d *device) run(ctx context.Context) {
	every := time.Duration(float64(d.every) / d.c.Rate)
	// Not all at once.
	next := time.NewTimer(time.Duration(d.rng.Int64N(int64(every) + 1)))
	defer next.Stop()
	// What a device measures depends on how often it did, not on the clock: a seed repeats it.
	for step := time.Duration(0); ; step++ {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		next.Reset(every)
		v := d.values(step * d.every)
		switch {
		case len(v) == 0:
		case d.client != nil:
			d.publish(ctx, v, every)
		case d.node != nil:
			d.wake(ctx, v)
		case d.slave != nil:
			d.measure(v)
		default:
			d.write(v)
		}
	}
}

// publish sends values in the device's shape. What does not fit into the window within
// patience is lost, as in a firmware that has no room for more.
func (d *device) publish(ctx context.Context, values []value, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	joined := d.joined
	if d.c.Shape != "" {
		joined = d.c.Shape == "json"
	}
	base := d.c.Site + "/" + d.name
	if joined {
		d.send(ctx, base, jsonObject(values))
		return
	}
	for _, v := range values {
		d.send(ctx, base+"/"+v.name, v.text)
	}
}

func (d *device) send(ctx context.Context, topic, payload string) {
	d.seq[topic]++
	err := d.client.Publish(ctx, &mqttclient.Message{
		Topic: topic, Payload: []byte(payload), QoS: d.qos, Retain: d.retain, Tag: d.seq[topic],
	})
	if err != nil {
		d.lost.Add(1)
	}
}

// modbusUnit is the unit id of Modbus devices.
const modbusUnit = 3

// measure puts values into registers, from where a master reads them.
func (d *device) measure(values []value) {
	for i, v := range values {
		n, err := strconv.ParseUint(v.text, 10, 16)
		if err != nil {
			panic(err) // a kind that does not fit its registers
		}
		d.slave.Set(modbusslave.Input, uint16(i), uint16(n))
	}
}

// write sends a line. While nobody has the port open it is lost, as on any wire.
func (d *device) write(values []value) {
	line := d.line(values)
	if d.garbage && d.rng.Float64() < d.c.Noise {
		line = garbage(d.rng, line)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.port == nil {
		d.lost.Add(1)
		return
	}
	if d.torn { // so that this line does not become part of what went out of the last
		line = "\n" + line
	}
	n, err := d.port.Write([]byte(line))
	d.torn = n > 0 && err != nil
	if err != nil {
		d.lost.Add(1)
		return
	}
	topic := d.c.Site + "/" + d.name
	d.seq[topic]++
	d.sent.Add(1)
	d.c.Sent("serial", topic, d.seq[topic], 0, false)
}
