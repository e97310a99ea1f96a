package web

import (
	"encoding/json"
	"strings"
	"testing"

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

func TestStreamIsLive(t *testing.T) {
	l := newFakeLog("e1")
	old := l.put("plant1/a", 0, 5)
	s := serve(t, l)
	es := open(t, s.url+"/events?topic=plant1/%2B").started()
	if want := old.Position().String(); es.lastID != want || es.retry == "" {
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
			got = []byte(strings.ReplaceAll(string(got), " ", ""))
			payload = strings.NewReplacer("\n", "", "\r", "", " ", "").Replace(payload)
		}
		if err != nil || string(got) != payload || f.Topic != "a\u2028b\nc" {
			t.Errorf("%q came as %q", payload, got)
		}
	}
}
