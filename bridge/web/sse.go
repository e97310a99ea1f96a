package web

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// events is GET /events: Server-Sent Events as in the WHATWG HTML standard, §9.2.
//
//	id: e1:17                    a message has no event name, so that onmessage gets it
//	data: {"id":…,"topic":…}
//
//	event: gap                   what cannot be had any more
//	id: e1:20
//	data: {"asked":"e1:2","from":3,"to":21,"reason":"trimmed","oldest":21,"top":90}
//
//	id: e1:34                    heartbeat: moves the client's last event id, and
//	                             dispatches nothing, for it has no data
//
// With heartbeat=event a heartbeat is `event: heartbeat` with data {"top":N}, for a
// script that wants to see them; the first comes when the stream has caught up.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	account, query := accountOf(r), r.URL.Query()
	filters, err := urlFilters(query, s.o.MaxFilters)
	if err == nil {
		err = mayRead(account, filters, query)
	}
	var start sseStart
	if err == nil {
		start, err = sseStartOf(r, query)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, end := s.stream(w, r, "sse")
	if end == nil {
		return
	}
	st := &sseStream{s: s, w: w, r: r, rc: http.NewResponseController(w), account: account, named: query.Get("heartbeat") == "event"}
	err = st.run(ctx, filters, start)
	end(endReason(ctx, err))
}

// sseStart says where a stream begins: at a position, with the last n events, or live.
type sseStart struct {
	after  *gateway.Position
	rewind int
}

func sseStartOf(r *http.Request, query url.Values) (start sseStart, err error) {
	// A native EventSource repeats its URL when it reconnects; what it adds is newer.
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		last = query.Get("last_event_id")
	}
	if last != "" {
		p, err := gateway.ParsePosition(last)
		if err != nil {
			return start, err
		}
		start.after = &p
		return start, nil
	}
	start.rewind, err = count(query, "rewind", 0)
	return start, err
}

// count reads a number of events from a request.
func count(query url.Values, key string, def int) (int, error) {
	text := query.Get(key)
	if text == "" {
		return def, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxEvents {
		return 0, gateway.Errorf(gateway.ErrInvalid, "%s=%q is not a number from 0 to %d", key, text, maxEvents)
	}
	return n, nil
}

type sseStream struct {
	s       *Server
	w       http.ResponseWriter
	r       *http.Request
	rc      *http.ResponseController
	account *auth.Account
	named   bool // heartbeats are events

	buf  []byte
	told time.Time // when the client was last told a position
}

// run sends until ctx ends or the client can not be written to.
func (st *sseStream) run(ctx context.Context, filters gateway.Filters, start sseStart) error {
	feed := st.s.o.Feed
	top, _ := feed.Next()
	from := top
	var (
		gap  *gateway.Gap
		past []*gateway.Event
	)
	switch {
	case start.after != nil:
		from, gap = feed.Resume(*start.after)
	case start.rewind > 0:
		// All that was released when top was read is in past, if it matches and is
		// among the newest; past may reach beyond top. So the reader goes on behind both.
		var err error
		if past, err = st.s.o.History(filters, start.rewind); err != nil {
			st.s.fail(st.w, st.r, fmt.Errorf("%w: %w", errJournal, err))
			return errJournal
		}
		if n := len(past); n > 0 {
			from = max(top, past[n-1].Offset+1)
		}
	}
	h := st.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold the stream back
	// After a restart everybody comes back; not all at once, please.
	st.buf = fmt.Appendf(st.buf, "retry: %d\n\n", 1000+rand.IntN(2000))
	if gap != nil {
		st.gap(gap, from)
	}
	if err := st.send(past); err != nil {
		return err
	}
	reader := feed.Reader(from, filters, gateway.Written)
	if err := st.flush(); err != nil {
		return err
	}
	if err := st.catchUp(ctx, reader, top); err != nil {
		return err
	}
	return st.live(ctx, reader)
}

// catchUp sends what was there when the stream was opened, and then the position: a
// client that is cut off before its first event needs a place to resume from.
func (st *sseStream) catchUp(ctx context.Context, reader *gateway.Reader, top uint64) error {
	for reader.Offset() < top {
		b, err := reader.NextWithin(ctx, 0)
		if err != nil {
			return st.failed(ctx, err)
		}
		if err := st.batch(b, reader); err != nil {
			return err
		}
	}
	st.heartbeat(reader.Position())
	return st.flush()
}

func (st *sseStream) live(ctx context.Context, reader *gateway.Reader) error {
	for {
		b, err := reader.NextWithin(ctx, st.s.o.Heartbeat)
		if err != nil {
			return st.failed(ctx, err)
		}
		if err := st.batch(b, reader); err != nil {
			return err
		}
	}
}

// batch sends b; and a heartbeat, when nothing in it has told the position for long.
func (st *sseStream) batch(b gateway.Batch, reader *gateway.Reader) error {
	if b.Gap != nil {
		st.gap(b.Gap, b.Gap.To)
	}
	if err := st.send(b.Events); err != nil {
		return err
	}
	if len(st.buf) == 0 && time.Since(st.told) >= st.s.o.Heartbeat {
		st.heartbeat(reader.Position())
	}
	return st.flush()
}

func (st *sseStream) send(events []*gateway.Event) error {
	for _, e := range events {
		if st.account.CanRead(e.Topic, "") != nil {
			continue
		}
		enc, err := st.s.faces.of(e)
		if err != nil {
			return err
		}
		st.buf = append(st.buf, enc.sse...)
		if len(st.buf) >= flushAt {
			if err := st.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// gapFace is the data of a gap event. Numbers are offsets; from <= missing < to.
type gapFace struct {
	Asked  string `json:"asked,omitempty"` // the position the client gave
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Reason string `json:"reason"`
	Oldest uint64 `json:"oldest,omitempty"` // where the journal begins now
	Top    uint64 `json:"top"`              // the newest
}

// gap writes a gap event. Its id is the position behind it, so that a client that is
// cut off right after is not told twice.
func (st *sseStream) gap(g *gateway.Gap, next uint64) {
	released, _ := st.s.o.Feed.Next()
	f := gapFace{From: g.From, To: g.To, Reason: g.Reason, Top: released - 1}
	if g.Asked.Epoch != "" {
		f.Asked = g.Asked.String()
	}
	if g.Reason == gateway.GapTrimmed {
		f.Oldest = next
	}
	data, _ := json.Marshal(f) // numbers and strings: cannot fail
	st.buf = append(st.buf, "event: gap\n"...)
	st.buf = appendID(st.buf, gateway.Position{Epoch: st.s.o.Feed.Epoch(), Offset: next - 1})
	st.buf = append(append(append(st.buf, "data: "...), data...), "\n\n"...)
}

func (st *sseStream) heartbeat(at gateway.Position) {
	if st.named {
		st.buf = append(st.buf, "event: heartbeat\n"...)
	}
	st.buf = appendID(st.buf, at)
	if st.named {
		st.buf = fmt.Appendf(st.buf, "data: {\"top\":%d}\n", at.Offset)
	}
	st.buf = append(st.buf, '\n')
}

func appendID(buf []byte, p gateway.Position) []byte {
	return append(append(append(buf, "id: "...), p.String()...), '\n')
}

// flush writes what was gathered. Only this stream waits for its client, and no longer
// than WriteTimeout.
func (st *sseStream) flush() error {
	if len(st.buf) == 0 {
		return nil
	}
	if err := st.rc.SetWriteDeadline(time.Now().Add(st.s.o.WriteTimeout)); err != nil {
		return fmt.Errorf("set the write deadline: %w", err)
	}
	if _, err := st.w.Write(st.buf); err != nil {
		return err
	}
	st.told = time.Now()
	if st.buf = st.buf[:0]; cap(st.buf) > 2*flushAt {
		st.buf = nil
	}
	return st.rc.Flush()
}

// failed tells the end of the stream from trouble with the journal.
func (st *sseStream) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		// The end of the body is written after this; the last deadline may be long over.
		st.rc.SetWriteDeadline(time.Now().Add(st.s.o.WriteTimeout))
		return err
	}
	return st.broken(err)
}

// broken ends the stream because the journal cannot be read; the client comes back
// where it was.
func (st *sseStream) broken(err error) error {
	st.s.log.Error("stream cannot read the journal", "err", err)
	return fmt.Errorf("%w: %w", errJournal, err)
}
