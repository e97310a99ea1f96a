package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// maxIdle is how long a connection without a request is trusted: just below the minute after
// which many load balancers close one, so that a request does not run into that.
const maxIdle = 50 * time.Second

// askFirst is the size of a body, in bytes, from which the far end is asked before it is sent
// (RFC 9110 §10.1.1). One that refuses it saves the link the upload; and without that its answer
// would be lost with the connection, which it closes with the body unread.
const askFirst = 64 << 10

// link is one call of Send. It belongs to that goroutine.
type link struct {
	s      *Sink
	events <-chan *gateway.Event // nil after its end
	done   func(*gateway.Event, error)
	items  []item // taken and not answered, in order

	conn *http.ClientConn
	used time.Time // when it last had an answer
}

func (l *link) close() {
	if l.conn != nil {
		l.conn.Close()
	}
}

// connect makes a connection, in place of the one that there is.
func (l *link) connect(ctx context.Context) error {
	l.close()
	ctx, cancel := context.WithTimeout(ctx, l.s.dialer.Timeout())
	defer cancel()
	conn, err := l.s.transport.NewClientConn(ctx, l.s.url.Scheme, l.s.address)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", l.s.dialer.Timeout())
		}
		return fmt.Errorf("connect to %s: %w", l.s.address, err)
	}
	l.conn, l.used = conn, time.Now()
	return nil
}

// run sends batch after batch until the events end or one is not accepted.
func (l *link) run(ctx context.Context) error {
	for {
		batch, err := l.gather(ctx)
		if err != nil || len(batch) == 0 {
			return err
		}
		verdict, err := l.post(ctx, batch)
		switch {
		case verdict == accepted:
			for _, it := range batch {
				l.done(it.event, nil)
			}
			l.answered(batch)
		case verdict == poison && len(batch) == 1:
			l.done(batch[0].event, gateway.Errorf(gateway.ErrInvalid, "%w", err))
			l.answered(batch)
		case verdict == poison:
			l.halve(batch)
		default:
			return err
		}
	}
}

// post makes one request. Its error is the reason when the verdict is not accepted.
func (l *link) post(ctx context.Context, batch []item) (verdict meaning, err error) {
	if l.conn.Err() != nil || time.Since(l.used) > maxIdle {
		if err := l.connect(ctx); err != nil {
			return again, err
		}
	}
	header, body, err := l.s.request(batch, time.Now())
	if err != nil {
		return again, err
	}
	if len(body) >= askFirst && !l.s.unasked {
		header.Set("Expect", "100-continue")
	}
	limit := l.s.c.AckTimeout
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(limit, func() { cancel(fmt.Errorf("no answer within %v", limit)) })
	defer watch.Stop()

	req, err := http.NewRequestWithContext(ctx, l.s.c.Method, l.s.url.String(),
		&moving{bytes.NewReader(body), func() { watch.Reset(limit) }})
	if err != nil {
		return again, err
	}
	req.Header, req.ContentLength = header, int64(len(body))
	resp, err := l.conn.RoundTrip(req)
	if err != nil {
		return again, l.words(ctx, err)
	}
	answer := io.LimitReader(resp.Body, maxAnswer)
	line := firstLine(answer)
	io.Copy(io.Discard, answer) // what is read to its end leaves the connection usable
	resp.Body.Close()
	l.used = time.Now()

	l.s.unasked = l.s.unasked || resp.StatusCode == http.StatusExpectationFailed
	verdict, advice := judge(resp.StatusCode, resp.Header)
	if verdict == accepted {
		return accepted, nil
	}
	wait := time.Duration(0)
	if verdict == again {
		wait = retryAfter(resp.Header, l.used)
		l.s.notBefore = l.used.Add(wait)
	}
	err = answerError(resp.StatusCode, line, advice, wait)
	if verdict == gone {
		l.s.gone = err
	}
	return verdict, err
}

// words says why a request had no answer.
func (l *link) words(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the far end closed the connection without an answer")
	}
	return err
}

// moving is a body that tells of each part which the connection has taken, so that a large one may
// take its time over a slow link, while a link that takes nothing is dead.
type moving struct {
	r     *bytes.Reader
	moved func()
}

func (m *moving) Read(b []byte) (int, error) {
	m.moved()
	return m.r.Read(b[:min(len(b), 4096)])
}

// Close is for http.Request.
func (m *moving) Close() error { return nil }
