// Package ble hears what Bluetooth LE devices advertise, and reads and writes their attributes.
//
//	    this process                       the radio's process (weir radio hci0)
//	Driver ◄── Air ◄── Radio (Helper) ◄── wire ──► Serve ──► link.Host ──► kernel, adapter
//	(a device) (shared)   └── watchdog: kills and starts again
//	             └── adv: what the bytes mean
//
// An adapter is shared by its devices. It is driven by a process of its own, because everything about it breaks:
// controllers go mute, drivers hang in the kernel, libraries panic. That process only drives; what
// strangers send is taken apart here, by package adv. When it is lost, for whatever reason, the devices are down
// with that reason, and it is started again by who wants it next, at most every few seconds.
package ble

import (
	"context"

	"github.com/weir-iot/weir/devices/ble/adv"
)

// Radio is an adapter.
type Radio interface {
	// Run opens the adapter and has it scan, until ctx ends or the adapter is lost; then nothing of it is left open. It calls up
	// when it scans and from then on heard with every advertisement, in order, by one goroutine; heard does not
	// block. The error is in words for the person who will look for the adapter. Run is never called twice at once.
	Run(ctx context.Context, up func(Controller), heard func(adv.Report)) error
	// Connect connects to a device that is near. It fails if Run does not run. The caller closes the peer.
	Connect(ctx context.Context, addr adv.Addr, kind byte) (Peer, error)
}

// Controller is what an adapter says of itself.
type Controller struct {
	Address  adv.Addr
	Extended bool // it hears the long advertisements of Bluetooth 5
}

// Peer is a device that is connected. Every call ends with its context; one that ends so, ends the connection.
type Peer interface {
	// Discover lists what the device has.
	Discover(ctx context.Context) ([]Characteristic, error)
	Read(ctx context.Context, c Characteristic) ([]byte, error)
	// Write waits until the device has the value, if it can tell.
	Write(ctx context.Context, c Characteristic, value []byte) error
	// Subscribe has the device tell c whenever it changes.
	Subscribe(ctx context.Context, c Characteristic) error
	// Told is what the device tells, in order. What nobody takes is dropped, the newest first.
	Told() <-chan Told
	// Gone is closed when the connection has ended, for the reason Err.
	Gone() <-chan struct{}
	Err() error
	Close()
}

// Characteristic is one value of a device (Core Specification Vol 3 Part G §3.3).
type Characteristic struct {
	Service, UUID adv.UUID
	Properties    byte
	Handle, Last  uint16 // of the value, and of what belongs to it
}

// What a Characteristic can do: bits of Properties.
const (
	canRead         = 0x02
	canWriteCommand = 0x04
	canWrite        = 0x08
	canTell         = 0x10 | 0x20 // notify or indicate
)

// Told is a value that a device told.
type Told struct {
	Handle uint16
	Value  []byte
}
