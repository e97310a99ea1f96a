package broker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a broker on a fake journal.
type rig struct {
	t      testing.TB
	o      Options
	j      *fakeJournal
	state  *fakeState
	b      *Broker
	cancel context.CancelFunc
	ran    chan error
	conns  sync.WaitGroup
	peers  []net.Conn // the clients' ends
	down   bool

	mu      sync.Mutex
	dropped map[string]int
	reasons map[string]string // client → why it was disconnected
	gone    sync.Cond
	logs    bytes.Buffer
}

func newRig(t testing.TB, o Options) *rig {
	t.Helper()
	r := &rig{t: t, o: o, state: &fakeState{kept: map[string][]byte{}}}
	r.start(nil)
	t.Cleanup(r.stop)
	return r
}

func (r *rig) start(kept []*gateway.Event) {
	r.t.Helper()
	r.down = false
	r.dropped, r.reasons = map[string]int{}, map[string]string{}
	r.gone.L = &r.mu
	j := newFakeJournal(kept)
	r.j = j
	g := gateway.New(gateway.Options{Journal: j})
	o := r.o
	if o.Auth == nil {
		var err error
		if o.Auth, err = auth.New(nil, nil); err != nil {
			r.t.Fatal(err)
		}
	}
	if o.Ingest == nil {
		o.Ingest = g.Ingest
	}
	o.State = r.state
	o.Age = fakeAge
	o.Logger = slog.New(slog.NewTextHandler(lockedWriter{r}, nil))
	o.Replay = func(from uint64, fn func(*gateway.Event) error) error {
		for _, e := range kept {
			if e.Offset >= from {
				if err := fn(e); err != nil {
					return err
				}
			}
		}
		return nil
	}
	o.Observer.Dropped = func(reason string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.dropped[reason]++
	}
	o.Observer.Disconnected = func(id, reason string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.reasons[id] = reason
		r.gone.Broadcast()
	}
	var err error
	if r.b, err = New(o); err != nil {
		r.t.Fatal(err)
	}
	j.deliver = r.b.Deliver
	go j.run()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ran = cancel, make(chan error, 1)
	go func() { r.ran <- r.b.Run(ctx) }()
}

// stop ends the broker as a shutdown does, the journal last.
func (r *rig) stop() {
	if r.down {
		return
	}
	r.down = true
	r.cancel()
	for _, nc := range r.peers {
		nc.Close()
	}
	r.peers = nil
	if err := <-r.ran; err != nil {
		r.t.Error("Run:", err)
	}
	r.conns.Wait()
	r.j.set(func() { r.j.dead = true })
	<-r.j.stopped
	if r.t.Failed() {
		r.t.Log(r.logs.String())
	}
}

// crash is kill -9: what is not stored is gone, and so is what the broker says and does
// while its goroutines are collected.
func (r *rig) crash() {
	r.t.Helper()
	r.j.mu.Lock()
	kept := append([]*gateway.Event(nil), r.j.kept...)
	r.j.refuse = gateway.Errorf(gateway.ErrTransient, "killed")
	for _, entry := range r.j.queue {
		defer entry.done(errors.New("killed"))
	}
	r.j.queue = nil
	r.j.mu.Unlock()
	r.state.mu.Lock()
	state := &fakeState{kept: maps.Clone(r.state.kept)}
	r.state.mu.Unlock()
	r.stop()
	r.state = state
	r.start(kept)
}

// restart is a clean stop and start.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start(r.j.kept)
}

type lockedWriter struct{ r *rig }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.logs.Write(p)
}

// ended waits until client id was disconnected and returns why.
func (r *rig) ended(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.reasons[id] == "" {
		r.gone.Wait()
	}
	reason := r.reasons[id]
	delete(r.reasons, id)
	return reason
}

func (r *rig) drops(reason string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped[reason]
}

// dial opens a TCP connection to the broker.
func (r *rig) dial() net.Conn {
	r.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.serve(server)
	r.peers = append(r.peers, nc)
	return nc
}

// pipe opens an in-process connection, for bubbles of synctest.
func (r *rig) pipe() net.Conn {
	nc, server := net.Pipe()
	r.serve(server)
	r.peers = append(r.peers, nc)
	return nc
}

func (r *rig) serve(nc net.Conn) {
	b := r.b
	r.conns.Go(func() { b.Connect(context.Background(), nc) })
}

// client is a raw MQTT client: it says what a test says, and nothing else.
type client struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
	v  byte
}

type connectOption func(*packets.Packet)

func persistent(pk *packets.Packet) {
	pk.Connect.Clean = false
	if pk.ProtocolVersion == v5 {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
	}
}

func withWill(w packets.ConnectParams) connectOption {
	return func(pk *packets.Packet) {
		pk.Connect.WillFlag = true
		pk.Connect.WillTopic, pk.Connect.WillPayload = w.WillTopic, w.WillPayload
		pk.Connect.WillQos, pk.Connect.WillRetain = w.WillQos, w.WillRetain
		pk.Connect.WillProperties = w.WillProperties
	}
}

func withUser(name, password string) connectOption {
	return func(pk *packets.Packet) {
		pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte(name)
		pk.Connect.PasswordFlag, pk.Connect.Password = true, []byte(password)
	}
}

func connectPacket(v byte, id string, options ...connectOption) packets.Packet {
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: packets.Connect},
		ProtocolVersion: v,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: id,
			Clean: true, Keepalive: 60},
	}
	for _, o := range options {
		o(&pk)
	}
	return pk
}

// client connects over TCP and expects to be let in.
func (r *rig) client(v byte, id string, options ...connectOption) *client {
	r.t.Helper()
	c, ack := r.tryClient(v, id, options...)
	if ack.ReasonCode != 0 {
		r.t.Fatalf("CONNACK says 0x%02X", ack.ReasonCode)
	}
	return c
}

func (r *rig) tryClient(v byte, id string, options ...connectOption) (*client, packets.Packet) {
	r.t.Helper()
	return newClient(r.t, r.dial(), v, id, options...)
}

func newClient(t testing.TB, nc net.Conn, v byte, id string, options ...connectOption) (*client, packets.Packet) {
	t.Helper()
	c := &client{t: t, nc: nc, r: bufio.NewReader(nc), v: v}
	c.send(connectPacket(v, id, options...))
	return c, c.expect(packets.Connack)
}

func encode(t testing.TB, v byte, pk packets.Packet) []byte {
	t.Helper()
	pk.ProtocolVersion = v
	pk.Mods.AllowResponseInfo = true
	var b bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&b)
	case packets.Publish:
		err = pk.PublishEncode(&b)
	case packets.Puback:
		err = pk.PubackEncode(&b)
	case packets.Pubrec:
		err = pk.PubrecEncode(&b)
	case packets.Pubrel:
		pk.FixedHeader.Qos = 1
		err = pk.PubrelEncode(&b)
	case packets.Pubcomp:
		err = pk.PubcompEncode(&b)
	case packets.Subscribe:
		pk.FixedHeader.Qos = 1
		err = pk.SubscribeEncode(&b)
	case packets.Unsubscribe:
		pk.FixedHeader.Qos = 1
		err = pk.UnsubscribeEncode(&b)
	case packets.Pingreq:
		err = pk.PingreqEncode(&b)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&b)
	default:
		t.Fatal("no encoder for this packet")
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (c *client) send(pks ...packets.Packet) {
	c.t.Helper()
	var b []byte
	for _, pk := range pks {
		b = append(b, encode(c.t, c.v, pk)...)
	}
	c.raw(b)
}

func (c *client) raw(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal("write:", err)
	}
}

// recv returns the next packet, or io.EOF when the broker has closed.
func (c *client) recv() (packets.Packet, error) {
	c.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	head, err := c.r.ReadByte()
	if err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			err = io.EOF // however it was closed
			c.nc.Close()
		}
		return packets.Packet{}, err
	}
	pk := packets.Packet{ProtocolVersion: c.v}
	if err := pk.FixedHeader.Decode(head); err != nil {
		return pk, err
	}
	n, _, err := packets.DecodeLength(c.r)
	if err != nil {
		return pk, err
	}
	pk.FixedHeader.Remaining = n
	body := make([]byte, n)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return pk, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Pubrec:
		err = pk.PubrecDecode(body)
	case packets.Pubrel:
		err = pk.PubrelDecode(body)
	case packets.Pubcomp:
		err = pk.PubcompDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Pingresp:
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	default:
		err = fmt.Errorf("packet type %d", pk.FixedHeader.Type)
	}
	return pk, err
}

func (c *client) expect(kind byte) packets.Packet {
	c.t.Helper()
	pk, err := c.recv()
	if err != nil {
		c.t.Fatalf("expected %s: %v", packets.PacketNames[kind], err)
	}
	if pk.FixedHeader.Type != kind {
		c.t.Fatalf("expected %s, got %s %+v reason 0x%02X", packets.PacketNames[kind], packets.PacketNames[pk.FixedHeader.Type], pk.FixedHeader, pk.ReasonCode)
	}
	return pk
}

// ack expects an acknowledgement of this id and reason.
func (c *client) ack(kind byte, id uint16, code byte) {
	c.t.Helper()
	pk := c.expect(kind)
	if pk.PacketID != id || pk.ReasonCode != code {
		c.t.Fatalf("%s of %d says 0x%02X, want %d, 0x%02X", packets.PacketNames[kind], pk.PacketID, pk.ReasonCode, id, code)
	}
}

// nothing asserts that nothing has been sent to the client: the next packet is the
// answer to a ping.
func (c *client) nothing() {
	c.t.Helper()
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	c.expect(packets.Pingresp)
}

// closed expects the connection's end: v5 with a DISCONNECT of this reason, v3.1.1 without.
func (c *client) closed(code byte) {
	c.t.Helper()
	if c.v == v5 && code != 0 {
		if pk := c.expect(packets.Disconnect); pk.ReasonCode != code {
			c.t.Fatalf("DISCONNECT says 0x%02X, want 0x%02X", pk.ReasonCode, code)
		}
	}
	if pk, err := c.recv(); err != io.EOF {
		c.t.Fatalf("expected the end, got %s, %v", packets.PacketNames[pk.FixedHeader.Type], err)
	}
}

func publishPacket(topic string, qos byte, id uint16, payload string) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, PacketID: id, Payload: []byte(payload)}
}

func dup(pk packets.Packet) packets.Packet    { pk.FixedHeader.Dup = true; return pk }
func retain(pk packets.Packet) packets.Packet { pk.FixedHeader.Retain = true; return pk }

func ackPacket(kind byte, id uint16) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id}
}

func (c *client) subscribe(subs ...packets.Subscription) []byte {
	c.t.Helper()
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: subs})
	return c.expect(packets.Suback).ReasonCodes
}

func (c *client) drop() { c.nc.Close() }

func (c *client) bye() {
	c.t.Helper()
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	if _, err := c.recv(); err != io.EOF {
		c.t.Fatal("not closed after DISCONNECT:", err)
	}
}

// both runs a test for v3.1.1 and v5.
func both(t *testing.T, test func(t *testing.T, v byte)) {
	t.Run("v3.1.1", func(t *testing.T) { test(t, v4) })
	t.Run("v5", func(t *testing.T) { test(t, v5) })
}
