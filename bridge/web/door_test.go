package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// call returns the status and the answer; a status of 400 or more has to be a problem.
func call(t *testing.T, method, url, body string, header ...string) (int, map[string]any) {
	t.Helper()
	resp := do(t, method, url, body, header...)
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(raw, &v); err != nil && raw[0] == '{' {
			t.Fatalf("%s: %v", raw, err)
		}
	}
	if resp.StatusCode >= 400 && (resp.Header.Get("Content-Type") != "application/problem+json" || v["detail"] == "" || v["status"] != float64(resp.StatusCode)) {
		t.Errorf("%s %s: %s is no problem: %s", method, url, resp.Status, raw)
	}
	return resp.StatusCode, v
}

const asJSON = "Content-Type: application/json"

func TestPublish(t *testing.T) {
	l := newFakeLog("e1")
	s := serve(t, l)
	for _, c := range []struct {
		body, contentType string
		status            int
		want              string // the payload, or a part of the detail
	}{
		{`{"topic":"a","payload":{"b": 1}}`, asJSON, 200, `{"b": 1}`},
		{`{"topic":"a","payload":"text"}`, asJSON, 200, `"text"`},
		{`{"topic":"a","payload":null}`, asJSON, 200, `null`},
		{`{"topic":"a","payload_text":"ON","qos":1,"retain":true}`, asJSON + "; charset=utf-8", 200, `ON`},
		{`{"topic":"a","payload_base64":"/wA="}`, asJSON, 200, "\xff\x00"},
		{`{"topic":"a"}`, asJSON, 200, ""},
		{`{"topic":"a","payload":1,"payload_text":"1"}`, asJSON, 400, "one of"},
		{`{"topic":"a","payload_base64":"!"}`, asJSON, 400, "base64"},
		{`{"topic":"a/#"}`, asJSON, 400, "wildcard"},
		{`{"topic":""}`, asJSON, 400, "empty"},
		{`{"topic":"a","qos":3}`, asJSON, 400, "QoS"},
		{`{"topic":"a","pay":1}`, asJSON, 400, "pay"},
		{`{"topic":"a"} {}`, asJSON, 400, "more than one"},
		{`topic=a`, asJSON, 400, "body"},
		{`{"topic":"a"}`, "Content-Type: text/plain", 415, "application/json"},
		{`{"topic":"full/a"}`, asJSON, 507, "full"},
		{`{"topic":"busy/a"}`, asJSON, 503, "stopped"},
		{`{"topic":"odd/a"}`, asJSON, 500, "log"},
		{`{"topic":"` + strings.Repeat("x", maxBody) + `"}`, asJSON, 413, "larger"},
	} {
		status, v := call(t, "POST", s.url+"/api/publish", c.body, c.contentType)
		if status != c.status {
			t.Errorf("%.60s: %d %v, want %d", c.body, status, v, c.status)
			continue
		}
		if status != 200 {
			if detail := v["detail"].(string); !strings.Contains(detail, c.want) || strings.Contains(detail, "secret") {
				t.Errorf("%.60s: %q, want %q", c.body, detail, c.want)
			}
			continue
		}
		e := l.entries[len(l.entries)-1]
		if string(e.Payload) != c.want || v["id"] != e.ID("gw") || v["position"] != e.Position().String() || e.Origin.Via != "http" {
			t.Errorf("%.60s: stored %+v, answered %v", c.body, e, v)
		}
		if wantRetain := strings.Contains(c.body, "retain"); e.Retain != wantRetain || (e.QoS == 1) != wantRetain {
			t.Errorf("%.60s: stored %+v", c.body, e)
		}
	}
}

// A 200 leaves only after the event is stored.
func TestPublishWaits(t *testing.T) {
	l := newFakeLog("e1")
	stored := make(chan struct{})
	entered := make(chan struct{})
	s := serve(t, l, func(o *Options) {
		o.Ingest = func(ctx context.Context, e *gateway.Event) error {
			close(entered)
			<-stored
			return l.ingest(ctx, e)
		}
	})
	answered := make(chan int, 1)
	go func() {
		resp, err := http.Post(s.url+"/api/publish", "application/json", strings.NewReader(`{"topic":"a"}`))
		if err != nil {
			answered <- -1
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	<-entered
	select {
	case status := <-answered:
		t.Fatalf("answered %d before it was stored", status)
	default:
	}
	close(stored)
	if status := <-answered; status != 200 {
		t.Fatal(status)
	}
}

func TestLastAndHistory(t *testing.T) {
	l := newFakeLog("e1")
	l.put("plant1/a", 0, 5)
	l.put("plant1/b", 10, 5)
	top := l.put("other", 20, 1).Position().String()
	s := serve(t, l)
	for _, c := range []struct{ path, want string }{
		{"/api/last?topic=%23", "20 4 14"},
		{"/api/last?topic=plant1/+", "4 14"},
		{"/api/last?topic=nothing", ""},
		{"/api/history?topic=plant1/%23&limit=7", "3 4 10 11 12 13 14"},
		{"/api/history?topic=plant1/a&topic=other", "0 1 2 3 4 20"},
		{"/api/history?topic=plant1/a&limit=0", ""},
	} {
		resp := get(t, s.url+c.path)
		var got Events
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		var values []string
		for _, f := range got.Events {
			values = append(values, string(f.Payload))
		}
		if strings.Join(values, " ") != c.want || got.Position != top || got.Events == nil {
			t.Errorf("%s: %v, want %s at %s", c.path, got, c.want, top)
		}
	}
	for _, bad := range []string{"/api/history?topic=a&limit=-1", "/api/history?topic=a&limit=x", "/api/history?topic=a&limit=999999", "/api/last", "/api/last?topic=a/", "/events?topic=a&rewind=x", "/events?topic=a&last_event_id=x"} {
		if status, v := call(t, "GET", s.url+bad, ""); status != 400 {
			t.Errorf("%s: %d %v", bad, status, v)
		}
	}
	l.broken = errors.New("input/output error")
	for _, path := range []string{"/api/history?topic=a", "/events?topic=a&rewind=3"} {
		if status, _ := call(t, "GET", s.url+path, ""); status != 500 {
			t.Errorf("%s of a broken journal: %d", path, status)
		}
	}
}

func TestStatus(t *testing.T) {
	l := newFakeLog("e1")
	l.put("a", 0, 1)
	var notReady error
	m := NewMetrics()
	m.Gauge("weir_test_gauge", "A gauge.", func() float64 { return 7 })
	o := m.Observer()
	s := serve(t, l, func(op *Options) {
		op.Metrics, op.Observer = m, o
		op.Ready = func() error { return notReady }
		op.Devices = func() []Device {
			return []Device{{ID: "scale", Name: "Packing scale", Area: "hall 3", Driver: "serial", Topic: "plant1/scale/status", Up: true}}
		}
		op.Uplinks = func() []Uplink {
			return []Uplink{{Name: "cloud", Queued: 3, State: "backoff", Failures: 4, Oldest: time.Now().Add(-time.Hour)}}
		}
	})
	text := func(path string) string {
		resp := get(t, s.url+path)
		body, _ := io.ReadAll(resp.Body)
		return resp.Status + " " + string(body)
	}
	for path, want := range map[string]string{
		"/healthz": `"alive":true`, "/readyz": `"ready":true`, "/api/info": `"position":"e1:1"`,
		"/api/devices": `[{"id":"scale","name":"Packing scale","area":"hall 3","driver":"serial","status_topic":"plant1/scale/status","up":true,"frames":0,"garbage":0}]`, "/api/uplinks": `"queued":3`,
	} {
		if got := text(path); !strings.Contains(got, want) || !strings.HasPrefix(got, "200") {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	notReady = errors.New("the journal is full")
	if got := text("/readyz"); !strings.HasPrefix(got, "503") || !strings.Contains(got, "the journal is full") {
		t.Error(got)
	}

	o.Accepted(&gateway.Event{Payload: []byte("abc")})
	o.Accepted(&gateway.Event{Kind: gateway.Change})
	o.Refused(nil, gateway.Errorf(gateway.ErrFull, "full"))
	o.Refused(nil, fmt.Errorf("wrapped: %w", gateway.Errorf(gateway.ErrDenied, "no")))
	o.Written(3, 400)
	o.Synced(5, 2*time.Millisecond)
	o.Recovered(gateway.Recovery{Cut: 12, NewEpoch: "power loss", Took: time.Second})
	o.Damaged(gateway.Gap{})
	o.Connected("c")
	o.Connected("d")
	o.Disconnected("c", "bye")
	o.Dropped("slow")
	o.DeviceState("scale", true, "")
	o.Frame("scale")
	o.Garbage("scale", "too long")
	o.UplinkState("cloud", false, "refused")
	o.Delivered("cloud", 9)
	o.Retried("cloud", 2)
	es := open(t, s.url+"/events?topic=a").started()
	defer es.close()
	metrics := strings.Split(text("/metrics"), "\n")
	for _, want := range []string{
		`weir_events_accepted_total 1`, `weir_events_accepted_bytes_total 3`, `weir_events_refused_total{reason="full"} 1`,
		`weir_events_refused_total{reason="denied"} 1`, `weir_events_refused_total{reason="transient"} 0`,
		`weir_journal_writes_total 1`, `weir_journal_written_bytes_total 400`, `weir_journal_syncs_total 1`,
		`weir_journal_synced_events_total 5`, `weir_journal_sync_seconds_count 1`, `weir_journal_sync_seconds_sum 0.002`,
		`weir_journal_recovery_cut_bytes 12`, `weir_journal_recovery_seconds 1`, `weir_journal_epoch_changed 1`, `weir_journal_damaged_total 1`,
		`weir_mqtt_clients 1`, `weir_mqtt_connects_total 2`, `weir_deliveries_dropped_total{reason="slow"} 1`,
		`weir_device_up{device="scale"} 1`, `weir_device_frames_total{device="scale"} 1`,
		`weir_device_garbage_total{device="scale",reason="too long"} 1`,
		`weir_device_info{area="hall 3",device="scale",driver="serial",name="Packing scale"} 1`,
		`weir_uplink_up{uplink="cloud"} 0`, `weir_uplink_delivered_total{uplink="cloud"} 9`, `weir_uplink_retried_total{uplink="cloud"} 2`,
		`weir_uplink_queued_events{uplink="cloud"} 3`,
		`weir_uplink_state{state="backoff",uplink="cloud"} 1`, `weir_uplink_consecutive_failures{uplink="cloud"} 4`, `weir_streams{kind="sse"} 1`, `weir_streams_opened_total{kind="sse"} 1`, `weir_test_gauge 7`,
	} {
		if !slices.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if !slices.ContainsFunc(metrics, func(l string) bool { return strings.HasPrefix(l, `weir_uplink_oldest_seconds{uplink="cloud"} 3600`) }) {
		t.Error("metrics lack the age of the oldest event")
	}
}

func TestAccounts(t *testing.T) {
	l := newFakeLog("e1")
	l.put("plant1/a", 1, 1)
	l.put("plant2/a", 2, 1)
	s := serve(t, l, func(o *Options) { o.Auth = closedPolicy(t) })
	viewer, sensor := "Authorization: "+basic("viewer"), "Authorization: "+basic("sensor")
	for _, c := range []struct {
		method, path, body string
		header             string
		status             int
	}{
		{"GET", "/", "", "", 401},
		{"GET", "/app.js", "", "", 401},
		{"GET", "/metrics", "", "", 401},
		{"GET", "/events?topic=plant1/a", "", "", 401},
		{"GET", "/connection/websocket", "", "", 401},
		{"GET", "/mqtt", "", "", 401},
		{"GET", "/api/info", "", "Authorization: Basic dmlld2VyOndyb25n", 401},
		{"GET", "/healthz", "", "", 200},
		{"GET", "/readyz", "", "", 200},
		{"GET", "/", "", viewer, 200},
		{"GET", "/api/last?topic=plant1/%23", "", viewer, 200},
		{"GET", "/api/last?topic=%23", "", viewer, 403},
		{"GET", "/api/history?topic=plant2/a", "", viewer, 403},
		{"GET", "/events?topic=%23", "", viewer, 403},
		{"GET", "/events?topic=plant1/a&topic=plant2/a", "", viewer, 403},
		{"GET", "/events?topic=plant1/a", "", sensor, 403},
		{"POST", "/api/publish", `{"topic":"plant1/sensor/x"}`, sensor, 200},
		{"POST", "/api/publish", `{"topic":"plant1/other/x"}`, sensor, 403},
		{"POST", "/api/publish", `{"topic":"plant1/sensor/x"}`, viewer, 403},
		{"POST", "/api/publish", `{"topic":"plant1/sensor/x"}`, "", 401},
	} {
		header := []string{asJSON}
		if c.header != "" {
			header = append(header, c.header)
		}
		if status, v := call(t, c.method, s.url+c.path, c.body, header...); status != c.status {
			t.Errorf("%s %s %q: %d %v, want %d", c.method, c.path, c.header, status, v, c.status)
		}
	}
	resp := get(t, s.url+"/")
	if got := resp.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Basic realm=") {
		t.Errorf("WWW-Authenticate: %q", got)
	}
	if e := l.entries[len(l.entries)-1]; e.Topic != "plant1/sensor/x" || e.Origin.User != "sensor" {
		t.Errorf("stored %+v", e)
	}

	// readable=1 leaves out what may not be read.
	var got Events
	if err := json.NewDecoder(get(t, s.url+"/api/history?topic=%23&readable=1", viewer).Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	for _, f := range got.Events {
		if !strings.HasPrefix(f.Topic, "plant1/") {
			t.Errorf("viewer was shown %s", f.Topic)
		}
	}
	es := open(t, s.url+"/events?topic=%23&readable=1", viewer).started()
	l.put("plant2/a", 5, 1)
	l.put("plant1/a", 6, 1)
	es.expect(6, 6)
}

func TestOrigins(t *testing.T) {
	l := newFakeLog("e1")
	s := serve(t, l, func(o *Options) { o.Origins = []string{"https://Dash.plant1.lan", "http://10.0.0.5:3000/"} })
	for _, c := range []struct {
		origin string
		ok     bool
	}{
		{"", true}, {s.url, true}, {strings.Replace(s.url, "http:", "https:", 1), true},
		{"https://dash.plant1.lan", true}, {"http://10.0.0.5:3000", true},
		{"http://dash.plant1.lan", false}, {"https://dash.plant1.lan:8443", false}, {"https://evil.example", false}, {"null", false},
		{"http://127.0.0.1", false}, {"https://dash.plant1.lan.evil.example", false},
	} {
		header := []string{asJSON}
		if c.origin != "" {
			header = append(header, "Origin: "+c.origin)
		}
		for _, path := range []string{"/api/info", "/connection/websocket"} {
			resp := do(t, "GET", s.url+path, "", header...)
			body, _ := io.ReadAll(resp.Body)
			if ok := resp.StatusCode != 403; ok != c.ok {
				t.Errorf("%s from %q: %s", path, c.origin, resp.Status)
			}
			if !c.ok && (!strings.Contains(string(body), "listeners.http.origins") || !strings.Contains(string(body), c.origin)) {
				t.Errorf("%s from %q is told %s", path, c.origin, body)
			}
			allowed := resp.Header.Get("Access-Control-Allow-Origin")
			if strings.Contains(c.origin, "dash") && c.ok && allowed != c.origin || !c.ok && allowed != "" {
				t.Errorf("%s from %q: Access-Control-Allow-Origin %q", path, c.origin, allowed)
			}
		}
		if status, _ := call(t, "POST", s.url+"/api/publish", `{"topic":"a"}`, header...); (status == 200) != c.ok {
			t.Errorf("publish from %q: %d", c.origin, status)
		}
	}
	resp := do(t, "OPTIONS", s.url+"/api/publish", "", "Origin: https://dash.plant1.lan")
	if resp.StatusCode != 204 || !strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Content-Type") {
		t.Errorf("preflight: %s %v", resp.Status, resp.Header)
	}
	for _, bad := range []string{"*", "dash.lan", "https://", "ftp://dash.lan", "https://dash.lan/page", "https://u@dash.lan"} {
		if _, _, err := parseOrigins([]string{bad}); err == nil {
			t.Errorf("origin %q was taken", bad)
		}
	}
}

// Without users a foreign name is refused, so that no page can come in by DNS.
func TestHostNames(t *testing.T) {
	policy := closedPolicy(t)
	for _, c := range []struct {
		host string
		open bool
	}{
		{"localhost", true}, {"localhost:8080", true}, {"LOCALHOST", true}, {"weir.localhost:8080", true}, {"127.0.0.1:8080", true},
		{"[::1]:8080", true}, {"192.168.1.9", true}, {"dash.lan:99", true},
		{"evil.example:8080", false}, {"localhost.evil.example", false}, {"127.0.0.1.evil.example", false},
	} {
		for _, closed := range []bool{false, true} {
			s := serve(t, newFakeLog("e1"), func(o *Options) {
				o.Origins = []string{"http://dash.lan"}
				if closed {
					o.Auth = policy
				}
			})
			status, _ := call(t, "GET", s.url+"/api/info", "", "Host: "+c.host, "Authorization: "+basic("viewer"))
			if want := c.open || closed; (status == 200) != want {
				t.Errorf("host %q, users %v: %d", c.host, closed, status)
			}
			if status, _ := call(t, "GET", s.url+"/healthz", "", "Host: "+c.host); status != 200 {
				t.Errorf("healthz for %q: %d", c.host, status)
			}
			s.stop()
		}
	}
}

func TestUnixSocketIsTrusted(t *testing.T) {
	l := newFakeLog("e1")
	s := serve(t, l, func(o *Options) { o.Auth = closedPolicy(t) })
	socket := filepath.Join(t.TempDir(), "weir.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln, Local) }()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Post("http://weir/api/publish", "application/json", strings.NewReader(`{"topic":"any"}`))
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%v %v", resp, err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPageIsServed(t *testing.T) {
	s := serve(t, newFakeLog("e1"))
	for path, want := range map[string]string{"/": "text/html", "/app.js": "text/javascript", "/style.css": "text/css", "/icon.svg": "image/svg+xml"} {
		resp := get(t, s.url+path)
		body, _ := io.ReadAll(resp.Body)
		h := resp.Header
		if resp.StatusCode != 200 || !strings.HasPrefix(h.Get("Content-Type"), want) || len(body) == 0 {
			t.Errorf("%s: %s %s", path, resp.Status, h.Get("Content-Type"))
		}
		if csp := h.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: Content-Security-Policy %q", path, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s may be sniffed", path)
		}
		if again := get(t, s.url+path, "If-None-Match: "+h.Get("ETag")); again.StatusCode != 304 {
			t.Errorf("%s again: %s", path, again.Status)
		}
		for _, outside := range []string{"http://", "https://", "@import", "style=", "onclick="} {
			// The page has to live with its own policy, and without the Internet.
			if text := strings.ReplaceAll(string(body), "http://www.w3.org/2000/svg", ""); strings.Contains(text, outside) {
				t.Errorf("%s has %s", path, outside)
			}
		}
	}
	for _, path := range []string{"/index.php", "/dashboard/", "/api/nothing"} {
		if status, _ := call(t, "GET", s.url+path, ""); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestLimits(t *testing.T) {
	s := serve(t, newFakeLog("e1"), func(o *Options) { o.MaxStreams, o.MaxFilters = 2, 2 })
	one := open(t, s.url+"/events?topic=a").started()
	open(t, s.url+"/events?topic=a").started()
	if resp := get(t, s.url+"/events?topic=a"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a third stream: %s", resp.Status)
	}
	if status, _ := call(t, "GET", s.url+"/api/info", ""); status != 200 {
		t.Errorf("info beside many streams: %d", status)
	}
	if status, _ := call(t, "GET", s.url+"/events?topic=a&topic=b&topic=c", ""); status != 400 {
		t.Errorf("three filters: %d", status)
	}
	if resp := get(t, s.url+"/api/info", "X-Large: "+strings.Repeat("x", 2*maxHeader)); resp.StatusCode != 431 {
		t.Errorf("large headers: %s", resp.Status)
	}
	one.close()
	for range 1000 { // the server notices in its own time; the loop's end is a failure
		if resp := get(t, s.url+"/events?topic=a"); resp.StatusCode == 200 {
			return
		}
	}
	t.Error("a place that is free again was not given out")
}

// Requests that are under way when the server stops are answered; the deadline cuts.
func TestStop(t *testing.T) {
	l := newFakeLog("e1")
	entered, stored := make(chan struct{}, 1), make(chan struct{})
	s := serve(t, l, func(o *Options) {
		o.Ingest = func(ctx context.Context, e *gateway.Event) error {
			entered <- struct{}{}
			select {
			case <-stored:
				return l.ingest(ctx, e)
			case <-ctx.Done():
				return gateway.Errorf(gateway.ErrTransient, "%w", ctx.Err())
			}
		}
		o.StopTimeout = 300 * time.Millisecond
	})
	es := open(t, s.url+"/events?topic=a").started()
	// A connection of its own for each: one that is left from the first server may be cut
	// under the second request.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	post := func() chan int {
		answered := make(chan int, 1)
		go func() {
			resp, err := client.Post(s.url+"/api/publish", "application/json", strings.NewReader(`{"topic":"a","payload":1}`))
			if err != nil {
				answered <- -1
				return
			}
			resp.Body.Close()
			answered <- resp.StatusCode
		}()
		select {
		case <-entered:
		case status := <-answered:
			t.Fatalf("the request did not get in: %d", status)
		}
		return answered
	}
	first := post()
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	if _, err := es.block(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	close(stored)
	if status := <-first; status != 200 {
		t.Errorf("the request under way: %d", status)
	}
	<-stopped

	s = serveOn(t, l, s.addr, func(o *Options) {
		o.Ingest = func(ctx context.Context, _ *gateway.Event) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		o.StopTimeout = 50 * time.Millisecond
	})
	stuck := post()
	s.stop()
	if status := <-stuck; status == 200 {
		t.Error("a cut request was answered 200")
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a server without a feed")
	}
}
