package web

import (
	"encoding/json"
	"errors"
	"strconv"

	"github.com/weir-iot/weir/gateway"
)

// The messages of the Centrifugo client protocol, JSON form: one object per line,
// several lines in a WebSocket text frame. A channel is a topic filter; its stream
// is the journal, so offsets grow but are not consecutive, and one epoch serves all
// channels. The field names are the protocol's.

type cfCommand struct {
	ID           uint32          `json:"id"`
	Connect      *struct{}       `json:"connect"` // who it is, the request's headers have said
	Subscribe    *cfSubscribe    `json:"subscribe"`
	Unsubscribe  *cfChannel      `json:"unsubscribe"`
	Publish      *cfPublish      `json:"publish"`
	History      *cfHistory      `json:"history"`
	Presence     json.RawMessage `json:"presence"`
	PresenceStat json.RawMessage `json:"presence_stats"`
	Ping         json.RawMessage `json:"ping"`
	Send         json.RawMessage `json:"send"`
	RPC          json.RawMessage `json:"rpc"`
	Refresh      json.RawMessage `json:"refresh"`
	SubRefresh   json.RawMessage `json:"sub_refresh"`
}

type cfChannel struct {
	Channel string `json:"channel"`
}

type cfSubscribe struct {
	Channel string `json:"channel"`
	Recover bool   `json:"recover"`
	Epoch   string `json:"epoch"`
	Offset  uint64 `json:"offset"`
	Flag    int64  `json:"flag"`
	Type    int32  `json:"type"`
}

// flagRejectUnrecovered of a subscribe asks for an error when recovery is impossible.
const flagRejectUnrecovered = 1 << 1

type cfPublish struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
	Type    int32           `json:"type"`
}

type cfHistory struct {
	Channel string      `json:"channel"`
	Limit   int         `json:"limit"`
	Since   *cfPosition `json:"since"`
	Reverse bool        `json:"reverse"`
}

type cfPosition struct {
	Offset uint64 `json:"offset"`
	Epoch  string `json:"epoch"`
}

type cfReply struct {
	ID          uint32             `json:"id,omitempty"`
	Error       *cfError           `json:"error,omitempty"`
	Connect     *cfConnectResult   `json:"connect,omitempty"`
	Subscribe   *cfSubscribeResult `json:"subscribe,omitempty"`
	Unsubscribe *struct{}          `json:"unsubscribe,omitempty"`
	Publish     *struct{}          `json:"publish,omitempty"`
	History     *cfHistoryResult   `json:"history,omitempty"`
}

type cfConnectResult struct {
	Client  string `json:"client"`
	Version string `json:"version"`
	Ping    uint32 `json:"ping"` // seconds
	Pong    bool   `json:"pong"`
}

type cfSubscribeResult struct {
	Recoverable   bool              `json:"recoverable"`
	Positioned    bool              `json:"positioned"`
	Epoch         string            `json:"epoch"`
	Offset        uint64            `json:"offset"`
	Publications  []json.RawMessage `json:"publications,omitempty"`
	WasRecovering bool              `json:"was_recovering,omitempty"`
	Recovered     bool              `json:"recovered,omitempty"`
}

type cfHistoryResult struct {
	Publications []json.RawMessage `json:"publications"`
	Epoch        string            `json:"epoch"`
	Offset       uint64            `json:"offset"`
}

// cfError is the error of a reply. Codes below 400 are the protocol's.
type cfError struct {
	Code      uint32 `json:"code"`
	Message   string `json:"message"`
	Temporary bool   `json:"temporary,omitempty"`
}

const (
	cfInternal      = 100
	cfDenied        = 103
	cfNoMethod      = 104
	cfSubscribed    = 105
	cfLimit         = 106
	cfBadRequest    = 107
	cfNotAvailable  = 108
	cfUnrecoverable = 112
)

// cfErrorOf gives err the code of its kind.
func cfErrorOf(err error) *cfError {
	switch {
	case errors.Is(err, gateway.ErrInvalid):
		return &cfError{Code: cfBadRequest, Message: err.Error()}
	case errors.Is(err, gateway.ErrDenied):
		return &cfError{Code: cfDenied, Message: err.Error()}
	case errors.Is(err, gateway.ErrFull):
		return &cfError{Code: cfLimit, Message: err.Error()}
	case errors.Is(err, gateway.ErrTransient):
		return &cfError{Code: cfInternal, Message: err.Error(), Temporary: true}
	}
	return &cfError{Code: cfInternal, Message: "internal server error", Temporary: true}
}

// cfClose is why the server ends a connection. After a code from 3500 on a client
// does not come back.
type cfClose struct {
	code   int
	reason string
}

func (c *cfClose) Error() string { return "disconnect " + strconv.Itoa(c.code) + ": " + c.reason }

var (
	cfShutdown      = &cfClose{3001, "shutdown"}
	cfServerError   = &cfClose{3004, "internal server error"}
	cfNoPong        = &cfClose{3012, "no pong"}
	cfBadCommand    = &cfClose{3501, "bad request"}
	cfStale         = &cfClose{3502, "stale"}
	cfInappropriate = &cfClose{3506, "inappropriate protocol"}
	cfNoSend        = &cfClose{3508, "not available"}
)

// cfInsufficient is the unsubscribe code that makes a client subscribe again, with
// recovery: the reply then tells that something is missing.
const cfInsufficient = 2500

func appendPublication(buf []byte, enc *encoded) []byte {
	buf = append(append(buf, `{"data":`...), enc.face...)
	return append(strconv.AppendUint(append(buf, `,"offset":`...), enc.offset, 10), '}')
}
