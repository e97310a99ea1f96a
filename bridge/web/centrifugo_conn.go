package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

const (
	cfFirstCommand = 15 * time.Second // until connect has to come
	cfPongTime     = 10 * time.Second // what a client may take to answer a ping
	cfGoodbye      = time.Second      // until the client has to close after a disconnect

	// One answer holds so much of the past; the rest of a recovery follows as pushes.
	cfReplyEvents = 512
	cfReplyBytes  = 1 << 20
)

// centrifugo is GET /connection/websocket: the Centrifugo client protocol in JSON.
func (s *Server) centrifugo(w http.ResponseWriter, r *http.Request) {
	ctx, end := s.stream(w, r, "centrifugo")
	if end == nil {
		return
	}
	up := s.upgrader
	up.WriteBufferSize = 64 // only the handshake would use it
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		end("refused")
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &cfConn{
		wsConn: newWSConn(ws), s: s, account: accountOf(r),
		ctx: ctx, cancel: cancel, subs: map[string]*cfSub{},
	}
	uncut := context.AfterFunc(r.Context(), func() { c.raw.Close() })
	unstop := context.AfterFunc(servingOf(r).stop, func() { c.disconnect(cfShutdown) })
	c.running.Go(c.ping)
	err = c.read()
	c.disconnect(err)
	c.running.Wait()
	unstop()
	uncut()
	c.raw.Close()
	end(cfReason(context.Cause(ctx)))
}

// cfReason names the end of a connection for the metrics.
func cfReason(cause error) string {
	var d *cfClose
	var timeout net.Error
	switch {
	case errors.As(cause, &d):
		return d.reason
	case errors.As(cause, &timeout) && timeout.Timeout():
		return "slow"
	}
	return "client"
}

// cfConn is one Centrifugo connection. One goroutine reads commands and answers them in
// order, one pings, and each subscription has one that follows the journal. All write
// for themselves: nothing is queued, so a slow client holds up only itself.
type cfConn struct {
	*wsConn
	s       *Server
	account *auth.Account
	running sync.WaitGroup

	ctx    context.Context // ends with the connection, its cause says why
	cancel context.CancelCauseFunc

	connected bool // of the reading goroutine

	subsMu sync.Mutex
	subs   map[string]*cfSub
}

// disconnect ends the connection; the first reason counts. The client is told it if it
// is one of the protocol's, and closes.
func (c *cfConn) disconnect(why error) {
	c.cancel(why)
	var d *cfClose
	if errors.As(why, &d) {
		c.writeClose(d.code, d.reason)
		c.raw.SetReadDeadline(time.Now().Add(cfGoodbye))
		return
	}
	c.raw.Close()
}

// read handles the client's messages and returns why there are no more.
func (c *cfConn) read() error {
	c.ws.SetReadLimit(maxBody)
	for {
		wait, late := cfFirstCommand, cfStale
		if c.connected {
			wait, late = c.s.o.Ping+cfPongTime, cfNoPong
		}
		c.raw.SetReadDeadline(time.Now().Add(wait))
		if c.ctx.Err() != nil { // disconnect may have set a shorter deadline just before
			c.raw.SetReadDeadline(time.Now().Add(cfGoodbye))
		}
		kind, message, err := c.ws.ReadMessage()
		var timeout net.Error
		switch {
		case c.ctx.Err() != nil:
			if err != nil {
				return context.Cause(c.ctx)
			}
			continue // until the client closes
		case errors.As(err, &timeout) && timeout.Timeout():
			return late
		case err != nil:
			return err
		case kind != websocket.TextMessage:
			return cfInappropriate
		}
		if err := c.message(message); err != nil {
			var d *cfClose
			if !errors.As(err, &d) {
				return err
			}
			c.disconnect(d)
		}
	}
}

// message handles the commands of one frame and answers them in one frame.
func (c *cfConn) message(message []byte) error {
	var (
		replies bytes.Buffer
		started []*cfSub
		enc     = json.NewEncoder(&replies)
		dec     = json.NewDecoder(bytes.NewReader(message))
		ended   error
	)
	enc.SetEscapeHTML(false)
	for ended == nil {
		var cmd cfCommand
		if err := dec.Decode(&cmd); err == io.EOF {
			break
		} else if err != nil {
			ended = cfBadCommand
			break
		}
		reply, sub, err := c.command(&cmd)
		switch {
		case err != nil:
			ended = err
		case reply != nil:
			if err := enc.Encode(reply); err != nil {
				return fmt.Errorf("encode a reply: %w", err)
			}
		}
		if sub != nil {
			started = append(started, sub)
		}
	}
	if text := bytes.TrimSuffix(replies.Bytes(), []byte("\n")); len(text) > 0 {
		if err := c.writeText(text); err != nil {
			return err
		}
	}
	for _, sub := range started { // pushes come after the reply
		c.running.Go(sub.run)
	}
	return ended
}

func (c *cfConn) writeText(text []byte) error {
	return c.write(time.Now().Add(c.s.o.WriteTimeout), appendFrame(make([]byte, 0, len(text)+10), websocket.TextMessage, text))
}

// command handles one command. An error ends the connection.
func (c *cfConn) command(cmd *cfCommand) (*cfReply, *cfSub, error) {
	reply := &cfReply{ID: cmd.ID}
	var sub *cfSub
	switch {
	case cmd.Send != nil:
		return nil, nil, cfNoSend
	case cmd.ID == 0:
		if c.connected && cmd.empty() {
			return nil, nil, nil // a pong; that it came has moved the deadline
		}
		return nil, nil, cfBadCommand
	case c.connected == (cmd.Connect != nil): // connect comes first, and once
		return nil, nil, cfBadCommand
	case cmd.Connect != nil:
		c.connected = true
		reply.Connect = &cfConnectResult{Client: clientID(), Version: c.s.o.Version, Ping: uint32(c.s.o.Ping / time.Second), Pong: true}
	case cmd.Subscribe != nil:
		sub, reply.Subscribe, reply.Error = c.subscribe(cmd.Subscribe)
	case cmd.Unsubscribe != nil:
		c.unsubscribe(cmd.Unsubscribe.Channel)
		reply.Unsubscribe = &struct{}{}
	case cmd.Publish != nil:
		if reply.Error = c.publish(cmd.Publish); reply.Error == nil {
			reply.Publish = &struct{}{}
		}
	case cmd.History != nil:
		reply.History, reply.Error = c.history(cmd.History)
	case !cmd.empty():
		reply.Error = &cfError{Code: cfNotAvailable, Message: "not available"}
	default:
		reply.Error = &cfError{Code: cfNoMethod, Message: "method not found"}
	}
	return reply, sub, nil
}

// empty tells that cmd has no request that the protocol knows.
func (cmd *cfCommand) empty() bool {
	return cmd.Connect == nil && cmd.Subscribe == nil && cmd.Unsubscribe == nil && cmd.Publish == nil && cmd.History == nil &&
		cmd.Presence == nil && cmd.PresenceStat == nil && cmd.Ping == nil && cmd.Send == nil && cmd.RPC == nil &&
		cmd.Refresh == nil && cmd.SubRefresh == nil
}

// clientID names a connection: 128 random bits.
func clientID() string { return rand.Text() }

func (c *cfConn) subscribe(req *cfSubscribe) (*cfSub, *cfSubscribeResult, *cfError) {
	if req.Type != 0 {
		return nil, nil, &cfError{Code: cfNotAvailable, Message: "only stream subscriptions are available"}
	}
	filter, err := gateway.ParseFilter(req.Channel)
	if err == nil {
		err = c.account.CanSubscribe(filter, "")
	}
	if err != nil {
		return nil, nil, cfErrorOf(err)
	}
	c.subsMu.Lock()
	n, already := len(c.subs), c.subs[req.Channel] != nil
	c.subsMu.Unlock()
	switch {
	case already:
		return nil, nil, &cfError{Code: cfSubscribed, Message: "already subscribed"}
	case n >= c.s.o.MaxFilters:
		return nil, nil, &cfError{Code: cfLimit, Message: fmt.Sprintf("a connection may have %d subscriptions", c.s.o.MaxFilters)}
	}

	feed, filters := c.s.o.Feed, gateway.Filters{filter}
	top, _ := feed.Next()
	result := &cfSubscribeResult{Recoverable: true, Positioned: true, Epoch: feed.Epoch(), Offset: top - 1}
	reader := feed.Reader(top, filters, gateway.Written)
	if req.Recover {
		from, gap := feed.Resume(gateway.Position{Epoch: orEpoch(req.Epoch, feed), Offset: req.Offset})
		reader = feed.Reader(from, filters, gateway.Written)
		pubs, missed, err := c.collect(reader, top, cfReplyEvents, false)
		if err != nil {
			return nil, nil, c.broken(err)
		}
		result.Publications, result.WasRecovering, result.Recovered = pubs, true, gap == nil && missed == nil
		if !result.Recovered && req.Flag&flagRejectUnrecovered != 0 {
			return nil, nil, &cfError{Code: cfUnrecoverable, Message: "unrecoverable position"}
		}
		// The client counts on from here as it takes the publications.
		if result.Offset = from - 1; len(pubs) == 0 {
			result.Offset = reader.Position().Offset
		}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	sub := &cfSub{c: c, channel: req.Channel, reader: reader, ctx: ctx, cancel: cancel, ended: make(chan struct{})}
	name, _ := json.Marshal(req.Channel) // a string: cannot fail
	sub.prefix = fmt.Appendf(nil, `{"push":{"channel":%s,`, name)
	c.subsMu.Lock()
	c.subs[req.Channel] = sub
	c.subsMu.Unlock()
	return sub, result, nil
}

// orEpoch is the epoch that the client means; none means the one that is.
func orEpoch(epoch string, feed Feed) string {
	if epoch == "" {
		return feed.Epoch()
	}
	return epoch
}

// collect reads what there is below top, and not much more than max events or
// cfReplyBytes. With atGap it stops at a gap.
func (c *cfConn) collect(reader *gateway.Reader, top uint64, max int, atGap bool) (pubs []json.RawMessage, gap *gateway.Gap, err error) {
	pubs = []json.RawMessage{}
	for size := 0; reader.Offset() < top && len(pubs) < max && size < cfReplyBytes; {
		b, err := reader.NextWithin(c.ctx, 0)
		if err != nil {
			return nil, nil, err
		}
		if b.Gap != nil {
			if gap = b.Gap; atGap {
				return pubs, gap, nil
			}
		}
		for _, e := range b.Events {
			pub, err := c.publication(e)
			if err != nil {
				return nil, nil, err
			}
			if pub != nil {
				pubs = append(pubs, pub)
				size += len(pub)
			}
		}
	}
	return pubs, gap, nil
}

// publication is e for this client; nil if it may not read it.
func (c *cfConn) publication(e *gateway.Event) (json.RawMessage, error) {
	if c.account.CanRead(e.Topic, "") != nil {
		return nil, nil
	}
	enc, err := c.s.faces.of(e)
	if err != nil {
		return nil, err
	}
	return appendPublication(nil, enc), nil
}

func (c *cfConn) broken(err error) *cfError {
	if c.ctx.Err() == nil {
		c.s.log.Error("stream cannot read the journal", "err", err)
	}
	return cfErrorOf(err)
}

func (c *cfConn) unsubscribe(channel string) {
	c.subsMu.Lock()
	sub := c.subs[channel]
	delete(c.subs, channel)
	c.subsMu.Unlock()
	if sub != nil {
		sub.cancel()
		<-sub.ended // no push comes after the reply
	}
}

func (c *cfConn) publish(req *cfPublish) *cfError {
	if req.Data == nil || req.Type != 0 {
		return &cfError{Code: cfBadRequest, Message: "publish needs data, and no other type than 0"}
	}
	err := gateway.ValidateTopic(req.Channel)
	if err == nil {
		err = c.account.CanPublish(req.Channel, "")
	}
	if err == nil {
		err = c.s.o.Ingest(c.ctx, &gateway.Event{
			Topic: req.Channel, Payload: req.Data, UTF8: true, ContentType: "application/json",
			Origin: gateway.Origin{Via: "centrifugo", User: c.account.Name()},
		})
	}
	if err != nil {
		return cfErrorOf(err)
	}
	return nil
}

// history answers with the position alone (limit 0), the oldest events or those after
// a position (limit, since), or the newest first (reverse). It gives what one answer
// may hold; the client asks again from the last offset.
func (c *cfConn) history(req *cfHistory) (*cfHistoryResult, *cfError) {
	filter, err := gateway.ParseFilter(req.Channel)
	if err == nil {
		err = c.account.CanSubscribe(filter, "")
	}
	if err != nil {
		return nil, cfErrorOf(err)
	}
	if req.Reverse && req.Since != nil {
		return nil, &cfError{Code: cfNotAvailable, Message: "history from a position on is available forwards only"}
	}
	limit := req.Limit
	if limit < 0 || limit > maxEvents {
		limit = maxEvents
	}
	feed, filters := c.s.o.Feed, gateway.Filters{filter}
	top, _ := feed.Next()
	result := &cfHistoryResult{Publications: []json.RawMessage{}, Epoch: feed.Epoch(), Offset: top - 1}
	switch {
	case limit == 0:
		return result, nil
	case req.Reverse:
		events, err := c.s.o.History(filters, limit)
		if err != nil {
			return nil, c.broken(err)
		}
		slices.Reverse(events)
		for size, i := 0, 0; i < len(events) && size < cfReplyBytes; i++ {
			pub, err := c.publication(events[i])
			if err != nil {
				return nil, c.broken(err)
			}
			if pub != nil {
				result.Publications = append(result.Publications, pub)
				size += len(pub)
			}
		}
		return result, nil
	}
	after := gateway.Position{Epoch: feed.Epoch()}
	if req.Since != nil {
		after = gateway.Position{Epoch: orEpoch(req.Since.Epoch, feed), Offset: req.Since.Offset}
	}
	from, gap := feed.Resume(after)
	if gap == nil || req.Since == nil {
		result.Publications, gap, err = c.collect(feed.Reader(from, filters, gateway.Written), top, limit, req.Since != nil)
		if err != nil {
			return nil, c.broken(err)
		}
	}
	if gap != nil && req.Since != nil && len(result.Publications) == 0 {
		return nil, &cfError{Code: cfUnrecoverable, Message: "unrecoverable position"}
	}
	if len(result.Publications) > limit {
		result.Publications = result.Publications[:limit]
	}
	return result, nil
}

// ping sends the protocol's ping, an empty reply; the client answers with an empty command.
func (c *cfConn) ping() {
	tick := time.NewTicker(c.s.o.Ping)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
			if err := c.writeText([]byte("{}")); err != nil {
				c.disconnect(err)
				return
			}
		}
	}
}

// cfSub is one subscription: a cursor of its own.
type cfSub struct {
	c       *cfConn
	channel string
	prefix  []byte // of each push
	reader  *gateway.Reader
	ctx     context.Context
	cancel  context.CancelFunc
	ended   chan struct{}
}

func (s *cfSub) run() {
	defer close(s.ended)
	defer s.cancel()
	for {
		b, err := s.reader.Next(s.ctx)
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			s.c.broken(err)
			s.c.disconnect(cfServerError)
			return
		}
		if b.Gap != nil {
			s.c.subsMu.Lock()
			if s.c.subs[s.channel] == s {
				delete(s.c.subs, s.channel)
			}
			s.c.subsMu.Unlock()
			push := fmt.Appendf(s.prefix, `"unsubscribe":{"code":%d,"reason":"insufficient state"}}}`, cfInsufficient)
			if err := s.c.writeText(push); err != nil {
				s.c.disconnect(err)
			}
			return
		}
		if err := s.push(b.Events); err != nil {
			s.c.disconnect(err)
			return
		}
	}
}

// push writes events, as many to a frame as fit.
func (s *cfSub) push(events []*gateway.Event) error {
	var text []byte
	for _, e := range events {
		if s.c.account.CanRead(e.Topic, "") != nil {
			continue
		}
		enc, err := s.c.s.faces.of(e)
		if err != nil {
			return err
		}
		if len(text) > 0 {
			text = append(text, '\n')
		}
		text = append(append(text, s.prefix...), `"pub":`...)
		text = append(appendPublication(text, enc), "}}"...)
		if len(text) >= flushAt {
			if err := s.c.writeText(text); err != nil {
				return err
			}
			text = text[:0]
		}
	}
	if len(text) == 0 {
		return nil
	}
	return s.c.writeText(text)
}
