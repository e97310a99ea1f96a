package mqtt

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// webSocket is a net.Conn over RFC 6455, the little of it that a client of MQTT needs: each Write
// is one binary frame, Read is what binary frames hold, whatever their bounds (MQTT 5 §6.0). It is written here
// because a library belongs to one package of this house, and this much is less than a way to share it.
type webSocket struct {
	net.Conn
	r     *bufio.Reader
	limit time.Duration // for a pong

	left uint64 // of the frame that is being read

	mu  sync.Mutex // Read answers pings while Write writes
	buf []byte
}

// Opcodes, §5.2.
const (
	opContinuation = 0
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10

	final  = 0x80
	masked = 0x80
)

// maxHandshake bounds the far end's answer to the handshake.
const maxHandshake = 64 << 10

// openWebSocket does the opening handshake (§4.1) on conn until deadline.
func (s *Sink) openWebSocket(conn net.Conn, deadline time.Time) (net.Conn, error) {
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	in := &io.LimitedReader{R: conn, N: maxHandshake}
	r := bufio.NewReader(in)
	if err := handshake(conn, r, s.at); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", s.dialer.Timeout())
		}
		return nil, fmt.Errorf("WebSocket at %s: %w", s.at.path, closed(err))
	}
	in.N = math.MaxInt64
	return &webSocket{Conn: conn, r: r, limit: s.c.AckTimeout}, conn.SetDeadline(time.Time{})
}

func handshake(conn net.Conn, r *bufio.Reader, at endpoint) error {
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	path, query, _ := strings.Cut(at.path, "?")
	usual := map[bool]string{false: ":80", true: ":443"}[at.secure] // left out, as browsers do
	req := &http.Request{
		Method: http.MethodGet, Host: strings.TrimSuffix(at.address, usual),
		URL: &url.URL{Opaque: path, RawQuery: query}, // as it was written: a $ stays one
		Header: http.Header{
			"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Key": {key},
			"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Protocol": {"mqtt"},
		},
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return err
	}
	accept := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	h := resp.Header
	switch {
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return fmt.Errorf("it answers %s", resp.Status)
	case !strings.EqualFold(h.Get("Upgrade"), "websocket"),
		!strings.Contains(strings.ToLower(h.Get("Connection")), "upgrade"),
		h.Get("Sec-Websocket-Accept") != base64.StdEncoding.EncodeToString(accept[:]):
		return errors.New("its answer is no WebSocket handshake")
	case h.Get("Sec-Websocket-Protocol") != "mqtt":
		return errors.New("it does not speak MQTT there")
	case h.Get("Sec-Websocket-Extensions") != "":
		return errors.New("it uses an extension that was not offered")
	}
	return nil
}

// Write sends b as one frame.
func (c *webSocket) Write(b []byte) (int, error) {
	if err := c.frame(opBinary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// frame sends one frame, masked (§5.3).
func (c *webSocket) frame(op byte, b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf[:0], final|op)
	switch n := len(b); {
	case n < 126:
		c.buf = append(c.buf, masked|byte(n))
	case n <= math.MaxUint16:
		c.buf = binary.BigEndian.AppendUint16(append(c.buf, masked|126), uint16(n))
	default:
		c.buf = binary.BigEndian.AppendUint64(append(c.buf, masked|127), uint64(n))
	}
	var key [4]byte
	rand.Read(key[:])
	c.buf = append(c.buf, key[:]...)
	for i, x := range b {
		c.buf = append(c.buf, x^key[i&3])
	}
	_, err := c.Conn.Write(c.buf)
	return err
}

// Read reads from binary frames and answers what comes between them.
func (c *webSocket) Read(b []byte) (int, error) {
	for c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n, err := c.r.Read(b[:min(uint64(len(b)), c.left)])
	c.left -= uint64(n)
	return n, err
}

// next reads a frame's header (§5.2), and the whole of a control frame.
func (c *webSocket) next() error {
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:2]); err != nil {
		return err
	}
	op, size := head[0]&0x0F, uint64(head[1]&0x7F)
	switch {
	case head[0]&0x70 != 0 || head[1]&masked != 0:
		return errors.New("the far end sent a malformed WebSocket frame")
	case op >= opClose && (size > 125 || head[0]&final == 0):
		return errors.New("the far end sent a malformed WebSocket control frame")
	}
	if extra := map[uint64]int{126: 2, 127: 8}[size]; extra > 0 {
		if _, err := io.ReadFull(c.r, head[8-extra:]); err != nil {
			return err
		}
		clear(head[:8-extra])
		size = binary.BigEndian.Uint64(head[:])
	}
	switch op {
	case opBinary, opContinuation:
		c.left = size
		return nil
	case opPing, opPong, opClose:
		body := make([]byte, size)
		if _, err := io.ReadFull(c.r, body); err != nil {
			return err
		}
		return c.control(op, body)
	}
	return fmt.Errorf("the far end sent a WebSocket frame of type %d, which makes no sense here", op)
}

func (c *webSocket) control(op byte, body []byte) error {
	switch op {
	case opPing:
		if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
			return err
		}
		return c.frame(opPong, body)
	case opClose:
		if len(body) < 2 {
			return io.EOF
		}
		return fmt.Errorf("the far end closed the WebSocket (%d %q)", binary.BigEndian.Uint16(body), body[2:])
	}
	return nil
}
