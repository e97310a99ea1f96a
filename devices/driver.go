// Package devices runs the drivers that read what is connected to this machine, and makes
// what they read into events.
//
//	devices/kinds.go ──► Driver.Run ──► codec.Frame ──► Supervisor ──► Ingest
//	 (the list)            │  ▲                            │
//	                       └──┴── started again, with a    └── Status: up, since, garbage
//	                              growing wait, when it ends
//
// A new driver is one package with Config and New, copied from devices/blueprint, and one
// line in kinds.go.
package devices

import (
	"context"

	"github.com/weir-iot/weir/devices/codec"
)

// Driver speaks to one device. The suite in devices/devicetest executes what is promised
// here.
type Driver interface {
	// Run finds the device, opens it and emits what it says until ctx ends or the device
	// is lost. It owns all it opens, and when it returns nothing of it is left: no
	// descriptor, no lock, no goroutine.
	//
	// It returns within a second after ctx has ended, at any point, also in the middle of
	// emit. Otherwise it returns an error as soon as the device cannot be had or is gone, in
	// words for the person who will look for the cable; it neither retries nor logs, because
	// the supervisor does: it calls Run again, never twice at once.
	//
	// The first frame, which may be empty, says that the device is connected. Frames are
	// emitted in the order they came, by one goroutine at a time, and not after Run has
	// returned. emit may block while the journal is busy, until ctx ends; a driver then
	// reads no further and keeps no more than a buffer. What it cannot decode it emits as
	// garbage, and goes on.
	Run(ctx context.Context, emit func(codec.Frame)) error
}

// Wire is a driver of which can be recorded, and played, what goes over the wire: bytes of a line as they come, requests and
// answers on a bus, advertisements, messages. It is optional; codec.Taps is a half of it.
type Wire interface {
	// Tap has f called with what comes from the device and what is sent to it, until release is called. F must
	// neither block nor keep what it is given.
	Tap(f func(sent bool, p []byte)) (release func())
	// Play emits what would have been read of a recording. It may be called at any time, and opens nothing.
	Play(chunks []codec.Chunk, emit func(codec.Frame))
}

// Writer is a driver whose device takes commands. It is optional: who has a command asks a Driver
// whether it is one.
type Writer interface {
	// Settings are what Write knows, sorted by name. They never change.
	Settings() []codec.Setting
	// Write sends value, as text, to what the device knows as name: a measurement that can be
	// set, or a command. It returns what the device says after that, read back where it can be,
	// and "" where it says nothing.
	//
	// It may be called at any time, also while Run runs, and by several at once: what has to
	// go one after the other, the driver sees to. It returns within a second after ctx has
	// ended. An error is gateway.ErrInvalid if there is no such name or the value cannot be, ErrDenied
	// if the configuration does not allow it, ErrTransient if the device cannot be
	// reached; another one says what the device made of it. After an error the device may have
	// carried it out all the same; a driver never sends a command twice by itself.
	Write(ctx context.Context, name, value string) (reply string, err error)
}
