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
