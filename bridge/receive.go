package bridge

import (
	"context"

	"github.com/weir-iot/weir/gateway"
)

// Source is the code that brings messages down from one kind of uplink. It is written beside the
// Sink of its kind, with one line in kinds.go; bridgetest has the suite that every source passes.
type Source interface {
	// Receive is one connection to the far end, from dialling to its end. The Downlink calls it
	// again, never twice at a time, after a pause of its own; Receive itself retries nothing.
	//
	// It calls up once, as soon as the far end has said that it will send what is asked for. The
	// far end keeps what comes while there is no connection, for as long as the protocol can
	// say, and sends it then.
	//
	// take is called for each message, one at a time, in the order of their arrival, up or not. The
	// event has the far end's topic in the words of MQTT, QoS, retain flag, expiry, properties; the
	// id is the one that the protocol itself has a place for, empty if there is none. It calls done
	// once, from any goroutine, perhaps before it returns; done does not block. With
	//   - nil: it is stored. Only now may the far end be told so.
	//   - gateway.ErrInvalid or gateway.ErrDenied: it never will be. The far end is told, as far
	//     as the protocol has words for it, and does not send it again.
	//   - any other error: not this time. The far end is told nothing, the connection ends with
	//     this error, and the message comes again by the next one.
	// A message for which done comes after Receive has returned comes again too. Receive bounds how
	// many it has taken without done, by what the far end sends or by not reading on.
	//
	// The end of ctx asks for an orderly end: take nothing more, wait up to a second for the done of
	// what was taken, say so to the far end, return the end of ctx. Any other return is a connection
	// that could not be made or was lost, and the error says in plain words why. Receive
	// notices, within a bound of its own config, a far end that lies still. Nothing of it
	// is left running when it has returned.
	Receive(ctx context.Context, up func(), take func(e *gateway.Event, id string, done func(error))) error
}
