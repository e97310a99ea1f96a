package mqtt_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"

	"github.com/gorilla/websocket"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway"
)

// front is a WebSocket server before an MQTT broker. It is gorilla's, so that our frames are not judged
// by ourselves, and it sends what MQTT allows and no sane server does: a frame per byte, pings between.
type front struct {
	*httptest.Server
	target string

	mu       sync.Mutex
	requests []string // host, path and query
	pongs    int
	conns    map[*websocket.Conn]bool
	work     sync.WaitGroup
}

func startFront(t *testing.T, target string, c *tls.Config) *front {
	t.Helper()
	f := &front{target: target, conns: map[*websocket.Conn]bool{}}
	f.Server = httptest.NewUnstartedServer(f)
	if c == nil {
		f.Start()
	} else {
		f.TLS = c
		f.StartTLS()
	}
	t.Cleanup(func() {
		f.close(websocket.CloseNormalClosure, "")
		f.Close()
		f.work.Wait()
	})
	return f
}

// addr is where it listens.
func (f *front) addr() string { return f.Listener.Addr().String() }

// close ends all connections with a close frame.
func (f *front) close(code int, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, why), time.Now().Add(time.Second))
		c.Close()
	}
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	f.work.Add(1)
	defer f.work.Done()
	defer ws.Close()
	broker, err := net.Dial("tcp", f.target)
	if err != nil {
		return
	}
	defer broker.Close()
	f.mu.Lock()
	f.requests = append(f.requests, r.Host+r.URL.String())
	f.conns[ws] = true
	f.mu.Unlock()
	ws.SetPongHandler(func(text string) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if text == "still there?" {
			f.pongs++
		}
		return nil
	})
	f.work.Go(func() {
		buf := make([]byte, 512)
		for {
			n, err := broker.Read(buf)
			if err != nil {
				ws.Close()
				return
			}
			for _, b := range buf[:n] {
				ws.WriteControl(websocket.PingMessage, []byte("still there?"), time.Now().Add(time.Second))
				ws.WriteMessage(websocket.BinaryMessage, nil)
				ws.WriteMessage(websocket.BinaryMessage, []byte{b})
			}
		}
	})
	for {
		kind, b, err := ws.ReadMessage()
		if err != nil || kind != websocket.BinaryMessage {
			return
		}
		broker.Write(b)
	}
}

func (f *front) seen() (requests []string, pongs int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.requests...), f.pongs
}

func TestWebSocket(t *testing.T) {
	ca := bridgetest.NewAuthority(t)
	for _, c := range []struct {
		name, scheme, path, want string
		proxy                    *bridgetest.Tunnel
	}{
		{"ws", "ws", "", "/mqtt", nil},
		{"ws, path kept", "ws", "/a%20b/$x?q=1&r=%2F", "/a%20b/$x?q=1&r=%2F", nil},
		{"ws, root", "ws", "/", "/", nil},
		{"wss", "wss", "/mqtt", "/mqtt", nil},
		{"wss through HTTP", "wss", "", "/mqtt", &bridgetest.Tunnel{User: "u", Password: "p"}},
		{"wss through SOCKS", "wss", "", "/mqtt", &bridgetest.Tunnel{Socks: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, &bridgetest.Broker{})
			var secure *tls.Config
			if c.scheme == "wss" {
				secure = &tls.Config{Certificates: []tls.Certificate{ca.Server("127.0.0.1")}}
			}
			f := startFront(t, b.Addr(), secure)
			s := bridgetest.Send(t, newSink(t, "", "5", func(m *mqtt.Config) {
				m.URL = c.scheme + "://" + f.addr() + c.path
				if secure != nil {
					m.CAFile = ca.File
				}
				if c.proxy != nil {
					m.Proxy = c.proxy.Start(t).URL()
				}
			}))
			sizes := []int{0, 1, 125, 126, 65535, 65536, 300_000}
			for i, n := range sizes {
				s.Event(gateway.Event{Topic: "up/a", Payload: bytes.Repeat([]byte{byte(i)}, n)})
				if err := s.Outcome(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Finish(); err != nil {
				t.Error(err)
			}
			for i, p := range b.Published() {
				if len(p.Payload) != sizes[i] || bytes.Count(p.Payload, []byte{byte(i)}) != sizes[i] {
					t.Errorf("payload %d has %d bytes, or others", i, len(p.Payload))
				}
			}
			requests, pongs := f.seen()
			if len(requests) != 1 || requests[0] != f.addr()+c.want || pongs < len(sizes) {
				t.Errorf("requests %q, %d pongs", requests, pongs)
			}
			if c.proxy != nil && len(c.proxy.Targets()) != 1 {
				t.Error("it did not go through the proxy")
			}
		})
	}
}

func TestWebSocketRefused(t *testing.T) {
	// answer sends head as it is, with %s for what the key has to be answered with.
	answer := func(head string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
			io.WriteString(conn, strings.Replace(head, "%s", base64.StdEncoding.EncodeToString(sum[:]), 1))
		}
	}
	const right = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Accept: %s\r\n"
	for _, c := range []struct {
		name   string
		handle func(http.ResponseWriter, *http.Request)
		want   string
	}{
		{"not found", http.NotFound, "it answers 404 Not Found"},
		{"no upgrade", answer("HTTP/1.1 101 Switching Protocols\r\n\r\n"), "its answer is no WebSocket handshake"},
		{"another key", answer(strings.Replace(right, "%s", "AAAA", 1) + "\r\n"), "its answer is no WebSocket handshake"},
		{"no MQTT", answer(right + "\r\n"), "it does not speak MQTT there"},
		{"an extension", answer(right + "Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Extensions: x\r\n\r\n"), "it uses an extension that was not offered"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n"); err == nil; {
				_, err = io.WriteString(conn, "X: "+strings.Repeat("x", 1000)+"\r\n")
			}
		}, "the far end closed the connection"},
		{"silence", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 300ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(c.handle))
			defer srv.Close()
			err := bridgetest.Send(t, newSink(t, "", "5", impatient, func(m *mqtt.Config) { m.URL = "ws" + srv.URL[len("http"):] })).End()
			if err == nil || !strings.HasPrefix(err.Error(), "WebSocket at /mqtt: ") || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

func TestWebSocketEnds(t *testing.T) {
	b := start(t, &bridgetest.Broker{})
	f := startFront(t, b.Addr(), nil)
	s := bridgetest.Send(t, newSink(t, "", "5", func(m *mqtt.Config) { m.URL = "ws://" + f.addr() }))
	<-s.Up
	f.close(websocket.CloseTryAgainLater, "too busy")
	if err := s.End(); err == nil || err.Error() != `the far end closed the WebSocket (1013 "too busy")` {
		t.Error(err)
	}
}

// The whole suite over mosquitto's own WebSocket listener, with faults on the link.
func TestMosquittoWebSocket(t *testing.T) {
	bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
		port := freePort(t)
		m := bridgetest.StartMosquitto(t, "listener "+port+" 127.0.0.1", "socket_domain ipv4", "protocol websockets")
		c := bridgetest.Collect(t, m.Addr, "up/#")
		p := bridgetest.NewProxy(t, "127.0.0.1:"+port)
		return &bridgetest.FarEnd{
			Sink:     newSink(t, "", "5", lively, func(c *mqtt.Config) { c.URL = "ws://" + p.Addr() + "/mqtt" }),
			Arrivals: c.Arrivals, Late: true,
			Cut: p.Cut, LoseAcks: p.LoseAnswers, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
		}
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	address, err := fault.FreeAddress("tcp")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	return port
}
