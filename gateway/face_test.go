package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestFace(t *testing.T) {
	accepted := time.Date(2026, 11, 3, 12, 0, 1, 500_000_000, time.FixedZone("CET", 3600))
	tests := []struct {
		name  string
		event Event
		want  string
	}{
		{"a number", Event{Topic: "plant1/oven/t", Payload: []byte("21.50"), Origin: Origin{Via: "serial", ID: "oven"}},
			`{"id":"gw/e1-7","topic":"plant1/oven/t","time":"2026-11-03T11:00:01.5Z","device":"oven","payload":21.50}`},
		{"an object", Event{Topic: "a", Payload: []byte(`{"b":1}`)},
			`{"id":"gw/e1-7","topic":"a","time":"2026-11-03T11:00:01.5Z","payload":{"b":1}}`},
		{"text", Event{Topic: "a", Payload: []byte("on <off>")},
			`{"id":"gw/e1-7","topic":"a","time":"2026-11-03T11:00:01.5Z","payload_text":"on \u003coff\u003e"}`},
		{"no payload", Event{Topic: "a", Retain: true},
			`{"id":"gw/e1-7","topic":"a","time":"2026-11-03T11:00:01.5Z","payload_text":"","retained":true}`},
		{"JSON null", Event{Topic: "a", Payload: []byte("null")},
			`{"id":"gw/e1-7","topic":"a","time":"2026-11-03T11:00:01.5Z","payload":null}`},
		{"binary", Event{Topic: "a", Payload: []byte{0xff, 0, 1}},
			`{"id":"gw/e1-7","topic":"a","time":"2026-11-03T11:00:01.5Z","payload_base64":"/wAB"}`},
		{"JSON that is not UTF-8", Event{Topic: "a", Payload: []byte("\"\xff\"")},
			`{"id":"gw/e1-7","topic":"a","time":"2026-11-03T11:00:01.5Z","payload_base64":"Iv8i"}`},
		{"source time and quality", Event{Topic: "a", Payload: []byte("nan"), Quality: Bad, Source: accepted.Add(-time.Second)},
			`{"id":"gw/e1-7","topic":"a","time":"2026-11-03T11:00:00.5Z","payload_text":"nan","quality":"bad"}`},
	}
	for _, test := range tests {
		e := test.event
		e.Accepted, e.Epoch, e.Offset = accepted, "e1", 7
		got, err := json.Marshal(e.Face("gw"))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, got, test.want)
		}
	}
}

// Whatever was published, one payload field is set and gives the same bytes back on
// the other side. JSON may lose its blanks on the way, but not its meaning.
func FuzzFaceRoundTrip(f *testing.F) {
	for _, s := range []string{"", "21.5", "null", "\xff", `{"a": [1, 2]}`, "text", "\u2028", "\"\xff\"", " 1 ", "1e400", `"<"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		e := &Event{Topic: "a", Payload: payload, Epoch: "e", Offset: 1}
		text, err := json.Marshal(e.Face("gw"))
		if err != nil {
			t.Fatalf("payload %q: %v", payload, err)
		}
		set := 0
		for _, field := range []string{`"payload":`, `"payload_text":`, `"payload_base64":`} {
			if strings.Contains(string(text[:min(len(text), 100)]), field) {
				set++
			}
		}
		if set != 1 {
			t.Errorf("payload %q: %d payload fields in %s", payload, set, text)
		}
		var back Face
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		got, err := back.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if back.Payload != nil {
			var compact, want bytes.Buffer
			if err := json.Compact(&compact, payload); err != nil {
				t.Fatal(err)
			}
			json.HTMLEscape(&want, compact.Bytes()) // as json.Marshal does to what is inside
			if !bytes.Equal(got, want.Bytes()) {
				t.Errorf("payload %q came back as %q", payload, got)
			}
			return
		}
		if !bytes.Equal(got, payload) {
			t.Errorf("payload %q came back as %q", payload, got)
		}
	})
}
