package bridge

import (
	"context"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Sink is the code that sends to one kind of uplink. A new kind is one package with Config
// and New and one line in kinds.go; package blueprint is there to be copied, and
// package bridgetest has the suite that every sink passes.
type Sink interface {
	// Send is one connection to the far end, from dialling to its end. The pump calls it
	// again, never twice at a time, after a pause of its own.
	//
	// Send calls up once, as soon as events can be sent; the pump hands over none before.
	// Then it sends the events in the order in which it receives them. So that a long round
	// trip does not limit the rate, it may have many in flight, as long as the far end
	// sees those of one topic in order.
	//
	// For each event it calls done at most once:
	//   - nil: the far end has taken it over, and said so. Nothing else may be taken
	//     for that; the event may be deleted then.
	//   - gateway.ErrInvalid or gateway.ErrDenied: the far end, or the protocol, will never
	//     take this event ("poison"). It goes to the dead letters and the others go on.
	//   - any other error: refused this time. The pump ends this connection, waits, and
	//     sends again from this event on.
	// An event for which done was not called when Send returns is sent again, with all
	// behind it, by the next Send. done and up do not block, may be called from any
	// goroutine, and never after Send has returned.
	//
	// A closed events channel asks for an orderly end: wait for what is in flight, say
	// goodbye, return nil. The end of ctx asks for an immediate one, also from
	// within a dial or a write that does not get on.
	//
	// Any other return is a connection that could not be made or was lost, and the
	// error says in plain words why; people read it as the uplink's state. It is
	// never held against an event. Send itself notices, within a bound of its own
	// config, a far end that lies still: nobody else can.
	//
	// Send owns what it opens. Nothing of it is left running when it has returned, and it
	// retries nothing itself: there is exactly one layer that retries, the pump.
	//
	// The event's name outside is Event.ID; a sink puts it into the native place of its
	// protocol, the same at every repeat. Events are shared and must not be changed.
	Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error
}

// Certified is a Sink that may have a client certificate.
type Certified interface {
	// CertificateExpiry is when it ends, as the file says now; zero if there is none.
	CertificateExpiry() time.Time
}
