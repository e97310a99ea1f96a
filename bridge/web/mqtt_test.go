package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// mqttServer runs serve for each connection on /mqtt; the channel gets the end reasons.
func mqttServer(t *testing.T, one func(context.Context, net.Conn)) (*running, chan string) {
	reasons := make(chan string, 10)
	return serve(t, newFakeLog("e1"), ended(reasons), func(o *Options) { o.MQTT, o.StopTimeout = one, 300*time.Millisecond }), reasons
}

func dialMQTT(t *testing.T, s *running, protocols ...string) (*websocket.Conn, *http.Response, error) {
	d := websocket.Dialer{Subprotocols: protocols}
	ws, resp, err := d.Dial(strings.Replace(s.url, "http", "ws", 1)+"/mqtt", nil)
	if err == nil {
		ws.SetReadDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { ws.Close() })
	}
	return ws, resp, err
}

func TestMQTTIsAStreamOfBytes(t *testing.T) {
	s, reasons := mqttServer(t, func(_ context.Context, c net.Conn) { io.Copy(c, c) })
	ws, resp, err := dialMQTT(t, s, "other", "mqtt")
	if err != nil || resp.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
		t.Fatalf("%v %v", err, resp)
	}
	var sent, got []byte
	for i, size := range []int{0, 1, 2, 125, 126, 127, 65535, 65536, 300000, 5} {
		message := bytes.Repeat([]byte{byte(i + 1)}, size)
		sent = append(sent, message...)
		if i%2 == 0 { // in fragments
			w, _ := ws.NextWriter(websocket.BinaryMessage)
			w.Write(message[:size/2])
			w.Write(message[size/2:])
			w.Close()
		} else if err := ws.WriteMessage(websocket.BinaryMessage, message); err != nil {
			t.Fatal(err)
		}
		if i == 3 { // a ping in between is answered and changes nothing
			ws.WriteControl(websocket.PingMessage, []byte("hi"), time.Now().Add(time.Second))
		}
		for len(got) < len(sent) {
			kind, part, err := ws.ReadMessage()
			if err != nil || kind != websocket.BinaryMessage {
				t.Fatalf("kind %d, %v", kind, err)
			}
			got = append(got, part...)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Fatal("other bytes came back")
	}
	ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""), time.Now().Add(time.Second))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 1000) {
		t.Errorf("the close was answered with %v", err)
	}
	awaitReason(t, reasons, "mqtt client")
}

func TestMQTTRefuses(t *testing.T) {
	called := make(chan error, 10)
	s, _ := mqttServer(t, func(_ context.Context, c net.Conn) {
		_, err := c.Read(make([]byte, 10))
		called <- err
	})
	for _, protocols := range [][]string{nil, {"mqttv3.1"}} {
		if _, resp, err := dialMQTT(t, s, protocols...); err == nil || resp.StatusCode != 400 {
			t.Errorf("subprotocols %v: %v", protocols, resp)
		}
	}
	if status, _ := call(t, "GET", s.url+"/mqtt", ""); status != 400 {
		t.Errorf("a plain GET: %d", status)
	}
	ws, _, err := dialMQTT(t, s, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	ws.WriteMessage(websocket.TextMessage, []byte("x"))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseUnsupportedData) {
		t.Errorf("a text frame: %v", err)
	}
	if err := <-called; err == nil || !strings.Contains(err.Error(), "text frame") {
		t.Errorf("the broker got %v", err)
	}
	if s := serve(t, newFakeLog("e1")); s != nil {
		if status, _ := call(t, "GET", s.url+"/mqtt", ""); status != 404 {
			t.Errorf("without a broker: %d", status)
		}
	}
}

func TestMQTTDeadlines(t *testing.T) {
	results := make(chan error, 3)
	release := make(chan struct{})
	s, _ := mqttServer(t, func(_ context.Context, c net.Conn) {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := c.Read(make([]byte, 10))
		results <- err
		// A write that is under way ends by a deadline that is set meanwhile.
		go func() {
			<-release
			c.SetWriteDeadline(time.Now())
		}()
		big := make([]byte, 16<<20)
		_, err = c.Write(big)
		results <- err
		c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Write(big[:1])
		results <- err
	})
	ws, _, err := dialMQTT(t, s, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	if err := <-results; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	head := make([]byte, 1)
	if _, err := io.ReadFull(ws.NetConn(), head); err != nil { // the write has begun
		t.Fatal(err)
	}
	close(release)
	if err := <-results; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
	if err := <-results; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after half a frame: %v", err)
	}
}

func TestMQTTCloseAndStop(t *testing.T) {
	ctxEnded := make(chan struct{})
	s, reasons := mqttServer(t, func(ctx context.Context, c net.Conn) {
		b := make([]byte, 1)
		if _, err := c.Read(b); err == nil && b[0] == 'q' {
			if c.RemoteAddr() == nil || c.LocalAddr() == nil {
				t.Error("no addresses")
			}
			c.Close()
			c.Close()
			return
		}
		<-ctx.Done()
		close(ctxEnded)
		c.Read(b) // like a broker that does not let go: the server's deadline cuts
	})
	ws, _, err := dialMQTT(t, s, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	ws.WriteMessage(websocket.BinaryMessage, []byte("q"))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("closed with %v", err)
	}
	awaitReason(t, reasons, "mqtt client")
	ws, _, err = dialMQTT(t, s, "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	ws.WriteMessage(websocket.BinaryMessage, []byte("s"))
	s.stop()
	<-ctxEnded
	awaitReason(t, reasons, "mqtt stopping")
}
