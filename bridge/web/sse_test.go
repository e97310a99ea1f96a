package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
)

func face(t testing.TB, data string) gateway.Face {
	t.Helper()
	var f gateway.Face
	if err := json.Unmarshal([]byte(data), &f); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	return f
}

// value is the number that fakeLog.put gave the message.
func value(t testing.TB, m message) int {
	t.Helper()
	if m.name != "" {
		t.Fatalf("got %+v where a message was due", m)
	}
	n, err := strconv.Atoi(string(face(t, m.data).Payload))
	if err != nil {
		t.Fatalf("%+v: %v", m, err)
	}
	return n
}

// expect reads the values from first to last, each once and in order.
func (es *eventSource) expect(first, last int) {
	es.t.Helper()
	for want := first; want <= last; want++ {
		if got := value(es.t, es.next()); got != want {
			es.t.Fatalf("got %d, want %d", got, want)
		}
	}
}

func TestStreamIsLive(t *testing.T) {
	l := newFakeLog("e1")
	old := l.put("plant1/a", 0, 5)
	s := serve(t, l)
	es := open(t, s.url+"/events?topic=plant1/%2B").started()
	if es.lastID != old.Position().String() || es.retry == "" {
		t.Fatalf("before any event: id %q, retry %q", es.lastID, es.retry)
	}
	l.put("other", 0, 1)
	e := l.put("plant1/a", 7, 1)
	m := es.next()
	f := face(t, m.data)
	if m.name != "" || m.id != e.Position().String() || f.ID != e.ID("gw") || f.Topic != "plant1/a" || string(f.Payload) != "7" {
		t.Fatalf("got %+v, %+v", m, f)
	}
}

func TestPayloadIsOneLine(t *testing.T) {
	l := newFakeLog("e1")
	s := serve(t, l)
	es := open(t, s.url+"/events?topic=%23").started()
	for _, payload := range []string{"{\n\"a\":\r\n 1}", "two\nlines\r\n", "\xff\x00\n", "", "<b>&\u2028", `"<b>"`} {
		l.add(&gateway.Event{Topic: "a\u2028b\nc", Payload: []byte(payload)})
		f := face(t, es.next().data)
		got, err := f.Bytes()
		if f.Payload != nil {
			payload = strings.NewReplacer("\n", "", "\r", "", " ", "").Replace(payload)
		}
		if err != nil || string(got) != payload || f.Topic != "a\u2028b\nc" {
			t.Errorf("%q came as %q", payload, got)
		}
	}
}

func TestResume(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 10)
	fourth := l.entries[4].Position().String() // value 3; entry 2 is a Change
	s := serve(t, l)
	for name, c := range map[string]struct {
		query  string
		header []string
		first  int
	}{
		"header":                {"", []string{"Last-Event-ID: " + fourth}, 4},
		"query":                 {"&last_event_id=" + fourth, nil, 4},
		"header is newer":       {"&last_event_id=e1:1", []string{"Last-Event-ID: " + fourth}, 4},
		"header ends rewinding": {"&rewind=9", []string{"Last-Event-ID: " + fourth}, 4},
		"everything":            {"&last_event_id=e1:0", nil, 0},
		"rewind":                {"&rewind=3", nil, 7},
		"rewind beyond":         {"&rewind=100", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			es := open(t, s.url+"/events?topic=a"+c.query, c.header...)
			es.expect(c.first, 9)
		})
	}
}

func TestResumeAcrossRestarts(t *testing.T) {
	l := newFakeLog("e1")
	s := serve(t, l)
	url := s.url + "/events?topic=a"
	es := open(t, url).started()
	l.put("a", 0, 3)
	es.expect(0, 2)
	s.stop()
	if _, err := es.block(); err != io.EOF {
		t.Fatalf("a stopped stream ends with %v", err)
	}
	for i, epoch := range []string{"e1", "e2", "e2", "e3"} {
		n := 3 * (i + 1)
		l.put("a", n, 2) // released, and never sent
		l = l.restart(epoch)
		s = serveOn(t, l, s.addr)
		es = open(t, url, "Last-Event-ID: "+es.lastID)
		es.expect(n, n+1)
		l.put("a", n+2, 1)
		es.expect(n+2, n+2)
		if !strings.HasPrefix(es.lastID, epoch+":") {
			t.Fatalf("id %q after the restart", es.lastID)
		}
		s.stop()
	}
}

func TestGap(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 20)
	l.oldest = l.entries[15].Offset
	firstLeft := l.data(15)
	top, _ := l.hub.Next()
	s := serve(t, l)

	var g gapFace
	es := open(t, s.url+"/events?topic=a", "Last-Event-ID: e1:2")
	m := es.next()
	if err := json.Unmarshal([]byte(m.data), &g); err != nil || m.name != "gap" {
		t.Fatalf("%+v: %v", m, err)
	}
	want := gapFace{Asked: "e1:2", From: 3, To: l.oldest, Reason: "trimmed", Oldest: l.oldest, Top: top - 1}
	if g != want || m.id != fmt.Sprintf("e1:%d", l.oldest-1) {
		t.Fatalf("gap %+v with id %s, want %+v", g, m.id, want)
	}
	es.expect(firstLeft, 19)

	// Cut off right after the gap: it is not told again.
	es = open(t, s.url+"/events?topic=a", "Last-Event-ID: "+m.id)
	es.expect(firstLeft, 19)

	// A history this gateway never had.
	m = open(t, s.url+"/events?topic=a&last_event_id=zz:5").next()
	if m.name != "gap" || !strings.Contains(m.data, `"reason":"unknown"`) || !strings.Contains(m.data, `"asked":"zz:5"`) {
		t.Fatalf("got %+v", m)
	}
}

func TestGapWhileReading(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 20)
	l.damaged = &gateway.Gap{From: l.entries[5].Offset, To: l.entries[9].Offset, Reason: gateway.GapDamaged}
	before, after := l.data(5), l.data(9)
	s := serve(t, l.restart("e1")) // the hub's tail would hide the damage
	es := open(t, s.url+"/events?topic=a&last_event_id=e1:0")
	es.expect(0, before-1)
	m := es.next()
	if m.name != "gap" || !strings.Contains(m.data, `"damaged"`) || m.id != fmt.Sprintf("e1:%d", l.damaged.To-1) {
		t.Fatalf("got %+v", m)
	}
	es.expect(after, 19)
}

func TestHeartbeatTellsThePosition(t *testing.T) {
	for name, query := range map[string]string{"quiet topic": "topic=plant1/quiet", "unreadable": "topic=%23&readable=1"} {
		t.Run(name, func(t *testing.T) {
			l := newFakeLog("e1")
			s := serve(t, l, func(o *Options) { o.Heartbeat, o.Auth = 10*time.Millisecond, closedPolicy(t) })
			es := open(t, s.url+"/events?"+query, "Authorization: "+basic("viewer")).started()
			want := l.put("busy", 0, 50).Position().String()
			for es.lastID != want { // the request's deadline ends this
				if m, err := es.block(); err != errQuiet {
					t.Fatalf("%+v, %v", m, err)
				}
			}
		})
	}
}

func TestHeartbeatAsEvent(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 4)
	s := serve(t, l)
	es := open(t, s.url+"/events?topic=a&rewind=2&heartbeat=event")
	es.expect(2, 3)
	if m := es.next(); m.name != "heartbeat" || m.id != "e1:5" || m.data != `{"top":5}` {
		t.Fatalf("caught up, and got %+v", m)
	}
}

// A stream that begins with a rewind gets every event once, whatever is released while
// it opens: before the history is read, and after.
func TestRewindJoinsLive(t *testing.T) {
	l := newFakeLog("e1")
	var opening []func()
	s := serve(t, l, func(o *Options) {
		o.History = func(f gateway.Matcher, n int) ([]*gateway.Event, error) {
			opening[0]()
			events, err := l.history(f, n)
			opening[1]()
			return events, err
		}
	})
	for _, before := range []int{0, 1, 3, 600} {
		for _, after := range []int{0, 1, 3, 600} {
			topic := fmt.Sprintf("a/%d/%d", before, after)
			l.put(topic, 0, 10)
			next := 10
			put := func(n int) func() {
				return func() {
					l.put(topic, next, n)
					l.put("other", 0, 1)
					next += n
				}
			}
			opening = []func(){put(before), put(after)}
			es := open(t, s.url+"/events?rewind=5&topic="+topic)
			es.expect(5+before, 9+before+after)
			put(1)()
			es.expect(next-1, next-1)
			es.close()
		}
	}
	// Nothing matches yet.
	opening = []func(){func() { l.put("other", 0, 2) }, func() { l.put("new", 0, 2) }}
	open(t, s.url+"/events?rewind=5&topic=new").expect(0, 1)
}

// The same with publishers that do not wait for anybody.
func TestRewindUnderLoad(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 100)
	s := serve(t, l)
	stop := make(chan struct{})
	var publishing, reading sync.WaitGroup
	publishing.Go(func() {
		for next := 100; ; next += 5 {
			select {
			case <-stop:
				return
			default:
				l.put("a", next, 5)
			}
		}
	})
	for range 20 {
		for range 2 {
			reading.Go(func() {
				es := open(t, s.url+"/events?topic=a&rewind=50")
				defer es.close()
				at := value(t, es.next())
				es.expect(at+1, at+200)
			})
		}
		reading.Wait()
	}
	close(stop)
	publishing.Wait()
}

// ended collects why streams were closed.
func ended(reasons chan string) func(*Options) {
	return func(o *Options) {
		o.Observer.StreamClosed = func(kind, reason string) { reasons <- kind + " " + reason }
	}
}

func awaitReason(t *testing.T, reasons chan string, want string) {
	t.Helper()
	select {
	case got := <-reasons:
		if got != want {
			t.Fatalf("stream ended: %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no stream ended, want %q", want)
	}
}

// A reader that stalls is cut off after WriteTimeout; the others do not notice.
func TestSlowReader(t *testing.T) {
	l := newFakeLog("e1")
	reasons := make(chan string, 10)
	s := serve(t, l, ended(reasons), func(o *Options) { o.WriteTimeout = 200 * time.Millisecond })
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, "GET /events?topic=%%23 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	es := open(t, s.url+"/events?topic=a").started()
	big := []byte(strings.Repeat("x", 512<<10))
	for i := range 40 { // more than socket buffers hold
		l.add(&gateway.Event{Topic: "big", Payload: big})
		l.put("a", i, 1)
		es.expect(i, i)
	}
	awaitReason(t, reasons, "sse slow")
	l.put("a", 40, 1)
	es.expect(40, 40)
}

func TestStreamEndsWhenTheJournalFails(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 10)
	fresh := l.restart("e1")
	fresh.broken = errors.New("input/output error")
	reasons := make(chan string, 1)
	s := serve(t, fresh, ended(reasons))
	es := open(t, s.url+"/events?topic=a&last_event_id=e1:0")
	for {
		m, err := es.block()
		if err == io.EOF {
			break
		}
		if err != errQuiet || m.id != "" {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	awaitReason(t, reasons, "sse journal")
}

func TestClientLeaves(t *testing.T) {
	reasons := make(chan string, 1)
	s := serve(t, newFakeLog("e1"), ended(reasons))
	es := open(t, s.url+"/events?topic=a").started()
	es.close()
	awaitReason(t, reasons, "sse client")
	if n := s.streams.Load(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

func TestEncodedOnce(t *testing.T) {
	f := faces{gatewayID: "gw"}
	e := &gateway.Event{Topic: "a", Epoch: "e1", Offset: 5}
	first, _ := f.of(e)
	if again, _ := f.of(e); again != first {
		t.Error("encoded twice")
	}
	old := &gateway.Event{Topic: "old", Epoch: "e1", Offset: 5 + cachedEvents}
	newer, _ := f.of(old)
	if again, _ := f.of(e); again == newer || string(again.sse) != string(first.sse) {
		t.Error("a slot was mistaken")
	}
	if again, _ := f.of(old); again != newer {
		t.Error("an older event took a newer one's slot")
	}
	other := &gateway.Event{Topic: "other", Epoch: "e2", Offset: 5 + cachedEvents}
	if got, _ := f.of(other); got == newer {
		t.Error("the epoch is not looked at")
	}
	large := &gateway.Event{Topic: "a", Payload: make([]byte, cachedBytes), Epoch: "e1", Offset: 99999}
	one, _ := f.of(large)
	if two, _ := f.of(large); one == two {
		t.Error("large encodings are kept")
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("a/b", []byte(`{"a":[1,2]}`))
	f.Add("a\nb", []byte("\xff\r\n\n"))
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		enc, err := encode(&gateway.Event{Topic: topic, Payload: payload, Epoch: "e", Offset: 1}, "gw")
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(enc.sse), "\n")
		if len(lines) != 4 || lines[0] != "id: e:1" || lines[1] != "data: "+string(enc.face) || strings.ContainsAny(lines[1], "\r\x00") {
			t.Fatalf("%q", enc.sse)
		}
		got, err := face(t, string(enc.face)).Bytes()
		if err != nil || !json.Valid(payload) && string(got) != string(payload) {
			t.Fatalf("%q came back as %q, %v", payload, got, err)
		}
	})
}
