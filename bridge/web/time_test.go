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
func inBubble(t *testing.T, l *fakeLog, f func(t *testing.T, p *pipes)) {
	s, err := New(Options{GatewayID: "gw", Feed: l.hub, History: l.history, Last: l.last, Ingest: l.ingest, Auth: openPolicy(t)})
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

func TestHeartbeatEvery15s(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog("e1")
		inBubble(t, l, func(t *testing.T, p *pipes) {
			tr := &http.Transport{DialContext: p.dial}
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr}).Get("http://localhost/events?topic=quiet")
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
			for range 3 {
				last := l.put("other", 0, 1)
				start := time.Now()
				if got := read(); got != "id: "+last.Position().String()+"\n\n" {
					t.Fatalf("got %q", got)
				}
				if d := time.Since(start); d != 15*time.Second {
					t.Fatalf("after %v", d)
				}
			}
		})
	})
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
				inBubble(t, newFakeLog("e1"), func(t *testing.T, p *pipes) {
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
