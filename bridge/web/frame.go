package web

import (
	"encoding/binary"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// wsConn writes WebSocket frames (RFC 6455 §5.2). gorilla does the handshake and the
// reading; writing is ours, because then many frames leave in one write(2), and a
// deadline is a property of the write and not of the connection.
type wsConn struct {
	ws  *websocket.Conn
	raw net.Conn

	mu     sync.Mutex // one writer at a time
	closed bool       // a close frame, or half a frame, was written: nothing may follow (§5.5.1)

	deadline sync.Mutex
	till     time.Time // the owner's write deadline, for writes that bring none
}

func newWSConn(ws *websocket.Conn) *wsConn {
	c := &wsConn{ws: ws, raw: ws.NetConn()}
	ws.SetPingHandler(func(data string) error {
		// The reader answers, so it must not be held up by a peer that does not read.
		return c.write(time.Now().Add(time.Second), appendFrame(nil, websocket.PongMessage, []byte(data)))
	})
	ws.SetCloseHandler(func(code int, _ string) error {
		if code == websocket.CloseNoStatusReceived {
			code = websocket.CloseNormalClosure
		}
		c.writeClose(code, "")
		return nil // the reader gets the close error, and its owner closes
	})
	return c
}

// write writes whole frames, until deadline; zero means the owner's.
func (c *wsConn) write(deadline time.Time, frames []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if err := c.arm(deadline); err != nil {
		return err
	}
	n, err := c.raw.Write(frames)
	c.closed = err != nil && n > 0
	return err
}

func (c *wsConn) arm(deadline time.Time) error {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	if deadline.IsZero() {
		deadline = c.till
	}
	return c.raw.SetWriteDeadline(deadline)
}

// setTill sets the owner's write deadline, also for a write that is under way.
func (c *wsConn) setTill(t time.Time) error {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.till = t
	return c.raw.SetWriteDeadline(t)
}

// writeClose says good-bye once, with a code and a reason of at most 123 bytes. A peer
// that does not take it at once does not get it.
func (c *wsConn) writeClose(code int, reason string) {
	soon := time.Now().Add(time.Second)
	c.arm(soon) // a writer that a slow peer holds up lets go
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		c.arm(soon)
		c.raw.Write(appendFrame(nil, websocket.CloseMessage, websocket.FormatCloseMessage(code, reason)))
	}
}

// appendFrame appends one final, unmasked frame, as a server sends it.
func appendFrame(buf []byte, opcode byte, payload []byte) []byte {
	return append(appendFrameHeader(buf, opcode, len(payload)), payload...)
}

func appendFrameHeader(buf []byte, opcode byte, n int) []byte {
	const final = 0x80
	buf = append(buf, final|opcode)
	switch {
	case n < 126:
		return append(buf, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(buf, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(buf, 127), uint64(n))
}
