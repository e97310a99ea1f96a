package dial

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// overPipe is a connection in memory, for time that is not real. serve is the far end of each.
func overPipe(t *testing.T, limit time.Duration, serve func(net.Conn)) (h *HTTP, dialled *int) {
	d, err := New(Config{}, false)
	if err != nil {
		t.Fatal(err)
	}
	h = d.HTTP(&url.URL{Scheme: "http", Host: "far"}, limit)
	dialled = new(int)
	h.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		*dialled++
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			serve(there)
		}()
		return here, nil
	}
	return h, dialled
}

func post(t *testing.T, h *HTTP, body string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://far/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Do(req)
	if err != nil {
		return "", err
	}
	answer, err := io.ReadAll(resp.Body)
	return string(answer), err
}

// answers says "ok" to every request.
func answers(conn net.Conn) {
	answerFrom(conn, conn)
}

func answerFrom(from io.Reader, conn net.Conn) {
	r := bufio.NewReader(from)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

// A connection is kept, but not used after a minute of silence, when others have closed it.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, dialled := overPipe(t, time.Second, answers)
		defer h.Close()
		for i, c := range []struct {
			wait time.Duration
			want int
		}{{0, 1}, {49 * time.Second, 1}, {49 * time.Second, 1}, {51 * time.Second, 2}} {
			time.Sleep(c.wait)
			if got, err := post(t, h, "x"); got != "ok" || err != nil || *dialled != c.want {
				t.Errorf("request %d: %q, %v, %d connections", i+1, got, err, *dialled)
			}
		}
	})
}

// slowly reads at most 4 KiB in 0.9 s.
type slowly struct{ io.Reader }

func (s slowly) Read(b []byte) (int, error) {
	time.Sleep(900 * time.Millisecond)
	return s.Reader.Read(b[:min(len(b), 4096)])
}

// What moves may take its time; what lies still does not.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := overPipe(t, time.Second, func(conn net.Conn) { answerFrom(slowly{conn}, conn) })
		defer h.Close()
		began := time.Now()
		got, err := post(t, h, strings.Repeat("x", 64<<10))
		if took := time.Since(began); took < 10*time.Second || got != "ok" || err != nil {
			t.Errorf("%q, %v after %v", got, err, took)
		}

		still, _ := overPipe(t, time.Second, func(conn net.Conn) { io.Copy(io.Discard, conn) })
		defer still.Close()
		began = time.Now()
		_, err = post(t, still, "x")
		if took := time.Since(began); err == nil || err.Error() != "no answer within 1s" || took != time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// An answer counts from its status on, whatever becomes of its body.
func TestBrokenBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := overPipe(t, time.Second, func(conn net.Conn) {
			req, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				io.Copy(io.Discard, req.Body)
				io.WriteString(conn, "HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nhalf")
			}
		})
		defer h.Close()
		if got, err := post(t, h, "x"); got != "half" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := post(t, h, "x"); err != nil { // over a new connection
			t.Error(err)
		}
	})
}
