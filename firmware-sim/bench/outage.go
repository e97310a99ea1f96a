package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// Topics of an outage. The first message of a backlog tells when it begins to pass, and the last when all of it has.
const (
	backlogTopics = 100
	backlogTopic  = "bench/%d/reading"
	firstTopic    = "bench/first"
	lastTopic     = "bench/last"
	liveTopic     = "bench/live/%d"
)

// fill publishes n messages at QoS 1 from a few clients, between one on firstTopic and one on lastTopic. It returns how many of
// the n were acknowledged, also when ctx ends before.
func fill(ctx context.Context, address string, n int) int {
	const clients = 16
	var acked, next atomic.Int64
	var work, running sync.WaitGroup
	connected, disconnect := context.WithCancel(context.WithoutCancel(ctx))
	defer running.Wait()
	defer disconnect()
	edge := mqttclient.New(mqttclient.Options{Address: address, ClientID: "fill-edge", Clean: true})
	running.Go(func() { edge.Run(connected) })
	if edge.PublishWait(ctx, &mqttclient.Message{Topic: firstTopic, QoS: 1, Retain: true}) != nil {
		return 0
	}
	for i := range clients {
		c := mqttclient.New(mqttclient.Options{
			Address: address, ClientID: fmt.Sprintf("fill-%d", i), Clean: true, Window: 64,
			Acked: func(_ *mqttclient.Message, reason byte) {
				if reason < 0x80 {
					acked.Add(1)
				}
			},
		})
		running.Go(func() { c.Run(connected) })
		work.Go(func() {
			payload := payload()
			for {
				k := next.Add(1)
				if k > int64(n) {
					break
				}
				if c.Publish(ctx, &mqttclient.Message{Topic: fmt.Sprintf(backlogTopic, k%backlogTopics), Payload: payload, QoS: 1}) != nil {
					return
				}
			}
			c.Drain(ctx)
		})
	}
	work.Wait()
	if got := int(acked.Load()); got < n || ctx.Err() != nil {
		return got
	}
	if edge.PublishWait(ctx, &mqttclient.Message{Topic: lastTopic, QoS: 1, Retain: true}) != nil {
		return n - 1
	}
	return n
}

// intake is devices that publish at a steady rate.
type intake struct {
	stop func()

	mu   sync.Mutex
	took []time.Duration // from publish to acknowledgement
}

// Devices of an intake, and how often each publishes.
const (
	devices     = 8
	deviceEvery = 10 * time.Millisecond
)

func startIntake(address string) *intake {
	in := &intake{}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for i := range devices {
		c := mqttclient.New(mqttclient.Options{
			Address: address, ClientID: fmt.Sprintf("live-%d", i), Clean: true,
			Acked: func(m *mqttclient.Message, _ byte) {
				took := time.Since(m.Tag.(time.Time))
				in.mu.Lock()
				in.took = append(in.took, took)
				in.mu.Unlock()
			},
		})
		work.Go(func() { c.Run(ctx) })
		work.Go(func() {
			payload := payload()
			for tick := time.NewTicker(deviceEvery); ; {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				if c.Publish(ctx, &mqttclient.Message{Topic: fmt.Sprintf(liveTopic, i), Payload: payload, QoS: 1, Tag: time.Now()}) != nil {
					return
				}
			}
		})
	}
	in.stop = func() { cancel(); work.Wait() }
	return in
}

// lap returns, sorted, how long the acknowledgements took that came since the last lap.
func (in *intake) lap() []time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	took := in.took
	in.took = nil
	slices.Sort(took)
	return took
}

// farEnd is where a backlog is drained into. It is a process of its own, so that who waits for acknowledgements here
// is not held up by it.
type farEnd struct {
	*process          // says when the first and the last message came
	broker   *process // nil: it is the same
}

// startFar starts one at address: a taker takes and acknowledges with as little work as there can be, so that it is
// the sender that is measured; the other kind is a mosquitto as Debian has it.
func startFar(ctx context.Context, dir, address string, taker bool) (f *farEnd, err error) {
	if taker {
		p, err := start(ctx, exec.Command("/proc/self/exe", "taker", address), address)
		return &farEnd{process: p}, err
	}
	binary, err := mosquitto()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	conf := filepath.Join(dir, "far.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "listener %s 127.0.0.1\nallow_anonymous true\nuser root\n", port), 0o644); err != nil {
		return nil, err
	}
	f = &farEnd{}
	if f.broker, err = start(ctx, exec.Command(binary, "-c", conf), address); err != nil {
		return nil, err
	}
	if f.process, err = start(ctx, exec.Command("/proc/self/exe", "reader", address), address); err != nil {
		f.broker.stop()
		return nil, err
	}
	return f, nil
}

func (f *farEnd) stop() {
	f.process.stop()
	if f.broker != nil {
		f.broker.stop()
	}
}

const (
	firstCame = "the first message came"
	lastCame  = "the last message came"
)

// passes says when the first and the last message of a backlog come.
func passes(m *mqttclient.Message) {
	switch m.Topic {
	case firstTopic:
		fmt.Println(firstCame)
	case lastTopic:
		fmt.Println(lastCame)
	}
}

// taker and reader are children that end when they are told to.
func taker(args []string) error {
	t := mqttclient.Taker{Address: args[0], Take: passes}
	if err := t.Start(); err != nil {
		return err
	}
	select {}
}

func reader(args []string) error {
	c := mqttclient.New(mqttclient.Options{Address: args[0], ClientID: "reader", Clean: true, Backoff: 10 * time.Millisecond, Received: passes})
	go c.Subscribe(context.Background(), mqttclient.Sub{Filter: firstTopic}, mqttclient.Sub{Filter: lastTopic})
	c.Run(context.Background())
	return nil
}

// patience bounds how long a backlog may take.
const patience = 5 * time.Minute

// heard waits until a line is there. It fails when the sender ends.
func (f *farEnd) heard(ctx context.Context, line string, sender *process) error {
	ctx, done := context.WithTimeout(ctx, patience)
	defer done()
	go func() {
		select {
		case <-sender.done:
			done()
		case <-ctx.Done():
		}
	}()
	if err := f.wait(ctx, line); err != nil {
		return fmt.Errorf("%q is not said, %w; the sender: %s", line, err, sender.said())
	}
	return nil
}

// drained waits until sender has sent its backlog, in order, and returns how long that took.
func (f *farEnd) drained(ctx context.Context, sender *process) (time.Duration, error) {
	if err := f.heard(ctx, firstCame, sender); err != nil {
		return 0, err
	}
	began := time.Now()
	err := f.heard(ctx, lastCame, sender)
	return time.Since(began), err
}
