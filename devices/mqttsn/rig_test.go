package mqttsn_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/devices/mqttsn"
	"github.com/weir-iot/weir/devices/mqttsn/packet"
	"github.com/weir-iot/weir/firmware-sim/sim/snclient"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
	"github.com/weir-iot/weir/gateway/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ether is the network between nodes and the gateway. It delivers after a millisecond, unless it is told to lose,
// double and delay.
type ether struct {
	mu                sync.Mutex
	rng               *rand.Rand
	loss, twice, late float64 // parts of the datagrams
	gateway           chan datagram
	closed            chan struct{}
	ends              map[netip.AddrPort]*end
	sent, arrived     int // octets, from the gateway and at it
	n                 time.Duration
}

type datagram struct {
	b    []byte
	from netip.AddrPort
}

func newEther(seed uint64) *ether {
	return &ether{rng: rand.New(rand.NewPCG(seed, 1)), gateway: make(chan datagram, 4096), closed: make(chan struct{}), ends: map[netip.AddrPort]*end{}}
}

// carry calls deliver as often as the datagram arrives.
func (e *ether) carry(deliver func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rng.Float64() < e.loss {
		return
	}
	n := 1
	if e.rng.Float64() < e.twice {
		n = 2
	}
	for range n {
		e.n++ // what takes as long arrives in order
		delay := time.Millisecond + e.n
		if e.rng.Float64() < e.late {
			delay += time.Duration(e.rng.IntN(40)) * time.Millisecond
		}
		time.AfterFunc(delay, deliver)
	}
}

func (e *ether) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-e.gateway:
		return copy(b, d.b), d.from, nil
	case <-e.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (e *ether) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	b = append([]byte(nil), b...)
	e.mu.Lock()
	end := e.ends[to]
	e.sent += len(b)
	e.mu.Unlock()
	if end != nil {
		e.carry(func() {
			select {
			case end.in <- b:
			default:
			}
		})
	}
	return len(b), nil
}

func (e *ether) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.closed:
	default:
		close(e.closed)
	}
	return nil
}

// end is a node's socket. It may be moved to another address, as a router does to whom it forgets.
type end struct {
	e      *ether
	in     chan []byte
	closed chan struct{}
	once   sync.Once
	net.Conn

	mu sync.Mutex
	at netip.AddrPort
}

func (e *ether) end(at string) *end {
	n := &end{e: e, in: make(chan []byte, 1024), closed: make(chan struct{})}
	n.move(at)
	return n
}

func (n *end) move(at string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.e.mu.Lock()
	defer n.e.mu.Unlock()
	delete(n.e.ends, n.at)
	n.at = netip.MustParseAddrPort(at)
	n.e.ends[n.at] = n
}

func (n *end) Read(b []byte) (int, error) {
	select {
	case d := <-n.in:
		return copy(b, d), nil
	case <-n.closed:
		return 0, net.ErrClosed
	}
}

func (n *end) Write(b []byte) (int, error) {
	n.mu.Lock()
	d := datagram{append([]byte(nil), b...), n.at}
	n.mu.Unlock()
	n.e.carry(func() {
		n.e.mu.Lock()
		defer n.e.mu.Unlock()
		select {
		case n.e.gateway <- d:
			n.e.arrived += len(d.b)
		default:
		}
	})
	return len(b), nil
}

func (n *end) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// journal is one in memory. It stores at once, or when it is let.
type journal struct {
	mu      sync.Mutex
	events  []*gateway.Event
	pending []func()
	held    bool
	all     bool // changes are held too
	refuse  error
	deliver func([]*gateway.Event)
	work    chan func()
	done    chan struct{}
}

func newJournal(events []*gateway.Event) *journal {
	j := &journal{events: events, work: make(chan func(), 1<<14), done: make(chan struct{})}
	go func() {
		defer close(j.done)
		for f := range j.work {
			f()
		}
	}()
	return j
}

func (j *journal) Append(_ context.Context, e *gateway.Event, _ gateway.Durability, done func(error)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refuse != nil && e.Kind == gateway.Data {
		return j.refuse
	}
	store := func() {
		j.mu.Lock()
		e.Epoch, e.Offset = "e1", uint64(len(j.events)+1)
		j.events = append(j.events, e)
		j.mu.Unlock()
		j.deliver([]*gateway.Event{e})
		done(nil)
	}
	if j.held && (j.all || e.Kind == gateway.Data) {
		j.pending = append(j.pending, store)
	} else {
		j.work <- store
	}
	return nil
}

func (j *journal) hold(held bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.held = held; !held {
		for _, store := range j.pending {
			j.work <- store
		}
		j.pending = nil
	}
}

func (j *journal) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.refuse = err
}

// state is the broker's, in memory.
type state struct {
	mu   sync.Mutex
	kept map[string][]byte
}

func (s *state) Get(bucket, key string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.kept[bucket+"/"+key]
	return v, ok, nil
}

func (s *state) Each(bucket, prefix string, fn func(key string, value []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.kept {
		if key, ok := strings.CutPrefix(k, bucket+"/"); ok && strings.HasPrefix(key, prefix) {
			if err := fn(key, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *state) Apply(bucket string, changes map[string][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range changes {
		if s.kept[bucket+"/"+k] = v; v == nil {
			delete(s.kept, bucket+"/"+k)
		}
	}
	return nil
}

// rig is a gateway, the broker behind it and the network before it, in a bubble of synctest.
type rig struct {
	t      *testing.T
	o      mqttsn.Options
	ether  *ether
	j      *journal
	state  *state
	policy *auth.Policy
	broker *broker.Broker
	g      *mqttsn.Gateway
	stop   func()
	ingest *gateway.Gateway

	restarts int
	mu       sync.Mutex
	dropped  map[string]int
	closers  []func()
}

const (
	door  = "plant1/door"
	retry = 10 * time.Second
)

// bubble runs f with a rig in a bubble, where time passes only when everybody waits.
func bubble(t *testing.T, o mqttsn.Options, f func(t *testing.T, r *rig)) {
	t.Helper()
	bubbleSeed(t, o, 1, f)
}

func bubbleSeed(t *testing.T, o mqttsn.Options, seed uint64, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, o: o, ether: newEther(seed), state: &state{kept: map[string][]byte{}}, dropped: map[string]int{}}
		r.start(nil)
		defer func() {
			for _, c := range r.closers {
				c()
			}
			r.stop()
		}()
		f(t, r)
	})
}

// policy knows the role node, which may do everything below plant1 and its own, and nobody, which may do nothing.
func (r *rig) start(events []*gateway.Event) {
	r.t.Helper()
	var err error
	hash := "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNo"
	r.policy, err = auth.New(map[string]auth.User{"n": {PasswordHash: hash, Role: "node"}, "mute": {PasswordHash: hash}},
		map[string]auth.Role{"node": {Publish: []string{"plant1/#", "sn/%c/#", "ab"}, Subscribe: []string{"plant1/#", "cmd/%c/#", "ab", "sn/#"}}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.j = newJournal(events)
	r.ingest = gateway.New(gateway.Options{Journal: r.j})
	level := slog.LevelWarn
	if os.Getenv("WEIR_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(writer{r.t}, &slog.HandlerOptions{Level: level}))
	observer := gateway.Observer{Dropped: func(reason string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.dropped[reason]++
	}}
	r.broker, err = broker.New(broker.Options{
		Auth: r.policy, Ingest: r.ingest.Ingest, State: r.state, Logger: log, Observer: observer,
		Age: func() time.Duration { return time.Hour },
		Replay: func(from uint64, fn func(*gateway.Event) error) error {
			for _, e := range events {
				if e.Offset >= from {
					if err := fn(e); err != nil {
						return err
					}
				}
			}
			return nil
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.j.deliver = r.broker.Deliver
	o := r.o
	o.Connect = func(ctx context.Context, nc net.Conn, account *auth.Account, will func() *gateway.Event) {
		r.broker.ConnectAs(ctx, nc, broker.Proxy{Account: account, Will: will})
	}
	if o.Account == nil {
		o.Account = func(id string) *auth.Account {
			name := "n"
			switch {
			case strings.HasPrefix(id, "stranger"):
				return nil
			case strings.HasPrefix(id, "mute"):
				name = "mute"
			}
			return r.account(name)
		}
	}
	if o.Predefined == nil {
		o.Predefined = map[uint16]string{1: door}
	}
	o.Logger, o.Observer = log, observer
	if r.g, err = mqttsn.New(o); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	running, quit := context.WithCancel(context.Background())
	ended, stopped := make(chan error, 1), make(chan error, 1)
	go func() { ended <- r.broker.Run(running) }()
	go func() { stopped <- r.g.Serve(ctx, r.ether) }()
	r.stop = func() {
		cancel()
		if err := <-stopped; err != nil {
			r.t.Error("Serve:", err)
		}
		quit()
		if err := <-ended; err != nil {
			r.t.Error("Run:", err)
		}
		close(r.j.work)
		<-r.j.done
	}
}

// restart is the gateway's, with everything stored kept.
func (r *rig) restart() {
	r.t.Helper()
	r.restarts++
	r.stop()
	e := r.ether
	e.mu.Lock()
	e.closed, e.gateway = make(chan struct{}), make(chan datagram, 4096)
	e.mu.Unlock()
	r.start(r.j.events)
}

type writer struct{ t *testing.T }

func (w writer) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (r *rig) account(name string) *auth.Account {
	a, err := r.policy.Account(name)
	if err != nil {
		panic(err)
	}
	return a
}

func (r *rig) drops(reason string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped[reason]
}

// data are the events that were stored, as "topic payload".
func (r *rig) data() (all []string) {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	for _, e := range r.j.events {
		if e.Kind == gateway.Data {
			all = append(all, e.Topic+" "+string(e.Payload))
		}
	}
	return all
}

// tell publishes to the nodes.
func (r *rig) tell(topic string, qos byte, payload string) {
	r.t.Helper()
	if err := r.ingest.IngestWait(r.t.Context(), &gateway.Event{Topic: topic, QoS: qos, Payload: []byte(payload), Origin: gateway.Origin{Via: "http"}}); err != nil {
		r.t.Fatal(err)
	}
}

// node is a client and what it got.
type node struct {
	*snclient.Client
	t   *testing.T
	end *end

	mu  sync.Mutex
	got []string
}

var lastPort = 20000

// node makes a node that is not connected yet.
func (r *rig) node(o snclient.Options) *node {
	r.t.Helper()
	n := &node{t: r.t}
	o.Predefined = map[uint16]string{1: door}
	o.Message = func(m snclient.Message) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.got = append(n.got, fmt.Sprintf("%s %s %d", m.Topic, m.Payload, m.QoS))
	}
	lastPort++
	n.end = r.ether.end(fmt.Sprintf("192.0.2.%d:%d", 1+lastPort%200, lastPort))
	n.Client = snclient.New(n.end, o)
	r.closers = append(r.closers, func() { n.Close() })
	return n
}

// connected is a node that is.
func (r *rig) connected(o snclient.Options) *node {
	r.t.Helper()
	n := r.node(o)
	must(r.t, n.Connect(r.t.Context()))
	return n
}

func (n *node) messages() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string{}, n.got...)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// raw is a node that says what it is told, and nothing by itself.
type raw struct {
	t   *testing.T
	end *end
	at  *rig
}

func (r *rig) raw(at string) *raw { return &raw{r.t, r.ether.end(at), r} }

func (w *raw) send(p packet.Packet) { w.end.Write(p.Append(nil)) }

// recv is the next message, which is there within a second.
func (w *raw) recv() packet.Packet {
	w.t.Helper()
	return w.within(time.Second)
}

func (w *raw) within(d time.Duration) packet.Packet {
	w.t.Helper()
	select {
	case b := <-w.end.in:
		p, err := packet.Decode(b)
		must(w.t, err)
		return p
	case <-time.After(d):
		w.t.Fatal("nothing came")
		return packet.Packet{}
	}
}

// ask sends p and returns the answer, which is to be of a type.
func (w *raw) ask(p packet.Packet, want packet.Type) packet.Packet {
	w.t.Helper()
	w.send(p)
	a := w.recv()
	if a.Type != want {
		w.t.Fatalf("the answer to %v is %v %v, want %v", p.Type, a.Type, a.Code, want)
	}
	return a
}

// nothing asserts that nothing comes for a second.
func (w *raw) nothing() {
	w.t.Helper()
	select {
	case b := <-w.end.in:
		w.t.Fatalf("%x came", b)
	case <-time.After(time.Second):
	}
}

func (w *raw) connect(id string) {
	w.t.Helper()
	if a := w.ask(packet.Packet{Type: packet.Connect, Clean: true, Protocol: 1, Duration: 600, Text: id}, packet.Connack); a.Code != 0 {
		w.t.Fatalf("CONNACK: %v", a.Code)
	}
}
