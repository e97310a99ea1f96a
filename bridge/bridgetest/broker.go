package bridgetest

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"net"
	"sync"
	"testing"
)

// Broker is a scripted MQTT broker for publishers: it says to a CONNECT and to a PUBLISH what
// the test wants, and keeps what it got. Set its fields before something connects.
type Broker struct {
	// Connack returns the reason code and, for version 5, the properties as they
	// are on the wire. Nil accepts. A negative code sends nothing.
	Connack func(Connect) (code int, properties []byte)
	// Answer returns the reason code of the PUBACK. Nil accepts. A negative code sends nothing.
	Answer func(Publish) (code int)
	// Silent ignores pings.
	Silent bool
	// TLS, if set, is what it speaks below MQTT.
	TLS *tls.Config

	l net.Listener

	mu       sync.Mutex
	connects []Connect
	got      []Publish
	pings    int
	conns    map[net.Conn]bool
	work     sync.WaitGroup
}

// Connect is what a CONNECT said.
type Connect struct {
	Version            byte
	Clean              bool
	KeepAlive          uint16
	ClientID           string
	Username, Password string
}

// Start listens on a free loopback port until the test ends.
func (b *Broker) Start(t testing.TB) {
	t.Helper()
	b.StartAt(t, "127.0.0.1:0")
}

// StartAt is Start at an address.
func (b *Broker) StartAt(t testing.TB, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if b.TLS != nil {
		l = tls.NewListener(l, b.TLS)
	}
	b.l, b.conns = l, map[net.Conn]bool{}
	b.work.Go(b.accept)
	t.Cleanup(func() {
		l.Close()
		b.Send() // closes
		b.work.Wait()
	})
}

// Addr is where it listens.
func (b *Broker) Addr() string { return b.l.Addr().String() }

// Send sends raw bytes on every connection; without any it closes them.
func (b *Broker) Send(raw ...byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if len(raw) == 0 {
			c.Close()
		} else {
			c.Write(raw)
		}
	}
}

// Published are the publishes it got, answered or not.
func (b *Broker) Published() []Publish {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Publish(nil), b.got...)
}

// Connects are the CONNECTs it got.
func (b *Broker) Connects() []Connect {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Connect(nil), b.connects...)
}

// Pings is how many pings it got.
func (b *Broker) Pings() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pings
}

func (b *Broker) accept() {
	for {
		conn, err := b.l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[conn] = true
		b.mu.Unlock()
		b.work.Go(func() {
			b.serve(conn)
			conn.Close()
			b.mu.Lock()
			delete(b.conns, conn)
			b.mu.Unlock()
		})
	}
}

func (b *Broker) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	p, err := readPacket(r)
	if err != nil || p.kind() != 1 {
		return
	}
	c := parseConnect(p)
	v5 := c.Version == 5
	b.mu.Lock()
	b.connects = append(b.connects, c)
	b.mu.Unlock()
	code, props := 0, []byte(nil)
	if b.Connack != nil {
		code, props = b.Connack(c)
	}
	if code >= 0 {
		body := []byte{0, byte(code)}
		if v5 {
			body = binary.AppendUvarint(body, uint64(len(props)))
			body = append(body, props...)
		}
		conn.Write(appendPacket(nil, 0x20, body))
		if code > 0 {
			return
		}
	}
	for {
		p, err := readPacket(r)
		if err != nil {
			return
		}
		switch p.kind() {
		case 3:
			pub, err := parsePublish(p, v5)
			if err != nil {
				return
			}
			b.mu.Lock()
			b.got = append(b.got, pub)
			b.mu.Unlock()
			code := 0
			if b.Answer != nil {
				code = b.Answer(pub)
			}
			if code < 0 {
				continue
			}
			body := binary.BigEndian.AppendUint16(nil, pub.PacketID)
			if v5 && code > 0 {
				body = append(body, byte(code))
			}
			conn.Write(appendPacket(nil, 0x40, body))
		case 12:
			b.mu.Lock()
			b.pings++
			b.mu.Unlock()
			if !b.Silent {
				conn.Write([]byte{0xD0, 0})
			}
		case 14:
			return
		}
	}
}

func parseConnect(p packet) Connect {
	f := &fields{b: p.body}
	f.text()
	c := Connect{Version: f.u8()}
	flags := f.u8()
	c.Clean = flags&2 != 0
	c.KeepAlive = f.u16()
	if c.Version == 5 {
		f.take(f.varint())
	}
	c.ClientID = f.text()
	if flags&0x80 != 0 {
		c.Username = f.text()
	}
	if flags&0x40 != 0 {
		c.Password = f.text()
	}
	return c
}
