package webhook_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/bridge/webhook"
	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// request is what a receiver got.
type request struct {
	proto, method, path string
	query               url.Values
	header              http.Header
	wire                []byte // the body as it came
	body                string // decompressed
}

func (r *request) id() string { return r.header.Get("Webhook-Id") }

// receiver is a far end. It keeps what it got, also what it refuses.
type receiver struct {
	// answer, if set, is asked what to say to the n-th request, from 1.
	answer func(w http.ResponseWriter, r *request, n int)

	*httptest.Server
	reset atomic.Bool // of the connection or stream behind each request that it takes

	mu   sync.Mutex
	all  []*request
	took []*request // answered with 2xx
}

func start(t *testing.T, answer func(http.ResponseWriter, *request, int)) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, in *http.Request) {
	wire, err := io.ReadAll(in.Body)
	if err != nil {
		return // a request that is not whole is none
	}
	got := &request{in.Proto, in.Method, in.URL.Path, in.URL.Query(), in.Header, wire, string(wire)}
	if in.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(strings.NewReader(got.body))
		if err == nil {
			var plain []byte
			plain, err = io.ReadAll(z)
			got.body = string(plain)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnsupportedMediaType)
			return
		}
	}
	r.mu.Lock()
	r.all = append(r.all, got)
	n := len(r.all)
	r.mu.Unlock()
	said := &spoken{ResponseWriter: w, status: 200}
	if r.answer != nil {
		r.answer(said, got, n)
	}
	if said.status/100 == 2 {
		r.mu.Lock()
		r.took = append(r.took, got)
		r.mu.Unlock()
		if r.reset.Load() {
			panic(http.ErrAbortHandler)
		}
	}
}

type spoken struct {
	http.ResponseWriter
	status int
}

func (s *spoken) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func (r *receiver) requests() []*request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*request(nil), r.all...)
}

func (r *receiver) taken() []*request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*request(nil), r.took...)
}

// arrivals reads bodies of the format event or cloudevents.
func (r *receiver) arrivals() (all []bridgetest.Arrival) {
	for _, got := range r.taken() {
		values := []json.RawMessage{[]byte(got.body)}
		if strings.HasPrefix(got.body, "[") {
			if err := json.Unmarshal([]byte(got.body), &values); err != nil {
				return []bridgetest.Arrival{{ID: err.Error()}}
			}
		}
		for _, v := range values {
			var a bridgetest.Arrival
			var face gateway.Face
			var event cloudevents.Event
			if strings.Contains(got.header.Get("Content-Type"), "cloudevents") {
				json.Unmarshal(v, &event)
				a = bridgetest.Arrival{ID: event.ID, Topic: event.Subject, Payload: string(event.Data)}
			} else {
				json.Unmarshal(v, &face)
				payload, _ := face.Bytes()
				a = bridgetest.Arrival{ID: face.ID, Topic: face.Topic, Payload: string(payload)}
			}
			if len(values) == 1 && got.id() != a.ID {
				a.ID = fmt.Sprintf("webhook-id %q, in the body %q", got.id(), a.ID)
			}
			all = append(all, a)
		}
	}
	return all
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]webhook.Config{
		"event":                 {},
		"batches, gzip, signed": {MaxEvents: 20, Compression: "gzip", Secrets: []string{exampleSecret}},
		"cloudevents, batches":  {Format: "cloudevents", Method: "PUT", MaxEvents: 7, MaxBytes: 1024},
		"http2":                 {MaxEvents: 5},
	} {
		t.Run(name, func(t *testing.T) {
			bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
				r := &receiver{}
				r.Server = httptest.NewUnstartedServer(r)
				r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of broken handshakes
				c := c
				scheme := "http://"
				if name == "http2" {
					r.EnableHTTP2 = true
					r.StartTLS()
					c.CAFile, scheme = caFile(t, r.Server), "https://"
				} else {
					r.Start()
				}
				t.Cleanup(r.Close)
				p := bridgetest.NewProxy(t, r.Listener.Addr().String())
				c.URL = scheme + p.Addr() + "/hook"
				c.AckTimeout, c.ConnectTimeout = 300*time.Millisecond, 300*time.Millisecond
				s, err := webhook.New(c, bridgetest.GatewayID)
				if err != nil {
					t.Fatal(err)
				}
				far := &bridgetest.FarEnd{
					Sink: s, Arrivals: r.arrivals,
					Cut: p.Cut, LoseAcks: p.LoseAnswers, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
				}
				if name == "http2" { // without answers there is no TLS, so they get lost behind it
					far.LoseAcks = func() { r.reset.Store(true) }
					far.Heal = func() { r.reset.Store(false); p.Heal() }
				}
				return far
			})
		})
	}
}
