package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weir-iot/weir/gateway"
)

// cfClient is a Centrifugo client that hides nothing.
type cfClient struct {
	t    testing.TB
	ws   *websocket.Conn
	left []string // lines of the last frame
}

func dial(t testing.TB, s *running, header ...string) *cfClient {
	t.Helper()
	h := http.Header{}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		h.Set(name, value)
	}
	ws, resp, err := websocket.DefaultDialer.Dial(strings.Replace(s.url, "http", "ws", 1)+"/connection/websocket", h)
	if err != nil {
		t.Fatalf("%v: %v", err, resp)
	}
	t.Cleanup(func() { ws.Close() })
	ws.SetReadDeadline(time.Now().Add(20 * time.Second))
	return &cfClient{t: t, ws: ws}
}

func (c *cfClient) send(lines ...string) {
	c.t.Helper()
	if err := c.ws.WriteMessage(websocket.TextMessage, []byte(strings.Join(lines, "\n"))); err != nil {
		c.t.Fatal(err)
	}
}

// line returns the next line that is no ping; pings are answered.
func (c *cfClient) line() (string, error) {
	for {
		for len(c.left) == 0 {
			kind, frame, err := c.ws.ReadMessage()
			if err != nil {
				return "", err
			}
			if kind != websocket.TextMessage {
				return "", fmt.Errorf("frame of kind %d", kind)
			}
			c.left = strings.Split(string(frame), "\n")
		}
		line := c.left[0]
		c.left = c.left[1:]
		if line != "{}" {
			return line, nil
		}
		c.send("{}")
	}
}

// cfMessage is whatever the server sends.
type cfMessage struct {
	cfReply
	Push *struct {
		Channel     string
		Pub         *cfPub
		Unsubscribe *struct{ Code int }
	}
	Presence any
}

type cfPub struct {
	Data   gateway.Face
	Offset uint64
}

func (c *cfClient) next() cfMessage {
	c.t.Helper()
	line, err := c.line()
	if err != nil {
		c.t.Fatal(err)
	}
	var m cfMessage
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		c.t.Fatalf("%s: %v", line, err)
	}
	return m
}

// ask sends a command and returns its reply; pushes in between fail the test.
func (c *cfClient) ask(command string) cfMessage {
	c.t.Helper()
	c.send(command)
	m := c.next()
	if m.Push != nil {
		c.t.Fatalf("a push where the reply to %s was due: %+v", command, m.Push)
	}
	return m
}

func connected(t testing.TB, s *running, header ...string) *cfClient {
	t.Helper()
	c := dial(t, s, header...)
	if m := c.ask(`{"id":1,"connect":{"name":"test","token":"ignored"}}`); m.ID != 1 || m.Connect == nil || m.Connect.Client == "" || m.Connect.Ping != 25 || !m.Connect.Pong {
		t.Fatalf("connect: %+v", m)
	}
	return c
}

func (p *cfPub) value(t testing.TB) (n int) {
	t.Helper()
	if err := json.Unmarshal(p.Data.Payload, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// expect reads pushes with the values from first to last.
func (c *cfClient) expect(first, last int) (offset uint64) {
	c.t.Helper()
	for want := first; want <= last; want++ {
		m := c.next()
		if m.Push == nil || m.Push.Pub == nil {
			c.t.Fatalf("got %+v, want %d", m, want)
		}
		if got := m.Push.Pub.value(c.t); got != want {
			c.t.Fatalf("got %d, want %d", got, want)
		}
		offset = m.Push.Pub.Offset
	}
	return offset
}

func values(t testing.TB, pubs []json.RawMessage) (list []int) {
	t.Helper()
	for _, raw := range pubs {
		var p cfPub
		if err := json.Unmarshal(raw, &p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p.value(t))
	}
	return list
}

func TestCentrifugoErrors(t *testing.T) {
	l := newFakeLog("e1")
	s := serve(t, l, func(o *Options) { o.Auth, o.MaxFilters = closedPolicy(t), 2 })
	viewer := connected(t, s, "Authorization: "+basic("viewer"))
	sensor := connected(t, s, "Authorization: "+basic("sensor"))
	for _, c := range []struct {
		client  *cfClient
		command string
		code    uint32 // 0: no error
	}{
		{viewer, `{"id":2,"subscribe":{"channel":"plant1/#"}}`, 0},
		{viewer, `{"id":3,"subscribe":{"channel":"plant1/#"}}`, cfSubscribed},
		{viewer, `{"id":4,"subscribe":{"channel":"#"}}`, cfDenied},
		{viewer, `{"id":5,"subscribe":{"channel":"plant1/#/a"}}`, cfBadRequest},
		{viewer, `{"id":6,"subscribe":{"channel":""}}`, cfBadRequest},
		{viewer, `{"id":7,"subscribe":{"channel":"plant1/a","type":1}}`, cfNotAvailable},
		{viewer, `{"id":8,"subscribe":{"channel":"plant1/a"}}`, 0},
		{viewer, `{"id":9,"subscribe":{"channel":"plant1/b"}}`, cfLimit},
		{viewer, `{"id":10,"unsubscribe":{"channel":"plant1/a"}}`, 0},
		{viewer, `{"id":11,"unsubscribe":{"channel":"never"}}`, 0},
		{viewer, `{"id":12,"subscribe":{"channel":"plant1/b"}}`, 0},
		{viewer, `{"id":13,"presence":{"channel":"plant1/a"}}`, cfNotAvailable},
		{viewer, `{"id":14,"presence_stats":{"channel":"plant1/a"}}`, cfNotAvailable},
		{viewer, `{"id":15,"rpc":{"method":"x"}}`, cfNotAvailable},
		{viewer, `{"id":16,"refresh":{"token":"x"}}`, cfNotAvailable},
		{viewer, `{"id":17,"sub_refresh":{"channel":"plant1/a"}}`, cfNotAvailable},
		{viewer, `{"id":18,"ping":{}}`, cfNotAvailable},
		{viewer, `{"id":19,"dance":{}}`, cfNoMethod},
		{viewer, `{"id":20}`, cfNoMethod},
		{viewer, `{"id":21,"history":{"channel":"#","limit":1}}`, cfDenied},
		{viewer, `{"id":22,"history":{"channel":"plant1/#","limit":1,"since":{"offset":1,"epoch":"zz"}}}`, cfUnrecoverable},
		{viewer, `{"id":23,"history":{"channel":"plant1/#","limit":1,"reverse":true,"since":{"offset":1,"epoch":"e1"}}}`, cfNotAvailable},
		{viewer, `{"id":24,"publish":{"channel":"plant1/a","data":1}}`, cfDenied},
		{sensor, `{"id":25,"subscribe":{"channel":"plant1/sensor/a"}}`, cfDenied},
		{sensor, `{"id":26,"publish":{"channel":"plant1/sensor/a","data":{"x": 1}}}`, 0},
		{sensor, `{"id":27,"publish":{"channel":"plant1/sensor/#","data":1}}`, cfBadRequest},
		{sensor, `{"id":28,"publish":{"channel":"plant1/sensor/a"}}`, cfBadRequest},
	} {
		m := c.client.ask(c.command)
		var code uint32
		if m.Error != nil {
			code = m.Error.Code
		}
		if code != c.code || !strings.HasPrefix(c.command, fmt.Sprintf(`{"id":%d`, m.ID)) || code != 0 && m.Error.Message == "" {
			t.Errorf("%s: %+v %+v, want %d", c.command, m, m.Error, c.code)
		}
		if m.Publish != nil {
			if e := l.entries[len(l.entries)-1]; string(e.Payload) != `{"x": 1}` || e.Origin.User != "sensor" {
				t.Errorf("stored %+v", e)
			}
			if m := viewer.next(); m.Push == nil || m.Push.Pub.Data.Topic != "plant1/sensor/a" {
				t.Errorf("the viewer got %+v", m)
			}
		}
	}
}

func TestCentrifugoDisconnects(t *testing.T) {
	const connect = `{"id":1,"connect":{}}`
	s := serve(t, newFakeLog("e1"))
	for _, c := range []struct {
		kind int
		send string
		want *cfClose
	}{
		{websocket.TextMessage, `{"id":1,"subscribe":{"channel":"a"}}`, cfBadCommand},
		{websocket.TextMessage, `{}`, cfBadCommand},
		{websocket.TextMessage, `not json`, cfBadCommand},
		{websocket.TextMessage, `{"id":-1}`, cfBadCommand},
		{websocket.TextMessage, connect + "\n" + connect, cfBadCommand},
		{websocket.TextMessage, connect + "\n" + `{"subscribe":{"channel":"a"}}`, cfBadCommand},
		{websocket.TextMessage, connect + "\n" + `{"send":{"data":1}}`, cfNoSend},
		{websocket.BinaryMessage, connect, cfInappropriate},
	} {
		client := dial(t, s)
		if err := client.ws.WriteMessage(c.kind, []byte(c.send)); err != nil {
			t.Fatal(err)
		}
		_, err := client.line()
		if strings.HasPrefix(c.send, connect) && c.kind == websocket.TextMessage {
			if err != nil {
				t.Errorf("%s: no reply to connect: %v", c.send, err)
			}
			_, err = client.line()
		}
		var closed *websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != c.want.code || closed.Text != c.want.reason {
			t.Errorf("%s: %v, want %v", c.send, err, c.want)
		}
	}
	c := connected(t, s)
	go s.stop()
	if _, err := c.line(); !websocket.IsCloseError(err, cfShutdown.code) {
		t.Errorf("at the stop: %v", err)
	}
}

func TestCentrifugoBatch(t *testing.T) {
	l := newFakeLog("e1")
	top := l.put("a", 0, 3).Offset
	s := serve(t, l)
	c := dial(t, s)
	c.send(`{"id":1,"connect":{}}`, `{"id":2,"subscribe":{"channel":"a"}}`, `{"id":3,"subscribe":{"channel":"+"}}`, `{"id":4,"history":{"channel":"a","limit":0}}`)
	_, frame, err := c.ws.ReadMessage()
	if lines := strings.Split(string(frame), "\n"); err != nil || len(lines) != 4 {
		t.Fatalf("%d replies in the frame, %v", len(lines), err)
	}
	for i, line := range strings.Split(string(frame), "\n") {
		var m cfMessage
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.ID != uint32(i+1) {
			t.Fatalf("%s, %v", line, err)
		}
		if r := m.Subscribe; r != nil && (!r.Recoverable || !r.Positioned || r.Epoch != "e1" || r.Offset != top || len(r.Publications) > 0 || r.WasRecovering) {
			t.Errorf("%s", line)
		}
		if m.History != nil && (m.History.Offset != top || len(m.History.Publications) != 0) {
			t.Errorf("%s", line)
		}
	}
	e := l.put("a", 7, 1)
	seen := map[string]bool{}
	for range 2 {
		m := c.next()
		seen[m.Push.Channel] = true
		if f := m.Push.Pub.Data; f.ID != e.ID("gw") || m.Push.Pub.Offset != e.Offset || string(f.Payload) != "7" {
			t.Errorf("%+v", m.Push.Pub)
		}
	}
	if !seen["a"] || !seen["+"] {
		t.Errorf("pushes on %v", seen)
	}
}

// After the reply to unsubscribe no publication comes, though many are on their way.
func TestCentrifugoUnsubscribe(t *testing.T) {
	l := newFakeLog("e1")
	l.limit = 10000
	big := []byte(strings.Repeat("x", 8<<10))
	for range 1200 {
		l.add(&gateway.Event{Topic: "a", Payload: big})
	}
	s := serve(t, l)
	c := connected(t, s)
	for id := 2; id < 6; id += 2 {
		c.send(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"a","recover":true,"epoch":"e1"}}`, id))
		if m := c.next(); m.Subscribe == nil {
			t.Fatalf("%+v", m)
		}
		c.next()
		c.send(fmt.Sprintf(`{"id":%d,"unsubscribe":{"channel":"a"}}`, id+1))
		for m := c.next(); m.Unsubscribe == nil; m = c.next() {
			if m.Push == nil {
				t.Fatalf("%+v", m)
			}
		}
		if m := c.ask(`{"id":999,"history":{"channel":"a","limit":0}}`); m.History == nil {
			t.Fatalf("%+v", m)
		}
	}
}

func TestCentrifugoRecovers(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 10)
	fourth := l.entries[4].Offset // value 3
	s := serve(t, l)
	c := connected(t, s)
	r := c.ask(fmt.Sprintf(`{"id":2,"subscribe":{"channel":"a","recover":true,"epoch":"e1","offset":%d}}`, fourth)).Subscribe
	if fmt.Sprint(values(t, r.Publications)) != "[4 5 6 7 8 9]" || !r.Recovered || !r.WasRecovering || r.Offset != fourth || r.Epoch != "e1" {
		t.Fatalf("%+v", r)
	}
	l.put("a", 10, 1)
	at := c.expect(10, 10)

	c = connected(t, s)
	quiet := l.put("other", 0, 3).Offset
	r = c.ask(fmt.Sprintf(`{"id":2,"subscribe":{"channel":"a","recover":true,"epoch":"","offset":%d}}`, at)).Subscribe
	if len(r.Publications) != 0 || !r.Recovered || r.Offset != quiet {
		t.Fatalf("nothing was missed: %+v", r)
	}
	r = c.ask(`{"id":3,"subscribe":{"channel":"+","recover":true,"epoch":"zz","offset":3}}`).Subscribe
	if r.Recovered || !r.WasRecovering || r.Epoch != "e1" {
		t.Fatalf("an unknown epoch: %+v", r)
	}
	if m := c.ask(`{"id":4,"subscribe":{"channel":"b","recover":true,"epoch":"zz","offset":3,"flag":2}}`); m.Error == nil || m.Error.Code != cfUnrecoverable {
		t.Fatalf("an unknown epoch that has to be recovered: %+v", m)
	}

	l.mu.Lock()
	l.oldest = l.entries[8].Offset
	first := l.data(8)
	l.mu.Unlock()
	r = connected(t, s).ask(`{"id":2,"subscribe":{"channel":"a","recover":true,"epoch":"e1","offset":2}}`).Subscribe
	if got := values(t, r.Publications); r.Recovered || got[0] != first || got[len(got)-1] != 10 || r.Offset != l.oldest-1 {
		t.Fatalf("behind the trimmed: %+v, %v", r, got)
	}
}

// A recovery that is larger than one reply goes on as pushes, joined with live ones.
func TestCentrifugoLongRecovery(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 4*cfReplyEvents)
	s := serve(t, l)
	c := connected(t, s)
	var publishing sync.WaitGroup
	publishing.Go(func() { l.put("a", 4*cfReplyEvents, 500) })
	r := c.ask(`{"id":2,"subscribe":{"channel":"a","recover":true,"epoch":"e1","offset":0}}`).Subscribe
	got := values(t, r.Publications)
	for i, v := range got {
		if v != i {
			t.Fatalf("%d at %d", v, i)
		}
	}
	if len(got) < cfReplyEvents || len(got) > 2*cfReplyEvents || !r.Recovered || r.Offset != 0 {
		t.Fatalf("%d publications, %v, offset %d", len(got), r.Recovered, r.Offset)
	}
	c.expect(len(got), 4*cfReplyEvents+499)
	publishing.Wait()
}

// Damage that a subscription meets makes the client subscribe again, and then it is told.
func TestCentrifugoGap(t *testing.T) {
	old := newFakeLog("e1")
	old.put("a", 0, 4*cfReplyEvents)
	gap := &gateway.Gap{From: old.entries[4*cfReplyEvents].Offset, To: old.entries[4*cfReplyEvents+10].Offset, Reason: gateway.GapDamaged}
	before, after := old.data(4*cfReplyEvents), old.data(4*cfReplyEvents+10)
	l := old.restart("e1") // with an empty tail
	l.damaged = gap
	s := serve(t, l)
	c := connected(t, s)
	r := c.ask(`{"id":2,"subscribe":{"channel":"a","recover":true,"epoch":"e1","offset":0}}`).Subscribe
	at := c.expect(len(r.Publications), before-1)
	if m := c.next(); m.Push == nil || m.Push.Unsubscribe == nil || m.Push.Unsubscribe.Code != cfInsufficient {
		t.Fatalf("at the gap: %+v", m)
	}
	r = c.ask(fmt.Sprintf(`{"id":3,"subscribe":{"channel":"a","recover":true,"epoch":"e1","offset":%d}}`, at)).Subscribe
	got := values(t, r.Publications)
	if r.Recovered || got[0] != after {
		t.Fatalf("%v, from %d on", r.Recovered, got[0])
	}
	c.expect(got[len(got)-1]+1, 4*cfReplyEvents-1)
}

func TestCentrifugoHistory(t *testing.T) {
	l := newFakeLog("e1")
	top := l.put("a", 0, 10).Offset
	fourth := l.entries[4].Offset
	s := serve(t, l)
	c := connected(t, s)
	for i, h := range []struct{ args, want string }{
		{`"limit":0`, "[]"},
		{`"limit":3`, "[0 1 2]"},
		{`"limit":-1`, "[0 1 2 3 4 5 6 7 8 9]"},
		{`"limit":3,"reverse":true`, "[9 8 7]"},
		{fmt.Sprintf(`"limit":2,"since":{"offset":%d,"epoch":"e1"}`, fourth), "[4 5]"},
		{fmt.Sprintf(`"limit":-1,"since":{"offset":%d,"epoch":""}`, top), "[]"},
	} {
		m := c.ask(fmt.Sprintf(`{"id":%d,"history":{"channel":"a",%s}}`, i+2, h.args))
		if m.History == nil || fmt.Sprint(values(t, m.History.Publications)) != h.want || m.History.Offset != top || m.History.Epoch != "e1" {
			t.Errorf("%s: %+v %+v, want %s", h.args, m.History, m.Error, h.want)
		}
	}
	l.mu.Lock()
	l.broken = errors.New("input/output error")
	l.mu.Unlock()
	if m := c.ask(`{"id":90,"history":{"channel":"a","limit":3,"reverse":true}}`); m.Error == nil || m.Error.Code != cfInternal || !m.Error.Temporary || strings.Contains(m.Error.Message, "output") {
		t.Errorf("a broken journal: %+v", m.Error)
	}
}

func TestCentrifugoSlowReader(t *testing.T) {
	l := newFakeLog("e1")
	reasons := make(chan string, 10)
	s := serve(t, l, ended(reasons), func(o *Options) { o.WriteTimeout = 200 * time.Millisecond })
	slow := connected(t, s)
	if m := slow.ask(`{"id":2,"subscribe":{"channel":"#"}}`); m.Subscribe == nil {
		t.Fatal(m)
	}
	c := connected(t, s)
	c.ask(`{"id":2,"subscribe":{"channel":"a"}}`)
	big := []byte(strings.Repeat("x", 512<<10))
	for i := range 40 {
		l.add(&gateway.Event{Topic: "big", Payload: big})
		l.put("a", i, 1)
		c.expect(i, i)
	}
	awaitReason(t, reasons, "centrifugo slow")
}

// A frame can hold anything; the connection ends or answers, and the server lives on.
func FuzzCentrifugoFrame(f *testing.F) {
	f.Add(`{"id":2,"subscribe":{"channel":"a","recover":true,"offset":9007199254740993}}`)
	f.Add(`{"id":2,"history":{"channel":"a","limit":-5,"since":{}}}`)
	f.Add(`{}{}{"id":3,"publish":{"channel":"a","data":null}}`)
	l := newFakeLog("e1")
	l.put("a", 0, 10)
	f.Fuzz(func(t *testing.T, frame string) {
		s := serve(t, l)
		c := dial(t, s)
		c.ws.WriteMessage(websocket.TextMessage, []byte(`{"id":1,"connect":{}}`))
		c.ws.WriteMessage(websocket.TextMessage, []byte(frame))
		c.ws.WriteMessage(websocket.TextMessage, []byte(`{"id":4294967295,"history":{"channel":"a"}}`))
		for {
			line, err := c.line()
			if websocket.IsCloseError(err, cfBadCommand.code, cfNoSend.code) || strings.HasPrefix(line, `{"id":4294967295,`) {
				break
			}
			if err != nil {
				t.Fatalf("%q: %v", frame, err)
			}
			if !json.Valid([]byte(line)) {
				t.Fatalf("%q: answered %q", frame, line)
			}
		}
		c.ws.Close()
		s.stop()
	})
}
