package web

import (
	"net/http"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Ops is what the gateway does when somebody asks. All of it needs an account that may do everything. A nil
// function is a 404.
type Ops struct {
	// Dead calls fn with the dead letters of an uplink, of one of its routes, or of all if both are empty.
	Dead func(uplink, route string, fn func(DeadLetter) error) error
	// RetryDead sends some again and returns at once; DropDead forgets some and says how many.
	RetryDead func(DeadLetters) ([]Replay, error)
	DropDead  func(DeadLetters) (int, error)

	Replay       func(ReplayRequest) (Replay, error)
	Replays      func() []Replay
	CancelReplay func(id string) (Replay, error)

	// Drill begins a drill, or ends one if length, such as 30m, is empty. Drills is how all uplinks are.
	Drill  func(uplink, length string) (Drill, error)
	Drills func() ([]Drill, error)

	// Trace finds out where an event went: the one with an id, or the newest of a topic.
	Trace func(id, topic string) (Trace, error)

	// Seen are the MQTT clients that publish and are no device; Adopt makes a device of one, in the configuration.
	Seen  func() []Seen
	Adopt func(Adoption) (Adopted, error)
}

// DeadLetter is an event that a far end refused for ever.
type DeadLetter struct {
	ID      string         `json:"id"`
	Uplink  string         `json:"uplink"`
	Route   string         `json:"route"`
	Topic   string         `json:"topic"`
	Bytes   int            `json:"bytes"`   // of the payload
	Refused time.Time      `json:"refused"` // the last time
	Reason  string         `json:"reason"`
	Face    *gateway.Face  `json:"event,omitempty"` // only where one was asked for by its id
	Event   *gateway.Event `json:"-"`
}

// DeadLetters chooses some: by id, by uplink, by route of an uplink, or by all of these. It is
// the body of POST /api/dead/retry.
type DeadLetters struct {
	ID     string `json:"id,omitempty"`
	Uplink string `json:"uplink,omitempty"`
	Route  string `json:"route,omitempty"`
}

// ReplayRequest says what is to be sent again; the body of POST /api/replay. Since and Until are a position, a time
// as in RFC 3339, or a duration, which is so long ago; empty is open.
type ReplayRequest struct {
	Uplink  string   `json:"uplink"`
	Route   string   `json:"route,omitempty"` // empty: all of the uplink
	Filters []string `json:"filters,omitempty"`
	Since   string   `json:"since,omitempty"`
	Until   string   `json:"until,omitempty"`
}

// Replay is something that is sent again because somebody asked for it.
type Replay struct {
	ID     string    `json:"id"`
	Uplink string    `json:"uplink"`
	Route  string    `json:"route,omitempty"` // empty: all of the uplink
	Dead   bool      `json:"dead_letters"`
	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended,omitzero"`

	From   uint64 `json:"from"` // offsets: from <= offset < to
	To     uint64 `json:"to"`
	At     uint64 `json:"at"`               // offsets below are done with
	Events uint64 `json:"events,omitempty"` // of dead letters: how many

	Delivered  uint64 `json:"delivered"`
	Refused    uint64 `json:"refused"`
	Expired    uint64 `json:"expired"`
	LastReason string `json:"last_reason,omitempty"` // of the last that was refused
	Missing    string `json:"missing,omitempty"`     // what was asked for and is not there any more
	Problem    string `json:"problem,omitempty"`     // why nothing can be read now
	Cancelled  bool   `json:"cancelled,omitempty"`
}

// Drill is whether an uplink is in a drill, and how long it could be away at the present rate.
type Drill struct {
	Uplink  string       `json:"uplink"`
	Until   time.Time    `json:"until,omitzero"`  // of the drill; absent if there is none
	Rate    float64      `json:"rate"`            // bytes accepted in a second, of all topics
	Journal *float64     `json:"journal_seconds"` // until what waits begins to leave the journal; null: never
	Routes  []DrillRoute `json:"routes"`
}

// DrillRoute is one route's part.
type DrillRoute struct {
	Route string   `json:"route"`
	Rate  float64  `json:"rate"`
	Lasts *float64 `json:"lasts_seconds"`   // until something that waits is lost or refused; null: for ever
	Limit string   `json:"limit,omitempty"` // what ends it: ttl, max_size or disk
	Then  string   `json:"then,omitempty"`  // what happens then
}

// Trace is where an event went.
type Trace struct {
	ID       string         `json:"id"`
	Position string         `json:"position"`
	Place    string         `json:"place"`           // where it was found, or why it was not
	Synced   bool           `json:"synced"`          // on stable storage
	Face     *gateway.Face  `json:"event,omitempty"` // absent if it is nowhere any more; so is the next
	Received *Received      `json:"received,omitempty"`
	Routes   []TraceRoute   `json:"routes"` // those that match, as they are configured now
	Event    *gateway.Event `json:"-"`
}

// Received is how an event came in.
type Received struct {
	Via          string    `json:"via"`
	Client       string    `json:"client,omitempty"` // or the device
	User         string    `json:"user,omitempty"`
	QoS          byte      `json:"qos"`
	Time         time.Time `json:"time"` // by the wall clock
	ClockTrusted bool      `json:"clock_trusted"`
	Age          float64   `json:"age_seconds"` // since then, by the gateway's own clock
	Boot         uint32    `json:"boot"`
	Expiry       float64   `json:"expiry_seconds,omitempty"`
}

// TraceRoute is what has become of it on one route.
type TraceRoute struct {
	Uplink string `json:"uplink"`
	Route  string `json:"route"`
	Fate   string `json:"fate"`
	Detail string `json:"detail"`
	Doubt  string `json:"doubt,omitempty"` // what else it may be
}

// manage adds the routes of Ops to mux.
func (s *Server) manage(mux *http.ServeMux) {
	add := func(pattern string, there bool, handle http.HandlerFunc) {
		if !there {
			return
		}
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := accountOf(r).CanManage(); err != nil {
				s.fail(w, r, err)
				return
			}
			handle(w, r)
		})
	}
	o := s.o.Ops
	add("GET /api/dead", o.Dead != nil, s.deadList)
	add("GET /api/dead/{id...}", o.Dead != nil, s.deadShow)
	add("POST /api/dead/retry", o.RetryDead != nil, s.deadRetry)
	add("DELETE /api/dead", o.DropDead != nil, s.deadDrop)
	add("DELETE /api/dead/{id...}", o.DropDead != nil, s.deadDrop)
	add("POST /api/replay", o.Replay != nil, func(w http.ResponseWriter, r *http.Request) {
		var what ReplayRequest
		if s.asked(w, r, &what) {
			begun, err := o.Replay(what)
			s.answerOr(w, r, begun, err)
		}
	})
	add("GET /api/devices/seen", o.Seen != nil, s.apiSeen)
	add("POST /api/devices/seen/adopt", o.Adopt != nil, s.apiAdopt)
	add("GET /api/trace", o.Trace != nil, s.trace)
	add("GET /api/drill", o.Drills != nil, func(w http.ResponseWriter, r *http.Request) {
		all, err := o.Drills()
		s.answerOr(w, r, orEmpty(all), err)
	})
	add("POST /api/drill", o.Drill != nil, func(w http.ResponseWriter, r *http.Request) {
		var what struct{ Uplink, For string }
		switch ok := s.asked(w, r, &what); {
		case !ok:
		case what.For == "":
			problem(w, http.StatusBadRequest, "say how long: for")
		default:
			drill, err := o.Drill(what.Uplink, what.For)
			s.answerOr(w, r, drill, err)
		}
	})
	add("DELETE /api/drill", o.Drill != nil, func(w http.ResponseWriter, r *http.Request) {
		drill, err := o.Drill(r.URL.Query().Get("uplink"), "")
		s.answerOr(w, r, drill, err)
	})
	add("GET /api/replays", o.Replays != nil, func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, orEmpty(o.Replays())) })
	add("DELETE /api/replays/{id}", o.CancelReplay != nil, func(w http.ResponseWriter, r *http.Request) {
		done, err := o.CancelReplay(r.PathValue("id"))
		s.answerOr(w, r, done, err)
	})
}

// answerOr answers with v, or with err if there is one.
func (s *Server) answerOr(w http.ResponseWriter, r *http.Request, v any, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, v)
}

// asked decodes a JSON body into v. If it is not ok the answer was written.
func (s *Server) asked(w http.ResponseWriter, r *http.Request, v any) (ok bool) {
	body, ok := readJSON(w, r)
	if !ok {
		return false
	}
	if err := strictJSON(body, v); err != nil {
		problem(w, http.StatusBadRequest, "the body: %v", err)
		return false
	}
	return true
}

// dead gathers the letters that the account may read and that want is true for.
func (s *Server) dead(r *http.Request, want func(*DeadLetter) bool) ([]DeadLetter, error) {
	q, all := r.URL.Query(), []DeadLetter{}
	err := s.o.Ops.Dead(q.Get("uplink"), q.Get("route"), func(l DeadLetter) error {
		if accountOf(r).CanRead(l.Topic, "") == nil && want(&l) {
			l.Event = nil // a list of a thousand is not a thousand payloads
			all = append(all, l)
		}
		return nil
	})
	return all, err
}

func (s *Server) deadList(w http.ResponseWriter, r *http.Request) {
	all, err := s.dead(r, func(*DeadLetter) bool { return true })
	s.answerOr(w, r, all, err)
}

// deadShow answers with all that have the id: an event may be dead for several uplinks.
func (s *Server) deadShow(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	all, err := s.dead(r, func(l *DeadLetter) bool {
		if l.ID != id {
			return false
		}
		face := l.Event.Face(s.o.GatewayID)
		l.Face = &face
		return true
	})
	if err == nil && len(all) == 0 {
		problem(w, http.StatusNotFound, "there is no dead letter %s", id)
		return
	}
	s.answerOr(w, r, all, err)
}

func (s *Server) deadRetry(w http.ResponseWriter, r *http.Request) {
	var which DeadLetters
	if !s.asked(w, r, &which) {
		return
	}
	begun, err := s.o.Ops.RetryDead(which)
	s.answerOr(w, r, orEmpty(begun), err)
}

func (s *Server) deadDrop(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n, err := s.o.Ops.DropDead(DeadLetters{r.PathValue("id"), q.Get("uplink"), q.Get("route")})
	s.answerOr(w, r, map[string]int{"dropped": n}, err)
}

func (s *Server) trace(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	id, topic := q.Get("id"), q.Get("topic")
	if (id == "") == (topic == "") {
		problem(w, http.StatusBadRequest, "say which event: id=ID, or topic=TOPIC for its newest")
		return
	}
	t, err := s.o.Ops.Trace(id, topic)
	if err == nil && t.Event != nil {
		err = accountOf(r).CanRead(t.Event.Topic, "")
		face := t.Event.Face(s.o.GatewayID)
		t.Face = &face
	}
	t.Routes = orEmpty(t.Routes)
	s.answerOr(w, r, t, err)
}
