package bridgetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

// Mosquitto is Debian's broker as a child process, on a loopback port of its own.
type Mosquitto struct {
	Addr string

	t      testing.TB
	binary string
	conf   string
	log    bytes.Buffer
	cmd    *exec.Cmd
	ended  chan struct{}
}

// StartMosquitto starts a broker that keeps sessions and long queues (no limit at all,
// 0, makes mosquitto 2.0.11 close on each publish that it denies), and
// ends it with the test. It skips the test where mosquitto is not installed. What is in more
// stands in its config file as it is.
func StartMosquitto(t testing.TB, more ...string) *Mosquitto {
	t.Helper()
	binary := "/usr/sbin/mosquitto"
	if _, err := os.Stat(binary); err != nil {
		if binary, err = exec.LookPath("mosquitto"); err != nil {
			t.Skip("mosquitto is not installed (apt-get install mosquitto): tests against a real broker are left out")
		}
	}
	address, err := fault.FreeAddress("tcp")
	if err != nil {
		t.Fatal(err)
	}
	m := &Mosquitto{Addr: address, t: t, binary: binary}
	dir := t.TempDir()
	_, port, _ := net.SplitHostPort(m.Addr)
	conf := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nuser root\n"+
		"persistence true\npersistence_location %s/\nautosave_interval 0\n"+
		"max_inflight_messages 0\nmax_queued_messages 1000000\n", port, dir)
	for _, line := range more {
		conf += line + "\n"
	}
	m.conf = filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(m.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Start()
	t.Cleanup(m.Stop)
	return m
}

// Start starts it again after Stop, on the same port.
func (m *Mosquitto) Start() {
	m.t.Helper()
	m.cmd = exec.Command(m.binary, "-c", m.conf)
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan<- struct{}) {
		cmd.Wait()
		close(ended)
	}(m.cmd, m.ended)
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := net.DialTimeout("tcp", m.Addr, time.Second)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-m.ended:
			m.t.Fatalf("mosquitto ended: %s", m.log.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			m.Stop()
			m.t.Fatalf("mosquitto does not listen: %s", m.log.Bytes())
		}
	}
}

// Stop ends it in order; it then keeps its sessions and queues on disk.
func (m *Mosquitto) Stop() {
	if m.cmd == nil {
		return
	}
	m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.ended:
	case <-time.After(10 * time.Second):
		m.cmd.Process.Kill()
		<-m.ended
	}
	m.cmd = nil
}

// Collector is a subscriber with a session of its own, which it takes up again when the
// connection is lost: it gets every message that the broker has taken for it.
type Collector struct {
	addr, filter, client string

	mu   sync.Mutex
	got  []Publish
	done sync.WaitGroup
}

// Collect subscribes to filter with MQTT 5 and QoS 1 until the test ends. It returns when the
// broker has the subscription.
func Collect(t testing.TB, addr, filter string) *Collector {
	t.Helper()
	c := &Collector{addr: addr, filter: filter, client: fmt.Sprintf("collector-%d", time.Now().UnixNano())}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	c.done.Go(func() { c.run(ctx, sync.OnceFunc(func() { close(ready) })) })
	t.Cleanup(func() {
		cancel()
		c.done.Wait()
	})
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("no subscription within 10 s")
	}
	return c
}

// Published is what has come so far, in order, with the broker's own repeats.
func (c *Collector) Published() []Publish {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Publish(nil), c.got...)
}

// Arrivals is Published for the suite.
func (c *Collector) Arrivals() []Arrival { return Arrivals(c.Published()) }

// Arrivals are publishes as the suite looks at them.
func Arrivals(published []Publish) []Arrival {
	out := make([]Arrival, len(published))
	for i, p := range published {
		out[i] = Arrival{ID: p.Properties.ID(), Topic: p.Topic, Payload: string(p.Payload)}
	}
	return out
}

func (c *Collector) run(ctx context.Context, ready func()) {
	for ctx.Err() == nil {
		c.session(ctx, ready)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Collector) session(ctx context.Context, ready func()) {
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	hello := append(appendText(nil, "MQTT"), 5, 0, 0, 0) // not clean, no keep alive
	hello = append(hello, 8, 0x11, 0, 0, 0x0E, 0x10, 0x21, 0xFF, 0xFF)
	hello = appendText(hello, c.client)
	out := appendPacket(nil, 0x10, hello)
	sub := append(binary.BigEndian.AppendUint16(nil, 1), 0)
	sub = append(appendText(sub, c.filter), 1|1<<3) // QoS 1, retain as published
	out = appendPacket(out, 0x82, sub)
	if _, err := conn.Write(out); err != nil {
		return
	}
	r := bufio.NewReader(conn)
	for {
		p, err := readPacket(r)
		if err != nil {
			return
		}
		switch p.kind() {
		case 9: // SUBACK
			ready()
		case 3:
			pub, err := parsePublish(p, true)
			if err != nil {
				panic(err) // in a test's helper: a broker that sends this is broken
			}
			c.mu.Lock()
			c.got = append(c.got, pub)
			c.mu.Unlock()
			if pub.QoS == 1 {
				ack := appendPacket(nil, 0x40, binary.BigEndian.AppendUint16(nil, pub.PacketID))
				if _, err := conn.Write(ack); err != nil {
					return
				}
			}
		}
	}
}
