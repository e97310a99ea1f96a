package webhook_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/webhook"
	"github.com/weir-iot/weir/gateway"
)

// counted is a server whose connections are counted.
func counted(t *testing.T, h http.Handler) (s *httptest.Server, conns func() int) {
	s = httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	var mu sync.Mutex
	n := 0
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			n++
			mu.Unlock()
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// One connection serves all requests, whatever their answers say. One that the far end closes
// while nothing is on it is made anew.
func TestConnectionIsKept(t *testing.T) {
	r := &receiver{answer: func(w http.ResponseWriter, _ *request, n int) {
		if n%10 == 0 {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, strings.Repeat("a long story\n", 1000))
		}
	}}
	server, conns := counted(t, r)
	p := bridgetest.RunPump(t, newSink(t, webhook.Config{URL: server.URL}))
	p.Log.Append(events(1, 100)...)
	bridgetest.Until(t, "all are done with", func() bool { return p.Status().Position.Offset == 100 })
	if n := conns(); n != 1 {
		t.Errorf("%d connections for 100 requests", n)
	}
	server.CloseClientConnections() // only an idle one is there
	p.Log.Append(events(101, 1)...)
	bridgetest.Until(t, "the next is delivered", func() bool { return p.Status().Delivered == 91 })
	if n := conns(); n < 2 || n > 3 { // 3: the request ran into the end of the connection
		t.Errorf("%d connections after one was closed", n)
	}
}

// A far end that takes a large body slowly is not dead; one that takes nothing more is.
func TestSlowFarEnd(t *testing.T) {
	const chunk = 64 << 10
	for _, c := range []struct {
		takes int // bytes
		want  string
	}{{2 << 20, ""}, {128 << 10, "no answer within 1s"}} {
		over := make(chan struct{})
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for got := 0; got < c.takes; {
				select {
				case <-time.After(40 * time.Millisecond):
				case <-over:
					return
				}
				n, err := io.ReadFull(r.Body, make([]byte, chunk))
				if got += n; err != nil {
					return
				}
			}
			if c.want != "" {
				<-over
			}
		}))
		server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
			if tcp, ok := conn.(*net.TCPConn); ok && state == http.StateNew {
				tcp.SetReadBuffer(2 * chunk) // so that what is not read stays with the sender
			}
		}
		server.Start()
		s := bridgetest.Send(t, newSink(t, webhook.Config{URL: server.URL, Format: "payload", AckTimeout: time.Second}))
		e := events(1, 1)[0]
		e.Payload = bytes.Repeat([]byte("x"), 2<<20)
		began := time.Now()
		s.Events <- e
		if c.want == "" {
			if o := s.Outcomes(1)[0]; o.Err != nil {
				t.Error(o.Err)
			}
			if took := time.Since(began); took < 1100*time.Millisecond {
				t.Errorf("took %v; the test proves nothing", took)
			}
		} else if err := s.End(); err == nil || err.Error() != c.want {
			t.Errorf("%v, not %s", err, c.want)
		}
		close(over)
		s.Cancel()
		server.Close()
	}
}

// A far end may refuse a large body from its header, and close with all of it unread. The refusal
// is seen, at once or at a repeat, so that the event does not come again for ever.
func TestRefusedUnread(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tries := make(chan bool, 10000)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				tries <- true
				io.WriteString(conn, "HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			}
			conn.Close()
		}
	}()
	p := bridgetest.RunPump(t, newSink(t, webhook.Config{URL: "http://" + l.Addr().String(), Format: "payload"}))
	const n = 10 // the dead letters are bounded
	for _, e := range events(1, n) {
		e.Payload = bytes.Repeat([]byte("x"), 1<<20)
		p.Log.Append(e)
	}
	bridgetest.Until(t, "all are dead letters", func() bool { return p.Status().Dead == n })
	if len(tries) != n {
		t.Errorf("%d requests for %d events", len(tries), n)
	}
}

// A far end that does not know Expect: 100-continue is not asked again.
func TestExpectationFailed(t *testing.T) {
	r := start(t, nil)
	server, _ := counted(t, http.HandlerFunc(func(w http.ResponseWriter, in *http.Request) {
		if in.Header.Get("Expect") != "" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		r.ServeHTTP(w, in)
	}))
	p := bridgetest.RunPump(t, newSink(t, webhook.Config{URL: server.URL, Format: "payload"}))
	e := events(1, 1)[0]
	e.Payload = bytes.Repeat([]byte("x"), 100<<10)
	p.Log.Append(e)
	bridgetest.Until(t, "it is delivered", func() bool { return p.Status().Delivered == 1 })
}

// Through a proxy, under TLS with a certificate on both sides, over HTTP/2.
func TestProxyAndClientCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}

	r := &receiver{}
	r.Server = httptest.NewUnstartedServer(r)
	r.EnableHTTP2 = true
	r.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	r.TLS.ClientCAs.AddCert(authority)
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	r.StartTLS()
	t.Cleanup(r.Close)
	asked := make(chan string, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tunnel(w, r, asked) }))
	t.Cleanup(proxy.Close)

	c := webhook.Config{URL: r.URL + "/hook", Config: dial.Config{
		Proxy:  "http://user:pw@" + proxy.Listener.Addr().String(),
		CAFile: caFile(t, r.Server), CertFile: pemFile(t, "CERTIFICATE", cert), KeyFile: pemFile(t, "PRIVATE KEY", private),
	}}
	s := bridgetest.Send(t, newSink(t, c), events(1, 3)...)
	for _, o := range s.Outcomes(3) {
		if o.Err != nil {
			t.Error(o.Err)
		}
	}
	if got := <-asked; got != r.Listener.Addr().String() || len(asked) != 0 {
		t.Errorf("the proxy was asked for %s, and %d more", got, len(asked))
	}
	if got := r.requests()[0]; got.proto != "HTTP/2.0" || got.path != "/hook" {
		t.Errorf("%s %s", got.proto, got.path)
	}

	c.CertFile, c.KeyFile = "", ""
	if err := bridgetest.Send(t, newSink(t, c), events(1, 1)...).End(); err == nil { // what it is depends on how far TLS 1.3 is by then
		t.Error("without a certificate it ended well")
	}
	c.CAFile = ""
	if err := bridgetest.Send(t, newSink(t, c)).End(); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("without the authority: %v", err)
	}
}

// tunnel is CONNECT.
func tunnel(w http.ResponseWriter, r *http.Request, asked chan<- string) {
	asked <- r.Host
	target, err := net.Dial("tcp", r.Host)
	if err != nil || r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") == "" {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer target.Close()
	w.WriteHeader(http.StatusOK)
	conn, first, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	var ways sync.WaitGroup
	ways.Go(func() { io.Copy(target, first); target.Close() })
	ways.Go(func() { io.Copy(conn, target); conn.Close() })
	ways.Wait()
}

// What a bare payload does not say stands in headers.
func TestPayloadFormat(t *testing.T) {
	r := start(t, nil)
	s := bridgetest.Send(t, newSink(t, webhook.Config{URL: r.URL, Format: "payload"}))
	for _, e := range []*gateway.Event{
		{Topic: "plant1/kessel ü%/t", Payload: []byte("21.5"), Accepted: accepted, Source: accepted.Add(-time.Second), Quality: gateway.Uncertain,
			Origin:         gateway.Origin{ID: "dev 1"},
			UserProperties: []gateway.UserProperty{{Key: "a b", Value: "1=2"}, {Key: "a b", Value: "ü"}}},
		{Topic: "x", Payload: []byte("on"), Accepted: accepted},
		{Topic: "x", Payload: []byte{0xff}, Accepted: accepted},
		{Topic: "x", Payload: []byte("<a/>"), ContentType: "application/xml; charset=utf-8", Accepted: accepted},
		{Topic: "x", Payload: []byte("{}"), ContentType: "as\r\nyou: like", Accepted: accepted},
		{Topic: "x", Accepted: accepted},
	} {
		s.Events <- e
	}
	for _, o := range s.Outcomes(6) {
		if o.Err != nil {
			t.Error(o.Err)
		}
	}
	all := r.requests()
	want := http.Header{
		"Weir-Topic": {"plant1/kessel%20%C3%BC%25/t"}, "Weir-Accepted": {"2026-11-23T12:00:00.123456789Z"},
		"Weir-Source-Time": {"2026-11-23T11:59:59.123456789Z"}, "Weir-Quality": {"uncertain"}, "Weir-Device": {"dev%201"},
		"Weir-User-Property": {"a+b=1%3D2", "a+b=%C3%BC"}, "Content-Type": {"application/json"},
	}
	for name, values := range want {
		if got := all[0].header.Values(name); strings.Join(got, "|") != strings.Join(values, "|") {
			t.Errorf("%s: %q, not %q", name, got, values)
		}
	}
	for i, contentType := range []string{"application/json", "text/plain; charset=utf-8", "application/octet-stream", "application/xml; charset=utf-8", "application/json", "text/plain; charset=utf-8"} {
		if got := all[i].header.Get("Content-Type"); got != contentType {
			t.Errorf("%q: %s", all[i].body, got)
		}
		if got := all[i].header.Get("Webhook-Signature"); got != "" {
			t.Errorf("a signature without a secret: %s", got)
		}
	}
	if all[2].body != "\xff" || all[5].body != "" {
		t.Errorf("%q, %q", all[2].body, all[5].body)
	}
}

// An event that the template cannot say is refused with the reason; the others go on.
func TestTemplateOfOneEvent(t *testing.T) {
	r := start(t, nil)
	c := webhook.Config{URL: r.URL, MaxEvents: 10, Linger: time.Minute, Body: `{{.ID}} {{.Level 2}} {{.Level -1}} {{json .Value}} {{.Value.t}} {{.Time}} {{.Time.Unix}} {{json .Payload}} {{.Quality}}`}
	s := bridgetest.Send(t, newSink(t, c))
	for i, payload := range []string{`{"t":1.50,"u":"<"}`, "no JSON", `{}`, `{"t":2} x`} {
		e := events(i+1, 1)[0]
		e.Payload = []byte(payload)
		s.Events <- e
	}
	done, err := s.Finish()
	if err != nil || len(done) != 4 {
		t.Fatalf("%v, %d outcomes", err, len(done))
	}
	for _, o := range done {
		if errors.Is(o.Err, gateway.ErrInvalid) != (o.Event.Offset > 1) {
			t.Errorf("event %d: %v", o.Event.Offset, o.Err)
		}
	}
	want := `test-gw/e1-1 boiler temperature {"t":1.50,"u":"<"} 1.50 2026-11-23T12:00:00.123456789Z 1795435200 "{\"t\":1.50,\"u\":\"<\"}" good`
	if got := r.requests()[0].body; got != want {
		t.Errorf("%s\nnot\n%s", got, want)
	}
}
