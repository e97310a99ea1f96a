package hci

import (
	"io"
	"slices"
	"sync"
)

// Pipe returns both ends of a link that carries one packet with each Write, as HCI does, without the kernel. Closing one
// end closes both.
func Pipe() (host, controller io.ReadWriteCloser) {
	there, back := make(chan []byte, 64), make(chan []byte, 64)
	closed := make(chan struct{})
	once := new(sync.Once)
	return &end{there, back, closed, once}, &end{back, there, closed, once}
}

type end struct {
	out, in chan []byte
	closed  chan struct{}
	once    *sync.Once
}

func (e *end) Read(b []byte) (int, error) {
	select {
	case p := <-e.in:
		return copy(b, p), nil
	case <-e.closed:
		return 0, io.EOF
	}
}

func (e *end) Write(b []byte) (int, error) {
	select {
	case e.out <- slices.Clone(b):
		return len(b), nil
	case <-e.closed:
		return 0, io.ErrClosedPipe
	}
}

func (e *end) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}
