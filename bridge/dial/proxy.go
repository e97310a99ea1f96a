package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"golang.org/x/net/proxy"
)

// direct dials without a proxy: the far end, or the proxy itself.
type direct struct {
	writeBuffer int
	quickAck    bool
}

// DialContext is proxy.ContextDialer.
func (d direct) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	tcp, ok := conn.(*net.TCPConn)
	if err != nil || !ok {
		return conn, err
	}
	if d.writeBuffer > 0 {
		if err := tcp.SetWriteBuffer(d.writeBuffer); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if !d.quickAck {
		return conn, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &quickAcker{tcp, raw}, nil
}

// quickAcker acknowledges what it has read. The kernel forgets that it was asked to (tcp(7)), so it is asked each time.
type quickAcker struct {
	*net.TCPConn
	raw syscall.RawConn
}

func (c *quickAcker) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if n > 0 { // without it things go on, only slower
		c.raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1) })
	}
	return n, err
}

// Dial is proxy.Dialer, which is asked for and not used.
func (d direct) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// socks asks a SOCKS 5 proxy (RFC 1928, RFC 1929).
func (d *Dialer) socks(ctx context.Context, address string) (net.Conn, error) {
	var auth *proxy.Auth
	if u := d.proxy.User; u != nil {
		auth = &proxy.Auth{User: u.Username()}
		auth.Password, _ = u.Password()
	}
	socks, err := proxy.SOCKS5("tcp", d.proxy.Host, auth, d.direct)
	if err != nil {
		return nil, err
	}
	return socks.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
}

// connectMethod asks an HTTP proxy for a tunnel (RFC 9110 §9.3.6).
func (d *Dialer) connectMethod(ctx context.Context, address string) (net.Conn, error) {
	conn, err := d.direct.DialContext(ctx, "tcp", d.proxy.Host)
	if err != nil {
		return nil, err
	}
	raw := conn
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) }) // ends a read that does not get on
	if d.proxy.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: d.proxy.Hostname(), MinVersion: tls.VersionTLS12})
	}
	tunnel, err := askTunnel(conn, d.proxy.User, address)
	if !stop() { // ctx has ended, and the connection is of no use any more
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return tunnel, nil
}

// maxTunnelAnswer bounds a proxy's answer.
const maxTunnelAnswer = 64 << 10

func askTunnel(conn net.Conn, user *url.Userinfo, address string) (net.Conn, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	// A far end that speaks first may do so in the segment of the answer.
	r := bufio.NewReader(io.LimitReader(conn, maxTunnelAnswer))
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 { // the body is not read: it may never end
		return nil, fmt.Errorf("it answers %s", resp.Status)
	}
	if n := r.Buffered(); n > 0 {
		first, err := r.Peek(n)
		if err != nil {
			return nil, err
		}
		return &begun{conn, append([]byte(nil), first...)}, nil
	}
	return conn, nil
}

// begun is a connection of which some bytes were read already.
type begun struct {
	net.Conn
	first []byte
}

func (c *begun) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}
