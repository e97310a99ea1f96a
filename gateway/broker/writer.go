package broker

import (
	"io"
	"net"
	"sync"
	"time"
)

// keepBuffer is the largest buffer a writer keeps for its next batch, in bytes.
const keepBuffer = 16 << 10

// writer is the way to one client's socket: a queue of bytes and, while there are
// any, one goroutine that writes them. Whatever gathers during one write leaves
// together in the next, so that many acknowledgements cost one system call.
type writer struct {
	nc    net.Conn
	max   int         // bytes
	wrote func()      // called after each write, without the lock
	fail  func(error) // called once, without the lock, when the socket does not take what it should
	crash func(r any) // called when wrote panics

	mu      sync.Mutex
	idle    sync.Cond // signalled when nothing is left to write
	buf     []byte
	spare   []byte
	writing int  // bytes of the write under way
	running bool // the goroutine is there
	closed  bool // takes nothing more
}

func newWriter(nc net.Conn, max int) *writer {
	w := &writer{nc: nc, max: max}
	w.idle.L = &w.mu
	return w
}

// send queues p, which it copies. It never blocks. It returns false, and p is lost,
// when w is closed or when p no longer fits: then full is true. One packet always
// fits into an empty queue, however long.
func (w *writer) send(p []byte) (ok, full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false, false
	}
	if n := len(w.buf) + w.writing; n > 0 && n+len(p) > w.max {
		return false, true
	}
	w.buf = append(w.buf, p...)
	if !w.running {
		w.running = true
		go w.run()
	}
	return true, false
}

// queued is how many bytes the socket has not taken yet.
func (w *writer) queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.buf) + w.writing
}

func (w *writer) run() {
	defer func() {
		if r := recover(); r != nil {
			w.mu.Lock()
			w.stop()
			w.mu.Unlock()
			w.crash(r)
		}
	}()
	for w.step() {
	}
}

// step writes what there is. It returns false when there was nothing.
func (w *writer) step() bool {
	w.mu.Lock()
	if len(w.buf) == 0 {
		w.running = false
		w.idle.Broadcast()
		w.mu.Unlock()
		return false
	}
	b := w.buf
	w.buf, w.spare, w.writing = w.spare, nil, len(b)
	w.mu.Unlock()

	_, err := w.nc.Write(b)

	w.mu.Lock()
	w.writing = 0
	if cap(b) <= keepBuffer {
		w.spare = b[:0]
	}
	if err != nil {
		w.stop()
		w.mu.Unlock()
		w.fail(err)
		return false
	}
	w.mu.Unlock()
	w.wrote()
	return true
}

// stop gives up: what is queued is lost.
func (w *writer) stop() {
	w.closed, w.running = true, false
	w.buf, w.spare = nil, nil
	w.idle.Broadcast()
}

// lingerTime bounds the wait for a client to close its side after ours.
const lingerTime = 500 * time.Millisecond

// finish queues last, sends what is queued within d, and closes the socket. A client
// that has sent what nobody read would get a TCP reset in place of the last
// packet, so its bytes are read and thrown away for a moment.
func (w *writer) finish(last []byte, d time.Duration, linger bool) {
	w.nc.SetWriteDeadline(time.Now().Add(d))
	if len(last) > 0 {
		w.send(last)
	}
	w.mu.Lock()
	w.closed = true
	for w.running {
		w.idle.Wait()
	}
	w.mu.Unlock()
	if half, ok := w.nc.(interface{ CloseWrite() error }); ok && linger && half.CloseWrite() == nil {
		w.nc.SetReadDeadline(time.Now().Add(min(lingerTime, d)))
		io.CopyN(io.Discard, w.nc, 1<<20)
	}
	w.nc.Close()
}
