package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// Feed is the journal and its live tail; *gateway.Hub is one.
type Feed interface {
	// Reader returns a cursor that goes on from an offset. Many are used at once.
	Reader(from uint64, want gateway.Matcher, see gateway.Durability) *gateway.Reader
	// Resume turns the position a client last saw into the offset to read from, and
	// says what in between cannot be had any more.
	Resume(after gateway.Position) (from uint64, gap *gateway.Gap)
	// Next is the offset after the last released one, and the one after the last synced.
	Next() (released, synced uint64)
	// Epoch names the history that is being written.
	Epoch() string
}

// Options are what a Server needs. Feed, Ingest, Last, History and Auth are required.
type Options struct {
	GatewayID, Version string

	Feed Feed
	// History returns the newest n events that match, oldest first. It must cover all
	// that Feed said was released before the call.
	History func(want gateway.Matcher, n int) ([]*gateway.Event, error)
	Last    *gateway.LastValues
	// Ingest stores an event and returns when it is stored: gateway.Gateway.IngestWait.
	Ingest func(context.Context, *gateway.Event) error
	Auth   *auth.Policy

	// Origins are the web origins ("https://dash.example.com") that may use the
	// server beside its own: listeners.http.origins.
	Origins []string

	// MQTT serves one MQTT connection and returns when it has ended. Nil: no /mqtt.
	MQTT    func(context.Context, net.Conn)
	Devices func() []Device
	Radios  func() []Radio
	// Target is where name of a device is set, and how long that may take: timeout, as in the configuration, if it is
	// not empty. Nil: no device can be.
	Target func(device, name, timeout string) (Target, error)
	// Watch and Record write what is seen of a device, and what goes over its wire, to out until ctx ends. An
	// error before the first write says why not. Nil: there is no such thing.
	Watch, Record func(ctx context.Context, device string, out io.Writer) error
	Uplinks       func() []Uplink
	Downlinks     func() []Downlink
	Ledger        func() (Ledger, error)
	// Due returns what a route is done with, from an offset on. Nil: there are no routes.
	Due   func(uplink, route string, from uint64) (Due, error)
	Ops   Ops
	Ready func() error // nil or why the gateway cannot take events yet

	Logger   *slog.Logger
	Observer gateway.Observer
	Metrics  *Metrics // nil: no /metrics

	MaxStreams   int           // streams at once, all kinds together; 0 means 2000
	MaxFilters   int           // filters of one stream, subscriptions of one connection; 0 means 64
	Heartbeat    time.Duration // how often a quiet SSE stream tells its position; 0 means 15 s
	Ping         time.Duration // how often a Centrifugo connection is pinged, whole seconds; 0 means 25 s
	WriteTimeout time.Duration // how long one write to a client may take; 0 means 10 s
	StopTimeout  time.Duration // how long Serve waits for requests to end; 0 means 5 s
}

// Device is what a driver says of its device.
type Device struct {
	ID        string    `json:"id"`
	Name      string    `json:"name,omitempty"`
	Area      string    `json:"area,omitempty"`
	Driver    string    `json:"driver"`
	Topic     string    `json:"status_topic,omitempty"` // where online or offline is retained
	Up        bool      `json:"up"`
	Reason    string    `json:"reason,omitempty"` // why it is not up
	Since     time.Time `json:"since,omitzero"`
	LastFrame time.Time `json:"last_frame,omitzero"`
	Frames    uint64    `json:"frames"`
	Garbage   uint64    `json:"garbage"` // stretches of bytes that were no frame

	Measurements []Measurement `json:"measurements,omitempty"`
	Settings     []string      `json:"settings,omitempty"` // what commands can set
}

// Measurement is one value of a device. The page takes units from here.
type Measurement struct {
	Name  string `json:"name"`
	Topic string `json:"topic"`
	Unit  string `json:"unit,omitempty"`
	Kind  string `json:"kind,omitempty"` // what is measured: temperature, energy …
}

// Radio is a Bluetooth adapter.
type Radio struct {
	Name     string    `json:"adapter"`
	Up       bool      `json:"up"`
	Reason   string    `json:"reason,omitempty"` // why it is not up
	Since    time.Time `json:"since,omitzero"`
	Address  string    `json:"address,omitempty"`
	Extended bool      `json:"extended"` // it hears the long advertisements of Bluetooth 5
	Starts   uint64    `json:"starts"`
	Heard    uint64    `json:"heard"`  // advertisements
	Weak     uint64    `json:"weak"`   // left out because of min_rssi
	Denied   uint64    `json:"denied"` // left out because of allow and deny
	Seen     []Near    `json:"seen"`
}

// Near is a Bluetooth device that is heard and not configured.
type Near struct {
	ID       string    `json:"id"` // what a device's id may be set to, if its address changes
	Address  string    `json:"address"`
	Private  bool      `json:"private"` // the address changes
	Name     string    `json:"name,omitempty"`
	Format   string    `json:"format,omitempty"`
	Model    string    `json:"model,omitempty"`
	RSSI     int       `json:"rssi"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Count    uint64    `json:"count"`
	Readings []string  `json:"readings,omitempty"`
	Problem  string    `json:"problem,omitempty"`
}

// Uplink is what the bridge says of one uplink.
type Uplink struct {
	Name   string    `json:"uplink"`
	Sink   string    `json:"sink"`
	Up     bool      `json:"up"`
	Reason string    `json:"reason,omitempty"` // why it is not up
	Since  time.Time `json:"since,omitzero"`   // when up last changed
	// State is stopped, connecting, up, backoff, throttled, disabled or drill; see docs/operate.md.
	State       string    `json:"state"`
	Failures    int       `json:"failures"`              // in a row
	NextAttempt time.Time `json:"next_attempt,omitzero"` // absent if one is under way, or there will be none
	LastError   string    `json:"last_error,omitempty"`  // also when it is over
	LastFailed  time.Time `json:"last_failed,omitzero"`

	Queued    uint64    `json:"queued"`          // events that wait for it, in the journal and in the backlog
	Oldest    time.Time `json:"oldest,omitzero"` // when the oldest of them was accepted
	Position  string    `json:"position,omitempty"`
	Delivered uint64    `json:"delivered"` // acknowledged by the far end since start
	Retried   uint64    `json:"retried"`
	Dead      uint64    `json:"dead"` // dead letters that are kept

	Routes []UplinkRoute `json:"routes"`
}

// UplinkRoute is what the bridge says of one route of an uplink.
type UplinkRoute struct {
	Name         string            `json:"route"`
	Journal      uint64            `json:"journal"` // events that wait, in the journal
	Backlog      uint64            `json:"backlog"` // and in the reservoir
	BacklogBytes int64             `json:"backlog_bytes"`
	OldestAge    float64           `json:"oldest_age_seconds,omitempty"`
	Position     string            `json:"position"`
	Delivered    uint64            `json:"delivered"` // of all time, as the others
	Expired      uint64            `json:"expired"`
	Dropped      map[string]uint64 `json:"dropped,omitempty"` // by reason
	Dead         uint64            `json:"dead"`
	Problem      string            `json:"problem,omitempty"` // why nothing can be read now, or what was last found missing
}

// Downlink is what the bridge says of one downlink. Counts are of messages since the start.
type Downlink struct {
	Name     string    `json:"downlink"`
	Uplink   string    `json:"uplink"`
	Sink     string    `json:"sink"` // the uplink's kind
	Up       bool      `json:"up"`
	Reason   string    `json:"reason,omitempty"` // why it is not up
	Since    time.Time `json:"since,omitzero"`
	Last     time.Time `json:"last,omitzero"` // when a message came
	Stored   uint64    `json:"stored"`
	Repeated uint64    `json:"repeated"` // known already, by their id
	Denied   uint64    `json:"denied"`   // the account may not publish there
	Invalid  uint64    `json:"invalid"`  // no valid topic here, or too large
	Own      uint64    `json:"own"`      // were sent by this gateway
	Failed   uint64    `json:"failed"`   // could not be stored then; they come again
}

// Ledger is the account of everything that was accepted.
type Ledger struct {
	Accepted    uint64          `json:"accepted"`
	Unrouted    uint64          `json:"unrouted"`
	Routes      []LedgerAccount `json:"routes"`
	Unaccounted int64           `json:"unaccounted"`
}

// LedgerAccount is one route's part: routed = delivered + queued + filtered + expired + dropped + dead.
type LedgerAccount struct {
	Uplink      string            `json:"uplink"`
	Route       string            `json:"route"`
	Routed      uint64            `json:"routed"`
	Delivered   uint64            `json:"delivered"`
	Queued      uint64            `json:"queued"`
	Filtered    uint64            `json:"filtered"` // came down this uplink
	Expired     uint64            `json:"expired"`
	Dropped     map[string]uint64 `json:"dropped"`
	Dead        uint64            `json:"dead"`
	Unaccounted int64             `json:"unaccounted"`
	Replayed    uint64            `json:"replayed"` // the far end took again, of replays; no part of the sum
}

// Trust says whether a listener's peers have to say who they are.
type Trust uint8

const (
	// Network: the policy applies.
	Network Trust = iota
	// Local: the unix socket in the data directory, which only this machine's root
	// and Weir's own user can open. Its peers may do everything.
	Local
)

// Bounds that nobody has had a reason to change.
const (
	maxHeader   = 16 << 10 // bytes of request headers
	maxBody     = 2 << 20  // bytes of a publish: gateway.MaxPayload in base64, and its JSON
	maxConns    = 512      // connections beside the streams
	maxEvents   = 5000     // events of one history answer or rewind
	flushAt     = 64 << 10 // bytes gathered before a stream writes
	readHeader  = 10 * time.Second
	idleTimeout = 2 * time.Minute
	apiTimeout  = 30 * time.Second // one request that is no stream
)

// Server answers HTTP for any number of listeners.
type Server struct {
	o        Options
	log      *slog.Logger
	origins  map[string]bool // allowed origins
	hosts    map[string]bool // host names of allowed origins
	handler  http.Handler
	faces    faces
	upgrader websocket.Upgrader
	started  time.Time

	streams atomic.Int64
	conns   atomic.Int64
}

// New returns a server. An error says which option is wrong.
func New(o Options) (*Server, error) {
	switch {
	case o.Feed == nil, o.Ingest == nil, o.Last == nil, o.History == nil, o.Auth == nil:
		return nil, errors.New("web: Feed, Ingest, Last, History and Auth are required")
	case o.Ping%time.Second != 0:
		return nil, fmt.Errorf("web: ping interval %v is not whole seconds", o.Ping)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Devices == nil {
		o.Devices = func() []Device { return nil }
	}
	if o.Radios == nil {
		o.Radios = func() []Radio { return nil }
	}
	if o.Uplinks == nil {
		o.Uplinks = func() []Uplink { return nil }
	}
	if o.Downlinks == nil {
		o.Downlinks = func() []Downlink { return nil }
	}
	if o.Ledger == nil {
		o.Ledger = func() (Ledger, error) { return Ledger{}, nil }
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	o.Observer = o.Observer.OrNop()
	if o.Due == nil {
		o.Due = noDue
	}
	orDefault(&o.MaxStreams, 2000)
	orDefault(&o.MaxFilters, 64)
	orDefault(&o.Heartbeat, 15*time.Second)
	orDefault(&o.Ping, 25*time.Second)
	orDefault(&o.WriteTimeout, 10*time.Second)
	orDefault(&o.StopTimeout, 5*time.Second)

	s := &Server{o: o, log: o.Logger, faces: faces{gatewayID: o.GatewayID}, started: time.Now()}
	s.upgrader = websocket.Upgrader{
		ReadBufferSize: 1 << 10,
		CheckOrigin:    func(*http.Request) bool { return true }, // the door has checked it
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			problem(w, status, "%v", reason)
		},
	}
	var err error
	if s.origins, s.hosts, err = parseOrigins(o.Origins); err != nil {
		return nil, err
	}
	page, err := pageHandler()
	if err != nil {
		return nil, err
	}
	if o.Metrics != nil {
		o.Metrics.registry.MustRegister(&uplinkCollector{o.Uplinks, o.Downlinks, o.Ledger}, deviceCollector{o.Devices})
	}
	s.handler = s.routes(page)
	return s, nil
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (s *Server) routes(page http.Handler) http.Handler {
	inside := http.NewServeMux()
	inside.HandleFunc("GET /events", s.events)
	inside.HandleFunc("GET /connection/websocket", s.centrifugo)
	if s.o.MQTT != nil {
		inside.HandleFunc("GET /mqtt", s.mqtt)
	}
	inside.HandleFunc("GET /api/info", s.apiInfo)
	inside.HandleFunc("GET /api/last", s.apiLast)
	inside.HandleFunc("GET /api/history", s.apiHistory)
	inside.HandleFunc("GET /api/devices", s.apiDevices)
	if s.o.Target != nil {
		inside.HandleFunc("POST /api/devices/{id}/set", s.apiSet)
	}
	if s.o.Watch != nil {
		inside.HandleFunc("GET /api/devices/{id}/watch", s.deviceStream("watch", "application/x-ndjson", s.o.Watch))
	}
	if s.o.Record != nil {
		inside.HandleFunc("GET /api/devices/{id}/record", s.deviceStream("record", "text/plain; charset=utf-8", s.o.Record))
	}
	inside.HandleFunc("GET /api/radios", s.apiRadios)
	inside.HandleFunc("GET /api/uplinks", s.apiUplinks)
	inside.HandleFunc("GET /api/downlinks", s.apiDownlinks)
	inside.HandleFunc("GET /api/ledger", s.apiLedger)
	inside.HandleFunc("GET /api/due", s.apiDue)
	inside.HandleFunc("POST /api/publish", s.apiPublish)
	s.manage(inside)
	if s.o.Metrics != nil {
		inside.Handle("GET /metrics", s.o.Metrics.handler())
	}
	inside.Handle("/", page)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("/", s.door(inside))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sv := servingOf(r)
		if !sv.enter() {
			problem(w, http.StatusServiceUnavailable, "%v", errStopping)
			return
		}
		defer sv.leave()
		headers(w.Header())
		mux.ServeHTTP(w, r)
	})
}

// serving is one call of Serve, as its requests see it.
type serving struct {
	trust Trust
	stop  context.Context // ends when Serve is told to stop; streams end then

	mu       sync.Mutex
	handlers int           // running; net/http forgets those whose connection was hijacked
	idle     chan struct{} // not nil: nobody may enter; closed when the last has left
}

func (sv *serving) enter() bool {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	if sv.idle != nil {
		return false
	}
	sv.handlers++
	return true
}

func (sv *serving) leave() {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	if sv.handlers--; sv.handlers == 0 && sv.idle != nil {
		close(sv.idle)
	}
}

// shut lets nobody in any more; the channel closes when everybody has left.
func (sv *serving) shut() <-chan struct{} {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	sv.idle = make(chan struct{})
	if sv.handlers == 0 {
		close(sv.idle)
	}
	return sv.idle
}

type servingKey struct{}

func servingOf(r *http.Request) *serving { return r.Context().Value(servingKey{}).(*serving) }

// Serve answers l's connections until ctx ends, and closes l. Then streams are ended in
// the way that makes their clients come back, other requests are given StopTimeout,
// and what is left is cut. It returns nil after a stop, else why it could not go on,
// and only when every request has been answered: Options.MQTT has to return when its
// connection is closed.
func (s *Server) Serve(ctx context.Context, l net.Listener, trust Trust) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	sv := &serving{trust: trust, stop: ctx}
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readHeader,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return context.WithValue(base, servingKey{}, sv) },
		ConnState:         s.countConns,
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		deadline, cancel := context.WithTimeout(base, s.o.StopTimeout)
		defer cancel()
		if srv.Shutdown(deadline) != nil {
			srv.Close()
		}
		left := sv.shut()
		select {
		case <-left:
		case <-deadline.Done():
			cut() // whoever waits for its request's context lets go now
			<-left
		}
	}()
	err := srv.Serve(l)
	cancel()
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
}

// countConns bounds the connections that are no streams: those are bounded by themselves.
func (s *Server) countConns(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if s.conns.Add(1) > int64(maxConns+s.o.MaxStreams) {
			c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		s.conns.Add(-1)
	}
}

// stream takes a place for a stream and returns its context, which ends with the
// request or when the server stops. A nil function says that the answer, no place, was
// written. Otherwise the caller calls it at the end, with the reason.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, kind string) (context.Context, func(reason string)) {
	if s.streams.Add(1) > int64(s.o.MaxStreams) {
		s.streams.Add(-1)
		w.Header().Set("Retry-After", "10")
		problem(w, http.StatusServiceUnavailable, "the limit of %d streams is reached", s.o.MaxStreams)
		return nil, nil
	}
	sv := servingOf(r)
	ctx, cancel := context.WithCancelCause(r.Context())
	unhook := context.AfterFunc(sv.stop, func() { cancel(errStopping) })
	s.o.Observer.StreamOpened(kind)
	return ctx, func(reason string) {
		unhook()
		cancel(nil)
		s.streams.Add(-1)
		s.o.Observer.StreamClosed(kind, reason)
	}
}

// errStopping is the cause of a stream's context that ends because the server stops.
var errStopping = errors.New("the gateway is stopping")

// endReason names why a stream ended, for the metrics.
func endReason(ctx context.Context, err error) string {
	var timeout net.Error
	switch {
	case context.Cause(ctx) == errStopping:
		return "stopping"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "slow" // net/http ends ctx, too
	case errors.Is(err, errJournal):
		return "journal"
	}
	return "client"
}

// errJournal marks that the journal could not be read, which is not the client's doing.
var errJournal = errors.New("read the journal")
