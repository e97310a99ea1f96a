package devices

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/devices/codec"
)

// Status is how a device is. Counts are since the start.
type Status struct {
	ID     string
	Name   string
	Area   string
	Driver string
	Topic  string // of its status: online or offline, retained

	Up     bool
	Reason string    // why it is not up; empty if it is
	Since  time.Time // since when it is so

	Last        time.Time // when the last frame came; zero if none did
	Frames      uint64
	Garbage     uint64
	LastGarbage string // the last of it: the reason and the first bytes, quoted
	Refused     uint64 // readings that Ingest did not take
	Starts      uint64 // how often the driver was started

	Measurements []Measurement // sorted by name: those configured, and those seen
	Settings     []string      // what commands can set, sorted
}

// Measurement is one value of a device.
type Measurement struct {
	Name  string
	Topic string
	Unit  string
	Kind  codec.Kind // zero if that cannot be told
}

// maxMeasurements bounds the names of one device: noise on a wire that reads as
// key=value must not fill the gateway with topics.
const maxMeasurements = 256

// state is a Status that is being written.
type state struct {
	mu           sync.Mutex
	status       Status
	measurements map[string]Measurement
	sure         map[string]bool // those that are configured, and those that came more than once
}

func (s *state) snapshot() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Measurements = slices.SortedFunc(maps.Values(s.measurements), func(a, b Measurement) int {
		return strings.Compare(a.Name, b.Name)
	})
	return st
}

// set reports whether anything changed.
func (s *state) set(up bool, reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Up == up && s.status.Reason == reason {
		return false
	}
	if s.status.Up != up || s.status.Since.IsZero() {
		s.status.Since = time.Now()
	}
	s.status.Up, s.status.Reason = up, reason
	return true
}

func (s *state) started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Starts++
	if s.status.Reason == notStarted {
		s.status.Reason = "no sign of it yet"
	}
}

func (s *state) frame() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Frames++
	s.status.Last = time.Now()
}

func (s *state) garbage(reason string, raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Garbage++
	s.status.LastGarbage = fmt.Sprintf("%s: %q", reason, raw)
}

func (s *state) refused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Refused++
}

// measurement returns the topic of r, or why it can have none, one of the reasons in codec.
func (d *device) measurement(r codec.Reading) (topic, garbage string) {
	s := &d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	m, known := s.measurements[r.Name]
	if known && !s.sure[r.Name] {
		s.sure[r.Name] = true
		d.changed()
	}
	if !known {
		if len(s.measurements) >= maxMeasurements {
			return "", codec.TooMany
		}
		m = Measurement{Name: r.Name, Topic: d.topic.topic(r.Name)}
		if m.Topic == s.status.Topic || isCommand(m.Topic, d.site) {
			return "", codec.Reserved
		}
	}
	if m.Unit == "" && r.Unit != "" || !known { // some units only the device knows
		m.Unit, m.Kind = r.Unit, d.common.kind(r.Name, r.Unit)
		s.measurements[r.Name] = m
		if known {
			d.changed()
		}
	}
	return m.Topic, ""
}
