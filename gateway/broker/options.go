package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// State is where the broker keeps its keyed state between starts: sessions with their
// subscriptions and QoS 2 identifiers, and retained messages.
type State interface {
	// Get returns the value of key, and whether there is one.
	Get(bucket, key string) ([]byte, bool, error)
	// Each calls fn for every key of bucket that begins with prefix.
	Each(bucket, prefix string, fn func(key string, value []byte) error) error
	// Apply makes all changes or none; a nil value deletes. What it has returned from
	// is on stable storage.
	Apply(bucket string, changes map[string][]byte) error
}

// Options are what a Broker needs, and its limits. Zero means the default.
type Options struct {
	Auth *auth.Policy // who may connect, publish and subscribe; required

	// Ingest takes an event in, as [gateway.Gateway.Ingest] says; required.
	Ingest func(ctx context.Context, e *gateway.Event, done func(error)) error
	// State holds what the journal's changes have led to; required.
	State State
	// Replay calls fn for every entry of the journal from an offset on, Change entries
	// included; required. New uses it to catch up from what State reflects.
	Replay func(from uint64, fn func(*gateway.Event) error) error
	// Age is the clock that gateway.Event.Age is of; required. Expiry is counted in it.
	Age func() time.Duration

	Logger   *slog.Logger     // nil discards
	Observer gateway.Observer // told of connections and drops

	// MaxConnections bounds open connections, those that have not sent CONNECT
	// included. One more is closed at once. Default 4096.
	MaxConnections int
	// MaxPacket bounds a packet from a client in bytes, fixed header not counted; v5
	// clients are told (Maximum Packet Size). A longer one ends the connection with
	// 0x95. Default gateway.MaxPayload + 64 KiB. CONNECT, which comes before we know
	// who it is, is bounded by 64 KiB.
	MaxPacket int
	// ReceiveMaximum is how many publishes of one connection may wait for their answer
	// (MQTT 5 §3.2.2.3.3); at that number Weir stops reading from it. It also bounds the QoS
	// 2 identifiers a v5 session may leave unreleased. Default 1024.
	ReceiveMaximum uint16
	// TopicAliasMaximum is how many topic aliases a v5 client may use (§3.2.2.3.8).
	// Default 64.
	TopicAliasMaximum uint16
	// QueueBytes bounds what waits for one receiver: bytes on their way to its socket,
	// and, counted apart, events queued for its session. A connected receiver that
	// reaches it is closed with 0x97 and counted; an offline session drops what is new,
	// counted. Default 4 MiB.
	QueueBytes int
	// SessionQueue bounds the number of events queued for one session. Default 8192.
	SessionQueue int
	// SendWindow bounds the QoS 1 and 2 messages sent and not yet acknowledged by one
	// receiver; a smaller Receive Maximum of the client goes first. Default 256.
	SendWindow int
	// MaxSessions bounds sessions that outlive their connection. One more is refused
	// with 0x97 (v3.1.1: 3, server unavailable). Default 10,000.
	MaxSessions int
	// MaxSubscriptions bounds the filters of one session; the next gets 0x97. Default 1000.
	MaxSubscriptions int
	// MaxRetained bounds topics with a retained message. A publish that would add one
	// more is refused with 0x97. Default 100,000.
	MaxRetained int
	// MaxSessionExpiry bounds how long a session outlives its connection: what a v5
	// client asks for beyond it is cut, and the client told; v3.1.1 sessions, which the
	// standard gives no end, get it. Whole seconds. Default 30 days.
	MaxSessionExpiry time.Duration

	// ConnectTimeout is how long a connection may take to send CONNECT and to be
	// authenticated. Default 10 s.
	ConnectTimeout time.Duration
	// CloseTimeout is how long a closing connection may take to send what is queued,
	// CONNACK and DISCONNECT included. Default 2 s.
	CloseTimeout time.Duration
	// RefusalPause is how long Weir reads nothing from a v3.1.1 client whose publish could
	// not be stored, before it closes: the only brake that version has. Default 5 s.
	RefusalPause time.Duration
	// CheckpointInterval is how often State is brought up to date. Default 10 s.
	CheckpointInterval time.Duration
}

// maxConnect bounds the CONNECT packet in bytes: nobody has been authenticated yet.
const maxConnect = 64 << 10

// maxClientID bounds client identifiers in bytes; the standard asks for 23 at least.
const maxClientID = 1024

// checkpointAt is the number of changed keys that brings a checkpoint forward.
const checkpointAt = 4096

func (o *Options) setDefaults() {
	o.Observer = o.Observer.OrNop()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.MaxConnections, 4096)
	setDefault(&o.MaxPacket, gateway.MaxPayload+64<<10)
	setDefault(&o.ReceiveMaximum, 1024)
	setDefault(&o.TopicAliasMaximum, 64)
	setDefault(&o.QueueBytes, 4<<20)
	setDefault(&o.SessionQueue, 8192)
	setDefault(&o.SendWindow, 256)
	setDefault(&o.MaxSessions, 10_000)
	setDefault(&o.MaxSubscriptions, 1000)
	setDefault(&o.MaxRetained, 100_000)
	setDefault(&o.MaxSessionExpiry, 30*24*time.Hour)
	setDefault(&o.ConnectTimeout, 10*time.Second)
	setDefault(&o.CloseTimeout, 2*time.Second)
	setDefault(&o.RefusalPause, 5*time.Second)
	setDefault(&o.CheckpointInterval, 10*time.Second)
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Client is one MQTT session as [Broker.Clients] shows it.
type Client struct {
	ID            string    `json:"id"`
	User          string    `json:"user,omitempty"`
	Connected     bool      `json:"connected"`
	Remote        string    `json:"remote,omitempty"` // address, while connected
	Version       int       `json:"version"`          // of the protocol: 4 is 3.1.1, 5 is 5
	Since         time.Time `json:"since"`            // connected or disconnected since
	Persistent    bool      `json:"persistent"`       // the session outlives its connection
	Subscriptions []string  `json:"subscriptions"`
	Queued        int       `json:"queued"`   // events that wait to be sent
	InFlight      int       `json:"inflight"` // sent, not yet acknowledged by the client
	Unreleased    int       `json:"unreleased"`
}
