package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/weir-iot/weir/gateway"
)

// problem answers with an error in the form of RFC 9457.
func problem(w http.ResponseWriter, status int, format string, args ...any) {
	body, _ := json.Marshal(struct { // strings and a number: cannot fail
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, fmt.Sprintf(format, args...)})
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

// fail answers with the status of err's kind.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, gateway.ErrInvalid):
		problem(w, http.StatusBadRequest, "%v", err)
	case errors.Is(err, gateway.ErrDenied):
		problem(w, http.StatusForbidden, "%v", err)
	case errors.Is(err, gateway.ErrFull):
		problem(w, http.StatusInsufficientStorage, "%v", err)
	case errors.Is(err, gateway.ErrTransient):
		w.Header().Set("Retry-After", "1")
		problem(w, http.StatusServiceUnavailable, "%v", err)
	default:
		s.log.Error("request failed", "path", r.URL.Path, "err", err)
		problem(w, http.StatusInternalServerError, "the gateway's log says what went wrong")
	}
}

// answer writes v as JSON.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		s.fail(w, r, fmt.Errorf("encode the answer: %w", err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.Write(append(body, '\n'))
}
