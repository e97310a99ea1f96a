package webhook_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/webhook"
	"github.com/weir-iot/weir/gateway"
)

func TestConfig(t *testing.T) {
	with := func(change func(*webhook.Config)) webhook.Config {
		c := webhook.Config{URL: "https://h/x"}
		change(&c)
		return c
	}
	header := func(name, value string) webhook.Config {
		return with(func(c *webhook.Config) { c.Headers = map[string]string{name: value} })
	}
	for _, c := range []struct {
		c    webhook.Config
		want string
	}{
		{webhook.Config{URL: "https://h"}, ""},
		{webhook.Config{URL: "http://[::1]:8080/a?b=c", Method: "PUT", MaxEvents: 500}, ""},
		{webhook.Config{}, "url: url is missing: https://host/path"},
		{webhook.Config{URL: "h/x"}, `url: unknown scheme "": http:// or https://`},
		{webhook.Config{URL: "https://user:secret@h:port"}, "url: not a URL: https://host/path"},
		{webhook.Config{URL: "https://u:secret@h"}, "url: the account goes into headers, as Authorization, not into the url"},
		{webhook.Config{URL: "https:///x"}, "url: url has no host"},
		{webhook.Config{URL: "https://h/#x"}, "url: a url to send to has no #"},
		{webhook.Config{URL: "http://h", Config: dial.Config{CAFile: "x"}}, "ca_file: ca_file is for TLS, and this url has none"},
		{with(func(c *webhook.Config) { c.Method = "GET" }), `method: unknown method "GET": POST, PUT or PATCH`},
		{with(func(c *webhook.Config) { c.MaxEvents = 501 }), "max_events: 501 is not from 1 to 500"},
		{with(func(c *webhook.Config) { c.MaxEvents = -1 }), "max_events: -1 is not from 1 to 500"},
		{with(func(c *webhook.Config) { c.MaxBytes = 100 }), "max_bytes: 100 is not from 1024 to 16777216"},
		{with(func(c *webhook.Config) { c.Linger = 2 * time.Minute }), "linger: 2m0s is not from 1ms to 1m"},
		{with(func(c *webhook.Config) { c.AckTimeout = -1 }), "ack_timeout: -1ns is not from 1ms to 1h"},
		{with(func(c *webhook.Config) { c.Compression = "zip" }), `compression: unknown compression "zip": none or gzip`},
		{with(func(c *webhook.Config) { c.Format = "json" }), `format: unknown format "json": event, payload or cloudevents`},
		{with(func(c *webhook.Config) { c.Format, c.Body = "event", "x" }), "body: body takes the place of format; remove one of them"},
		{with(func(c *webhook.Config) { c.BatchSeparator = "," }), "batch_separator: batch_separator is for body or format: payload; a batch of others is a JSON array"},
		{with(func(c *webhook.Config) { c.Body = "{{.Topic" }), "body: template: body:1: unclosed action"},
		{with(func(c *webhook.Config) { c.Body = "{{.Topik}}" }), "body: template: body:1:2: executing \"body\" at <.Topik>: can't evaluate field Topik in type *webhook.Fields"},
		{with(func(c *webhook.Config) { c.Body = "{{.Value.temperature}} {{.Level 9}}" }), ""}, // an event may have it
		{with(func(c *webhook.Config) { c.Secrets = []string{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"} }), "secrets: secret 1 does not begin with whsec_"},
		{with(func(c *webhook.Config) { c.Secrets = []string{exampleSecret, "whsec_?"} }), "secrets: secret 2 is not base64 behind whsec_"},
		{with(func(c *webhook.Config) { c.Secrets = []string{"whsec_c2hvcnQ="} }), "secrets: secret 1 has 5 bytes, not 24 to 64"},
		{with(func(c *webhook.Config) { c.Secrets = slices.Repeat([]string{exampleSecret}, 5) }), "secrets: 5 secrets; at most 4"},
		{header("Authorization", "Token abc"), ""},
		{header("a b", "x"), `headers: "a b" is not the name of a header`},
		{header("X", "sec\nret"), "headers: the value of X has characters that a header cannot have"},
		{header("content-length", "1"), "headers: content-length is set by weir"},
		{header("webhook-id", "1"), "headers: webhook-id is set by weir"},
		{header("Content-Type", "text"), ""},
		{header("Content-Type", "/"), "headers: Content-Type: mime: no media type"},
		{with(func(c *webhook.Config) { c.Headers = map[string]string{"A-B": "1", "a-b": "2"} }), "headers: A-B and a-b are the same header"},
	} {
		_, err := webhook.New(c.c, "gw")
		bridgetest.CheckConfig(t, c.c, err, c.want)
	}
}

// What each status means for an event, and what people read.
func TestAnswers(t *testing.T) {
	const check = " (check the uplink's headers and secrets)"
	for _, c := range []struct {
		status int
		header string // Retry-After
		body   string
		poison bool
		reason string // "" is accepted
	}{
		{status: 200}, {status: 201}, {status: 202}, {status: 204}, {status: 226},
		{400, "", "unable to parse\nat 7", true, "the far end answers 400 Bad Request: unable to parse"},
		{413, "", "", true, "the far end answers 413 Request Entity Too Large"},
		{422, "", `{"detail":"no"}`, true, `the far end answers 422 Unprocessable Entity: {"detail":"no"}`},
		{401, "", "", false, "the far end answers 401 Unauthorized" + check},
		{403, "", "<html>", false, "the far end answers 403 Forbidden" + check},
		{404, "", "", false, "the far end answers 404 Not Found (check the uplink's url and method)"},
		{415, "", "", false, "the far end answers 415 Unsupported Media Type (check the uplink's format, Content-Type and compression)"},
		{408, "", "", false, "the far end answers 408 Request Timeout"},
		{425, "", "", false, "the far end answers 425 Too Early"},
		{413, "1", "", false, "the far end answers 413 Request Entity Too Large; no request for 1s, as it asks"},
		{429, "1", "slow down", false, "the far end answers 429 Too Many Requests: slow down; no request for 1s, as it asks"},
		{500, "", "", false, "the far end answers 500 Internal Server Error"},
		{503, "86400", "", false, "the far end answers 503 Service Unavailable; no request for 1h0m0s, as it asks"},
		{599, "", "", false, "the far end answers 599"},
		{302, "", "", false, "the far end answers 302 Found (redirects are not followed; put the new address into the uplink's url)"},
		{410, "", "", false, "the far end answers 410 Gone (it wants no more requests; none is sent until weir starts again or the uplink's config changes)"},
	} {
		r := start(t, func(w http.ResponseWriter, _ *request, _ int) {
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			if c.status != 204 {
				fmt.Fprint(w, c.body)
			}
		})
		s := bridgetest.Send(t, newSink(t, webhook.Config{URL: r.URL + "/hook"}), events(1, 1)...)
		if c.reason == "" || c.poison {
			o := s.Outcomes(1)[0]
			if (o.Err != nil) != c.poison || errors.Is(o.Err, gateway.ErrInvalid) != c.poison || c.poison && o.Err.Error() != c.reason {
				t.Errorf("%d: %v", c.status, o.Err)
			}
		} else if done, err := s.Finish(); err == nil || err.Error() != c.reason || errors.Is(err, gateway.ErrInvalid) || len(done) != 0 {
			t.Errorf("%d: %v, not %s; %d outcomes", c.status, err, c.reason, len(done))
		}
		for _, got := range r.requests() {
			if got.path != "/hook" {
				t.Errorf("%d: a request to %s", c.status, got.path)
			}
		}
	}
}

// There is no request before the time that the far end asks for, however often the pump tries.
func TestRetryAfter(t *testing.T) {
	for _, value := range []func() string{
		func() string { return "1" },
		func() string { return time.Now().Add(1900 * time.Millisecond).UTC().Format(http.TimeFormat) }, // whole seconds: 1 or 2
	} {
		var refused, came time.Time
		r := start(t, func(w http.ResponseWriter, _ *request, n int) {
			if n == 1 {
				w.Header().Set("Retry-After", value())
				w.WriteHeader(http.StatusTooManyRequests)
				refused = time.Now()
			} else if came.IsZero() {
				came = time.Now()
			}
		})
		p := bridgetest.RunPump(t, newSink(t, webhook.Config{URL: r.URL}))
		p.Log.Append(events(1, 1)...)
		bridgetest.Until(t, "it is delivered", func() bool { return p.Status().Delivered == 1 })
		if n := len(r.requests()); n != 2 {
			t.Errorf("%d requests", n)
		}
		if took := came.Sub(refused); took < 900*time.Millisecond || took > 5*time.Second {
			t.Errorf("the second request came after %v", took)
		}
	}
}

// A pause that the far end asks for ends with the pump, and is shown.
func TestStopInRetryAfter(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, _ *request, _ int) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	p := bridgetest.RunPump(t, newSink(t, webhook.Config{URL: r.URL}))
	p.Log.Append(events(1, 1)...)
	bridgetest.Until(t, "it is throttled", func() bool { return p.Status().State == bridge.LinkThrottled })
	if s := p.Status(); time.Until(s.NextAttempt) < 59*time.Minute || s.Failures != 1 || len(r.requests()) != 1 {
		t.Errorf("%+v, %d requests", s.Circuit, len(r.requests()))
	}
}

// After 410 nothing is sent, nothing is lost, and the reason stays.
func TestGone(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, _ *request, _ int) { w.WriteHeader(http.StatusGone) })
	p := bridgetest.RunPump(t, newSink(t, webhook.Config{URL: r.URL, MaxEvents: 10}))
	p.Log.Append(events(1, 5)...)
	bridgetest.Until(t, "it is seen", func() bool { return p.Status().State == bridge.LinkDisabled })
	p.Log.Append(events(6, 5)...)
	if st := p.Status(); len(r.requests()) != 1 || st.Delivered != 0 || st.Dead != 0 || st.Up || st.Position.Offset != 0 ||
		!st.NextAttempt.IsZero() || !strings.Contains(st.Reason, "410 Gone") {
		t.Errorf("%d requests, %+v", len(r.requests()), st)
	}
}

// ids are the webhook-ids of requests.
func ids(all []*request) (ids []string) {
	for _, r := range all {
		ids = append(ids, r.id())
	}
	return ids
}

// Of a batch with guilty events in it only these are refused.
func TestPoisonInABatch(t *testing.T) {
	guilty := func(r *request) bool { return strings.Contains(r.body, ":3,") || strings.Contains(r.body, ":8,") }
	r := start(t, func(w http.ResponseWriter, r *request, _ int) {
		if guilty(r) {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	})
	c := webhook.Config{URL: r.URL, MaxEvents: 8, Linger: time.Minute, Body: `:{{.Payload}},`}
	s := bridgetest.Send(t, newSink(t, c), events(1, 8)...)
	for _, o := range s.Outcomes(8) {
		n := o.Event.Offset
		if errors.Is(o.Err, gateway.ErrInvalid) != (n == 3 || n == 8) {
			t.Errorf("event %d: %v", n, o.Err)
		}
	}
	want := []string{
		"test-gw/e1-1/e1-8/8", "test-gw/e1-1/e1-4/4", "test-gw/e1-1/e1-2/2", "test-gw/e1-3/e1-4/2", "test-gw/e1-3", "test-gw/e1-4",
		"test-gw/e1-5/e1-8/4", "test-gw/e1-5/e1-6/2", "test-gw/e1-7/e1-8/2", "test-gw/e1-7", "test-gw/e1-8",
	}
	if got := ids(r.requests()); !slices.Equal(got, want) {
		t.Errorf("requests %q", got)
	}
}

// A batch that had no answer is the same one next time: id, events and bytes, though there is
// more to send by then; also when the failure was in the middle of a search for a guilty event.
func TestSameBatchAgain(t *testing.T) {
	fail := map[int]int{1: 503, 2: 503, 4: 422, 5: 200, 6: 500} // by number of the request
	r := start(t, func(w http.ResponseWriter, _ *request, n int) {
		if fail[n] != 0 {
			w.WriteHeader(fail[n])
		}
	})
	s := newSink(t, webhook.Config{URL: r.URL, MaxEvents: 8, Compression: "gzip", Linger: time.Minute})
	c := bridgetest.Send(t, s, events(1, 5)...) // 1: fails
	c.Finish()
	bridgetest.Send(t, s, events(1, 20)...).End() // 2: fails
	c = bridgetest.Send(t, s, events(1, 20)...)   // 3: the five. 4: eight more, refused. 5: half of them. 6: the other half, fails
	if got := c.Outcomes(9); got[8].Err != nil || got[8].Event.Offset != 9 {
		t.Errorf("%+v", got[8])
	}
	c.End()
	c = bridgetest.Send(t, s, events(10, 30)...) // 7: the other half. 8: eight new ones
	c.Outcomes(12)
	want := []string{
		"test-gw/e1-1/e1-5/5", "test-gw/e1-1/e1-5/5", "test-gw/e1-1/e1-5/5",
		"test-gw/e1-6/e1-13/8", "test-gw/e1-6/e1-9/4", "test-gw/e1-10/e1-13/4", "test-gw/e1-10/e1-13/4", "test-gw/e1-14/e1-21/8",
	}
	all := r.requests()
	if got := ids(all); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Fatalf("requests %q", got)
	}
	for _, pair := range [][2]int{{0, 1}, {0, 2}, {5, 6}} {
		if a, b := all[pair[0]], all[pair[1]]; string(a.wire) != string(b.wire) {
			t.Errorf("%s is not the same bytes again", a.id())
		}
	}
}

// What expired of a batch that had no answer is not waited for; nor is one that expired as a whole.
func TestBatchThatExpired(t *testing.T) {
	r := start(t, func(w http.ResponseWriter, _ *request, n int) {
		if n == 1 || n == 3 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	s := newSink(t, webhook.Config{URL: r.URL, MaxEvents: 4, Linger: time.Minute})
	for _, batch := range [][]*gateway.Event{events(1, 4), append(events(1, 2), events(5, 1)...), events(7, 1)} { // 3, 4 and 5 expire
		c := bridgetest.Send(t, s, batch...)
		c.Finish()
	}
	want := []string{"test-gw/e1-1/e1-4/4", "test-gw/e1-1/e1-2/2", "test-gw/e1-5", "test-gw/e1-7"}
	if got := ids(r.requests()); !slices.Equal(got, want) {
		t.Errorf("requests %q", got)
	}
}

// A batch ends at its limits, and one event that is too large goes alone.
func TestBatchLimits(t *testing.T) {
	r := start(t, nil)
	c := webhook.Config{URL: r.URL, MaxEvents: 3, MaxBytes: 1024, Linger: time.Minute, Body: "{{.Payload}}", BatchSeparator: ";"}
	s := bridgetest.Send(t, newSink(t, c))
	sizes := []int{500, 500, 500, 3000, 1024, 511, 512, 1, 1, 1, 1}
	for i, e := range events(1, len(sizes)) {
		e.Payload = []byte(strings.Repeat("x", sizes[i]))
		s.Events <- e
	}
	if done, err := s.Finish(); err != nil || len(done) != len(sizes) {
		t.Errorf("%v, %d outcomes", err, len(done))
	}
	var got []int
	for _, r := range r.requests() {
		got = append(got, len(r.body))
		if got := r.header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
			t.Errorf("content type %s", got)
		}
	}
	if want := []int{1001, 500, 3000, 1024, 1024, 5, 1}; !slices.Equal(got, want) {
		t.Errorf("bodies of %v", got)
	}
}

// After a lost answer older events may come before those that had none: of another route, of a replay. They go in
// batches of their own, each within the limits, and none counts as delivered that was not sent.
func TestOlderEventsAfterALostAnswer(t *testing.T) {
	for _, c := range []struct {
		config webhook.Config
		want   []string // requests behind the one without an answer
	}{
		{webhook.Config{}, []string{"test-gw/e1-1", "test-gw/e1-2", "test-gw/e1-3", "test-gw/e1-9"}},
		{webhook.Config{MaxEvents: 2, Linger: time.Minute}, []string{"test-gw/e1-1/e1-2/2", "test-gw/e1-3/e1-9/2"}},
		{webhook.Config{MaxEvents: 100, MaxBytes: 1024, Linger: time.Minute}, []string{"test-gw/e1-1/e1-2/2", "test-gw/e1-3/e1-9/2"}},
	} {
		r := start(t, func(w http.ResponseWriter, _ *request, n int) {
			if n == 1 {
				w.WriteHeader(http.StatusBadGateway)
			}
		})
		c.config.URL = r.URL
		s := newSink(t, c.config)
		all := append(events(1, 3), events(9, 1)...)
		for _, e := range all {
			e.Payload = []byte(strings.Repeat("x", 300))
		}
		bridgetest.Send(t, s, all[3]).Finish()
		if done, err := bridgetest.Send(t, s, all...).Finish(); err != nil || len(done) != len(all) {
			t.Errorf("%v, %d outcomes", err, len(done))
		}
		if got := ids(r.requests())[1:]; !slices.Equal(got, c.want) {
			t.Errorf("requests %q, not %q", got, c.want)
		}
	}
}
