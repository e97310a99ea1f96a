package mqtt

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// pacedWriter demands progress, not completion: a large payload over a slow link may take
// its time, a link that takes nothing at all for limit is dead.
type pacedWriter struct {
	conn  net.Conn
	limit time.Duration
}

func (w pacedWriter) Write(b []byte) (int, error) {
	const chunk = 16 << 10
	n := 0
	for n < len(b) {
		if err := w.conn.SetWriteDeadline(time.Now().Add(w.limit)); err != nil {
			return n, err
		}
		m, err := w.conn.Write(b[n:min(n+chunk, len(b))])
		n += m
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, fmt.Errorf("the link has taken nothing for %v", w.limit)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// pace spreads publishes over time, for a far end that discards what comes faster.
type pace struct {
	every time.Duration // 0: as fast as they come
	next  time.Time
}

// lag is how far behind its time a publish may go, because timers are late.
const lag = 10 * time.Millisecond

// wait is how long the next publish has to wait at now.
func (p *pace) wait(now time.Time) time.Duration {
	if p.every == 0 {
		return 0
	}
	return max(0, p.next.Sub(now))
}

// took counts a publish.
func (p *pace) took(now time.Time) {
	if floor := now.Add(-lag); p.next.Before(floor) {
		p.next = floor
	}
	p.next = p.next.Add(p.every)
}
