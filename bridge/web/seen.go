package web

import (
	"net/http"
	"time"
)

// Seen is an MQTT client that publishes and is no device.
type Seen struct {
	Client   string    `json:"client"`
	User     string    `json:"user,omitempty"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Messages uint64    `json:"messages"`
	Topics   []string  `json:"topics"`
	More     bool      `json:"more,omitempty"` // there were other topics
	Topic    string    `json:"topic"`          // of the last message
	Shape    string    `json:"shape"`          // of its payload, without the values
	Guesses  []Guess   `json:"guesses"`
}

// Guess is a firmware that a client may have, and where its topics begin.
type Guess struct {
	Profile string `json:"profile"`
	Base    string `json:"base"`
}

// Adoption is the body of POST /api/devices/seen/adopt.
type Adoption struct {
	Client string `json:"client"`
	ID     string `json:"id,omitempty"`
	Name   string `json:"name,omitempty"`
	Base   string `json:"base,omitempty"` // which of the guesses, if there are several
}

// Adopted is the answer: the device is in the configuration. It is there after a restart.
type Adopted struct {
	ID   string `json:"id"`
	File string `json:"file"`
}

func (s *Server) apiSeen(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, orEmpty(s.o.Ops.Seen()))
}

func (s *Server) apiAdopt(w http.ResponseWriter, r *http.Request) {
	var what Adoption
	if s.asked(w, r, &what) {
		done, err := s.o.Ops.Adopt(what)
		s.answerOr(w, r, done, err)
	}
}
