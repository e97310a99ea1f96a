package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Reader reads a stream from its beginning, in its order. It asks for one message after the other, which
// makes no consumer and needs no right but that; it is for checking a far end, see package bridge/verify.
type Reader struct {
	s      *Sink
	stream string
}

// NewReader returns a Reader. Of c it needs the urls, the login and how the server is reached. It opens
// nothing. A wrong value is a gateway.KeyError.
func NewReader(c Config, stream string) (*Reader, error) {
	if stream == "" {
		return nil, errors.New("which stream? Give its name")
	}
	if err := checkSubject(stream); err != nil {
		return nil, fmt.Errorf("stream %q: %w", stream, err)
	}
	s, err := New(c, "verify", "", nil)
	return &Reader{s, stream}, err
}

// pollEvery is how often a stream that was read to its end is looked at again.
const pollEvery = 200 * time.Millisecond

// noMessage is the error code of a stream that has nothing from a number on.
const noMessage = 10037

// Read calls got for each message, and ready when it has read what there was. It ends with ctx, and then
// returns nil, or when the connection does.
func (r *Reader) Read(ctx context.Context, ready func(), got func(topic, id string, payload []byte)) error {
	life, end := context.WithCancel(ctx)
	defer end()
	at := r.s.servers[0]
	l := newLink(r.s, nil)
	nc, err := r.s.connect(life, at, l)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("connect to %s: %w", at.address, err)
	}
	defer func() {
		end() // closes the socket
		close(l.quit)
		nc.Close()
		<-l.closed
	}()
	for next, there := uint64(1), false; ; {
		m, err := r.message(ctx, nc, next)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case m != nil:
			next = m.Seq + 1
			h := nats.Header{}
			if len(m.Header) > 0 {
				if h, err = nats.DecodeHeadersMsg(m.Header); err != nil {
					return fmt.Errorf("message %d of stream %s: %w", m.Seq, r.stream, err)
				}
			}
			topic := h.Get("weir-topic")
			if topic == "" {
				topic = m.Subject
			}
			got(topic, h.Get(nats.MsgIdHdr), m.Data)
			continue
		}
		if !there {
			there = true
			ready()
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// stored is a message as the server tells of it.
type stored struct {
	Subject string `json:"subject"`
	Seq     uint64 `json:"seq"`
	Header  []byte `json:"hdrs"`
	Data    []byte `json:"data"`
}

// message returns the first from a number on, or nil if there is none.
func (r *Reader) message(ctx context.Context, nc *nats.Conn, from uint64) (*stored, error) {
	ctx, cancel := context.WithTimeout(ctx, r.s.c.AckTimeout)
	defer cancel()
	ask, err := json.Marshal(map[string]any{"seq": from, "next_by_subj": ">"})
	if err != nil {
		return nil, err
	}
	reply, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+r.stream, ask)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, errors.New("the server has no JetStream")
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("no answer within %v", r.s.c.AckTimeout)
	case err != nil:
		return nil, err
	}
	var answer struct {
		Message *stored `json:"message"`
		Error   *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("stream %s: %w", r.stream, err)
	}
	switch e := answer.Error; {
	case e != nil && e.Code == noMessage:
		return nil, nil
	case e != nil:
		return nil, fmt.Errorf("stream %s: %s (%d)", r.stream, e.Description, e.Code)
	case answer.Message == nil:
		return nil, fmt.Errorf("stream %s: what answers is no stream", r.stream)
	}
	return answer.Message, nil
}
