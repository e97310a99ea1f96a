package web

import (
	"net/http"
	"strconv"

	"github.com/weir-iot/weir/gateway"
)

// Due is the answer of GET /api/due: what a route is done with, in journal order, a page at a time.
type Due struct {
	Oldest uint64     `json:"oldest"` // what is before this offset the journal has let go of
	Next   uint64     `json:"next"`   // where the next page begins; 0: this is the last
	Events []DueEvent `json:"events"`
}

// DueEvent is an event that is due at the far end.
type DueEvent struct {
	ID    string `json:"id"`
	Topic string `json:"topic"`
	// Excuse is why the far end may not have it; empty: it has.
	Excuse string `json:"excuse,omitempty"`
}

// apiDue answers with the events of ?uplink= and ?route= from offset ?from= on.
func (s *Server) apiDue(w http.ResponseWriter, r *http.Request) {
	query, account := r.URL.Query(), accountOf(r)
	from := uint64(1)
	if text := query.Get("from"); text != "" {
		var err error
		if from, err = strconv.ParseUint(text, 10, 64); err != nil || from > gateway.MaxOffset {
			s.fail(w, r, gateway.Errorf(gateway.ErrInvalid, "from=%q is not an offset", text))
			return
		}
	}
	due, err := s.o.Due(query.Get("uplink"), query.Get("route"), from)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	shown := make([]DueEvent, 0, len(due.Events))
	for _, e := range due.Events {
		if account.CanRead(e.Topic, "") == nil {
			shown = append(shown, e)
		}
	}
	due.Events = shown
	s.answer(w, r, due)
}

// noDue is Options.Due of a server that is given none.
func noDue(uplink, route string, _ uint64) (Due, error) {
	return Due{}, gateway.Errorf(gateway.ErrInvalid, "there is no route %q of uplink %q", route, uplink)
}
