package dial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// maxIdle is how long a connection without a request is trusted: just below the minute after
// which many load balancers close one, so that a request does not run into that.
const maxIdle = 50 * time.Second

// maxAnswer bounds the header of an answer and what is read of its body, in bytes each.
const maxAnswer = 256 << 10

// HTTP is a connection for requests, one at a time. An http.Client sends a request again when it sees
// fit; this does not, because the pump is the one layer that retries. A far end may close
// a connection on which nothing happens, that is HTTP; the next request then dials anew.
type HTTP struct {
	// Limit is how long the far end may take nothing of a request, or owe the answer to a whole one.
	Limit time.Duration

	d         *Dialer
	scheme    string
	address   string // host:port
	transport *http.Transport
	conn      *http.ClientConn
	used      time.Time // when it last had an answer
}

// HTTP makes connections to the host of u, an http or https URL, to speak HTTP/1.1 or, where
// TLS lets the far end choose it, HTTP/2. It opens nothing.
func (d *Dialer) HTTP(u *url.URL, limit time.Duration) *HTTP {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	h := &HTTP{Limit: limit, d: d, scheme: u.Scheme, address: net.JoinHostPort(u.Hostname(), port)}
	h.transport = &http.Transport{ // makes connections; its pool is not used
		DialContext:            h.dial,
		TLSClientConfig:        d.TLS(h.address),
		TLSHandshakeTimeout:    d.c.ConnectTimeout,
		ExpectContinueTimeout:  time.Second, // then the body is sent all the same
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswer,
		Protocols:              new(http.Protocols),
	}
	h.transport.Protocols.SetHTTP1(true)
	h.transport.Protocols.SetHTTP2(true)
	return h
}

// dial makes the TCP connection. What lies in the kernel's buffer looks sent; a small one keeps a
// slow link from looking like a dead one.
func (h *HTTP) dial(ctx context.Context, _, address string) (net.Conn, error) {
	conn, err := h.d.DialTCP(ctx, address)
	if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
		if err := tcp.SetWriteBuffer(32 << 10); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, err
}

// Connect makes a connection, in place of the one that there is.
func (h *HTTP) Connect(ctx context.Context) error {
	h.Close()
	ctx, cancel := context.WithTimeout(ctx, h.d.c.ConnectTimeout)
	defer cancel()
	conn, err := h.transport.NewClientConn(ctx, h.scheme, h.address)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", h.d.c.ConnectTimeout)
		}
		return fmt.Errorf("connect to %s: %w", h.address, closed(err))
	}
	h.conn, h.used = conn, time.Now()
	return nil
}

// Close ends the connection, if there is one.
func (h *HTTP) Close() {
	if h.conn != nil {
		h.conn.Close()
		h.conn = nil
	}
}

// Do sends req on the connection, whatever host it names, and returns the answer with its body, or
// with what there is of it. Redirects are answers. Errors are for people to read.
func (h *HTTP) Do(req *http.Request) (*http.Response, error) {
	if h.conn == nil || h.conn.Err() != nil || time.Since(h.used) > maxIdle {
		if err := h.Connect(req.Context()); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	watch := time.AfterFunc(h.Limit, func() { cancel(fmt.Errorf("no answer within %v", h.Limit)) })
	defer watch.Stop()
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &moving{req.Body, func() { watch.Reset(h.Limit) }}
	}
	resp, err := h.conn.RoundTrip(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, closed(err)
	}
	// The status is the answer; a body that breaks off takes nothing of it back.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	h.used = time.Now()
	return resp, nil
}

func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the far end closed the connection without an answer")
	}
	return err
}

// moving is a body that tells of each part which the connection has taken, so that a large one may
// take its time over a slow link, while a link that takes nothing is dead.
type moving struct {
	io.ReadCloser
	moved func()
}

func (m *moving) Read(b []byte) (int, error) {
	m.moved()
	return m.ReadCloser.Read(b[:min(len(b), 4096)])
}
