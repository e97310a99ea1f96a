package sim

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// history is a ledger as a story: "s t 1 q1" sends, "S" sends with DUP, "a t 1 00" answers.
func history(t *testing.T, lines string) *Ledger {
	t.Helper()
	l := NewLedger()
	tell(t, l, lines)
	return l
}

func tell(t *testing.T, l *Ledger, lines string) {
	t.Helper()
	for _, line := range strings.Split(lines, "\n") {
		var what, topic string
		var seq uint64
		var n byte
		if strings.TrimSpace(line) == "" {
			continue
		}
		if _, err := fmt.Sscanf(line, "%s %s %d %x", &what, &topic, &seq, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		switch what {
		case "s", "S":
			l.Sent("mqtt", topic, seq, n, what == "S")
		case "a":
			l.Answered(topic, seq, n)
		}
	}
}

func arrivals(t *testing.T, text string) []Received {
	t.Helper()
	var all []Received
	for _, f := range strings.Fields(text) {
		parts := strings.Split(f, ":")
		r, err := ParseReceived(parts[0], []byte(`{"dev":"x","seq":`+parts[1]+`}`), parts[2])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// Every kind of violation, and what looks like one and is none.
func TestCheck(t *testing.T) {
	const story = `
s t 1 1
s t 2 1
a t 1 00
a t 2 00
s u 1 2
a u 1 00`
	for _, c := range []struct {
		name, story, arrived string
		want                 string // kinds of violation; empty: none
	}{
		{"all well", story, "t:1:e1 t:2:e2 u:1:e3", ""},
		{"topics overtake each other", story, "u:1:e3 t:1:e1 t:2:e2", ""},
		{"a repeat bears the same id", story, "t:1:e1 t:2:e2 t:1:e1 t:2:e2 u:1:e3 u:1:e3", ""},
		{"not acknowledged, not arrived", "s t 1 1", "", ""},
		{"not acknowledged, arrived", "s t 1 1", "t:1:e1", ""},
		{"QoS 1 resent, two events", "s t 1 1\nS t 1 1\na t 1 00", "t:1:e1 t:1:e2", ""},
		{"the second event comes late", "s t 1 1\nS t 1 1\ns t 2 1", "t:1:e1 t:2:e2 t:1:e3", ""},
		{"QoS 2 resent into a lost session", "s t 1 2\ns t 1 2\na t 1 00", "t:1:e1 t:1:e2", ""},
		{"refused", "s t 1 1\na t 1 97", "", ""},
		{"refused after a resend: the first may stand", "s t 1 1\nS t 1 1\na t 1 97", "t:1:e1", ""},

		{"lost", story, "t:1:e1 u:1:e3", "lost"},
		{"lost QoS 2", story, "t:1:e1 t:2:e2", "lost"},
		{"everything lost", story, "", "lost lost lost"},
		{"no id", story, "t:1: t:2:e2 u:1:e3", "noid"},
		{"an id for two messages", story, "t:1:e1 t:2:e1 u:1:e3", "reused"},
		{"an id for two topics", story, "t:1:e1 t:2:e2 u:1:e1", "reused"},
		{"two events of one send", story, "t:1:e1 t:2:e2 t:2:e4 u:1:e3", "doubled"},
		{"three events of two sends", "s t 1 1\nS t 1 1", "t:1:e1 t:1:e2 t:1:e3", "doubled"},
		{"QoS 2 resent with DUP", "s t 1 2\nS t 1 2\na t 1 00", "t:1:e1 t:1:e2", "doubled"},
		{"out of order", story, "t:2:e2 t:1:e1 u:1:e3", "inverted"},
		{"second events out of order", "s t 1 1\nS t 1 1\ns t 2 1\nS t 2 1", "t:1:g/a-1 t:2:g/a-2 t:2:g/b-9 t:1:g/b-8", "inverted"},
		{"second events in order", "s t 1 1\nS t 1 1\ns t 2 1\nS t 2 1", "t:1:g/a-1 t:2:g/a-2 t:1:g/b-8 t:2:g/b-9", ""},
		{"never sent", story, "t:1:e1 t:2:e2 u:1:e3 t:9:e9", "unknown"},
		{"refused, but stored", "s t 1 1\na t 1 97", "t:1:e1", "falsenay"},
	} {
		r := history(t, c.story).Check(arrivals(t, c.arrived))
		var got []string
		for _, kind := range []struct {
			name string
			n    int
		}{{"lost", len(r.Lost)}, {"noid", len(r.NoID)}, {"reused", len(r.Reused)}, {"doubled", len(r.Doubled)},
			{"inverted", len(r.Inverted)}, {"unknown", len(r.Unknown)}, {"falsenay", len(r.FalseNay)}} {
			for range kind.n {
				got = append(got, kind.name)
			}
		}
		if strings.Join(got, " ") != c.want || r.OK() != (c.want == "") || (r.Err() == nil) != (c.want == "") {
			t.Errorf("%s: got %v, want %q; %v", c.name, got, c.want, r.Err())
		}
	}
}

func TestReport(t *testing.T) {
	l := history(t, "s t 1 1\nS t 1 1\na t 1 00\ns t 2 1\na t 2 97\ns t 3 2\na t 3 00")
	r := l.Check(arrivals(t, "t:1:e1 t:1:e1 t:1:e2"))
	want := "3 sent, 2 acknowledged, 1 refused; 3 arrivals of 1 messages, 1 repeats, 1 second events after a resend"
	if r.String() != want {
		t.Errorf("got  %s\nwant %s", &r, want)
	}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "1 violations in: ") || !strings.Contains(err.Error(), "\nlost: t 3, QoS 2, acknowledged at ") {
		t.Errorf("error: %v", err)
	}
}

func TestSerialLinesCountOnlyWhenSeen(t *testing.T) {
	l := NewLedger()
	for seq := range uint64(3) {
		l.Sent("serial", "s/co2/seq", seq+1, 0, false)
	}
	if r := l.Check([]Received{{"s/co2/seq", 2, "e2"}}); !r.OK() {
		t.Error(r.Err())
	}
	l.Answered("s/co2/seq", 3, 0) // a browser saw it
	if r := l.Check([]Received{{"s/co2/seq", 2, "e2"}}); len(r.Lost) != 1 {
		t.Error("a line that was visible is lost, and nobody says so")
	}
	if r := l.Check([]Received{{"s/co2/seq", 3, "e3"}, {"s/co2/seq", 3, "e4"}}); len(r.Doubled) != 1 {
		t.Error("a line that stands twice")
	}
	if r := l.Check([]Received{{"s/co2/seq", 3, "e3"}, {"s/co2/seq", 2, "e4"}}); len(r.Inverted) != 1 {
		t.Error("lines out of order")
	}
}

func TestParseReceived(t *testing.T) {
	for payload, want := range map[string]uint64{`{"dev":"d1","seq":17}`: 17, "18": 18, `{"seq":0}`: 0} {
		if r, err := ParseReceived("t", []byte(payload), "e"); err != nil || r != (Received{"t", want, "e"}) {
			t.Errorf("%s: %+v, %v", payload, r, err)
		}
	}
	for _, payload := range []string{"", "{}", `{"seq":-1}`, "x", `"17"`, "1.5"} {
		if r, err := ParseReceived("t", []byte(payload), "e"); err == nil {
			t.Errorf("%s: %+v", payload, r)
		}
	}
}

// Every wrong bit of a Load's message is found, also a topic that is another one.
func TestWrongByte(t *testing.T) {
	body := []byte(`{"seq":17,"value":0.250`)
	payload := fmt.Appendf(body, `%s%08x"}`, sumMark, sum("t", body))
	if r, err := ParseReceived("t", payload, "e"); err != nil || r.Seq != 17 {
		t.Fatal(r, err)
	}
	if _, err := ParseReceived("u", payload, "e"); err == nil {
		t.Error("it is at home on another topic")
	}
	for i := range len(body) * 8 {
		wrong := bytes.Clone(payload)
		wrong[i/8] ^= 1 << (i % 8)
		if r, err := ParseReceived("t", wrong, "e"); err == nil {
			t.Fatalf("%s is taken, as %+v", wrong, r)
		}
	}
}

func TestLedgerFile(t *testing.T) {
	var file bytes.Buffer
	l := NewLedger()
	l.Log(&file)
	tell(t, l, "s t 1 1\ns t 2 2\nS t 1 1\na t 1 00\na t 2 97")
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	file.WriteString(`{"topic":"t","seq":3,"q`) // killed while it wrote
	again, err := ReadLedger(&file)
	if err != nil {
		t.Fatal(err)
	}
	a, b := l.Entries(), again.Entries()
	for i := range a { // the monotonic clock is not written
		a[i].Sent, a[i].Acked = a[i].Sent.Round(0), a[i].Acked.Round(0)
	}
	if fmt.Sprint(a) != fmt.Sprint(b) || len(b) != 2 || b[0].Sends != 2 || b[0].Fresh != 1 || !b[1].Refused() {
		t.Errorf("wrote %+v\nread  %+v", a, b)
	}
	if acked := again.Acked(); len(acked) != 1 || !reflect.DeepEqual(acked[0].Seq, uint64(1)) {
		t.Errorf("acked %+v", acked)
	}
	if _, err := ReadLedger(strings.NewReader("nonsense\n")); err == nil {
		t.Error("nonsense is a ledger")
	}
	l.Log(failing{})
	for range 1000 {
		l.Sent("mqtt", "t", 9, 0, false)
	}
	if err := l.Flush(); err == nil {
		t.Error("a file that cannot be written is no error")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }
