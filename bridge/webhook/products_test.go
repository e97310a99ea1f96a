package webhook_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/webhook"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// pageConfig is the webhook of a config on the page, sent to another host.
func pageConfig(t *testing.T, uplink, host string) webhook.Config {
	t.Helper()
	for n := 0; ; n++ {
		text := strings.ReplaceAll(block(t, "yaml", n), "${file:cloud.password}", "secret")
		file := filepath.Join(t.TempDir(), "weir.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		section, ok := all.Uplinks[uplink]
		if !ok {
			continue
		}
		var c webhook.Config
		if _, err := section.Kind("sink"); err != nil {
			t.Fatal(err)
		}
		if err := section.Decode(&c); err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(c.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.Scheme, u.Host = "http", host
		c.URL, c.Linger = u.String(), time.Minute
		return c
	}
}

// deliver sends payloads, each on a topic, and fails if one is refused.
func deliver(t *testing.T, c webhook.Config, topicAndPayload ...[2]string) {
	t.Helper()
	s := bridgetest.Send(t, newSink(t, c))
	for i, p := range topicAndPayload {
		e := events(i+1, 1)[0]
		e.Topic, e.Payload = p[0], []byte(p[1])
		s.Events <- e
	}
	done, err := s.Finish()
	if err != nil || len(done) != len(topicAndPayload) {
		t.Fatalf("%v, %d outcomes", err, len(done))
	}
	for _, o := range done {
		if o.Err != nil {
			t.Errorf("%s: %v", o.Event.Topic, o.Err)
		}
	}
}

var nasty = [][2]string{
	{"plant1/boiler/temperature", "21.5"},
	{"plant1/boiler/count", "-1500"},
	{"plant1/boiler/small", "1.5e-9"},
	{"plant1/boiler/on", "true"},
	{"plant1/boiler/state", "running"},
	{`plant 1/a,b=c/x\`, `he said "no\" <!channel> & left`},
	{"plant1/boiler/log", "two\nlines"},
	{"plant1/kessel ü", "NaN"},
	{"plant1/boiler/empty", ""},
	{"plant1/boiler/json", `{"t":1}`},
}

// point is a line of InfluxDB's line protocol.
type point struct {
	measurement string
	tags        map[string]string
	fields      map[string]any
	time        int64
}

// parseLines reads line protocol, version 2, as InfluxDB does: what it does not take is an error.
func parseLines(s string) (points []point, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v, before %.40q", r, s)
		}
	}()
	// word reads up to one of the ends, which a backslash makes ordinary; a line end always ends it.
	word := func(ends string) string {
		var b strings.Builder
		for s != "" && s[0] != '\n' && !strings.ContainsRune(ends, rune(s[0])) {
			if s[0] == '\\' && len(s) > 1 && strings.IndexByte(",= ", s[1]) >= 0 {
				s = s[1:]
			}
			b.WriteByte(s[0])
			s = s[1:]
		}
		if b.Len() == 0 {
			panic("empty word")
		}
		return b.String()
	}
	expect := func(c byte) {
		if s == "" || s[0] != c {
			panic(fmt.Sprintf("no %q", c))
		}
		s = s[1:]
	}
	number := regexp.MustCompile(`^[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$`)
	value := func() any {
		if !strings.HasPrefix(s, `"`) {
			switch w := word(", "); {
			case w == "true" || w == "false":
				return w == "true"
			case number.MatchString(w):
				f, err := strconv.ParseFloat(w, 64)
				if err != nil {
					panic(err)
				}
				return f
			default:
				panic("field value " + w)
			}
		}
		var b strings.Builder
		for s = s[1:]; !strings.HasPrefix(s, `"`); s = s[1:] {
			if s == "" {
				panic("open quote")
			}
			if s[0] == '\\' && len(s) > 1 && (s[1] == '"' || s[1] == '\\') {
				s = s[1:]
			}
			b.WriteByte(s[0])
		}
		s = s[1:]
		return b.String()
	}
	for s != "" {
		p := point{tags: map[string]string{}, fields: map[string]any{}}
		p.measurement = word(", ")
		for strings.HasPrefix(s, ",") {
			s = s[1:]
			key := word("=, ")
			expect('=')
			p.tags[key] = word(",= ")
		}
		expect(' ')
		for {
			key := word("=, ")
			expect('=')
			p.fields[key] = value()
			if !strings.HasPrefix(s, ",") {
				break
			}
			s = s[1:]
		}
		expect(' ')
		if p.time, err = strconv.ParseInt(word(" "), 10, 64); err != nil {
			panic(err)
		}
		points = append(points, p)
		if s != "" {
			expect('\n')
		}
	}
	return points, nil
}

func TestInfluxDB(t *testing.T) {
	var points []point
	r := start(t, func(w http.ResponseWriter, r *request, _ int) {
		// POST /api/v2/write of InfluxDB 2 and 3.
		if r.method != "POST" || r.path != "/api/v2/write" || r.query.Get("org") == "" || r.query.Get("bucket") == "" || r.query.Get("precision") != "ns" {
			http.Error(w, `{"code":"not found"}`, http.StatusNotFound)
			return
		}
		if r.header.Get("Authorization") != "Token secret" {
			http.Error(w, `{"code":"unauthorized"}`, http.StatusUnauthorized)
			return
		}
		got, err := parseLines(r.body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]string{"code": "invalid", "message": err.Error()})
			return
		}
		points = append(points, got...)
		w.WriteHeader(http.StatusNoContent)
	})
	deliver(t, pageConfig(t, "influx", r.Listener.Addr().String()), nasty...)
	if n := len(r.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	want := []any{21.5, -1500.0, 1.5e-9, true, "running", nasty[5][1], "two\nlines", "NaN", "", `{"t":1}`}
	if len(points) != len(want) {
		t.Fatalf("%d points", len(points))
	}
	for i, p := range points {
		topic := strings.TrimSuffix(nasty[i][0], `\`) // the one thing that a tag cannot have
		if p.measurement != "mqtt" || len(p.tags) != 1 || p.tags["topic"] != topic || len(p.fields) != 1 || p.fields["value"] != want[i] || p.time != accepted.UnixNano() {
			t.Errorf("%q: %+v", nasty[i], p)
		}
	}
}

// A parser that takes everything would prove nothing.
func TestLineParser(t *testing.T) {
	for _, bad := range []string{
		"m", "m f=1", "m f=1 x", "m f= 1", "m,t f=1 1", "m,t= f=1 1", "m f=running 1", `m f="open 1`, "m f=NaN 1", "m f=1 1 1", "m  f=1 1", " f=1 1", "m f=1 1\n\nm f=1 1", "m,t=a b f=1 1",
	} {
		if p, err := parseLines(bad); err == nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

func TestNtfy(t *testing.T) {
	var titles, messages []string
	topics := regexp.MustCompile(`^[-_A-Za-z0-9]{1,64}$`)
	r := start(t, func(w http.ResponseWriter, r *request, _ int) {
		var m struct {
			Topic, Title, Message string
			Priority              int
		}
		// Publishing as JSON is to the root.
		if err := json.Unmarshal([]byte(r.body), &m); err != nil || r.path != "/" || !topics.MatchString(m.Topic) || m.Priority < 1 || m.Priority > 5 {
			http.Error(w, `{"code":40024,"http":400,"error":"invalid request: request body must be valid JSON"}`, http.StatusBadRequest)
			return
		}
		if r.header.Get("Authorization") != "Bearer secret" {
			http.Error(w, `{"code":40301,"http":403,"error":"forbidden"}`, http.StatusForbidden)
			return
		}
		titles, messages = append(titles, m.Title), append(messages, m.Message)
	})
	deliver(t, pageConfig(t, "phone", r.Listener.Addr().String()), nasty...)
	for i, e := range nasty {
		if titles[i] != e[0] || messages[i] != e[1] {
			t.Errorf("%q: %q, %q", e, titles[i], messages[i])
		}
	}
}

func TestSlack(t *testing.T) {
	var texts []string
	r := start(t, func(w http.ResponseWriter, r *request, _ int) {
		var m struct{ Text string }
		switch err := json.Unmarshal([]byte(r.body), &m); {
		case !strings.HasPrefix(r.path, "/services/"):
			http.Error(w, "no_service", http.StatusNotFound)
		case err != nil || r.header.Get("Content-Type") != "application/json":
			http.Error(w, "invalid_payload", http.StatusBadRequest)
		case m.Text == "":
			http.Error(w, "no_text", http.StatusBadRequest)
		default:
			texts = append(texts, m.Text)
			fmt.Fprint(w, "ok")
		}
	})
	deliver(t, pageConfig(t, "chat", r.Listener.Addr().String()), nasty...)
	if want := `*plant 1/a,b=c/x\*: he said "no\" &lt;!channel&gt; &amp; left`; texts[5] != want {
		t.Errorf("%s, not %s", texts[5], want)
	}
}

// An event of which a product says that it is wrong is a dead letter, with the reason.
func TestProductRefuses(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, _ *request, _ int) {
		http.Error(w, `{"code":"invalid","message":"field type conflict"}`, http.StatusBadRequest)
	})
	c := pageConfig(t, "influx", r.Listener.Addr().String())
	s := bridgetest.Send(t, newSink(t, c), events(1, 1)...)
	done, err := s.Finish()
	if err != nil || len(done) != 1 || !errors.Is(done[0].Err, gateway.ErrInvalid) || !strings.Contains(done[0].Err.Error(), "field type conflict") {
		t.Errorf("%v, %v", done, err)
	}
}
