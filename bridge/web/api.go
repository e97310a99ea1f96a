package web

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// Info is the answer of GET /api/info.
type Info struct {
	Gateway  string    `json:"gateway"`
	Version  string    `json:"version"`
	Time     time.Time `json:"time"` // the gateway's clock
	Started  time.Time `json:"started"`
	Position string    `json:"position"` // of the newest event; a stream resumed there is live
	Synced   string    `json:"synced"`   // of the newest event on stable storage
	Topics   int       `json:"topics"`   // with a known last value
	Missed   uint64    `json:"topics_missed,omitempty"`
	Streams  int64     `json:"streams"`
}

// Events is the answer of GET /api/last and GET /api/history, oldest first.
type Events struct {
	// Position is where a stream goes on behind them, without a gap: what it sends may
	// already be among the events, but nothing is in neither.
	Position string         `json:"position"`
	Events   []gateway.Face `json:"events"`
}

// Publish is the body of POST /api/publish. At most one payload is given; none is an
// empty payload.
type Publish struct {
	Topic   string          `json:"topic"`
	Payload json.RawMessage `json:"payload,omitempty"` // any JSON value, published as its text
	Text    *string         `json:"payload_text,omitempty"`
	Base64  *string         `json:"payload_base64,omitempty"`
	QoS     byte            `json:"qos,omitempty"`
	Retain  bool            `json:"retain,omitempty"`
}

// Published is the answer of POST /api/publish. ID is empty if a rule stored nothing.
type Published struct {
	ID       string `json:"id,omitempty"`
	Position string `json:"position,omitempty"`
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, map[string]bool{"alive": true})
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if err := s.o.Ready(); err != nil {
		problem(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	s.answer(w, r, map[string]bool{"ready": true})
}

// position is the place of the newest released event.
func (s *Server) position() (released, synced gateway.Position) {
	r, y := s.o.Feed.Next()
	epoch := s.o.Feed.Epoch()
	return gateway.Position{Epoch: epoch, Offset: r - 1}, gateway.Position{Epoch: epoch, Offset: y - 1}
}

func (s *Server) apiInfo(w http.ResponseWriter, r *http.Request) {
	released, synced := s.position()
	held, missed := s.o.Last.Topics()
	s.answer(w, r, Info{
		Gateway: s.o.GatewayID, Version: s.o.Version, Time: time.Now().UTC(), Started: s.started.UTC(),
		Position: released.String(), Synced: synced.String(), Topics: held, Missed: missed, Streams: s.streams.Load(),
	})
}

func (s *Server) apiLast(w http.ResponseWriter, r *http.Request) {
	s.answerEvents(w, r, func(filters gateway.Filters) ([]*gateway.Event, error) {
		return s.o.Last.Match(filters), nil
	})
}

func (s *Server) apiHistory(w http.ResponseWriter, r *http.Request) {
	limit, err := count(r.URL.Query(), "limit", 100)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answerEvents(w, r, func(filters gateway.Filters) ([]*gateway.Event, error) {
		return s.o.History(filters, limit)
	})
}

func (s *Server) answerEvents(w http.ResponseWriter, r *http.Request, get func(gateway.Filters) ([]*gateway.Event, error)) {
	account, query := accountOf(r), r.URL.Query()
	filters, err := urlFilters(query, s.o.MaxFilters)
	if err == nil {
		err = mayRead(account, filters, query)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	at, _ := s.position() // before the events are read, so that none is in neither
	events, err := get(filters)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, Events{at.String(), s.readable(events, account)})
}

func (s *Server) readable(events []*gateway.Event, account *auth.Account) []gateway.Face {
	shown := make([]gateway.Face, 0, len(events))
	for _, e := range events {
		if account.CanRead(e.Topic, "") == nil {
			shown = append(shown, e.Face(s.o.GatewayID))
		}
	}
	return shown
}

func (s *Server) apiDevices(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, orEmpty(s.o.Devices()))
}

func (s *Server) apiRadios(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, orEmpty(s.o.Radios()))
}

func (s *Server) apiUplinks(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, orEmpty(s.o.Uplinks()))
}

func (s *Server) apiDownlinks(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, orEmpty(s.o.Downlinks()))
}

func (s *Server) apiLedger(w http.ResponseWriter, r *http.Request) {
	l, err := s.o.Ledger()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	l.Routes = orEmpty(l.Routes)
	s.answer(w, r, l)
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// apiPublish answers 200 only after the event is stored as gateway.Synced.
func (s *Server) apiPublish(w http.ResponseWriter, r *http.Request) {
	body, ok := readJSON(w, r)
	if !ok {
		return
	}
	e, err := publishEvent(body)
	account := accountOf(r)
	if err == nil {
		err = account.CanPublish(e.Topic, "")
	}
	if err == nil {
		e.Origin = gateway.Origin{Via: "http", User: account.Name()}
		err = s.o.Ingest(r.Context(), e)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	var done Published
	if e.Epoch != "" {
		done = Published{e.ID(s.o.GatewayID), e.Position().String()}
	}
	s.answer(w, r, done)
}

func publishEvent(body []byte) (*gateway.Event, error) {
	var p Publish
	if err := strictJSON(body, &p); err != nil {
		return nil, gateway.Errorf(gateway.ErrInvalid, "body: %w", err)
	}
	if err := gateway.ValidateTopic(p.Topic); err != nil {
		return nil, err
	}
	e := &gateway.Event{Topic: p.Topic, QoS: p.QoS, Retain: p.Retain}
	given := 0
	if p.Payload != nil {
		e.Payload, e.ContentType, e.UTF8 = p.Payload, "application/json", true
		given++
	}
	if p.Text != nil {
		e.Payload, e.UTF8 = []byte(*p.Text), true
		given++
	}
	if p.Base64 != nil {
		b, err := base64.StdEncoding.DecodeString(*p.Base64)
		if err != nil {
			return nil, gateway.Errorf(gateway.ErrInvalid, "payload_base64: %w", err)
		}
		e.Payload = b
		given++
	}
	if given > 1 {
		return nil, gateway.Errorf(gateway.ErrInvalid, "give one of payload, payload_text and payload_base64")
	}
	return e, nil
}
