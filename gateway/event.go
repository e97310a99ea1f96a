package gateway

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxOffset bounds offsets: they stay below 2^53 so that a JavaScript number,
// which is what a browser resumes from, holds each one exactly.
const MaxOffset = 1<<53 - 1

// Kind tells what a journal entry is.
type Kind uint8

const (
	// Data is a reading or a publish: what devices send and readers want.
	Data Kind = iota
	// Change is a change of keyed state that has to be ordered with the events
	// around it, such as the release of a QoS 2 packet identifier. Its topic names
	// the owner; its payload is the owner's. Readers never see one.
	Change
)

// Quality says how far a value can be trusted, in the words of OPC UA.
type Quality uint8

const (
	Good Quality = iota
	Uncertain
	Bad
)

var qualityNames = [...]string{Good: "good", Uncertain: "uncertain", Bad: "bad"}

func (q Quality) String() string {
	if int(q) < len(qualityNames) {
		return qualityNames[q]
	}
	return "quality(" + strconv.Itoa(int(q)) + ")"
}

// Origin names who an event came from: a client of the broker, a device that a
// driver reads, or the HTTP API. ID is the MQTT client identifier or the device id.
type Origin struct {
	Via  string // "mqtt", "http", "serial", …: the face or the driver it came through
	ID   string
	User string // the account it was accepted under; empty where none is needed
}

// ViaWeir is the Via of what the gateway says itself. Nobody else can have it.
const ViaWeir = "weir"

// UserProperty is one MQTT 5 user property (§3.3.2.3.7). Order and repeats are kept.
type UserProperty struct{ Key, Value string }

// Event is the one thing that flows. Between Ingest and the last reader it is
// shared, so nobody changes one after it was handed to Ingest.
type Event struct {
	Kind    Kind
	Topic   string // a topic name, never a filter
	Payload []byte
	QoS     byte // 0 to 2, as the sender chose
	Retain  bool

	// Expiry is how long the event is worth delivering, counted from Age;
	// 0 means for ever. MQTT 5 message expiry interval, §3.3.2.3.3; whole seconds there.
	Expiry          time.Duration
	UTF8            bool // MQTT 5 payload format indicator, §3.3.2.3.2
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	UserProperties  []UserProperty

	Origin   Origin
	Accepted time.Time // when Weir took it in; wall clock, so only data
	// Age is the same moment on the gateway's own clock, which the journal keeps: it grows with
	// the offset, goes on over restarts and never jumps. Whatever is counted in time, expiry,
	// retention, thinning, is counted in it. Whole milliseconds.
	Age time.Duration
	// Boot counts the boots of the machine in this data directory.
	Boot uint32
	// ClockTrusted tells whether the wall clock was synchronised when Accepted was stamped.
	ClockTrusted bool
	Source       time.Time // when the device says it measured; zero if it does not say
	Quality      Quality

	// PacketID is the publisher's packet identifier of a QoS 2 publish, 0 otherwise.
	// It travels in the event's own frame, so that the two are stored as one.
	PacketID uint16

	// Epoch and Offset are the event's place in the journal, set by the journal.
	Epoch  string
	Offset uint64
}

// Position is where e is in the journal.
func (e *Event) Position() Position { return Position{e.Epoch, e.Offset} }

// ID is the event's stable name outside: "<gateway>/<epoch>-<offset>", the same on
// every retry of every uplink, and never used for a second event.
func (e *Event) ID(gatewayID string) string {
	return gatewayID + "/" + e.Epoch + "-" + strconv.FormatUint(e.Offset, 10)
}

// ParseID is the position in an id that Event.ID made for gatewayID.
func ParseID(gatewayID, id string) (Position, error) {
	rest, ours := strings.CutPrefix(id, gatewayID+"/")
	epoch, num, ok := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(num, 10, 64)
	if !ours || !ok || epoch == "" || err != nil || n > MaxOffset {
		return Position{}, Errorf(ErrInvalid, "%q is no event's id of this gateway: %s/epoch-offset", id, gatewayID)
	}
	return Position{epoch, n}, nil
}

// Size estimates the memory e occupies, in bytes. Bounds are counted in it.
func (e *Event) Size() int {
	n := 256 + len(e.Topic) + len(e.Payload) + len(e.ContentType) + len(e.ResponseTopic) +
		len(e.CorrelationData) + len(e.Origin.ID) + len(e.Origin.User)
	for _, p := range e.UserProperties {
		n += 32 + len(p.Key) + len(p.Value)
	}
	return n
}

// Expired tells whether e is no longer worth delivering when the gateway's clock is at age.
func (e *Event) Expired(age time.Duration) bool {
	return e.Expiry > 0 && age-e.Age >= e.Expiry
}

// Left is what remains of the expiry then; it makes sense for an event that has one.
func (e *Event) Left(age time.Duration) time.Duration {
	return min(e.Expiry-(age-e.Age), e.Expiry)
}

// Position is a place in the journal's history, written "epoch:offset". As a
// resume point it names the last event seen; offset 0 is before the first.
type Position struct {
	Epoch  string
	Offset uint64
}

func (p Position) String() string { return p.Epoch + ":" + strconv.FormatUint(p.Offset, 10) }

// ParsePosition reads what String wrote.
func ParsePosition(s string) (Position, error) {
	epoch, num, ok := strings.Cut(s, ":")
	if !ok || epoch == "" {
		return Position{}, Errorf(ErrInvalid, "position %q is not epoch:offset", s)
	}
	n, err := strconv.ParseUint(num, 10, 64)
	if err != nil || n > MaxOffset {
		return Position{}, Errorf(ErrInvalid, "position %q: offset is not a number from 0 to 2^53-1", s)
	}
	return Position{epoch, n}, nil
}

// Gap is a stretch of the journal that a reader asked for and cannot get: events
// with From <= offset < To are not readable. A reader is always told, never skipped
// ahead in silence.
type Gap struct {
	Asked    Position // where the reader wanted to go on from; zero while reading
	From, To uint64
	Reason   string // one of the Gap… constants
}

// Why a gap is there.
const (
	GapTrimmed = "trimmed" // older than what the journal keeps
	GapDamaged = "damaged" // the bytes on disk are no longer what was written
	GapLost    = "lost"    // written but not synced before a power loss
	GapUnknown = "unknown" // the position is from a history this gateway never had
)

func (g *Gap) String() string {
	return fmt.Sprintf("%s: offsets %d to %d", g.Reason, g.From, g.To-1)
}
