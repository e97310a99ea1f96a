package devices

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/mqttdev"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// Seen is a client of the broker that publishes and that no device of the configuration reads.
type Seen struct {
	Client string    `json:"client"`
	User   string    `json:"user,omitempty"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	// Messages are those that no device reads.
	Messages uint64   `json:"messages"`
	Topics   []string `json:"topics"`         // the first ones, sorted
	More     bool     `json:"more,omitempty"` // there were others
	// Topic is that of the last message, and Shape what its payload looks like, without the values.
	Topic   string          `json:"topic"`
	Shape   string          `json:"shape"`
	Guesses []mqttdev.Guess `json:"guesses"` // what it may be; several if it speaks for several devices
}

// The bounds of what is remembered.
const (
	maxSeen       = 200 // clients; of more, the one goes that was silent longest
	maxSeenTopics = 32  // of one client
	maxGuesses    = 64
	maxShape      = 200 // bytes
	seenBehind    = 2048
)

// watch looks at who publishes. It looks at the live tail only: under a load that it cannot follow it
// leaves out.
type watch struct {
	o     Options
	reads gateway.Filters // of all devices

	mu        sync.Mutex
	clients   map[string]*client
	forgotten uint64
}

// client is a Seen that is being written.
type client struct {
	Seen
	looked time.Duration // the Age of the message that was looked at last
}

func newWatch(o Options, devices []*device) *watch {
	w := &watch{o: o, clients: map[string]*client{}}
	for _, d := range devices {
		if d.follow != nil {
			w.reads = append(w.reads, d.follow.follower.Reads()...)
		}
	}
	return w
}

// mqttClients is the Origin.Via of the broker's clients.
const mqttClients = "mqtt"

// run watches until ctx ends.
func (w *watch) run(ctx context.Context) {
	if w.o.Feed == nil {
		return
	}
	all := gateway.Filters{gateway.MustFilter("#")}
	next, _ := w.o.Feed.Next()
	if w.o.Retained != nil {
		for _, e := range w.o.Retained(all) {
			w.note(e)
		}
	}
	r := w.o.Feed.Reader(next, all, gateway.Written)
	for {
		b, err := r.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil { // the journal cannot be read there: it is not worth waiting for
			select {
			case <-time.After(tellAgain):
			case <-ctx.Done():
				return
			}
		}
		for _, e := range b.Events {
			w.note(e)
		}
		if released, _ := w.o.Feed.Next(); err != nil || released-r.Offset() > seenBehind {
			r = w.o.Feed.Reader(released, all, gateway.Written)
		}
	}
}

// note takes in one message. Of a client whose topic is known it looks at one in a second.
func (w *watch) note(e *gateway.Event) {
	if e.Origin.Via != mqttClients || len(e.Payload) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.clients[e.Origin.ID]
	if s != nil && e.Age-s.looked < time.Second && s.knows(e.Topic) {
		s.heard(e)
		return
	}
	if mqttdev.IsCommand(e.Topic) || w.reads.Match(e.Topic) {
		return
	}
	if s == nil {
		if len(w.clients) >= maxSeen {
			w.forget()
		}
		s = &client{Seen: Seen{Client: e.Origin.ID, First: e.Accepted}}
		w.clients[e.Origin.ID] = s
	}
	s.heard(e)
	s.look(e)
}

func (s *client) knows(topic string) bool {
	_, known := slices.BinarySearch(s.Topics, topic)
	return known
}

func (s *client) heard(e *gateway.Event) {
	s.Messages++
	if e.Accepted.After(s.Last) {
		s.Last = e.Accepted
	}
}

func (s *client) look(e *gateway.Event) {
	s.looked, s.User, s.Topic, s.Shape = e.Age, e.Origin.User, e.Topic, shape(e.Payload)
	if i, known := slices.BinarySearch(s.Topics, e.Topic); !known && len(s.Topics) < maxSeenTopics {
		s.Topics = slices.Insert(s.Topics, i, e.Topic)
	} else if !known {
		s.More = true
	}
	if g, ok := mqttdev.GuessOf(e.Topic); ok && !slices.Contains(s.Guesses, g) && len(s.Guesses) < maxGuesses {
		s.Guesses = append(s.Guesses, g)
	}
}

// forget drops the client that was silent longest.
func (w *watch) forget() {
	oldest := ""
	for id, s := range w.clients {
		if oldest == "" || s.Last.Before(w.clients[oldest].Last) {
			oldest = id
		}
	}
	delete(w.clients, oldest)
	w.forgotten++
}

// Seen returns who publishes and is no device, sorted by client.
func (s *Supervisor) Seen() (all []Seen) {
	w := s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(w.clients)) {
		c := w.clients[id].Seen
		c.Topics, c.Guesses = slices.Clone(c.Topics), slices.Clone(c.Guesses)
		all = append(all, c)
	}
	return all
}

// SeenCount is how many clients are remembered, and how many were forgotten for want of room.
func (s *Supervisor) SeenCount() (clients int, forgotten uint64) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	return len(s.watch.clients), s.watch.forgotten
}

// shape is what a payload looks like: {"a": number, "b": text}, number, text or binary.
func shape(payload []byte) string {
	if payload[0] == '{' || payload[0] == '[' {
		if s, ok := shapeJSON(payload); ok {
			if len(s) > maxShape {
				s = strings.ToValidUTF8(s[:maxShape], "") + "…"
			}
			return s
		}
	}
	switch {
	case !utf8.Valid(payload):
		return "binary"
	case isNumber(payload):
		return "number"
	}
	return "text"
}

func isNumber(payload []byte) bool {
	_, number := codec.Number(string(bytes.TrimSpace(payload)))
	return number
}

// shapeJSON names the types in a document, in its order.
func shapeJSON(payload []byte) (string, bool) {
	if len(payload) > 64<<10 || !json.Valid(payload) {
		return "", false
	}
	var out strings.Builder
	shapeValue(json.NewDecoder(bytes.NewReader(payload)), &out)
	return out.String(), true
}

// shapeValue writes what the next value of a valid document is, and stops where it is long enough.
func shapeValue(d *json.Decoder, out *strings.Builder) {
	t, _ := d.Token()
	switch v := t.(type) {
	case json.Delim:
		out.WriteString(v.String())
		for i := 0; d.More() && out.Len() <= maxShape; i++ {
			if i > 0 {
				out.WriteString(", ")
			}
			if v == '{' {
				key, _ := d.Token()
				fmt.Fprintf(out, "%q: ", key)
			}
			shapeValue(d, out)
		}
		if end, _ := d.Token(); out.Len() <= maxShape {
			fmt.Fprint(out, end)
		}
	case string:
		out.WriteString("text")
	case bool:
		out.WriteString("true or false")
	case nil:
		out.WriteString("null")
	default:
		out.WriteString("number")
	}
}

// Adoption is what makes a device of a client that was seen.
type Adoption struct {
	Client string `json:"client"`
	ID     string `json:"id,omitempty"`   // of the device; default: what its topics begin with, or the client
	Name   string `json:"name,omitempty"` // for people
	Base   string `json:"base,omitempty"` // which of the guesses, if there are several
}

// Adopt returns the id and the section that make a device of one of those seen. The error is gateway.ErrInvalid if
// it is not clear which.
func Adopt(all []Seen, a Adoption) (id string, section []config.Field, err error) {
	i := slices.IndexFunc(all, func(s Seen) bool { return s.Client == a.Client })
	if i < 0 {
		return "", nil, gateway.Errorf(gateway.ErrInvalid, "no client %q was seen that is not a device yet", a.Client)
	}
	s := all[i]
	section = []config.Field{{Key: "driver", Value: "mqtt"}}
	if a.Name != "" {
		section = append(section, config.Field{Key: "name", Value: a.Name})
	}
	guesses := slices.DeleteFunc(slices.Clone(s.Guesses), func(g mqttdev.Guess) bool { return a.Base != "" && g.Base != a.Base })
	switch {
	case len(guesses) > 1:
		var bases []string
		for _, g := range guesses {
			bases = append(bases, g.Base)
		}
		return "", nil, gateway.Errorf(gateway.ErrInvalid, "client %q speaks for several devices; say which base: %s", a.Client, strings.Join(bases, ", "))
	case len(guesses) == 1:
		g := guesses[0]
		section = append(section, config.Field{Key: "profile", Value: g.Profile}, config.Field{Key: "base", Value: g.Base})
		id = g.Base[strings.LastIndex(g.Base, "/")+1:]
		if id == "%prefix%" {
			id = strings.TrimSuffix(g.Base, "/%prefix%")
		}
	case a.Base != "":
		return "", nil, gateway.Errorf(gateway.ErrInvalid, "client %q has published nothing below %q", a.Client, a.Base)
	default:
		format, as := "raw", "{name}"
		if strings.HasPrefix(s.Shape, "{") {
			format = "json"
		} else {
			as = fmt.Sprintf("{%d}", strings.Count(s.Topic, "/")+1)
		}
		section = append(section, config.Field{Key: "from", Value: s.Topics}, config.Field{Key: "format", Value: format})
		if as != "{name}" {
			section = append(section, config.Field{Key: "as", Value: as})
		}
		id = a.Client
	}
	if a.ID != "" {
		return a.ID, section, nil
	}
	return strings.Trim(notInID.ReplaceAllString(id, "-"), "-."), section, nil
}

var notInID = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)
