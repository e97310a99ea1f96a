package gateway

import (
	"reflect"
	"time"
)

// Observer is told what happens. Metrics, trace and ledger hang on it, so that the
// parts import none of them. Every field is optional; functions are called from the
// hot path by many goroutines and must neither block nor keep what they are given.
type Observer struct {
	Accepted func(e *Event)            // stored and released
	Refused  func(e *Event, err error) // not stored

	Written   func(events, bytes int)              // one write(2) of the journal
	Synced    func(events int, took time.Duration) // one sync of the journal; events that waited for it
	Recovered func(r Recovery)                     // once, when the journal was opened
	Damaged   func(g Gap)                          // a reader met bytes that are not what was written

	Connected    func(clientID string)
	Disconnected func(clientID, reason string)
	Dropped      func(reason string) // a live delivery that a slow receiver did not get

	DeviceState func(device string, up bool, reason string)
	Frame       func(device string)         // a frame was decoded
	Garbage     func(device, reason string) // bytes that were no frame
	// Command is what became of a command: done, failed, expired, repeated or refused.
	Command func(device, outcome string)

	UplinkState func(uplink string, up bool, reason string)
	Delivered   func(uplink string, events int) // acknowledged by the far end
	Retried     func(uplink string, events int)

	StreamOpened func(kind string) // "sse", "centrifugo"
	StreamClosed func(kind, reason string)
}

// Recovery is what the journal found when it was opened.
type Recovery struct {
	Epoch    string
	NewEpoch string // why a new epoch began; empty if the old one goes on
	LastEnd  string // how the run before this one ended: one of the End… constants
	Cut      int64  // bytes of torn tail that were set aside
	Events   int    // entries read to find the end
	Took     time.Duration
}

// How a run ended, as the next one finds out.
const (
	EndNone    = "none"       // there was none: the journal is new
	EndClean   = "clean"      // it was told to stop
	EndKilled  = "killed"     // the process, not the machine
	EndPower   = "power-loss" // the machine went away, and the process with it
	EndUnknown = "unknown"    // the journal was copied or restored, or has lost its table of epochs
)

// OrNop returns o with every nil function replaced by one that does nothing, so that
// callers need not ask.
func (o Observer) OrNop() Observer {
	v := reflect.ValueOf(&o).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsNil() {
			f.Set(reflect.MakeFunc(f.Type(), func([]reflect.Value) []reflect.Value { return nil }))
		}
	}
	return o
}
