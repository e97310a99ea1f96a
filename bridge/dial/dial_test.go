package dial_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/dial"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newDialer(t *testing.T, c dial.Config, secure bool) *dial.Dialer {
	t.Helper()
	d, err := dial.New(c, secure)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// farEnd is a server that says hello first and then echoes, TLS or not.
type farEnd struct {
	addr string

	mu    sync.Mutex
	hello []tls.ConnectionState
}

func (f *farEnd) states() []tls.ConnectionState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]tls.ConnectionState(nil), f.hello...)
}

func startFarEnd(t *testing.T, c *tls.Config) *farEnd {
	t.Helper()
	f := &farEnd{}
	f.addr = listen(t, func(conn net.Conn) {
		if c != nil {
			secure := tls.Server(conn, c)
			if secure.Handshake() != nil {
				return
			}
			f.mu.Lock()
			f.hello = append(f.hello, secure.ConnectionState())
			f.mu.Unlock()
			conn = secure
		}
		io.WriteString(conn, "hello\n")
		io.Copy(conn, conn)
	})
	return f
}

// listen serves each connection with handle until the test ends.
func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

// talk checks that conn leads to a farEnd, both ways, and closes it.
func talk(t *testing.T, conn net.Conn, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	big := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	go conn.Write(big)
	got := make([]byte, len("hello\n")+len(big))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, append([]byte("hello\n"), big...)) {
		t.Fatalf("what came back is not what was sent: %v", err)
	}
}

func TestConfig(t *testing.T) {
	ca := bridgetest.NewAuthority(t)
	cert, key := ca.ClientFiles("gw")
	_, other := ca.ClientFiles("other")
	notPEM := filepath.Join(t.TempDir(), "not.pem")
	if err := os.WriteFile(notPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	proxies := "not a proxy: http://host:port, https://host:port or socks5://host:port"
	for _, c := range []struct {
		c      dial.Config
		secure bool
		want   string
	}{
		{dial.Config{}, false, ""},
		{dial.Config{}, true, ""},
		{dial.Config{CAFile: ca.File, CertFile: cert, KeyFile: key, ServerName: "x"}, true, ""},
		{dial.Config{Proxy: "http://u:p@h:1/"}, true, ""},
		{dial.Config{Proxy: "socks5://[::1]:1"}, false, ""},
		{dial.Config{ConnectTimeout: -1}, false, "connect_timeout: -1ns is not from 10ms to 1h"},
		{dial.Config{ConnectTimeout: 2 * time.Hour}, false, "connect_timeout: 2h0m0s is not from 10ms to 1h"},
		{dial.Config{Proxy: "h:1"}, false, "proxy: " + proxies},
		{dial.Config{Proxy: "http://u:secret@h:port"}, false, "proxy: " + proxies},
		{dial.Config{Proxy: "http://h:1/path"}, false, "proxy: " + proxies},
		{dial.Config{Proxy: "http://h:1?q"}, false, "proxy: " + proxies},
		{dial.Config{Proxy: "http://:1"}, false, "proxy: " + proxies},
		{dial.Config{Proxy: "http://h"}, false, "proxy: proxy has no port: http://host:port, https://host:port or socks5://host:port"},
		{dial.Config{Proxy: "ftp://h:1"}, false, `proxy: unknown scheme "ftp": http://host:port, https://host:port or socks5://host:port`},
		{dial.Config{CAFile: ca.File}, false, "ca_file: ca_file is for TLS, and this url has none"},
		{dial.Config{CertFile: cert}, false, "cert_file: cert_file is for TLS, and this url has none"},
		{dial.Config{KeyFile: key}, false, "key_file: key_file is for TLS, and this url has none"},
		{dial.Config{ServerName: "x"}, false, "server_name: server_name is for TLS, and this url has none"},
		{dial.Config{CAFile: "/no/such.pem"}, true, "ca_file: open /no/such.pem: no such file or directory"},
		{dial.Config{CAFile: notPEM}, true, "ca_file: " + notPEM + ": no certificate in PEM form"},
		{dial.Config{CertFile: cert}, true, "cert_file: cert_file needs a key_file"},
		{dial.Config{KeyFile: key}, true, "key_file: key_file needs a cert_file"},
		{dial.Config{CertFile: cert, KeyFile: other}, true, "cert_file: client certificate: tls: private key does not match public key"},
	} {
		_, err := dial.New(c.c, c.secure)
		bridgetest.CheckConfig(t, c.c, err, c.want)
	}
	if d := newDialer(t, dial.Config{}, true); d.Timeout() != 10*time.Second || d.Proxied() || !d.CertificateExpiry().IsZero() {
		t.Errorf("defaults: %v, proxied %t, certificate until %v", d.Timeout(), d.Proxied(), d.CertificateExpiry())
	}
	d := newDialer(t, dial.Config{CertFile: cert, KeyFile: key, Proxy: "http://h:1"}, true)
	if left := time.Until(d.CertificateExpiry()); !d.Proxied() || left < 50*time.Minute || left > time.Hour {
		t.Errorf("proxied %t, the certificate ends in %v", d.Proxied(), left)
	}
}

// Every way to the far end, with TLS and without. A name leads there only if the proxy resolves it.
func TestWays(t *testing.T) {
	ca := bridgetest.NewAuthority(t)
	plain, secure := startFarEnd(t, nil), startFarEnd(t, &tls.Config{Certificates: []tls.Certificate{ca.Server("far.invalid")}})
	for _, proxy := range []*bridgetest.Tunnel{
		nil, {}, {User: "u", Password: "p@:/"}, {Socks: true}, {Socks: true, User: "u", Password: "p"},
	} {
		c := dial.Config{CAFile: ca.File, ServerName: "far.invalid"}
		host := "127.0.0.1"
		if proxy != nil {
			proxy.Start(t)
			c.Proxy, c.ServerName, host = strings.Replace(proxy.URL(), "p@:/", "p%40%3A%2F", 1), "", "far.invalid"
		}
		for _, f := range []*farEnd{plain, secure} {
			if f == plain {
				c := dial.Config{Proxy: c.Proxy}
				conn, err := newDialer(t, c, false).Dial(t.Context(), net.JoinHostPort(host, port(f.addr)))
				talk(t, conn, err)
				continue
			}
			conn, err := newDialer(t, c, true).Dial(t.Context(), net.JoinHostPort(host, port(f.addr)))
			talk(t, conn, err)
		}
		if proxy != nil {
			want := []string{"far.invalid:" + port(plain.addr), "far.invalid:" + port(secure.addr)}
			if got := proxy.Targets(); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("%s was asked for %v, not %v", proxy.URL(), got, want)
			}
		}
	}
	for _, state := range secure.states() {
		if state.ServerName != "far.invalid" {
			t.Errorf("the hello names %q", state.ServerName)
		}
	}
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// An https:// proxy: the hop to it is TLS too. Its authority has to be the system's, so the test
// makes it so for a process of its own.
func TestHTTPSProxy(t *testing.T) {
	if os.Getenv("WEIR_DIAL_CHILD") == "" {
		ca := bridgetest.NewAuthority(t)
		cert, key := ca.ServerFiles("127.0.0.1")
		child(t, "SSL_CERT_FILE="+ca.File, "WEIR_CERT="+cert, "WEIR_KEY="+key)
		return
	}
	cert, err := tls.LoadX509KeyPair(os.Getenv("WEIR_CERT"), os.Getenv("WEIR_KEY"))
	if err != nil {
		t.Fatal(err)
	}
	f := startFarEnd(t, nil)
	p := (&bridgetest.Tunnel{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}).Start(t)
	conn, err := newDialer(t, dial.Config{Proxy: p.URL()}, false).Dial(t.Context(), f.addr)
	talk(t, conn, err)

	stranger := bridgetest.NewAuthority(t)
	p = (&bridgetest.Tunnel{TLS: &tls.Config{Certificates: []tls.Certificate{stranger.Server("127.0.0.1")}}}).Start(t)
	_, err = newDialer(t, dial.Config{Proxy: p.URL()}, false).Dial(t.Context(), f.addr)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("a proxy that nobody vouches for: %v", err)
	}
}

// What a far end says in the very segment of the proxy's answer is not lost.
func TestFarEndSpeaksFirst(t *testing.T) {
	for _, greeting := range []string{"", "h", "hello, and a good day"} {
		addr := listen(t, func(conn net.Conn) {
			conn.Read(make([]byte, 4096))
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: y\r\n\r\n"+greeting)
			conn.Read(make([]byte, 1)) // until the client goes
		})
		conn, err := newDialer(t, dial.Config{Proxy: "http://" + addr}, false).Dial(t.Context(), "far.invalid:1")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(greeting))
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != greeting {
			t.Errorf("%q, not %q: %v", got, greeting, err)
		}
		conn.Close()
	}
}

func TestRefused(t *testing.T) {
	f := startFarEnd(t, nil)
	http := (&bridgetest.Tunnel{User: "u", Password: "p"}).Start(t)
	socks := (&bridgetest.Tunnel{User: "u", Password: "p", Socks: true}).Start(t)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	garbage := listen(t, func(conn net.Conn) { io.WriteString(conn, "220 mail.example.com ESMTP\r\n") })
	endless := listen(t, func(conn net.Conn) {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		for {
			if _, err := io.WriteString(conn, "X-More: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
				return
			}
		}
	})
	began := time.Now()
	for _, c := range []struct{ proxy, address, want string }{
		{"http://u:wrong@" + http.URL()[len("http://u:p@"):], f.addr, "it answers 407 Proxy Authentication Required"},
		{"http://" + http.URL()[len("http://u:p@"):], f.addr, "it answers 407 Proxy Authentication Required"},
		{http.URL(), nobody.Addr().String(), "it answers 502 Bad Gateway"},
		{"socks5://u:wrong@" + socks.URL()[len("socks5://u:p@"):], f.addr, "username/password authentication failed"},
		{"socks5://" + socks.URL()[len("socks5://u:p@"):], f.addr, "no acceptable authentication methods"},
		{socks.URL(), nobody.Addr().String(), "connection refused"},
		{"http://" + nobody.Addr().String(), f.addr, "connection refused"},
		{"socks5://" + nobody.Addr().String(), f.addr, "connection refused"},
		{"http://" + garbage, f.addr, "malformed HTTP"},
		{"http://" + endless, f.addr, "unexpected EOF"},
	} {
		_, err := newDialer(t, dial.Config{Proxy: c.proxy}, false).Dial(t.Context(), c.address)
		where := c.proxy[strings.LastIndexAny(c.proxy, "@/")+1:]
		if err == nil || !strings.HasPrefix(err.Error(), "through the proxy "+where+": ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %q", c.proxy, err, c.want)
		} else if strings.Contains(err.Error(), "wrong") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("%v for refusals that come at once", took)
	}
	_, err = newDialer(t, dial.Config{}, false).Dial(t.Context(), nobody.Addr().String())
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
}

func TestTLS(t *testing.T) {
	ca, stranger := bridgetest.NewAuthority(t), bridgetest.NewAuthority(t)
	f := startFarEnd(t, &tls.Config{
		Certificates: []tls.Certificate{ca.Server("127.0.0.1")}, NextProtos: []string{"other", "wanted"},
	})
	old := startFarEnd(t, &tls.Config{Certificates: []tls.Certificate{ca.Server("127.0.0.1")}, MaxVersion: tls.VersionTLS11})
	dialTo := func(c dial.Config, addr string) error {
		conn, err := newDialer(t, c, true).Dial(t.Context(), addr)
		if err == nil {
			conn.Close()
		}
		return err
	}
	var unknown x509.UnknownAuthorityError
	if err := dialTo(dial.Config{CAFile: stranger.File}, f.addr); !errors.As(err, &unknown) {
		t.Errorf("another authority: %v", err)
	}
	if err := dialTo(dial.Config{}, f.addr); !errors.As(err, &unknown) {
		t.Errorf("the system's authorities: %v", err)
	}
	var wrongName x509.HostnameError
	if err := dialTo(dial.Config{CAFile: ca.File, ServerName: "elsewhere.example.com"}, f.addr); !errors.As(err, &wrongName) {
		t.Errorf("another name: %v", err)
	}
	if err := dialTo(dial.Config{CAFile: ca.File}, old.addr); err == nil || !strings.HasPrefix(err.Error(), "TLS: ") {
		t.Errorf("TLS 1.1: %v", err)
	}
	d := newDialer(t, dial.Config{CAFile: ca.File}, true)
	d.Offer("wanted")
	conn, err := d.Dial(t.Context(), f.addr)
	talk(t, conn, err)
	if got := f.states(); len(got) != 1 || got[0].NegotiatedProtocol != "wanted" {
		t.Errorf("%d hellos, protocol %q", len(got), got[0].NegotiatedProtocol)
	}
	// A library that brings its own TLS gets a copy of the configuration.
	d.TLS(f.addr).ServerName = "changed"
	if name := d.TLS(f.addr).ServerName; name != "127.0.0.1" {
		t.Errorf("server name %q", name)
	}
}

// A renewed client certificate is used by the next connection.
func TestRenewedCertificate(t *testing.T) {
	ca := bridgetest.NewAuthority(t)
	f := startFarEnd(t, &tls.Config{
		Certificates: []tls.Certificate{ca.Server("127.0.0.1")}, ClientCAs: ca.Pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	cert, key := ca.ClientFiles("gw")
	d := newDialer(t, dial.Config{CAFile: ca.File, CertFile: cert, KeyFile: key}, true)
	conn, err := d.Dial(t.Context(), f.addr)
	talk(t, conn, err)
	ca.ClientFiles("gw")
	conn, err = d.Dial(t.Context(), f.addr)
	talk(t, conn, err)
	states := f.states()
	first, second := states[0].PeerCertificates[0], states[1].PeerCertificates[0]
	if first.Subject.CommonName != "gw" || first.SerialNumber.Cmp(second.SerialNumber) == 0 {
		t.Errorf("certificates %v and %v", first.SerialNumber, second.SerialNumber)
	}
	if err := os.Remove(key); err != nil { // in the middle of a renewal
		t.Fatal(err)
	}
	if _, err := d.Dial(t.Context(), f.addr); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "client certificate") {
		t.Errorf("without a key: %v", err)
	}
}

// A peer that accepts and never answers, at each step: the dial ends at its timeout with words, or
// with its context, and leaves nothing behind (goleak looks).
func TestNoAnswer(t *testing.T) {
	silent := listen(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	ca := bridgetest.NewAuthority(t)
	working := (&bridgetest.Tunnel{}).Start(t)
	for _, c := range []struct {
		name string
		c    dial.Config
		tls  bool
	}{
		{"HTTP proxy", dial.Config{Proxy: "http://" + silent}, false},
		{"HTTPS proxy", dial.Config{Proxy: "https://" + silent}, false},
		{"SOCKS proxy", dial.Config{Proxy: "socks5://" + silent}, false},
		{"TLS far end", dial.Config{CAFile: ca.File}, true},
		{"TLS far end behind a proxy", dial.Config{CAFile: ca.File, Proxy: working.URL()}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.c.ConnectTimeout = 200 * time.Millisecond
			began := time.Now()
			_, err := newDialer(t, c.c, c.tls).Dial(t.Context(), silent)
			if err == nil || !strings.HasSuffix(err.Error(), "no answer within 200ms") {
				t.Errorf("timeout: %v", err)
			}
			if took := time.Since(began); took < 200*time.Millisecond || took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			c.c.ConnectTimeout = time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := newDialer(t, c.c, c.tls).Dial(ctx, silent)
				ended <- err
			}()
			cancel()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("cancel: %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the dial does not end with its context")
			}
		})
	}
}

// The whole dial has one timeout, however many steps it takes.
func TestOneTimeout(t *testing.T) {
	const limit = 2 * time.Second
	slow := listen(t, func(conn net.Conn) { // the tunnel is there at three quarters of the time; then TLS is silent
		conn.Read(make([]byte, 4096))
		select {
		case <-time.After(limit * 3 / 4):
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			io.Copy(io.Discard, conn)
		case <-t.Context().Done():
		}
	})
	d := newDialer(t, dial.Config{Proxy: "http://" + slow, ConnectTimeout: limit}, true)
	began := time.Now()
	_, err := d.Dial(t.Context(), "far.invalid:1")
	if took := time.Since(began); err == nil || took > limit*3/2 {
		t.Errorf("ended after %v: %v", took, err)
	}
}

// The kernel takes no more of a connection than it was told to, through a proxy as well.
func TestWriteBuffer(t *testing.T) {
	deaf := listen(t, func(conn net.Conn) { <-t.Context().Done() })
	for _, proxy := range []string{"", (&bridgetest.Tunnel{}).Start(t).URL()} {
		d := newDialer(t, dial.Config{Proxy: proxy}, false)
		d.WriteBuffer(16 << 10)
		conn, err := d.Dial(t.Context(), deaf)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			n, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
			if err != nil || n > 32<<10 { // the kernel doubles it
				t.Errorf("send buffer %d: %v", n, err)
			}
		})
		conn.Close()
	}
}

// What was read is acknowledged at once, however the conversation went before.
func TestQuickAck(t *testing.T) {
	echo := listen(t, func(conn net.Conn) { io.Copy(conn, conn) })
	for _, proxy := range []string{"", (&bridgetest.Tunnel{}).Start(t).URL()} {
		d := newDialer(t, dial.Config{Proxy: proxy}, false)
		d.QuickAck()
		conn, err := d.Dial(t.Context(), echo)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 { // by then the kernel would wait for something to say with it
			if _, err := conn.Write([]byte("a")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if n, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK); err != nil || n != 1 {
				t.Errorf("quick acknowledgements: %d, %v", n, err)
			}
		})
		conn.Close()
	}
}
