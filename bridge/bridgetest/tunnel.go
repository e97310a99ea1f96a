package bridgetest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
)

// Tunnel is a proxy of the kind that companies have: HTTP with CONNECT, or SOCKS 5. Set its
// fields before Start.
type Tunnel struct {
	Socks          bool
	TLS            *tls.Config // speaks TLS itself: an https:// proxy
	User, Password string      // empty: asks for none
	To             string      // where every tunnel leads, if not to what it is asked for

	l       net.Listener
	mu      sync.Mutex
	targets []string
	conns   map[net.Conn]bool
	work    sync.WaitGroup
}

// Start listens on a free loopback port until the test ends.
func (p *Tunnel) Start(t testing.TB) *Tunnel {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if p.TLS != nil {
		l = tls.NewListener(l, p.TLS)
	}
	p.l, p.conns = l, map[net.Conn]bool{}
	p.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for c := range p.conns {
			c.Close()
		}
		p.conns = nil
		p.mu.Unlock()
		p.work.Wait()
	})
	return p
}

// URL is what a proxy key takes, with the account if there is one.
func (p *Tunnel) URL() string {
	scheme, account := "http", ""
	if p.TLS != nil {
		scheme = "https"
	}
	if p.Socks {
		scheme = "socks5"
	}
	if p.User != "" {
		account = p.User + ":" + p.Password + "@"
	}
	return scheme + "://" + account + p.l.Addr().String()
}

// Targets are the addresses that it was asked for and has reached, as they were written.
func (p *Tunnel) Targets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.targets...)
}

func (p *Tunnel) serve(client net.Conn) {
	if !p.keep(client) {
		return
	}
	r := bufio.NewReader(client)
	ask := p.http
	if p.Socks {
		ask = p.socks
	}
	target, err := ask(client, r)
	if err != nil || !p.keep(target) {
		client.Close()
		return
	}
	var ways sync.WaitGroup
	for _, way := range []struct {
		from io.Reader
		to   net.Conn
	}{{r, target}, {target, client}} {
		ways.Go(func() {
			io.Copy(way.to, way.from)
			client.Close()
			target.Close()
		})
	}
	ways.Wait()
}

// keep has conn closed at the end of the test.
func (p *Tunnel) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		conn.Close()
		return false
	}
	p.conns[conn] = true
	return true
}

// reach dials address; a name that is not one of this machine's leads to this machine all the same,
// so that a test sees who resolves it.
func (p *Tunnel) reach(address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) == nil {
		host = "127.0.0.1"
	}
	to := net.JoinHostPort(host, port)
	if p.To != "" {
		to = p.To
	}
	conn, err := net.Dial("tcp", to)
	if err == nil {
		p.mu.Lock()
		p.targets = append(p.targets, address)
		p.mu.Unlock()
	}
	return conn, err
}

func (p *Tunnel) http(client net.Conn, r *bufio.Reader) (net.Conn, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	refuse := func(status string) (net.Conn, error) {
		// A body that is promised and does not come, as some proxies have it.
		fmt.Fprintf(client, "HTTP/1.1 %s\r\nContent-Length: 1000\r\n\r\n", status)
		io.Copy(io.Discard, r) // the client goes
		return nil, fmt.Errorf("refused: %s", status)
	}
	account := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.User+":"+p.Password))
	switch {
	case req.Method != http.MethodConnect:
		return refuse("405 Method Not Allowed")
	case p.User != "" && req.Header.Get("Proxy-Authorization") != account:
		return refuse("407 Proxy Authentication Required")
	}
	target, err := p.reach(req.RequestURI)
	if err != nil {
		return refuse("502 Bad Gateway")
	}
	_, err = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	return target, err
}

// socks is RFC 1928, and RFC 1929 for the account.
func (p *Tunnel) socks(client net.Conn, r *bufio.Reader) (net.Conn, error) {
	field := func() ([]byte, error) {
		n, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		b := make([]byte, n)
		_, err = io.ReadFull(r, b)
		return b, err
	}
	if _, err := r.ReadByte(); err != nil { // version
		return nil, err
	}
	methods, err := field()
	if err != nil {
		return nil, err
	}
	switch {
	case p.User == "":
		client.Write([]byte{5, 0})
	case bytes.IndexByte(methods, 2) < 0:
		client.Write([]byte{5, 0xFF})
		return nil, errors.New("the client has no account")
	default:
		client.Write([]byte{5, 2})
		if _, err := r.ReadByte(); err != nil {
			return nil, err
		}
		user, err := field()
		if err != nil {
			return nil, err
		}
		password, err := field()
		if err != nil {
			return nil, err
		}
		if string(user) != p.User || string(password) != p.Password {
			client.Write([]byte{1, 1})
			return nil, errors.New("bad account")
		}
		client.Write([]byte{1, 0})
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	var host string
	switch head[3] {
	case 1, 4:
		ip := make(net.IP, map[byte]int{1: 4, 4: 16}[head[3]])
		if _, err := io.ReadFull(r, ip); err != nil {
			return nil, err
		}
		host = ip.String()
	default:
		name, err := field()
		if err != nil {
			return nil, err
		}
		host = string(name)
	}
	port := make([]byte, 2)
	if _, err := io.ReadFull(r, port); err != nil {
		return nil, err
	}
	target, err := p.reach(net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port)))))
	answer := []byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	if err != nil {
		answer[1] = 5 // connection refused
	}
	client.Write(answer)
	return target, err
}
