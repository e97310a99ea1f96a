package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// message is what an EventSource would dispatch.
type message struct {
	name, data, id string
}

// eventSource parses a stream as WHATWG HTML §9.2.6 says, and refuses everything that
// a conforming parser would have to guess about or ignore.
type eventSource struct {
	t      testing.TB
	body   io.ReadCloser
	lines  *bufio.Reader
	lastID string // the last event ID string
	retry  string
	quiet  int // blocks that dispatched nothing but set lastID
}

// open connects; header is "Name: value". It fails the test unless a stream comes.
func open(t testing.TB, url string, header ...string) *eventSource {
	t.Helper()
	resp := get(t, url, header...)
	if resp.StatusCode != 200 {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("GET %s: %s: %s", url, resp.Status, body)
	}
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("Content-Type %q", got)
	}
	return &eventSource{t: t, body: resp.Body, lines: bufio.NewReader(resp.Body)}
}

func get(t testing.TB, url string, header ...string) *http.Response {
	t.Helper()
	return do(t, "GET", url, "", header...)
}

func do(t testing.TB, method, url, body string, header ...string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
		if name == "Host" {
			req.Host = value
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// errQuiet says that the block dispatched nothing.
var errQuiet = errors.New("a block without data")

// block reads to the next empty line.
func (es *eventSource) block() (message, error) {
	m, data, seen := message{}, false, map[string]bool{}
	for {
		line, err := es.lines.ReadString('\n')
		if err != nil {
			if line != "" || len(seen) > 0 {
				return m, fmt.Errorf("the stream ends inside a block: %q", line)
			}
			return m, err
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.ContainsAny(line, "\r\x00") {
			return m, fmt.Errorf("a line with CR or NUL: %q", line)
		}
		if line == "" {
			break
		}
		field, value, ok := strings.Cut(line, ": ")
		if !ok || seen[field] {
			return m, fmt.Errorf("line %q: no field, or one that was there already", line)
		}
		seen[field] = true
		switch field {
		case "id":
			es.lastID = value
		case "data":
			m.data, data = value, true
		case "event":
			m.name = value
		case "retry":
			es.retry = value
		default:
			return m, fmt.Errorf("unknown field %q", line)
		}
	}
	if len(seen) == 0 {
		return m, errors.New("an empty block")
	}
	m.id = es.lastID
	if !data {
		if m.name != "" {
			return m, errors.New("an event without data, which nobody gets")
		}
		if seen["id"] {
			es.quiet++
		}
		return m, errQuiet
	}
	if !seen["id"] {
		return m, fmt.Errorf("an event without id: %+v", m)
	}
	return m, nil
}

// next returns what an EventSource dispatches next.
func (es *eventSource) next() message {
	es.t.Helper()
	for {
		m, err := es.block()
		if err == nil {
			return m
		}
		if err != errQuiet {
			es.t.Fatal(err)
		}
	}
}

// started waits until the stream has told its position, so that it is live.
func (es *eventSource) started() *eventSource {
	es.t.Helper()
	for es.quiet == 0 {
		if m, err := es.block(); err != errQuiet {
			es.t.Fatalf("before the first position: %+v, %v", m, err)
		}
	}
	return es
}

func (es *eventSource) close() { es.body.Close() }
