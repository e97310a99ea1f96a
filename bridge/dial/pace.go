package dial

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Paced writes to a connection and demands progress, not completion: a large payload over a slow link
// may take its time, a link that takes nothing at all for Limit is dead.
type Paced struct {
	Conn  net.Conn
	Limit time.Duration
}

func (w Paced) Write(b []byte) (int, error) {
	const chunk = 16 << 10
	n := 0
	for n < len(b) {
		if err := w.Conn.SetWriteDeadline(time.Now().Add(w.Limit)); err != nil {
			return n, err
		}
		m, err := w.Conn.Write(b[n:min(n+chunk, len(b))])
		n += m
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, fmt.Errorf("the link has taken nothing for %v", w.Limit)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
