package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// stream is an open port or connection.
type stream interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// timing is how long things take on a bus.
type timing struct {
	timeout time.Duration // from the end of a request to the first byte of its answer
	pause   time.Duration // silence before a request
	char    time.Duration // one character on the line; 0 where there is no line
}

// link is an open bus. One goroutine reads all the time: so that a bus that is unplugged
// is known to be at once, and that what comes when nobody asked is thrown away.
type link struct {
	stream  stream
	framing framing
	timing  timing
	users   int // of the bus's; guarded by its mutex

	wake  chan struct{} // bytes came
	lost  chan struct{} // closed when the stream is gone
	ended chan struct{} // closed when the reader is

	mu   sync.Mutex
	in   []byte
	last time.Time // when the last byte came, or went
	err  error     // why it is lost

	echo echo
	late func(in []byte) // is shown what came that was no answer
	tell func(unit byte, sent bool, p []byte)
}

// echo tells whether the line brings back what we send, as two-wire adapters do whose receiver
// stays on. It is learnt from the first read: no answer to a read looks like its request.
type echo uint8

const (
	unknown echo = iota
	silent
	echoes
)

// spoiltAfter is how long the line is silent after as many bytes as the answer has until it counts
// as spoilt. Adapters hand bytes on every 16 ms or so.
const spoiltAfter = 100 * time.Millisecond

// maxIn bounds what is kept of a line that does not stop talking.
const maxIn = 4 * maxADU

func newLink(s stream, f framing, t timing) *link {
	l := &link{
		stream: s, framing: f, timing: t,
		wake: make(chan struct{}, 1), lost: make(chan struct{}), ended: make(chan struct{}),
		late: func([]byte) {}, tell: func(byte, bool, []byte) {},
	}
	if t.char == 0 {
		l.echo = silent
	}
	go l.read()
	return l
}

func (l *link) read() {
	defer close(l.ended)
	buf := make([]byte, maxADU)
	for {
		n, err := l.stream.Read(buf)
		l.mu.Lock()
		if n > 0 {
			l.in = append(l.in, buf[:n]...)
			l.in = l.in[max(0, len(l.in)-maxIn):]
			l.last = time.Now()
		}
		l.mu.Unlock()
		if n > 0 {
			select {
			case l.wake <- struct{}{}:
			default:
			}
		}
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// fail says that the stream is gone. The first reason counts.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.lost)
	}
}

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// close returns when nothing is left of l.
func (l *link) close() {
	l.fail(os.ErrClosed)
	l.stream.Close()
	<-l.ended
}

// noAnswer is what an exchange that ran out of time says.
type noAnswer struct {
	seen []byte // what came instead
	sent []byte
}

func (e *noAnswer) Error() string { return "no answer" }

// exchange sends r to unit and waits for its answer. Garbage is what came before the answer,
// or in its place. Errors are a *noAnswer, an Exception, ctx's, or the link's own end. One
// exchange at a time.
func (l *link) exchange(ctx context.Context, unit byte, r request) (pdu, garbage []byte, err error) {
	if err := l.quiet(ctx); err != nil {
		return nil, nil, err
	}
	frame := l.framing.encode(unit, r)
	l.stream.SetWriteDeadline(time.Now().Add(l.timing.timeout))
	stop := context.AfterFunc(ctx, func() { l.stream.SetWriteDeadline(time.Unix(1, 0)) })
	n, err := l.stream.Write(frame)
	stop()
	switch {
	case ctx.Err() != nil && (n == 0 || n == len(frame)):
		return nil, nil, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded): // half a request would spoil the next one
		l.fail(errors.New("it takes no bytes: is flow control on, or the adapter stuck?"))
		return nil, nil, l.reason()
	case err != nil:
		l.fail(err)
		return nil, nil, l.reason()
	}
	l.tell(unit, true, frame)
	// Write has only handed the bytes to the kernel; on the line they take their time, and so
	// does the answer.
	line := time.Duration(len(frame)+r.answerSize()+3) * l.timing.char
	limit := time.NewTimer(line + l.timing.timeout)
	defer limit.Stop()
	for {
		pdu, garbage, full, err := l.look(unit, r, frame)
		if pdu != nil || err != nil {
			l.late(garbage)
			return pdu, garbage, err
		}
		var spoilt <-chan time.Time
		if full {
			spoilt = time.After(spoiltAfter)
		}
		select {
		case <-l.wake:
		case <-spoilt:
			return l.giveUp(unit, frame, r)
		case <-limit.C:
			return l.giveUp(unit, frame, r)
		case <-l.lost:
			return nil, nil, l.reason()
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// quiet waits for the silence before a request, which lets slaves know that one begins, and
// throws away what came unasked.
func (l *link) quiet(ctx context.Context) error {
	for began := time.Now(); ; {
		l.mu.Lock()
		in, rest, err := l.in, time.Until(l.last.Add(l.timing.pause)), l.err
		l.in = nil
		l.mu.Unlock()
		l.late(in)
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case rest <= 0:
			return nil
		case time.Since(began) > l.timing.timeout:
			return &noAnswer{seen: in} // a line that never stops talking
		}
		select {
		case <-time.After(rest):
		case <-l.lost:
		case <-ctx.Done():
		}
	}
}

// look looks for the answer in what has come so far. Full tells that as many bytes came as the
// answer has, and yet it is not among them.
func (l *link) look(unit byte, r request, sent []byte) (pdu, garbage []byte, full bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.in
	if l.echo != silent && bytes.HasPrefix(in, sent) && (l.echo == echoes || !r.echoed()) {
		l.echo = echoes
		in = in[len(sent):]
	} else if l.echo == echoes && len(in) < len(sent) {
		return nil, nil, false, nil
	}
	found, before, err := l.framing.find(in, unit, r)
	switch {
	case err != nil:
		l.tell(unit, false, l.in)
		err = fmt.Errorf("%w%s", err, hint(guess(l.in, sent, l.framing)))
		garbage, l.in = l.in, nil
		if errors.Is(err, errNoMBAP) && l.err == nil { // where the next frame begins, nobody knows
			l.err = err
			close(l.lost)
		}
		return nil, garbage, false, err
	case found == nil:
		return nil, nil, len(in) >= r.answerSize()+3, nil
	}
	if l.echo == unknown && !r.echoed() {
		l.echo = silent
	}
	if _, tcp := l.framing.(*mbap); !tcp { // there, what stands before is late answers
		garbage = in[:before]
	}
	l.tell(unit, false, l.in)
	l.in = nil // whatever follows an answer is noise
	l.last = time.Now()
	if found[0]&exceptionFlag != 0 {
		return nil, garbage, false, Exception(found[1])
	}
	return found, garbage, false, nil
}

// echoed tells whether the answer to r is r itself, so that an echo would pass for it.
func (r request) echoed() bool {
	return r[0] == writeCoil || r[0] == writeRegister || r[0] == maskWrite || r[0] == diagnostics
}

func (l *link) giveUp(unit byte, sent []byte, r request) (pdu, garbage []byte, err error) {
	l.mu.Lock()
	seen := l.in
	l.tell(unit, false, seen)
	l.in = nil
	if l.echo == unknown && !r.echoed() {
		l.echo = silent
	}
	if l.echo == echoes {
		seen = bytes.TrimPrefix(seen, sent)
	}
	l.mu.Unlock()
	l.late(seen)
	return nil, seen, &noAnswer{seen, sent}
}

func hint(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
