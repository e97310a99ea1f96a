package amqp

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
)

// wire is the connection that the library gets. It demands progress of each write, cuts messages
// that are too large, and keeps why it ended: the library tells that as text, or not at all.
type wire struct {
	net.Conn
	raw   net.Conn // what carries it: under TLS, the connection below
	limit time.Duration
	in    cutter

	mu  sync.Mutex
	err error
}

func newWire(conn net.Conn, limit time.Duration) *wire {
	w := &wire{Conn: conn, raw: conn, limit: limit, in: cutter{r: bufio.NewReaderSize(conn, 16<<10)}}
	if secure, ok := conn.(*tls.Conn); ok {
		w.raw = secure.NetConn()
	}
	// What lies in the kernel's buffer looks sent. A small buffer keeps a slow link from
	// looking like a dead one. That it cannot be set harms nobody.
	if tcp, ok := w.raw.(*net.TCPConn); ok {
		tcp.SetWriteBuffer(32 << 10)
	}
	return w
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.in.Read(b)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.keep(errors.New("the far end is silent; its heartbeats are missing"))
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		w.keep(errors.New("the far end closed the connection"))
	case err != nil:
		w.keep(err)
	}
	return n, err
}

// Write takes the time it needs, as long as something moves within limit.
func (w *wire) Write(b []byte) (int, error) {
	n, err := dial.Paced{Conn: w.Conn, Limit: w.limit}.Write(b)
	if err != nil {
		w.keep(err)
	}
	return n, err
}

// Close does not wait to say TLS's goodbye, which a link that lies still would delay by
// seconds; AMQP has its own, and has said it by now if it could be said.
func (w *wire) Close() error { return w.raw.Close() }

// kill ends every read and write. It resets the connection: what the far end has not read yet
// shall not come to light there when the next connection is already ahead of it.
func (w *wire) kill() {
	if tcp, ok := w.raw.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	w.Close()
}

// fail is kill with a reason.
func (w *wire) fail(err error) {
	w.keep(err)
	w.kill()
}

// keep remembers the first error, and returns err. That it was closed here is no reason.
func (w *wire) keep(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && !errors.Is(err, net.ErrClosed) {
		w.err = err
	}
	return err
}

// cause is why the wire ended, or nil.
func (w *wire) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
