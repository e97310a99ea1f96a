package nats

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/gateway"
)

// Errors of JetStream that say it takes nothing for now, by err_code.
const (
	accountFull = 10002
	noResources = 10023
	memoryFull  = 10028
	storageFull = 10047
	notStored   = 10077 // a bound of the stream, with discard: new
)

// Errors of JetStream that will be the same the next time, by err_code.
const (
	messageTooLarge = 10054 // the stream's max_msg_size
	headerTooLarge  = 10097 // 64 KiB
)

// verdict reads the answer to a publish: nil if a stream has the event.
//
// That no stream listens on the subject is not held against the event. It is so while a cluster
// elects, while a leaf node's link is down, and before somebody has made the stream; to
// take it for poison would move a whole backlog into the dead letters in such a time.
func verdict(m *nats.Msg, subject string) error {
	if m.Header.Get("Status") == "503" {
		return fmt.Errorf("no stream listens on the subject %s, or it has no leader now", subject)
	}
	var ack struct {
		Stream    string `json:"stream"`
		Seq       uint64 `json:"seq"`
		Duplicate bool   `json:"duplicate"` // stored before, by a send whose PubAck got lost
		Error     *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case err != nil:
		return errors.New("what answers on the subject " + subject + " is no stream")
	case ack.Error != nil:
		err := fmt.Errorf("stream %s: %s (%d)", ack.Stream, ack.Error.Description, ack.Error.Code)
		switch ack.Error.Code {
		case messageTooLarge, headerTooLarge:
			return gateway.Errorf(gateway.ErrInvalid, "%w", err)
		case accountFull, noResources, memoryFull, storageFull, notStored:
			return gateway.Errorf(gateway.ErrFull, "%w", err)
		}
		return err
	case ack.Stream == "" || ack.Seq == 0:
		return errors.New("what answers on the subject " + subject + " is no stream")
	}
	return nil
}
