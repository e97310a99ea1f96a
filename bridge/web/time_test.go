package web

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// pipes is a listener whose connections are net.Pipes, so that a whole server fits in a
// synctest bubble and its clock.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.conns <- server
	return client, nil
}

// inBubble runs f with a server on the bubble's clock.
func inBubble(t *testing.T, l *fakeLog, policy *auth.Policy, f func(t *testing.T, p *pipes)) {
	s, err := New(Options{GatewayID: "gw", Feed: l.hub, History: l.history, Last: l.last, Ingest: l.ingest, Auth: policy})
	if err != nil {
		t.Fatal(err)
	}
	p := &pipes{make(chan net.Conn), make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, p, Network) }()
	f(t, p)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A stream tells its position every 15 s: of a quiet topic, and also when much goes by
// that its account may not read.
func TestHeartbeatEvery15s(t *testing.T) {
	for name, busy := range map[string]bool{"quiet": false, "unreadable": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newFakeLog("e1")
				inBubble(t, l, closedPolicy(t), func(t *testing.T, p *pipes) {
					tr := &http.Transport{DialContext: p.dial}
					defer tr.CloseIdleConnections()
					query := "topic=plant1/quiet"
					if busy {
						query = "topic=%23&readable=1"
					}
					req, err := http.NewRequest("GET", "http://localhost/events?"+query, nil)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Authorization", basic("viewer"))
					resp, err := tr.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					buf := make([]byte, 1000)
					read := func() string {
						n, err := resp.Body.Read(buf)
						if err != nil {
							t.Fatal(err)
						}
						return string(buf[:n])
					}
					if got := read(); !strings.HasPrefix(got, "retry: ") {
						t.Fatalf("first %q", got)
					}
					if got := read(); got != "id: e1:0\n\n" {
						t.Fatalf("then %q", got)
					}
					stop := make(chan struct{})
					defer close(stop)
					go func() {
						tick := time.NewTicker(700 * time.Millisecond) // never at a heartbeat
						defer tick.Stop()
						for {
							select {
							case <-stop:
								return
							case <-tick.C:
								l.put("other", 0, 1)
							}
						}
					}()
					for range 3 {
						start := time.Now()
						got := read()
						released, _ := l.hub.Next()
						if want := (gateway.Position{Epoch: "e1", Offset: released - 1}); got != "id: "+want.String()+"\n\n" {
							t.Fatalf("got %q, want %v", got, want)
						}
						if d := time.Since(start); d < 15*time.Second || d >= 16*time.Second {
							t.Fatalf("after %v", d)
						}
					}
				})
			})
		})
	}
}

func TestCentrifugoPings(t *testing.T) {
	for name, c := range map[string]struct {
		commands []string
		pongs    int
		want     *cfClose
		after    time.Duration
	}{
		"no connect": {nil, 0, cfStale, cfFirstCommand},
		"no pong":    {[]string{`{"id":1,"connect":{}}`}, 0, cfNoPong, 35 * time.Second},
		"two pongs":  {[]string{`{"id":1,"connect":{}}`}, 2, cfNoPong, (25 + 25 + 35) * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inBubble(t, newFakeLog("e1"), openPolicy(t), func(t *testing.T, p *pipes) {
					d := websocket.Dialer{NetDialContext: p.dial}
					ws, _, err := d.Dial("ws://localhost/connection/websocket", nil)
					if err != nil {
						t.Fatal(err)
					}
					defer ws.Close()
					start := time.Now()
					for _, command := range c.commands {
						ws.WriteMessage(websocket.TextMessage, []byte(command))
					}
					for pongs := c.pongs; ; {
						_, frame, err := ws.ReadMessage()
						if err != nil {
							if !websocket.IsCloseError(err, c.want.code) {
								t.Fatalf("ended with %v, want %v", err, c.want)
							}
							break
						}
						if string(frame) == "{}" && pongs > 0 {
							pongs--
							ws.WriteMessage(websocket.TextMessage, []byte("{}"))
						}
					}
					if d := time.Since(start); d != c.after {
						t.Errorf("after %v, want %v", d, c.after)
					}
				})
			})
		})
	}
}
