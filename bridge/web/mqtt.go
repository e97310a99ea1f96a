package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// mqtt is GET /mqtt: MQTT over WebSocket, MQTT 5 §6.0. The connection goes to
// Options.MQTT as bytes; who its client is, the MQTT CONNECT says.
func (s *Server) mqtt(w http.ResponseWriter, r *http.Request) {
	if websocket.IsWebSocketUpgrade(r) && !slices.Contains(websocket.Subprotocols(r), "mqtt") {
		problem(w, http.StatusBadRequest, "the client must offer the WebSocket subprotocol mqtt")
		return
	}
	ctx, end := s.stream(w, r, "mqtt")
	if end == nil {
		return
	}
	up := s.upgrader
	up.Subprotocols = []string{"mqtt"}
	up.WriteBufferSize = 64 // only the handshake would use it
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		end("refused")
		return
	}
	c := &mqttConn{wsConn: newWSConn(ws)}
	// The broker ends its clients with a DISCONNECT of its own; who is still here when
	// the server has waited long enough is cut.
	uncut := context.AfterFunc(r.Context(), func() { c.raw.Close() })
	s.o.MQTT(ctx, c)
	reason := endReason(ctx, nil)
	uncut()
	c.Close()
	end(reason)
}

// mqttConn is a WebSocket connection as a stream of bytes. A packet may span frames and
// a frame may hold several packets [MQTT-6.0.0-2]; each Write is one frame.
//
// It is a net.Conn, with one difference: after a read deadline has passed the
// connection cannot be read any more, so deadlines end connections, not single reads.
type mqttConn struct {
	*wsConn
	frame io.Reader // the message that is being read

	closing  sync.Once
	closeErr error
}

func (c *mqttConn) Read(p []byte) (int, error) {
	for {
		if c.frame == nil {
			kind, frame, err := c.ws.NextReader()
			if err != nil {
				return 0, c.readError(err)
			}
			if kind != websocket.BinaryMessage { // [MQTT-6.0.0-1]
				c.writeClose(websocket.CloseUnsupportedData, "MQTT needs binary frames")
				c.raw.Close()
				return 0, errors.New("a text frame where MQTT needs a binary one")
			}
			c.frame = frame
		}
		n, err := c.frame.Read(p)
		if err == io.EOF { // of this message
			c.frame = nil
			if n == 0 {
				continue
			}
			err = nil
		}
		return n, c.readError(err)
	}
}

// readError gives a close by the peer, and a deadline, the faces they have on a TCP
// connection.
func (c *mqttConn) readError(err error) error {
	var closed *websocket.CloseError
	var timeout net.Error
	switch {
	case errors.As(err, &closed):
		return io.EOF
	case errors.As(err, &timeout) && timeout.Timeout():
		return os.ErrDeadlineExceeded
	}
	return err
}

func (c *mqttConn) Write(p []byte) (int, error) {
	if err := c.write(time.Time{}, appendFrame(make([]byte, 0, len(p)+10), websocket.BinaryMessage, p)); err != nil {
		return 0, fmt.Errorf("write a WebSocket frame: %w", err)
	}
	return len(p), nil
}

func (c *mqttConn) Close() error {
	c.closing.Do(func() {
		c.writeClose(websocket.CloseNormalClosure, "")
		c.closeErr = c.raw.Close()
	})
	return c.closeErr
}

func (c *mqttConn) LocalAddr() net.Addr  { return c.raw.LocalAddr() }
func (c *mqttConn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

func (c *mqttConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *mqttConn) SetReadDeadline(t time.Time) error { return c.raw.SetReadDeadline(t) }

// SetWriteDeadline holds for a Write that is under way, too.
func (c *mqttConn) SetWriteDeadline(t time.Time) error { return c.setTill(t) }
