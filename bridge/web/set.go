package web

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Set is the body of POST /api/devices/{id}/set.
type Set struct {
	Name  string          `json:"name"`  // of the measurement or the command
	Value json.RawMessage `json:"value"` // text, or a number, true or false, which are sent as their text
	// Timeout is how long it may wait and take, such as 30s; default: the device's command_timeout.
	Timeout string `json:"timeout,omitempty"`
}

// Target is where a device's commands go, and where their results come.
type Target struct {
	Topic, Result string
	Timeout       time.Duration
}

const (
	maxSetTimeout = 10 * time.Minute
	resultMargin  = 5 * time.Second // a driver has a second after the deadline, and the result has to be stored
)

// apiSet publishes a command, as any client could, and answers with its result.
func (s *Server) apiSet(w http.ResponseWriter, r *http.Request) {
	var what Set
	if !s.asked(w, r, &what) {
		return
	}
	to, err := s.o.Target(r.PathValue("id"), what.Name, what.Timeout)
	e := &gateway.Event{Topic: to.Topic, QoS: 1, UTF8: true}
	if err == nil {
		e.Payload, err = what.text()
	}
	if err == nil && what.Timeout != "" && (to.Timeout <= 0 || to.Timeout > maxSetTimeout) {
		err = gateway.Errorf(gateway.ErrInvalid, "timeout: %q is not more than 0 and up to %v", what.Timeout, maxSetTimeout)
	}
	account := accountOf(r)
	if err == nil {
		err = account.CanPublish(e.Topic, "")
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, done := s.stream(w, r, "command")
	if ctx == nil {
		return
	}
	defer done("answered")
	ctx, cancel := context.WithTimeout(ctx, to.Timeout+resultMargin)
	defer cancel()
	e.Origin, e.Expiry = gateway.Origin{Via: "http", User: account.Name()}, to.Timeout
	from, _ := s.o.Feed.Next()
	if err := s.o.Ingest(ctx, e); err != nil {
		s.fail(w, r, err)
		return
	}
	result, err := s.result(ctx, from, to.Result, e.ID(s.o.GatewayID))
	s.answerOr(w, r, result, err)
}

// text is the value as it is sent.
func (s *Set) text() ([]byte, error) {
	var v any
	if err := json.Unmarshal(s.Value, &v); s.Value != nil && err != nil {
		return nil, gateway.Errorf(gateway.ErrInvalid, "value: %w", err)
	}
	switch v := v.(type) {
	case nil: // a command may need none
		return nil, nil
	case string:
		return []byte(v), nil
	case float64, bool:
		return s.Value, nil // as it was written
	}
	return nil, gateway.Errorf(gateway.ErrInvalid, "value: a list or an object is no value; as text, in quotes, it can be one")
}

// result waits for the result of the command with that id.
func (s *Server) result(ctx context.Context, from uint64, topic, id string) (json.RawMessage, error) {
	filter, err := gateway.ParseFilter(topic)
	if err != nil {
		return nil, err
	}
	for reader := s.o.Feed.Reader(from, gateway.Filters{filter}, gateway.Written); ; {
		b, err := reader.Next(ctx)
		if err != nil {
			return nil, gateway.Errorf(gateway.ErrTransient, "command %s is stored, and there is no result yet: %w", id, err)
		}
		for _, e := range b.Events {
			var r struct{ ID string }
			if e.Origin.Via == gateway.ViaWeir && json.Unmarshal(e.Payload, &r) == nil && r.ID == id {
				return e.Payload, nil
			}
		}
	}
}
