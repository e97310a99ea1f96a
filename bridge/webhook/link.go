package webhook

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/gateway"
)

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
	conn   *dial.HTTP
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
	header, body, err := l.s.request(batch, time.Now())
	if err != nil {
		return again, err
	}
	if len(body) >= askFirst && !l.s.unasked {
		header.Set("Expect", "100-continue")
	}
	req, err := http.NewRequestWithContext(ctx, l.s.c.Method, l.s.url.String(), bytes.NewReader(body))
	if err != nil {
		return again, err
	}
	req.Header = header
	resp, err := l.conn.Do(req)
	if err != nil {
		return again, err
	}
	now := time.Now()
	l.s.unasked = l.s.unasked || resp.StatusCode == http.StatusExpectationFailed
	verdict, advice := judge(resp.StatusCode, resp.Header)
	if verdict == accepted {
		return accepted, nil
	}
	wait := time.Duration(0)
	if verdict == again {
		wait = retryAfter(resp.Header, now)
	}
	err = answerError(resp.StatusCode, firstLine(resp.Body), advice, wait)
	switch {
	case verdict == gone:
		err = refrain{err, time.Time{}}
	case wait > 0:
		err = refrain{err, now.Add(wait)}
	case resp.StatusCode == http.StatusTooManyRequests:
		err = gateway.Errorf(gateway.ErrFull, "%w", err)
	}
	return verdict, err
}
